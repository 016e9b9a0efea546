//! Staging by the delta that was made for just this pair of releases, and what is done where that fails.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use drydock_images::Progress;
use drydock_images::delta::Effort;
use drydock_images::publish::{Lifetimes, Signing, delta};
use tokio_util::sync::CancellationToken;

use super::super::*;
use super::fixture::{DOUBLED, Fixture, MIB, Node, SQUASHED, STRIPED, control, now, root_image};
use super::sources::CutAt;
use super::spoilt::Spoilt;
use crate::disk::gate::OpenGate;
use crate::disk::*;
use crate::state::{LockName, StateDir};

const OLD: u64 = STRIPED;
const NEW: u64 = STRIPED + 1;

async fn fixture() -> Fixture {
    fixture_of(OLD, NEW).await
}

/// Two releases, and the delta between them. The kernels have nothing in common.
pub(super) async fn fixture_of(old: u64, new: u64) -> Fixture {
    let mut fixture = Fixture::new(&[old, new]).await;
    let signing = Signing {
        repo: fixture.path("repo"),
        keys: fixture.path("keys"),
        lifetimes: Lifetimes::default(),
        now: now(),
    };
    let job = delta(&signing, &fixture.releases[&old], &fixture.releases[&new])
        .await
        .unwrap();
    let made = job.make(Effort::default(), Progress::none()).await.unwrap();
    let kept: Vec<_> = made
        .artifacts
        .iter()
        .map(|made| (made.name.as_str(), made.kept))
        .collect();
    assert_eq!(kept, [("kernel", false), ("root", true)]);
    fixture.repository = fixture.load(|_| {}).await;
    fixture
}

/// A node that runs the old release and knows it.
async fn node(fixture: &Fixture, state: &str) -> Node {
    node_of(OLD, fixture, state).await
}

async fn node_of(old: u64, fixture: &Fixture, state: &str) -> Node {
    let node = Node::on(fixture.disk_image(old), fixture.path(state), Arc::new(OpenGate));
    record_running(old, fixture, &node.control, &node.state).await;
    node
}

pub(super) async fn record_running(old: u64, fixture: &Fixture, control: &GptBootControl, state: &StateDir) {
    let manifest = fixture
        .repository
        .manifest(&fixture.releases[&old])
        .await
        .unwrap();
    let slots = control.read().unwrap().1;
    let record = crate::state::SlotRecord::of(&manifest, &slots.a, now()).unwrap();
    let lock = state.lock(LockName::Slot).unwrap();
    crate::state::SlotRecords::new(state)
        .save(&lock, SlotName::A, &record)
        .unwrap();
}

