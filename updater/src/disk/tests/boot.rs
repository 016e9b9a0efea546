//! Boot control against the three loaders.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::gate::Recorder;
use super::super::sim::SimDisk;
use super::super::*;
use super::{control, device, open_device, small_image, small_layout};

const LOADERS: [Loader; 3] = [Loader::GptPrio, Loader::Vboot, Loader::GptPriority];

fn set_bits(control: &GptBootControl, a: BootBits, b: BootBits) {
    let (table, slots) = control.read().unwrap();
    let changes = [
        BitsChange {
            partition: slots.a.boot.number,
            bits: a,
        },
        BitsChange {
            partition: slots.b.boot.number,
            bits: b,
        },
    ];
    table.commit(control.device(), &changes).unwrap();
}

/// One boot by the loader's own rules, with what it writes.
fn boot(control: &GptBootControl) -> Option<SlotName> {
    let state = control.state().unwrap();
    let mut bits = [state.a, state.b];
    let booted = state.loader.boot(&mut bits)?;
    set_bits(control, bits[0], bits[1]);
    Some(SlotName::BOTH[booted])
}

#[test]
fn an_upgrade_boots_the_target_and_stays_there_once_marked_good() {
    for loader in LOADERS {
        let control = control(open_device(small_image(512), 512), loader);
        control.make_unbootable(SlotName::B, SlotName::A).unwrap();
        control.arm(SlotName::B, SlotName::A).unwrap();
        assert_eq!(boot(&control), Some(SlotName::B), "{loader:?}");
        control.mark_good(SlotName::B).unwrap();
        for _ in 0..5 {
            assert_eq!(boot(&control), Some(SlotName::B), "{loader:?}");
        }
        let state = control.state().unwrap();
        assert_eq!(
            state.b,
            BootBits {
                priority: 2,
                tries: 0,
                successful: true
            }
        );
        assert!(
            state.bootable(SlotName::A) && state.a.successful,
            "{loader:?}: the way back stays"
        );
    }
}

#[test]
fn a_target_that_never_reports_is_left_after_two_boots_where_the_loader_counts() {
    for loader in LOADERS {
        let control = control(open_device(small_image(512), 512), loader);
        control.arm(SlotName::B, SlotName::A).unwrap();
        let boots: Vec<_> = (0..4).map(|_| boot(&control).unwrap()).collect();
        let (a, b) = (SlotName::A, SlotName::B);
        let expected = if loader.counts_tries() {
            [b, b, a, a]
        } else {
            [b, b, b, b]
        };
        assert_eq!(boots, expected, "{loader:?}");
    }
}

#[test]
fn marking_good_in_the_last_trial_boot_writes_the_priority_that_vboot_zeroed() {
    let control = control(open_device(small_image(512), 512), Loader::Vboot);
    control.arm(SlotName::B, SlotName::A).unwrap();
    assert_eq!(
        (boot(&control), boot(&control)),
        (Some(SlotName::B), Some(SlotName::B))
    );
    assert_eq!(control.state().unwrap().b, BootBits::UNBOOTABLE);
    control.mark_good(SlotName::B).unwrap();
    assert_eq!(boot(&control), Some(SlotName::B));
}

#[test]
fn going_back_boots_the_good_slot_and_bars_the_failed_one() {
    for loader in LOADERS {
        let control = control(open_device(small_image(512), 512), loader);
        control.arm(SlotName::B, SlotName::A).unwrap();
        assert_eq!(boot(&control), Some(SlotName::B));
        control.go_back(SlotName::A, SlotName::B).unwrap();
        for _ in 0..3 {
            assert_eq!(boot(&control), Some(SlotName::A), "{loader:?}");
        }
        assert_eq!(control.state().unwrap().b, BootBits::UNBOOTABLE);
    }
}

#[test]
fn disarming_leaves_the_running_slot_next_and_a_way_back_as_it_was() {
    for loader in LOADERS {
        let control = control(open_device(small_image(512), 512), loader);
        control.arm(SlotName::B, SlotName::A).unwrap();
        control
            .disarm(SlotName::B, SlotName::A, Disarmed::Unbootable)
            .unwrap();
        assert_eq!(control.state().unwrap().b, BootBits::UNBOOTABLE);
        assert_eq!(boot(&control), Some(SlotName::A));
        control.arm(SlotName::B, SlotName::A).unwrap();
        control
            .disarm(SlotName::B, SlotName::A, Disarmed::WayBack)
            .unwrap();
        let state = control.state().unwrap();
        assert_eq!(state.next, Some(SlotName::A));
        assert!(state.b.successful && state.bootable(SlotName::B), "{loader:?}");
    }
}

