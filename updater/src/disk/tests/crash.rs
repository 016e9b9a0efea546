//! A power cut at every write of the table, with any part of what was not flushed lost.

use std::sync::Arc;

use super::super::gate::{CutGate, CutSide, OpenGate, RecordedWrite, Recorder, WriteKind};
use super::super::sim::SimDisk;
use super::super::*;
use super::{control, device, loader_sees, open_device, small_image};

/// What stands on the disk before the change.
#[derive(Debug, Clone, Copy)]
enum Before {
    Healthy,
    PrimaryTorn,
    BackupTorn,
    /// A cut between the two copies of an earlier change: both valid, not the same.
    CopiesDiffer,
    /// The image was written to a larger disk: no backup at its end.
    Grown,
}

fn image(before: Before, sector_bytes: u64) -> Vec<u8> {
    let sector = usize::try_from(sector_bytes).unwrap();
    let mut image = small_image(sector_bytes);
    let last = image.len() - sector;
    match before {
        Before::Healthy => {}
        Before::PrimaryTorn => image[sector + 60] ^= 1,
        Before::BackupTorn => image[last + 60] ^= 1,
        Before::CopiesDiffer => {
            let other = open_device(image.clone(), sector_bytes);
            let loader = Loader::Vboot;
            control(other.clone(), loader)
                .arm(SlotName::B, SlotName::A)
                .unwrap();
            let mut changed = vec![0; image.len()];
            other.raw().read_at(0, &mut changed).unwrap();
            // The backup and its entries from the later table, all else from the earlier one.
            let tail = image.len() - 64 * sector;
            image[tail..].copy_from_slice(&changed[tail..]);
        }
        Before::Grown => image.extend_from_slice(&vec![0; 1 << 20]),
    }
    image
}

type Operation = fn(&GptBootControl) -> Result<(), BootError>;

const OPERATIONS: [(&str, Operation); 3] = [
    ("arm", |control| control.arm(SlotName::B, SlotName::A)),
    ("make unbootable", |control| {
        control.make_unbootable(SlotName::B, SlotName::A)
    }),
    ("mark good", |control| control.mark_good(SlotName::A)),
];

/// Checks every cut of one operation; returns how many writes it makes.
fn sweep(before: Before, sector_bytes: u64, name: &str, operation: Operation) -> u64 {
    let start = Arc::new(image(before, sector_bytes));
    let whole = Arc::new(SimDisk::from_shared(start.clone(), sector_bytes));
    let old = loader_sees(&*whole, sector_bytes).expect("the test starts from a table that can be used");
    operation(&control(device(whole.clone(), Arc::new(OpenGate)), Loader::Vboot)).unwrap();
    assert_eq!(
        whole.unflushed_sectors(),
        0,
        "{name} returned before it was flushed"
    );
    let new = loader_sees(&*whole, sector_bytes).unwrap();

    let mut at = 0;
    loop {
        let mut fired = false;
        for side in [CutSide::Before, CutSide::After] {
            let gate = Arc::new(CutGate::new(at, side));
            let disk = Arc::new(SimDisk::from_shared(start.clone(), sector_bytes));
            let outcome = operation(&control(device(disk.clone(), gate.clone()), Loader::Vboot));
            fired |= gate.fired();
            if !gate.fired() {
                outcome.unwrap();
                continue;
            }
            assert!(gate::is_killed(&outcome.unwrap_err()));
            let mut cuts = vec![disk.after_power_cut(|_| false), disk.after_power_cut(|_| true)];
            cuts.push(disk.after_power_cut(|nth| nth % 2 == 0));
            cuts.push(disk.after_power_cut(|nth| nth % 2 == 1));
            cuts.extend((0..12).map(|seed| disk.after_seeded_power_cut(seed)));
            for (nth, cut) in cuts.into_iter().enumerate() {
                let seen = loader_sees(&cut, sector_bytes);
                let seen =
                    seen.unwrap_or_else(|| panic!("{before:?} {name} cut {side:?} {at}: no table left"));
                assert!(
                    seen == old || seen == new,
                    "{before:?} {name} cut {side:?} {at}: a third table"
                );
                if nth > 3 {
                    continue;
                }
                // And the next start of the updater can do its work on it.
                let again = device(Arc::new(cut), Arc::new(OpenGate));
                operation(&control(again.clone(), Loader::Vboot)).unwrap();
                assert_eq!(Table::read(&again).unwrap().health(), &GptHealth::Healthy);
            }
        }
        if !fired {
            return at;
        }
        at += 1;
    }
}

#[test]
fn a_power_cut_at_any_write_leaves_the_old_table_or_the_new_one() {
    let all = [
        Before::Healthy,
        Before::PrimaryTorn,
        Before::BackupTorn,
        Before::CopiesDiffer,
        Before::Grown,
    ];
    for sector_bytes in [512, 4096] {
        for before in all {
            for (name, operation) in OPERATIONS {
                let writes = sweep(before, sector_bytes, name, operation);
                let mends = !matches!(before, Before::Healthy);
                // A primary that names a backup elsewhere is written again, too.
                let changes = name == "arm" || matches!(before, Before::Grown);
                // Three per copy (entries, header, flush); nothing to do is nothing written.
                assert_eq!(
                    writes,
                    3 * u64::from(mends) + 6 * u64::from(changes),
                    "{before:?} {name}"
                );
            }
        }
    }
}

#[test]
fn the_copy_at_the_end_is_written_and_flushed_before_the_one_at_the_start() {
    let recorder = Arc::new(Recorder::default());
    let disk = Arc::new(SimDisk::new(small_image(512), 512));
    let middle = disk.len_bytes() / 2;
    control(device(disk, recorder.clone()), Loader::Vboot)
        .arm(SlotName::B, SlotName::A)
        .unwrap();
    let place = |write: &RecordedWrite| match write.kind {
        WriteKind::DeviceFlush => "flush",
        _ if write.offset > middle => "backup",
        _ => "primary",
    };
    let order: Vec<_> = recorder.writes().iter().map(place).collect();
    assert_eq!(
        order,
        ["backup", "backup", "flush", "primary", "primary", "flush"]
    );
}

#[test]
fn health_names_the_copy_that_is_wrong_and_the_next_write_mends_it() {
    let table = [
        (Before::Healthy, "both copies"),
        (Before::PrimaryTorn, "the primary partition table is broken"),
        (Before::BackupTorn, "the backup partition table is broken"),
        (Before::CopiesDiffer, "differ"),
        (Before::Grown, "the disk was made larger"),
    ];
    for (before, words) in table {
        let device = open_device(image(before, 512), 512);
        let health = Table::read(&device).unwrap().health().to_string();
        assert!(health.contains(words), "{before:?}: {health}");
        control(device.clone(), Loader::Vboot)
            .mark_good(SlotName::A)
            .unwrap();
        assert_eq!(Table::read(&device).unwrap().health(), &GptHealth::Healthy);
    }
}
