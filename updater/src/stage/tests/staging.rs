//! Staging from its first write to its record, stopped everywhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

use super::super::*;
use super::fixture::{Fixture, MIB, Node, control, kernel_image, now, root_image};
use super::spoilt::Spoilt;
use crate::disk::gate::{CutGate, CutSide, OpenGate, Recorder, WriteKind, is_killed};
use crate::disk::sim::SimDisk;
use crate::disk::*;
use crate::state::{LockName, SlotRecord, SlotRecords, StateDir};

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_slot_holds_what_was_signed_and_nothing_else_was_written() {
    let fixture = Fixture::new(&[1, 2]).await;
    let recorder = Arc::new(Recorder::default());
    let before = fixture.disk_image(1);
    let node = Node::on(before.clone(), fixture.path("state"), recorder.clone());
    let (result, progress) = fixture.stage(2, &node).await;
    let record = result.unwrap();
    assert_eq!(record.release, fixture.releases[&2]);
    assert_eq!(node.record(SlotName::B).as_ref(), Some(&record));
    assert!(node.content(SlotName::B, "root", root_image(2).len()) == root_image(2));
    assert!(node.content(SlotName::B, "kernel", kernel_image(2).len()) == kernel_image(2));
    let state = node.control.state().unwrap();
    assert_eq!((state.b, state.next), (BootBits::UNBOOTABLE, Some(SlotName::A)));

    // Zeros (600,000 at most) came from nowhere, and what the running slot has at another place from there.
    assert_eq!(
        (progress.done, progress.read_back),
        (progress.total, progress.total)
    );
    assert!(
        progress.reused > 700_000 && progress.fetched < 500_000,
        "{progress:?}"
    );

    // S1, byte by byte and write by write. The first device write is to the table.
    let slots = node.slots();
    let inside = |at: u64| {
        slots
            .b
            .artifacts
            .values()
            .any(|p| (p.start_bytes..p.start_bytes + p.len_bytes).contains(&at))
    };
    let in_table = |at: u64| at < MIB || at >= before.len() as u64 - MIB;
    for (at, (old, new)) in before.iter().zip(&node.disk.content().unwrap()).enumerate() {
        assert!(
            old == new || inside(at as u64) || in_table(at as u64),
            "byte {at} changed"
        );
    }
    let mut contents_began = false;
    for write in recorder
        .writes()
        .iter()
        .filter(|write| write.kind == WriteKind::DeviceWrite)
    {
        let end = write.offset + write.len - 1;
        contents_began |= inside(write.offset);
        assert!(if contents_began {
            inside(write.offset) && inside(end)
        } else {
            in_table(write.offset)
        });
    }

    // And it can be armed from here.
    read_back_async(
        node.control.clone(),
        SlotName::B,
        record,
        CancellationToken::new(),
    )
    .await
    .unwrap();
    node.control.arm(SlotName::B, SlotName::A).unwrap();
}

