//! Which releases are refused, and that nothing is written then.

use std::sync::Arc;

use drydock_images::{Manifest, ManifestBody};
use tokio_util::sync::CancellationToken;

use super::super::*;
use super::fixture::{Fixture, Node, now, terms};
use crate::disk::gate::{OpenGate, Recorder};
use crate::disk::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_not_for_this_node_is_refused_in_words() {
    let fixture = Fixture::new(&[1, 2]).await;
    let node = Node::on(fixture.disk_image(1), fixture.path("state"), Arc::new(OpenGate));
    let slot = node.slots().b;
    let good = fixture.repository.manifest(&fixture.releases[&2]).await.unwrap();
    admit(&good, &slot, &terms()).unwrap();

    type Change = fn(&mut ManifestBody, &mut Terms);
    let table: [(&str, Change); 11] = [
        ("WrongBoard", |m, _| m.board = "other".parse().unwrap()),
        ("WrongArch", |m, _| m.arch = "arm64".parse().unwrap()),
        ("BelowFloor", |_, t| t.floor = Some("1.3".parse().unwrap())),
        ("BelowFloor", |_, t| {
            (t.floor, t.allow_downgrade) = (Some("1.3".parse().unwrap()), true);
        }),
        ("Downgrade", |_, t| {
            t.running_version = Some("1.10".parse().unwrap())
        }),
        ("SteppingStoneFirst", |m, _| {
            m.min_from = Some("1.2".parse().unwrap())
        }),
        ("SteppingStoneFirst", |m, t| {
            (m.min_from, t.running_version) = (Some("1.0".parse().unwrap()), None);
        }),
        ("NoGuard", |m, _| m.carries.guard = None),
        ("TooLarge", |m, _| m.artifacts[1].size = 5 << 20),
        ("ArtifactsDiffer", |m, _| {
            m.artifacts[0].name = "initrd".parse().unwrap()
        }),
        ("ArtifactsDiffer", |m, _| {
            m.artifacts.remove(0);
        }),
    ];
    for (code, change) in table {
        let (mut body, mut terms) = (ManifestBody::clone(&good), terms());
        change(&mut body, &mut terms);
        let manifest = Manifest::seal(body).unwrap();
        assert_eq!(admit(&manifest, &slot, &terms).unwrap_err().code(), code);
    }
    let mut barred = terms();
    barred.barred.insert(good.digest());
    assert_eq!(admit(&good, &slot, &barred).unwrap_err().code(), "Barred");
    let lower = Terms {
        running_version: Some("1.10".parse().unwrap()),
        allow_downgrade: true,
        ..terms()
    };
    admit(&good, &slot, &lower).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_release_and_expired_metadata_write_nothing() {
    let fixture = Fixture::new(&[1, 2]).await;
    let recorder = Arc::new(Recorder::default());
    std::fs::create_dir(fixture.path("state")).unwrap();
    let node = Node::on(fixture.disk_image(1), fixture.path("state"), recorder.clone());
    let terms = Terms {
        board: "other".parse().unwrap(),
        ..terms()
    };
    let job = StageJob {
        terms,
        ..fixture.job(2, &node)
    };
    let error = stage(job, now(), CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.code(), "WrongBoard");
    let late = jiff::Timestamp::from_second(now().as_second() + 10 * 365 * 86_400).unwrap();
    let error = stage(fixture.job(2, &node), late, CancellationToken::new())
        .await
        .unwrap_err();
    assert_eq!(error.code(), "MetadataExpired");
    let job = StageJob {
        target: SlotName::A,
        ..fixture.job(2, &node)
    };
    let error = stage(job, now(), CancellationToken::new()).await.unwrap_err();
    assert!(
        matches!(error, StageError::Disk(DiskError::TargetIsRunning { .. })),
        "{error}"
    );
    assert_eq!(recorder.writes(), []);
}
