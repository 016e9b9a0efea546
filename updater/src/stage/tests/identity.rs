//! What proves which release a slot holds, and what does not.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::super::*;
use super::fixture::{Fixture, Node, now};
use crate::disk::gate::OpenGate;
use crate::disk::*;
use crate::state::{LockName, SlotRecords};

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
