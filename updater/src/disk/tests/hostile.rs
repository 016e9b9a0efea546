//! Tables that a broken disk or an attacker may leave: read safely or refused, never written blindly.

use proptest::prelude::*;

use super::super::*;
use super::{control, open_device, small_image};

/// Sets a field of a header and makes its checksum right again.
fn forge(image: &mut [u8], header_at: usize, field_at: usize, value: &[u8]) {
    image[header_at + field_at..header_at + field_at + value.len()].copy_from_slice(value);
    image[header_at + 16..header_at + 20].fill(0);
    let crc = crc32fast::hash(&image[header_at..header_at + 92]);
    image[header_at + 16..header_at + 20].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn a_header_with_numbers_that_do_not_fit_the_disk_counts_as_broken() {
    // Field offsets of UEFI 2.10, table 5-5.
    let wrong: [(&str, usize, Vec<u8>); 10] = [
        ("own place", 24, 5_u64.to_le_bytes().into()),
        ("first usable", 40, u64::MAX.to_le_bytes().into()),
        ("first usable over the entries", 40, 3_u64.to_le_bytes().into()),
        ("last usable", 48, u64::MAX.to_le_bytes().into()),
        ("entries at", 72, u64::MAX.to_le_bytes().into()),
        ("entries over the header", 72, 1_u64.to_le_bytes().into()),
        ("no entries", 80, 0_u32.to_le_bytes().into()),
        ("too many entries", 80, u32::MAX.to_le_bytes().into()),
        ("size of an entry", 84, 0_u32.to_le_bytes().into()),
        ("larger entries", 84, 256_u32.to_le_bytes().into()),
    ];
    for (name, field_at, value) in wrong {
        let mut image = small_image(512);
        forge(&mut image, 512, field_at, &value);
        let table = Table::read(&open_device(image.clone(), 512)).unwrap();
        assert!(
            matches!(table.health(), GptHealth::PrimaryBroken { .. }),
            "{name}: {:?}",
            table.health()
        );
        let last = image.len() - 512;
        forge(&mut image, last, field_at, &value);
        let device = open_device(image, 512);
        let refused = Table::read(&device).unwrap_err();
        let kind = matches!(
            refused,
            DiskError::BothCopiesBroken { .. } | DiskError::NoRoomForCopy { .. }
        );
        assert!(kind, "{name}: {refused}");
    }
}

#[test]
fn with_both_copies_broken_nothing_is_written() {
    let mut image = small_image(512);
    let last = image.len() - 512;
    image[512] = 0;
    image[last] = 0;
    let device = open_device(image.clone(), 512);
    let control = control(device.clone(), Loader::Vboot);
    let error = control.mark_good(SlotName::A).unwrap_err().to_string();
    assert!(error.contains("sgdisk"), "says what to do: {error}");
    let mut after = vec![0; image.len()];
    device.raw().read_at(0, &mut after).unwrap();
    assert!(after == image);
}

#[test]
fn partitions_that_overlap_or_are_named_twice_are_no_slots() {
    let twice = |change: fn(&mut layout::DiskLayout)| {
        let mut layout = super::small_layout(512);
        change(&mut layout);
        let device = open_device(layout.to_bytes().unwrap(), 512);
        let error = control(device, Loader::Vboot).read().unwrap_err();
        error.to_string()
    };
    let said = twice(|layout| layout.partitions[3].label = "KERN-A".to_owned());
    assert!(
        said.contains("PARTLABEL=KERN-A") && said.contains("has 2 of that name"),
        "{said}"
    );
    let said = twice(|layout| layout.partitions[4].label = "DATA".to_owned());
    assert!(
        said.contains("PARTLABEL=ROOT-B") && said.contains("5 (DATA"),
        "lists what is there: {said}"
    );

    let selectors = layout::DiskLayout::cos_selectors;
    let mut b = selectors(SlotName::B);
    b.artifacts
        .insert("root".to_owned(), PartitionSelector::Label("ROOT-A".to_owned()));
    let device = open_device(small_image(512), 512);
    let table = Table::read(&device).unwrap();
    let error = Slots::find(&device, &table, &selectors(SlotName::A), &b).unwrap_err();
    assert!(matches!(error, DiskError::SlotsDoNotFit { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_damage_is_read_safely_or_refused(
        damage in prop::collection::vec((0_usize..64 * 512, any::<bool>(), any::<u8>()), 1..24),
    ) {
        let mut image = small_image(512);
        let len = image.len();
        for (at, from_end, byte) in damage {
            let at = if from_end { len - 1 - at } else { at };
            image[at] = byte;
        }
        let device = open_device(image, 512);
        match control(device.clone(), Loader::GptPrio).arm(SlotName::B, SlotName::A) {
            Ok(()) => {
                let table = Table::read(&device).unwrap();
                prop_assert_eq!(table.health(), &GptHealth::Healthy);
            }
            Err(BootError::Disk(DiskError::BothCopiesBroken { .. } | DiskError::NoRoomForCopy { .. })) => {}
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}
