//! Staging over what is right already: another release, or what an earlier staging left.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::*;
use super::delta::{fixture_of, record_running};
use super::fixture::{
    DOUBLED, Fixture, MIB, Node, SHUFFLED, STRIPED, control, kernel_image, now, root_image,
};
use super::spoilt::Spoilt;
use crate::disk::gate::{Killed, OpenGate, Recorder, WriteEvent, WriteGate, WriteKind};
use crate::disk::sim::{SimDisk, mixed};
use crate::disk::*;
use crate::state::LockName;

const OLD: u64 = DOUBLED + 1;
const NEW: u64 = DOUBLED + 2;

/// A node that runs the old release, and whose other slot has the new one but for these bytes of its root.
fn disk_image(fixture: &Fixture, (old, new): (u64, u64), wrong: &[Range<usize>]) -> Vec<u8> {
    let mut image = fixture.disk_image(old);
    let node = Node::on(image.clone(), fixture.path("probe"), Arc::new(OpenGate));
    let mut root = root_image(new);
    for place in wrong {
        root[place.clone()].iter_mut().for_each(|byte| *byte ^= 0xA5);
    }
    for (name, content) in [("kernel", kernel_image(new)), ("root", root)] {
        let at = usize::try_from(node.slots().b.artifact(name).unwrap().start_bytes).unwrap();
        image[at..at + content.len()].copy_from_slice(&content);
    }
    image
}

/// The ways: chunk by chunk, where it is not known what runs, and by the delta.
const WAYS: [&str; 2] = ["chunks", "delta"];

async fn node_by(way: &str, old: u64, fixture: &Fixture, disk: SimDisk, gate: Arc<dyn WriteGate>) -> Node {
    let state = tempfile::tempdir_in(fixture.dir.path()).unwrap().keep();
    let node = Node::with(Arc::new(disk), state, gate);
    if way == "delta" {
        record_running(old, fixture, &node.control, &node.state).await;
    }
    node
}