#[test]
fn what_would_leave_no_way_is_refused_and_nothing_is_written() {
    let good = BootBits {
        priority: 2,
        tries: 0,
        successful: true,
    };
    let trial = BootBits {
        priority: 2,
        tries: 1,
        successful: false,
    };
    let gone = BootBits {
        priority: 0,
        tries: 0,
        successful: true,
    };
    type Try = fn(&GptBootControl) -> Result<(), BootError>;
    let (a, b) = (SlotName::A, SlotName::B);
    let table: [(&str, BootBits, BootBits, Try, &str); 8] = [
        (
            "overwrite the running slot",
            good,
            good,
            |c| c.make_unbootable(SlotName::A, SlotName::A),
            "running one",
        ),
        (
            "overwrite while on trial",
            trial,
            good,
            |c| c.make_unbootable(SlotName::B, SlotName::A),
            "not marked good",
        ),
        (
            "arm while on trial",
            trial,
            good,
            |c| c.arm(SlotName::B, SlotName::A),
            "not marked good",
        ),
        (
            "arm the running slot",
            good,
            good,
            |c| c.arm(SlotName::A, SlotName::A),
            "running one",
        ),
        (
            "overwrite when the running slot cannot boot",
            gone,
            good,
            |c| c.make_unbootable(SlotName::B, SlotName::A),
            "would boot",
        ),
        (
            "go back to an empty slot",
            good,
            BootBits::UNBOOTABLE,
            |c| c.go_back(SlotName::B, SlotName::A),
            "not marked good",
        ),
        (
            "go back to a slot on trial",
            good,
            trial,
            |c| c.go_back(SlotName::B, SlotName::A),
            "not marked good",
        ),
        (
            "go back to itself",
            good,
            good,
            |c| c.go_back(SlotName::A, SlotName::A),
            "running one",
        ),
    ];
    for loader in LOADERS {
        for (name, bits_a, bits_b, attempt, words) in table {
            let control = control(open_device(small_image(512), 512), loader);
            set_bits(&control, bits_a, bits_b);
            let before = control.state().unwrap();
            let said = attempt(&control).unwrap_err().to_string();
            assert!(said.contains(words), "{loader:?} {name}: {said}");
            let after = control.state().unwrap();
            assert_eq!(
                (before.bits(a), before.bits(b)),
                (after.bits(a), after.bits(b)),
                "{name}"
            );
        }
    }
}

#[test]
fn a_foreign_kernel_of_higher_priority_is_seen_and_outbid_or_named() {
    let with_foreign = |priority| {
        let mut layout = small_layout(512);
        let mut foreign = layout.partitions[1].clone();
        foreign.number = 9;
        foreign.label = "KERN-C".to_owned();
        foreign.guid = uuid::Uuid::from_u128(99);
        foreign.bits = BootBits {
            priority,
            tries: 0,
            successful: true,
        };
        layout.partitions.push(foreign);
        control(open_device(layout.to_bytes().unwrap(), 512), Loader::Vboot)
    };
    let control = with_foreign(9);
    assert_eq!(control.state().unwrap().next, None);
    control.mark_good(SlotName::A).unwrap();
    control.arm(SlotName::B, SlotName::A).unwrap();
    assert_eq!(control.state().unwrap().b.priority, 11);
    let said = with_foreign(15).mark_good(SlotName::A).unwrap_err().to_string();
    assert!(said.contains("cgpt add -i 9"), "{said}");
}

fn any_bits() -> impl Strategy<Value = BootBits> {
    (0_u8..=15, 0_u8..=15, any::<bool>()).prop_map(|(priority, tries, successful)| BootBits {
        priority,
        tries,
        successful,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// S1, S5 and S14 over every starting point and order of operations: no operation leaves the loader
    /// without a slot it had before, and nothing but boot bits of the two slots changes.
    #[test]
    fn no_order_of_operations_loses_the_last_bootable_slot(
        loader in prop::sample::select(LOADERS.to_vec()),
        bits in (any_bits(), any_bits()),
        operations in prop::collection::vec((0_u8..6, any::<bool>()), 1..12),
    ) {
        let recorder = Arc::new(Recorder::default());
        let image = small_image(512);
        let disk = Arc::new(SimDisk::new(image.clone(), 512));
        let control = control(device(disk.clone(), recorder.clone()), loader);
        set_bits(&control, bits.0, bits.1);
        for (operation, on_a) in operations {
            let target = if on_a { SlotName::A } else { SlotName::B };
            let running = target.other();
            let before = control.state().unwrap();
            let done = match operation {
                0 => control.make_unbootable(target, running),
                1 => control.arm(target, running),
                2 => control.disarm(target, running, Disarmed::Unbootable),
                3 => control.disarm(target, running, Disarmed::WayBack),
                4 => control.mark_good(target),
                _ => control.go_back(target, running),
            };
            let after = control.state().unwrap();
            match done {
                Ok(()) => {
                    let expected = if matches!(operation, 1 | 4 | 5) { target } else { running };
                    prop_assert_eq!(after.next, Some(expected));
                    let good = |state: &BootState| SlotName::BOTH.into_iter().filter(|slot| {
                        state.bits(*slot).successful && state.bootable(*slot)
                    }).count();
                    prop_assert!(good(&after) >= good(&before).min(1));
                }
                Err(_) => prop_assert_eq!(after, before),
            }
        }
        // Only the sectors of the two copies were written, and in them only boot bits and checksums.
        let array = 32 * 512;
        for write in recorder.writes().into_iter().filter(|w| w.kind == gate::WriteKind::DeviceWrite) {
            let (start, end) = (write.offset, write.offset + write.len);
            let len = image.len() as u64;
            prop_assert!((start >= 512 && end <= 1024 + array) || (start >= len - 512 - array && end <= len));
        }
        let content = disk.content().unwrap();
        let entries = 1024..1024 + 128 * 128;
        for (at, (before, now)) in image[entries.clone()].iter().zip(&content[entries]).enumerate() {
            let (entry, byte) = (at / 128 + 1, at % 128);
            let boot_byte = (entry == 2 || entry == 4) && (byte == 54 || byte == 55);
            prop_assert!(before == now || boot_byte, "byte {} of entry {} changed", byte, entry);
        }
    }
}
