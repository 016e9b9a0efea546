//! Publishing while things go wrong: crashes, other publishers, bad releases, missing keys.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use drydock_images::build::{ArtifactSource, BuildRequest, build};
use drydock_images::keys::{KeygenRequest, generate};
use drydock_images::publish::{Lifetimes, publish, withdraw};
use drydock_images::{Digest, Manifest, Progress, ReleaseError, SPAN_BYTES};

use crate::support::{Fixture, copy_dir, noise, now};

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_the_rename_of_the_timestamp_changes_nothing_for_readers() {
    let fixture = Fixture::new().await;
    let old = fixture.release("1.0", 1).await;
    let before = fs::read(fixture.metadata("timestamp.json")).unwrap();
    let new = fixture.release("1.1", 2).await;
    // As if the power had gone right before the last step: everything is there but the timestamp.
    fs::write(fixture.metadata("timestamp.json"), before).unwrap();
    let repository = fixture.load(now()).await.unwrap();
    assert_eq!(repository.release_digests(), [old]);
    // And the next publish takes the same version numbers again, and brings both.
    fs::write(fixture.metadata("2.targets.json"), b"torn").unwrap();
    let again = publish(fixture.publish_request(&fixture.path("release-1.1")))
        .await
        .unwrap();
    assert_eq!((again.digest, again.versions.targets), (new, 2));
    assert_eq!(fixture.load(now()).await.unwrap().release_digests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_a_crash_left_torn_is_written_again() {
    let fixture = Fixture::new().await;
    let built = fixture.build("1.0", 1).await;
    let packs = fixture.repo().join("packs");
    copy_dir(&built.path.join("packs"), &packs);
    let torn = fs::read_dir(&packs).unwrap().next().unwrap().unwrap().path();
    let length = fs::metadata(&torn).unwrap().len();
    fs::write(&torn, vec![0; usize::try_from(length).unwrap()]).unwrap();
    let published = publish(fixture.publish_request(&built.path)).await.unwrap();
    let repository = fixture.load(now()).await.unwrap();
    crate::support::verify_release(&repository, &published.digest, &[], now(), &Progress::none())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_publishers_never_write_at_once() {
    let fixture = Fixture::new().await;
    let digest = fixture.release("1.0", 1).await;
    let lock = fs::File::open(fixture.repo().join(".drydock.lock")).unwrap();
    lock.lock().unwrap();
    let error = withdraw(&fixture.signing(), &digest, "x").await.unwrap_err();
    assert!(matches!(error, ReleaseError::Busy { .. }), "{error}");
    lock.unlock().unwrap();
    withdraw(&fixture.signing(), &digest, "x").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_not_whole_is_not_published() {
    let fixture = Fixture::new().await;
    let built = fixture.build("1.0", 1).await;
    let mut packs = fs::read_dir(built.path.join("packs")).unwrap();
    let pack = packs.next().unwrap().unwrap().path();
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let error = publish(fixture.publish_request(&built.path)).await.unwrap_err();
    assert!(error.to_string().contains("build it again"), "{error}");
    assert!(!fixture.metadata("timestamp.json").exists());
}

/// A node reads a slot back span by span and everything else by the digest: they must be one image.
#[tokio::test(flavor = "multi_thread")]
async fn spans_are_those_of_the_image_or_it_is_not_published() {
    let fixture = Fixture::new().await;
    let small = fixture.build("1.0", 1).await;
    assert_eq!(small.manifest.artifacts[0].spans, []);

    let span = SPAN_BYTES as usize;
    let image = [noise(7, 300_000), vec![0; span], noise(8, 5)].concat();
    let built = fixture.build_of("1.1", &image, Vec::new()).await;
    let spans = [&image[..span], &image[span..]].map(Digest::of);
    assert_eq!(built.manifest.artifacts[0].spans, spans);

    let manifest = built.path.join("manifest.json");
    let with_spans = |spans: &[Digest]| {
        let mut body = (*built.manifest).clone();
        body.artifacts[0].spans = spans.to_vec();
        let sealed = Manifest::seal(body).map_err(|error| error.to_string())?;
        std::fs::write(&manifest, sealed.bytes()).unwrap();
        Ok::<_, String>(())
    };
    assert_eq!(
        with_spans(&spans[..1]),
        Err(
            "the manifest breaks a rule: rootfs has the digests of 1 spans, where its size makes 2"
                .to_owned()
        )
    );
    with_spans(&[spans[1], spans[0]]).unwrap();
    let refused = publish(fixture.publish_request(&built.path)).await.unwrap_err();
    assert!(refused.to_string().contains("not span by span"), "{refused}");
    with_spans(&spans).unwrap();
    publish(fixture.publish_request(&built.path)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_signs_on_top_of_what_the_root_does_not_vouch_for() {
    let fixture = Fixture::new().await;
    let digest = fixture.release("1.0", 1).await;
    let path = fixture.metadata("1.targets.json");
    let text = fs::read_to_string(&path).unwrap().replace("2027", "2037");
    fs::write(&path, text).unwrap();
    let error = withdraw(&fixture.signing(), &digest, "x").await.unwrap_err();
    assert!(matches!(error, ReleaseError::Repository { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_for_their_owner_alone_and_never_overwritten() {
    let fixture = Fixture::with_keys(2, 2).await;
    for name in [
        "root-1",
        "root-2",
        "targets-1",
        "targets-2",
        "snapshot-1",
        "timestamp-1",
    ] {
        let key = fixture.keys().join(format!("{name}.pk8"));
        assert_eq!(
            fs::metadata(key).unwrap().permissions().mode() & 0o777,
            0o600,
            "{name}"
        );
    }
    let request = |keys, threshold, out| KeygenRequest {
        out,
        keys,
        threshold,
        root_lifetime: Lifetimes::default().root,
        now: now(),
    };
    let again = generate(request(1, 1, fixture.keys())).await.unwrap_err();
    assert!(matches!(again, ReleaseError::Exists { .. }), "{again}");
    for (keys, threshold) in [(0, 0), (1, 0), (1, 2), (17, 1)] {
        generate(request(keys, threshold, fixture.path("other")))
            .await
            .unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_appears_whole_or_not_at_all() {
    let fixture = Fixture::new().await;
    let built = fixture.build("1.0", 1).await;
    let request = |path: &str, out: &str| BuildRequest {
        name: built.manifest.name.clone(),
        version: built.manifest.version.clone(),
        board: built.manifest.board.clone(),
        arch: built.manifest.arch.clone(),
        min_from: None,
        floor: None,
        carries: built.manifest.carries.clone(),
        artifacts: vec![ArtifactSource {
            name: "a".parse().unwrap(),
            path: fixture.path(path),
            verity_root: None,
        }],
        out: fixture.path(out),
        after: Vec::new(),
        level: 3,
        progress: Progress::none(),
    };
    assert!(matches!(
        build(request("rootfs-1.0.img", "release-1.0")).await,
        Err(ReleaseError::Exists { .. })
    ));
    fs::write(fixture.path("empty"), b"").unwrap();
    for missing in ["empty", "not-there"] {
        build(request(missing, "failed")).await.unwrap_err();
        assert!(!fixture.path("failed").exists());
    }
    let left: Vec<_> = fs::read_dir(fixture.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
