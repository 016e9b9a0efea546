//! The rules of each loader as tables, and the parser against tables made by another program's code.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Cursor;
use std::os::unix::fs::FileExt;

use gptman::{GPT, GPTPartitionEntry};
use tempfile::NamedTempFile;

use super::*;

const KERNEL: [u8; 16] = [7; 16];
const DISK_BYTES: usize = 4 << 20;

fn attributes((priority, tries, successful): (u64, u64, bool)) -> u64 {
    priority << 48 | tries << 52 | u64::from(successful) << 56
}

/// A disk with two kernels (numbers 2 and 4), made by the `gptman` crate.
fn disk(a: (u64, u64, bool), b: (u64, u64, bool)) -> NamedTempFile {
    let mut space = Cursor::new(vec![0; DISK_BYTES]);
    let mut gpt = GPT::new_from(&mut space, 512, [9; 16]).unwrap();
    for (number, name, bits) in [(2, "KERN-A", a), (4, "KERN-B", b)] {
        gpt[number] = GPTPartitionEntry {
            partition_type_guid: KERNEL,
            unique_partition_guid: [number as u8; 16],
            starting_lba: 2048 * u64::from(number) / 2,
            ending_lba: 2048 * u64::from(number) / 2 + 2047,
            attribute_bits: attributes(bits) | 1 << 60,
            partition_name: name.into(),
        };
    }
    gpt.write_into(&mut space).unwrap();
    let file = NamedTempFile::new().unwrap();
    file.as_file().write_all_at(space.get_ref(), 0).unwrap();
    file
}

fn boots(disk: &NamedTempFile, loader: LoaderKind, times: usize) -> Vec<u32> {
    (0..times)
        .filter_map(|_| boot(disk.path(), loader, KERNEL).ok())
        .map(|b| b.entry.number)
        .collect()
}

#[test]
fn each_loader_spends_two_tries_by_its_own_rule() {
    use LoaderKind::{GptPrio, GptPriority, Vboot};
    let table = [
        (GptPrio, [4, 4, 2, 2], (2, 0, false)),
        (Vboot, [4, 4, 2, 2], (0, 0, false)),
        (GptPriority, [4, 4, 4, 4], (2, 2, false)),
    ];
    for (loader, expected, (priority, tries, successful)) in table {
        let disk = disk((1, 0, true), (2, 2, false));
        assert_eq!(boots(&disk, loader, 4), expected, "{loader:?}");
        let gpt = Gpt::read(disk.path(), 512).unwrap();
        assert_eq!(
            gpt.by_label("KERN-B").unwrap().bits(),
            Bits {
                priority,
                tries,
                successful
            },
            "{loader:?}"
        );
        assert_eq!(
            gpt.by_label("KERN-B").unwrap().attributes >> 60,
            1,
            "other bits stay"
        );
        assert!(gpt.copies_agree);
    }
}

#[test]
fn the_first_of_equals_is_booted_and_priority_zero_never() {
    for loader in [LoaderKind::GptPrio, LoaderKind::Vboot, LoaderKind::GptPriority] {
        assert_eq!(boots(&disk((3, 0, true), (3, 0, true)), loader, 1), [2]);
        assert_eq!(boots(&disk((0, 0, true), (1, 0, true)), loader, 1), [4]);
        let none = disk((0, 1, true), (0, 0, false));
        let error = boot(none.path(), loader, KERNEL).unwrap_err();
        assert!(matches!(error, FirmwareError::NothingBootable { .. }), "{error}");
    }
}

#[test]
fn a_broken_first_copy_leaves_the_second_and_two_broken_ones_nothing() {
    // What is broken: a byte of the header, of the array, or the whole header.
    for (at, len) in [(512 + 40, 1), (1024 + 128 + 50, 1), (512, 512)] {
        let disk = disk((1, 0, true), (2, 2, false));
        let mut bytes = vec![0; len];
        disk.as_file().read_exact_at(&mut bytes, at).unwrap();
        bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
        disk.as_file().write_all_at(&bytes, at).unwrap();
        let booted = boot(disk.path(), LoaderKind::GptPrio, KERNEL).unwrap();
        assert_eq!((booted.entry.number, booted.copy), (4, Copy::Backup));
        assert!(
            Gpt::read(disk.path(), 512).unwrap().copies_agree,
            "a loader that writes mends the first"
        );

        disk.as_file().write_all_at(&[1; 512], 512).unwrap();
        disk.as_file()
            .write_all_at(&[1; 512], DISK_BYTES as u64 - 512)
            .unwrap();
        let error = boot(disk.path(), LoaderKind::GptPrio, KERNEL).unwrap_err();
        assert!(matches!(error, FirmwareError::NoTable { .. }), "{error}");
    }
}

#[test]
fn what_the_loader_wrote_another_reader_reads() {
    let disk = disk((1, 0, true), (2, 2, false));
    boot(disk.path(), LoaderKind::GptPrio, KERNEL).unwrap();
    let mut bytes = vec![0; DISK_BYTES];
    disk.as_file().read_exact_at(&mut bytes, 0).unwrap();
    for copy in [GPT::read_from(&mut Cursor::new(&bytes), 512).unwrap(), {
        bytes[512..1024].fill(0);
        GPT::read_from(&mut Cursor::new(&bytes), 512).unwrap()
    }] {
        assert_eq!(copy[4].attribute_bits, attributes((2, 1, false)) | 1 << 60);
    }
}
