//! What proves which release a slot holds, and what does not.

use std::sync::Arc;

use drydock_images::{Carries, Digest, SPAN_BYTES, SharedState};
use tokio_util::sync::CancellationToken;

use super::super::*;
use super::fixture::{Fixture, MIB, Node, now};
use crate::disk::gate::OpenGate;
use crate::disk::layout::DiskLayout;
use crate::disk::sim::SimDisk;
use crate::disk::*;
use crate::state::{ArtifactRecord, LockName, SlotRecord, SlotRecords, UnknownFields};

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_is_known_by_its_verity_root_or_its_content_and_else_unknown() {
    let fixture = Fixture::new(&[1, 2]).await;
    let node = Node::on(fixture.disk_image(1), fixture.path("state"), Arc::new(OpenGate));
    let cancel = CancellationToken::new();
    let records = SlotRecords::new(&node.state);
    let identify = |cmdline: &str, hashing| {
        identify_running(&node.control, &records, SlotName::A, cmdline, hashing, &cancel).unwrap()
    };
    assert_eq!(
        identify("", Hashing::Idle),
        Identity::Unknown(UnknownWhy::NoRecord)
    );

    // What `adopt` does: finds the release by the content, among others.
    let mut manifests = Vec::new();
    for digest in fixture.releases.values() {
        manifests.push(fixture.repository.manifest(digest).await.unwrap());
    }
    let found = match_releases(&node.control, SlotName::A, &manifests, now(), &cancel)
        .unwrap()
        .unwrap();
    assert_eq!(found.release, fixture.releases[&1]);
    assert_eq!(
        match_releases(&node.control, SlotName::B, &manifests, now(), &cancel).unwrap(),
        None
    );
    let lock = node.state.lock(LockName::Slot).unwrap();
    records.save(&lock, SlotName::A, &found).unwrap();

    let by = |identity| match identity {
        Identity::Proven { by, .. } => Some(by),
        Identity::Unknown(_) => None,
    };
    let own = format!("quiet root_hexdigest={:064x}", 1);
    let other = format!("quiet root_hexdigest={:064x}", 2);
    assert_eq!(by(identify(&own, Hashing::No)), Some(Proof::VerityRoot));
    assert_eq!(
        identify(&other, Hashing::No),
        Identity::Unknown(UnknownWhy::NotHashed)
    );
    assert_eq!(by(identify(&other, Hashing::Idle)), Some(Proof::Content));
    assert_eq!(identify("", Hashing::Now).release(), Some(fixture.releases[&1]));

    // One other byte, and it is not that release any more.
    let root = node.slots().a.artifact("root").unwrap().start_bytes;
    node.disk.write_at(root + 1_000_000, &[0xff; 1]).unwrap();
    node.disk.flush().unwrap();
    assert!(matches!(
        identify("", Hashing::Idle),
        Identity::Unknown(UnknownWhy::Different(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_changed_after_staging_is_caught_before_arming() {
    let fixture = Fixture::new(&[1, 2]).await;
    let node = Node::on(fixture.disk_image(1), fixture.path("state"), Arc::new(OpenGate));
    let record = fixture.stage(2, &node).await.0.unwrap();
    let again = |record| {
        read_back_async(
            node.control.clone(),
            SlotName::B,
            record,
            CancellationToken::new(),
        )
    };
    again(record.clone()).await.unwrap();
    let mut moved = record.clone();
    moved.artifacts.get_mut("kernel").unwrap().partition = uuid::Uuid::from_u128(1);
    assert!(matches!(
        again(moved).await,
        Err(StageError::OtherPartition { .. })
    ));
    let mut less = record.clone();
    less.artifacts.remove("kernel");
    assert!(
        again(less).await.is_err(),
        "a partition without a record is not verified"
    );
    let kernel = node.slots().b.artifact("kernel").unwrap().start_bytes;
    node.disk.write_at(kernel + 5, b"x").unwrap();
    node.disk.flush().unwrap();
    assert!(matches!(
        again(record).await,
        Err(StageError::ReadsBackDifferently { .. })
    ));
}

/// What was signed span by span is read back on all cores, and every span counts.
#[test]
fn a_slot_of_several_spans_is_read_back_span_by_span() {
    let dir = tempfile::tempdir().unwrap();
    let size = SPAN_BYTES + 3 * MIB / 2;
    let layout = DiskLayout::cos_like(7, MIB, size.next_multiple_of(MIB), MIB);
    let disk = Arc::new(SimDisk::new(layout.to_bytes().unwrap(), 512));
    let node = Node::with(disk, dir.path().join("state"), Arc::new(OpenGate));
    let slot = node.slots().b;
    let zeros = |len: u64| Digest::of(&vec![0; usize::try_from(len).unwrap()]);
    let artifact = |name: &str, size_bytes: u64, spans: &[Digest]| {
        let record = ArtifactRecord {
            // Not looked at where there are spans: they were signed together.
            digest: zeros(size_bytes),
            spans: spans.to_vec(),
            size_bytes,
            partition: slot.artifact(name).unwrap().guid,
            verity_root: None,
            unknown: UnknownFields::new(),
        };
        (name.to_owned(), record)
    };
    let spans = [zeros(SPAN_BYTES), zeros(size - SPAN_BYTES)];
    let record = SlotRecord {
        release: zeros(1),
        version: "1.0".parse().unwrap(),
        floor: None,
        carries: Carries {
            guard: None,
            kubelet: None,
            kernel: None,
            state: SharedState::default(),
        },
        artifacts: [artifact("kernel", 1000, &[]), artifact("root", size, &spans)].into(),
        verified_at: now(),
        unknown: UnknownFields::new(),
    };
    let read = |record: &SlotRecord| {
        let mut seen = 0;
        let cancel = CancellationToken::new();
        let read = read_back(&node.control, SlotName::B, record, &cancel, |bytes| seen += bytes);
        read.map(|()| seen)
    };
    assert_eq!(read(&record).unwrap(), 1000 + size);

    let root = slot.artifact("root").unwrap().start_bytes;
    for (at, bytes) in [
        (0, 0..SPAN_BYTES),
        (SPAN_BYTES - 1, 0..SPAN_BYTES),
        (SPAN_BYTES, SPAN_BYTES..size),
        (size - 1, SPAN_BYTES..size),
    ] {
        node.disk.write_at(root + at, b"x").unwrap();
        node.disk.flush().unwrap();
        match read(&record) {
            Err(StageError::ReadsBackDifferently { bytes: found, .. }) => assert_eq!(found, bytes),
            other => panic!("a byte changed at {at}: {other:?}"),
        }
        node.disk.write_at(root + at, &[0]).unwrap();
        node.disk.flush().unwrap();
    }
    node.disk.write_at(root + size, b"x").unwrap();
    node.disk.flush().unwrap();
    assert_eq!(
        read(&record).unwrap(),
        1000 + size,
        "what lies behind does not count"
    );
    // A record that another version wrote, with spans that do not fit, is read as a whole.
    let mut other = record;
    other.artifacts.get_mut("root").unwrap().spans.pop();
    assert_eq!(read(&other).unwrap(), 1000 + size);
    // One that names no bytes proves nothing.
    let root = other.artifacts.get_mut("root").unwrap();
    (root.size_bytes, root.spans) = (0, Vec::new());
    assert!(matches!(
        read(&other),
        Err(StageError::ReadsBackDifferently { .. })
    ));
}