/// Bytes that were written of slot B's root.
fn written(node: &Node, recorder: &Recorder) -> u64 {
    let slots = node.slots();
    let root = slots.b.artifact("root").unwrap();
    let root = root.start_bytes..root.start_bytes + root.len_bytes;
    let writes = recorder.writes().into_iter();
    let of_root = writes.filter(|write| write.kind == WriteKind::DeviceWrite && root.contains(&write.offset));
    of_root.map(|write| write.len).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_stands_in_the_target_it_holds_the_release_and_what_is_right_is_not_written() {
    let fixture = fixture_of(OLD, NEW).await;
    let all = root_image(NEW).len();
    // Of what is near it some is written too.
    let alone = [
        (0..0, 0),
        (0..all, all as u64),
        (all - 100..all, MIB),
        (1_500_000..2_000_000, 3 * MIB),
        (0..600_000, 3 * MIB + MIB / 2),
    ];
    let mut cases: Vec<_> = alone.map(|(place, most)| (vec![place; 1], most)).into();
    let mut state = 1;
    for _ in 0..16 {
        let wrong = |state: &mut u64| {
            let [at, len] = [all, 600_000].map(|most| mixed(state) as usize % most);
            at..(at + len).min(all)
        };
        let places = (0..1 + mixed(&mut state) % 5)
            .map(|_| wrong(&mut state))
            .collect();
        cases.push((places, 4 * MIB));
    }
    for (wrong, most) in cases {
        let image = disk_image(&fixture, (OLD, NEW), &wrong);
        for way in WAYS {
            let recorder = Arc::new(Recorder::default());
            let disk = SimDisk::new(image.clone(), 512);
            let node = node_by(way, OLD, &fixture, disk, recorder.clone()).await;
            let (result, progress) = fixture.stage(NEW, &node).await;
            result.unwrap_or_else(|error| panic!("{way}, {wrong:?}: {error}"));
            // What a power cut leaves is what was proven.
            let after = Node::with(
                Arc::new(node.disk.after_power_cut(|_| false)),
                fixture.path("after"),
                Arc::new(OpenGate),
            );
            assert!(
                after.content(SlotName::B, "root", all) == root_image(NEW),
                "{way}, {wrong:?}"
            );
            let written = written(&node, &recorder);
            assert!(written <= most, "{way}, {wrong:?}: {written}");
            assert_eq!(progress.stood, progress.total - written, "{way}, {wrong:?}");
            assert_eq!(
                (progress.done, progress.read_back),
                (progress.total, progress.total)
            );
        }
    }
}

/// Where no page is held as a whole: each has something new, and one has zeros, of which there is no frame.
#[tokio::test(flavor = "multi_thread")]
async fn what_stands_of_pages_that_all_have_something_new_is_not_written() {
    for (old, new) in [(1, 2), (STRIPED + 1, STRIPED + 2)] {
        let fixture = Fixture::new(&[old, new]).await;
        let all = root_image(new).len();
        let cases = [0..0, 500_000..500_001, 700_000..701_000, all - 100..all];
        for (wrong, is_written) in cases.map(|wrong| (wrong.clone(), !wrong.is_empty())) {
            let recorder = Arc::new(Recorder::default());
            let image = disk_image(&fixture, (old, new), std::slice::from_ref(&wrong));
            let node = Node::on(image, fixture.path(&format!("{new} {wrong:?}")), recorder.clone());
            let (result, _) = fixture.stage(new, &node).await;
            result.unwrap();
            assert!(
                node.content(SlotName::B, "root", all) == root_image(new),
                "{wrong:?}"
            );
            let written = written(&node, &recorder);
            assert_eq!(written > 0, is_written, "{wrong:?}: {written}");
            assert!(written <= MIB, "{wrong:?}: {written}");
        }
    }
}

/// As on a node whose other slot has an older release: what did not move stands there, what moved does not.
#[tokio::test(flavor = "multi_thread")]
async fn what_stays_in_its_place_is_not_written_though_all_around_it_moves() {
    let (old, new) = (SHUFFLED, SHUFFLED + 1);
    let fixture = fixture_of(old, new).await;
    let image = disk_image(&fixture, (old, old), &[]);
    let recorder = Arc::new(Recorder::default());
    let node = node_by("delta", old, &fixture, SimDisk::new(image, 512), recorder.clone()).await;
    let (result, _) = fixture.stage(new, &node).await;
    result.unwrap();
    let wanted = root_image(new);
    assert!(node.content(SlotName::B, "root", wanted.len()) == wanted);
    assert_eq!(written(&node, &recorder), 2 * MIB);
}

/// What a delta copies and stands costs one reading of the target, and none of the running slot.
#[tokio::test(flavor = "multi_thread")]
async fn what_stands_is_read_once_and_not_from_the_running_slot() {
    let fixture = fixture_of(OLD, NEW).await;
    let image = disk_image(&fixture, (OLD, NEW), &[]);
    for (slot, reads) in [(SlotName::A, 0), (SlotName::B, 1)] {
        let node = Node::on(
            image.clone(),
            fixture.path(&format!("{slot}")),
            Arc::new(OpenGate),
        );
        let start = node.slots().get(slot).artifact("root").unwrap().start_bytes;
        // In the second segment, which is a copy.
        let disk = Arc::new(Spoilt::new(image.clone(), start + 1_500_000, u64::MAX));
        let control = control(Device::new(Path::new("sim"), disk.clone(), Arc::new(OpenGate)));
        record_running(OLD, &fixture, &control, &node.state).await;
        let job = StageJob {
            control,
            ..fixture.job(NEW, &node)
        };
        stage(job, now(), CancellationToken::new()).await.unwrap();
        assert_eq!(disk.reads(), reads, "slot {slot}");
    }
}

/// A disk with a cache of its own: what is read past the kernel's cache may be there and nowhere else.
#[derive(Debug)]
struct Caching(Arc<SimDisk>);

impl RawDisk for Caching {
    fn len_bytes(&self) -> u64 {
        self.0.len_bytes()
    }
    fn sector_bytes(&self) -> Option<u64> {
        self.0.sector_bytes()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.0.read_at(offset, buf)
    }
    fn read_past_cache(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.0.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> std::io::Result<()> {
        self.0.write_at(offset, buf)
    }
    fn flush(&self) -> std::io::Result<()> {
        self.0.flush()
    }
    fn lock_table(&self) -> std::io::Result<TableLock> {
        self.0.lock_table()
    }
}

/// Kills when the device is to flush what was written there.
struct CutAtFlushOf(Range<u64>, AtomicBool);

impl WriteGate for CutAtFlushOf {
    fn before(&self, event: &WriteEvent<'_>) -> std::io::Result<()> {
        match event.kind {
            WriteKind::DeviceWrite => {
                self.1.fetch_or(self.0.contains(&event.offset), Ordering::SeqCst);
            }
            WriteKind::DeviceFlush if self.1.load(Ordering::SeqCst) => {
                return Err(std::io::Error::other(Killed { at: 0 }));
            }
            _ => {}
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_staging_left_in_the_disks_own_cache_lasts_before_it_counts() {
    let fixture = fixture_of(OLD, NEW).await;
    let sim = Arc::new(SimDisk::new(fixture.disk_image(OLD), 512));
    let node = Node::with(sim.clone(), fixture.path("state"), Arc::new(OpenGate));
    let start = node.slots().b.artifact("root").unwrap().start_bytes;
    let with = |gate: Arc<dyn WriteGate>| StageJob {
        control: control(Device::new(
            Path::new("sim"),
            Arc::new(Caching(sim.clone())),
            gate,
        )),
        ..fixture.job(NEW, &node)
    };
    let killed = with(Arc::new(CutAtFlushOf(
        start..start + 4 * MIB,
        AtomicBool::new(false),
    )));
    stage(killed, now(), CancellationToken::new()).await.unwrap_err();
    assert!(sim.unflushed_sectors() > 0);
    let recorder = Arc::new(Recorder::default());
    stage(with(recorder.clone()), now(), CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(written(&node, &recorder), 0, "all of it stood there");
    let after = Node::with(
        Arc::new(sim.after_power_cut(|_| false)),
        fixture.path("after"),
        Arc::new(OpenGate),
    );
    let wanted = root_image(NEW);
    assert!(after.content(SlotName::B, "root", wanted.len()) == wanted);
}

/// Memory that is on its way to be hashed comes back when nobody hashes any more.
#[test]
fn a_cancellation_ends_a_staging_over_what_stands() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fixture = runtime.block_on(fixture_of(OLD, NEW));
    let image = disk_image(&fixture, (OLD, NEW), &[]);
    let mut cancelled = 0;
    for nth in 0..60 {
        let disk = SimDisk::new(image.clone(), 512);
        let node = runtime.block_on(node_by("delta", OLD, &fixture, disk, Arc::new(OpenGate)));
        let (cancel, begun) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let (trigger, seen) = (cancel.clone(), begun.clone());
        let canceller = std::thread::spawn(move || {
            while !seen.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_micros(nth * 700));
            trigger.cancel();
        });
        let seen = begun.clone();
        let job = StageJob {
            progress: Arc::new(move |_| seen.store(true, Ordering::SeqCst)),
            ..fixture.job(NEW, &node)
        };
        let staged = runtime.block_on(stage(job, now(), cancel));
        canceller.join().unwrap();
        cancelled += usize::from(staged.is_err());
        // Its last thread has the lock.
        let state = node.state.clone();
        let lock = runtime.spawn_blocking(move || state.lock(LockName::Slot).map(drop));
        let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), lock).await });
        if ended.is_err() {
            // Whoever drops a runtime waits for its threads.
            runtime.shutdown_background();
            panic!("cancelled after {} µs it goes on for ever", nth * 700);
        }
    }
    assert!(cancelled > 5, "{cancelled}");
}
