//! Where a slot can be written, and where not.

use std::path::Path;
use std::sync::Arc;

use super::super::gate::{OpenGate, Recorder};
use super::super::sim::SimDisk;
use super::super::*;
use super::{MIB, control, device, small_image, small_layout};

#[test]
fn a_slot_writer_reaches_its_own_partitions_and_nothing_else() {
    let recorder = Arc::new(Recorder::default());
    let image = small_image(512);
    let disk = Arc::new(SimDisk::new(image.clone(), 512));
    let device = device(disk.clone(), recorder.clone());
    let (_, slots) = control(device.clone(), Loader::Vboot).read().unwrap();

    let refused = SlotWriter::open(&device, &slots, SlotName::A, SlotName::A);
    assert!(matches!(
        refused,
        Err(DiskError::TargetIsRunning { slot: SlotName::A })
    ));

    let writer = SlotWriter::open(&device, &slots, SlotName::B, SlotName::A).unwrap();
    let bytes = vec![0xab; 4096];
    for (offset, fits) in [
        (0, true),
        (MIB - 4096, true),
        (MIB - 4095, false),
        (MIB, false),
        (u64::MAX - 9, false),
    ] {
        let written = writer.write_at("root", offset, &bytes);
        assert_eq!(written.is_ok(), fits, "at {offset}: {written:?}");
    }
    assert!(matches!(
        writer.write_at("STATE", 0, &bytes),
        Err(DiskError::UnknownArtifact { .. })
    ));
    writer.flush().unwrap();

    let root = slots.b.artifact("root").unwrap();
    let inside = |at: u64| (root.start_bytes..root.start_bytes + root.len_bytes).contains(&at);
    for (at, (before, now)) in image.iter().zip(&disk.content().unwrap()).enumerate() {
        assert!(before == now || inside(at as u64), "byte {at} changed");
    }
    assert!(
        recorder
            .writes()
            .iter()
            .filter(|w| w.len > 0)
            .all(|w| inside(w.offset))
    );
}

#[test]
fn an_image_file_is_read_back_past_the_cache_at_any_offset_and_length() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    small_layout(4096).create(&path).unwrap();
    let device = Device::open(&path, Access::ReadWrite, Arc::new(OpenGate)).unwrap();
    let (table, slots) = control(device.clone(), Loader::GptPriority).read().unwrap();
    assert_eq!(
        table.sector_bytes(),
        4096,
        "found by looking, an image does not know"
    );
    let writer = SlotWriter::open(&device, &slots, SlotName::B, SlotName::A).unwrap();
    let bytes: Vec<u8> = (0..MIB).map(|n| (n * 31 % 251) as u8).collect();
    writer.write_at("root", 0, &bytes).unwrap();
    writer.flush().unwrap();
    let reader = PartitionReader::open(&device, slots.b.artifact("root").unwrap()).unwrap();
    for (offset, len) in [
        (0, bytes.len()),
        (1, 4096),
        (4095, 2),
        (513, 100_000),
        (bytes.len() - 7, 7),
    ] {
        let mut found = vec![0; len];
        reader.read_past_cache(offset as u64, &mut found).unwrap();
        assert!(found == bytes[offset..offset + len], "{len} bytes at {offset}");
    }
    assert!(reader.read_past_cache(MIB - 1, &mut [0; 2]).is_err());
}

#[test]
fn a_disk_that_is_no_disk_is_refused() {
    let refused = FileDisk::open(Path::new("/dev/null"), Access::ReadOnly);
    assert!(refused.unwrap_err().to_string().contains("neither"));
}