/// A block that is written in part has to be read first, and that read is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_node_has_is_written_in_whole_blocks() {
    let fixture = Fixture::new(&[2]).await;
    let recorder = Arc::new(Recorder::default());
    let node = Node::on(fixture.disk_image(2), fixture.path("state"), recorder.clone());
    let manifest = fixture.repository.manifest(&fixture.releases[&2]).await.unwrap();
    let running = SlotRecord::of(&manifest, &node.slots().a, now()).unwrap();
    let lock = node.state.lock(LockName::Slot).unwrap();
    SlotRecords::new(&node.state)
        .save(&lock, SlotName::A, &running)
        .unwrap();
    drop(lock);
    let (result, progress) = fixture.stage(2, &node).await;
    result.unwrap();
    // Two indexes of some hundred bytes say that the running slot has all of it.
    assert!(progress.fetched < 1000, "{progress:?}");
    assert_eq!(progress.reused, progress.total);
    assert!(node.content(SlotName::B, "root", root_image(2).len()) == root_image(2));

    let slots = node.slots();
    let writes = recorder.writes();
    let inside = |at: &u64| {
        let mut artifacts = slots.b.artifacts.values();
        artifacts.any(|p| (p.start_bytes..p.start_bytes + p.len_bytes).contains(at))
    };
    let edges: Vec<u64> = writes
        .iter()
        .filter(|write| write.kind == WriteKind::DeviceWrite && inside(&write.offset))
        .flat_map(|write| [write.offset, write.offset + write.len])
        .collect();
    let inside_a_block = edges.iter().filter(|edge| !edge.is_multiple_of(4096)).count();
    // The ends of both images.
    assert!(
        edges.len() >= 6 && inside_a_block <= 2,
        "{inside_a_block} of {edges:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn staging_again_fetches_nothing_that_is_right_already() {
    let fixture = Fixture::new(&[1, 2]).await;
    let node = Node::on(fixture.disk_image(1), fixture.path("state"), Arc::new(OpenGate));
    fixture.stage(2, &node).await.0.unwrap();
    let writes = Arc::new(Recorder::default());
    let again = Node::with(node.disk.clone(), fixture.path("state"), writes.clone());
    let (result, progress) = fixture.stage(2, &again).await;
    result.unwrap();
    assert_eq!((progress.fetched, progress.reused), (0, progress.total));
    assert!(
        !writes
            .writes()
            .iter()
            .any(|write| write.kind == WriteKind::DeviceWrite)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_at_any_write_of_staging_leaves_nothing_to_boot_by_mistake() {
    let fixture = Fixture::new(&[1, 2, 3]).await;
    // Slot B is a verified way back, so there is something to boot by mistake and a record to be wrong.
    let before = Node::on(fixture.disk_image(1), fixture.path("before"), Arc::new(OpenGate));
    let way_back = fixture.stage(3, &before).await.0.unwrap();
    before.control.mark_good(SlotName::B).unwrap();
    before.control.mark_good(SlotName::A).unwrap();
    let image = Arc::new(before.disk.content().unwrap());
    let (mut at, mut cuts) = (0, 0);
    loop {
        let side = if at % 2 == 0 {
            CutSide::Before
        } else {
            CutSide::After
        };
        let gate = Arc::new(CutGate::new(at, side));
        let state = fixture.path(&format!("state-{at}"));
        let opened = StateDir::open(&state, Arc::new(OpenGate)).unwrap();
        let lock = opened.lock(LockName::Slot).unwrap();
        SlotRecords::new(&opened)
            .save(&lock, SlotName::B, &way_back)
            .unwrap();
        drop(lock);
        let disk = Arc::new(SimDisk::from_shared(image.clone(), 512));
        let node = Node::with(disk.clone(), state.clone(), gate.clone());
        let (result, _) = fixture.stage(2, &node).await;
        let fired = gate.fired();
        assert_eq!(result.is_err(), fired, "cut at {at}: {result:?}");
        if !fired {
            break;
        }
        assert!(is_killed(&result.unwrap_err()));
        for seed in 0..3 {
            let after = Arc::new(disk.after_seeded_power_cut(seed));
            let node = Node::with(after, state.clone(), Arc::new(OpenGate));
            let boot = node.control.state().unwrap();
            assert_eq!(boot.next, Some(SlotName::A), "cut at {at}");
            // What can be booted is verified, and a record stands only where its every byte does.
            let record = node.record(SlotName::B);
            assert!(
                !boot.bootable(SlotName::B) || record.as_ref() == Some(&way_back),
                "cut at {at}"
            );
            if let Some(record) = record {
                read_back(
                    &node.control,
                    SlotName::B,
                    &record,
                    &CancellationToken::new(),
                    |_| {},
                )
                .unwrap();
            }
            if seed == 2 && at % 5 == 0 {
                fixture.stage(2, &node).await.0.unwrap();
                assert!(node.content(SlotName::B, "root", root_image(2).len()) == root_image(2));
            }
            cuts += 1;
        }
        at += 1;
    }
    assert!(cuts > 60, "only {cuts} cuts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_at_any_point_leaves_the_slot_unbootable_and_without_a_record() {
    let fixture = Fixture::new(&[1, 2]).await;
    let image = fixture.disk_image(1);
    for stop_at in (0..60).step_by(7) {
        let node = Node::on(
            image.clone(),
            fixture.path(&format!("state-{stop_at}")),
            Arc::new(OpenGate),
        );
        let (cancel, seen) = (CancellationToken::new(), AtomicU64::new(0));
        let trigger = cancel.clone();
        let progress = Arc::new(move |_| {
            if seen.fetch_add(1, Ordering::SeqCst) == stop_at {
                trigger.cancel();
            }
        });
        let job = StageJob {
            progress,
            ..fixture.job(2, &node)
        };
        match stage(job, now(), cancel.clone()).await {
            Ok(_) => assert!(!cancel.is_cancelled()),
            Err(error) => {
                assert!(matches!(error, StageError::Cancelled), "{error}");
                // The lock comes free when the last write has ended; then the slot is as it will stay.
                let _lock = node.state.lock(LockName::Slot).unwrap();
                assert_eq!(node.record(SlotName::B), None);
            }
        }
        assert!(!node.control.state().unwrap().bootable(SlotName::B));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_device_gives_back_counts_and_not_what_was_written() {
    let fixture = Fixture::new(&[1, 2]).await;
    let node = Node::on(fixture.disk_image(1), fixture.path("state"), Arc::new(OpenGate));
    let at = node.slots().b.artifact("root").unwrap().start_bytes + 123_456;
    let disk = Spoilt::new(fixture.disk_image(1), at, 0);
    let device = Device::new(std::path::Path::new("sim"), Arc::new(disk), Arc::new(OpenGate));
    let job = StageJob {
        control: control(device),
        ..fixture.job(2, &node)
    };
    let error = stage(job, now(), CancellationToken::new()).await.unwrap_err();
    assert!(
        matches!(error, StageError::ReadsBackDifferently { ref artifact, .. } if artifact == "root"),
        "{error}"
    );
    assert_eq!(
        (error.code(), node.record(SlotName::B)),
        ("ReadBackDiffers", None)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_while_the_running_slot_is_on_trial() {
    let fixture = Fixture::new(&[1, 2]).await;
    let node = Node::on(fixture.disk_image(1), fixture.path("state"), Arc::new(OpenGate));
    fixture.stage(2, &node).await.0.unwrap();
    node.control.arm(SlotName::B, SlotName::A).unwrap();
    let before = node.disk.content().unwrap();
    let job = StageJob {
        target: SlotName::A,
        running: SlotName::B,
        ..fixture.job(2, &node)
    };
    let error = stage(job, now(), CancellationToken::new()).await.unwrap_err();
    assert!(
        matches!(error, StageError::Boot(BootError::RunningNotGood { .. })),
        "{error}"
    );
    assert!(before == node.disk.content().unwrap());
}