fn assert_holds_new(node: &Node) {
    let wanted = root_image(NEW);
    assert!(node.content(SlotName::B, "root", wanted.len()) == wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_is_used_where_there_is_one_and_takes_what_was_estimated() {
    let fixture = fixture().await;
    let known = node(&fixture, "known").await;
    let manifest = fixture
        .repository
        .manifest(&fixture.releases[&NEW])
        .await
        .unwrap();
    let estimate = estimate(
        &fixture.repository,
        &manifest,
        &known.control,
        &known.state,
        SlotName::A,
    );
    let estimate = estimate.await.unwrap();
    let before = fixture.repository.traffic();
    let (result, by_delta) = fixture.stage(NEW, &known).await;
    result.unwrap();
    assert_holds_new(&known);
    let after = fixture.repository.traffic();
    // The manifest is fetched too, which has nothing to do with where the bytes come from.
    let taken = (
        after.body_bytes - before.body_bytes - manifest.bytes().len() as u64,
        after.requests - before.requests - 1,
    );
    assert_eq!(taken, (estimate.fetch, estimate.requests));
    assert_eq!(by_delta.fetched, estimate.fetch);
    // Whatever was not fetched the node had.
    assert!(
        by_delta.reused + by_delta.fetched >= by_delta.total,
        "{by_delta:?}"
    );

    // A node that does not know what it runs does without.
    let unknown = Node::on(
        fixture.disk_image(OLD),
        fixture.path("unknown"),
        Arc::new(OpenGate),
    );
    let (result, by_chunks) = fixture.stage(NEW, &unknown).await;
    result.unwrap();
    assert_holds_new(&unknown);
    let own: u64 = 13 * 45_000 + 90_000;
    assert!(
        by_delta.fetched > own && by_delta.fetched + 10_000 < by_chunks.fetched,
        "{by_delta:?} {by_chunks:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staging_by_a_delta_that_was_killed_fetches_only_the_rest() {
    let fixture = fixture().await;
    let node = node(&fixture, "state").await;
    let start = node.slots().b.artifact("root").unwrap().start_bytes;
    let gate = Arc::new(CutAt(start + MIB..start + 2 * MIB));
    let killed = Node::with(node.disk.clone(), fixture.path("state"), gate);
    let (result, all) = fixture.stage(NEW, &killed).await;
    result.unwrap_err();
    // The process is gone, what it wrote is not.
    node.disk.flush().unwrap();
    let again = Node::with(node.disk.clone(), fixture.path("state"), Arc::new(OpenGate));
    let (result, rest) = fixture.stage(NEW, &again).await;
    result.unwrap();
    assert_holds_new(&again);
    // The first of both segments has about 350 KB of its own, the kernel 90 KB.
    assert!(rest.fetched + 400_000 < all.fetched, "{rest:?} {all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_out_of_the_same_bytes_of_the_old_image_are_made_by_the_delta() {
    let (old, new) = (DOUBLED, DOUBLED + 1);
    let fixture = fixture_of(old, new).await;
    let node = node_of(old, &fixture, "state").await;
    let (result, progress) = fixture.stage(new, &node).await;
    let record = result.unwrap();
    let wanted = root_image(new);
    assert!(node.content(SlotName::B, "root", wanted.len()) == wanted);
    // What is new of it, the kernel, and what names them: put together from chunks it would be 45 KB more.
    let most = 45_000 + 90_000 + 10_000;
    assert!(progress.fetched < most, "{progress:?} {record:?}");
}

/// What is wanted in other pieces than the reader ahead was told of is read twice, or when it is wanted.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_delta_copies_is_read_in_the_pieces_that_were_foreseen() {
    let (old, new) = (DOUBLED, DOUBLED + 1);
    let fixture = fixture_of(old, new).await;
    let node = node_of(old, &fixture, "node").await;
    // In the first segment, which is a copy.
    let at = node.slots().a.artifact("root").unwrap().start_bytes + 500_000;
    let disk = Arc::new(Spoilt::new(fixture.disk_image(old), at, u64::MAX));
    let device = Device::new(Path::new("sim"), disk.clone(), Arc::new(OpenGate));
    let control = control(device);
    record_running(old, &fixture, &control, &node.state).await;
    let job = StageJob {
        control,
        ..fixture.job(new, &node)
    };
    stage(job, now(), CancellationToken::new()).await.unwrap();
    let longest = disk.longest_read();
    let most = (ahead::PIECE_BYTES + 2 * DIRECT_ALIGN) as u64;
    assert!((1..=most).contains(&longest), "{longest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_packed_in_a_slot_is_unpacked_and_packed_again() {
    let (old, new) = (SQUASHED, SQUASHED + 1);
    let fixture = fixture_of(old, new).await;
    let node = node_of(old, &fixture, "state").await;
    let (result, progress) = fixture.stage(new, &node).await;
    result.unwrap();
    let wanted = root_image(new);
    assert!(node.content(SlotName::B, "root", wanted.len()) == wanted);
    // Each of ten blocks has five bytes that are new; chunks would be some hundred kilobytes.
    let most = 90_000 + 20_000;
    assert!(progress.fetched < most, "{progress:?}");

    // A byte of what is packed is another than the record says.
    for at in [20_000, wanted.len() as u64 / 2] {
        let fetched = fetched_from_spoilt(&fixture, (old, new), &node, at).await;
        assert!(fetched > progress.fetched, "{fetched} {progress:?}");
    }
}

/// Stages on a node like `sound` but for one byte of the running root, which is another than its record says;
/// how many bytes were fetched.
async fn fetched_from_spoilt(fixture: &Fixture, (old, new): (u64, u64), sound: &Node, at: u64) -> u64 {
    let start = sound.slots().a.artifact("root").unwrap().start_bytes;
    let disk = Arc::new(Spoilt::new(fixture.disk_image(old), start + at, 0));
    let device = Device::new(Path::new("sim"), disk, Arc::new(OpenGate));
    let state = StateDir::open(&fixture.path(&format!("state-{at}")), Arc::new(OpenGate)).unwrap();
    let control = control(device);
    record_running(old, fixture, &control, &state).await;
    let fetched = Arc::new(AtomicU64::new(0));
    let told = fetched.clone();
    let job = StageJob {
        control: control.clone(),
        lock: Arc::new(state.lock(LockName::Slot).unwrap()),
        state,
        progress: Arc::new(move |progress| told.store(progress.fetched, Ordering::SeqCst)),
        ..fixture.job(new, sound)
    };
    let record = stage(job, now(), CancellationToken::new()).await.unwrap();
    let manifest = fixture.repository.manifest(&record.release).await.unwrap();
    assert_eq!(record.release, manifest.digest());
    read_back(&control, SlotName::B, &record, &CancellationToken::new(), |_| {}).unwrap();
    fetched.load(Ordering::SeqCst)
}

/// A delta that does not fit, or cannot be had, costs its bytes and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn where_a_delta_fails_the_artifact_is_put_together_from_chunks() {
    let fixture = fixture().await;
    let sound = node(&fixture, "sound").await;
    let by_delta = fixture.stage(NEW, &sound).await.1.fetched;
    // The running slot is another than its record says: at the front, and in the second segment.
    for at in [1000, MIB + 200_000] {
        assert!(fetched_from_spoilt(&fixture, (OLD, NEW), &sound, at).await > by_delta);
    }
    // Its file is damaged in a frame, in the head, cut, gone.
    let deltas = fixture.path("repo").join("deltas");
    let files = std::fs::read_dir(deltas)
        .unwrap()
        .map(|file| file.unwrap().path());
    // That of the root is the longer one.
    let file = files.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let whole = std::fs::read(&file).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let kinds = [
        flipped(whole.len() - 9),
        flipped(50),
        whole[..whole.len() / 2].to_vec(),
    ];
    for (nth, bytes) in kinds.into_iter().map(Some).chain([None]).enumerate() {
        match bytes {
            Some(bytes) => std::fs::write(&file, bytes).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let node = node(&fixture, &format!("file-{nth}")).await;
        let (result, progress) = fixture.stage(NEW, &node).await;
        result.unwrap();
        assert_holds_new(&node);
        assert_eq!(
            (progress.done, progress.read_back),
            (progress.total, progress.total)
        );
    }
}
