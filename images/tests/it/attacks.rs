//! Everything a mirror, a stolen key or a bad disk can do to a repository. One test per attack of
//! TUF 1.0 section 1.5.2, and what stands below the metadata.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use drydock_images::publish::{
    Lifetimes, PublishRequest, RotateRequest, Signing, publish, rotate_root, withdraw,
};
use drydock_images::verify::{LocalImage, verify_release};
use drydock_images::{ChunkContent, Digest, Progress, Repository, TrustError};
use serde_json::Value;

use crate::support::{Fixture, copy_dir, image, later, noise, now};

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, serde_json::to_vec(&value).unwrap()).unwrap();
}

async fn code(fixture: &Fixture) -> &'static str {
    fixture
        .load(now())
        .await
        .expect_err("this must be refused")
        .code()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_signed_file_is_refused_whichever_it_is() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    for (name, wanted) in [
        ("timestamp.json", "Unsigned"),
        ("1.snapshot.json", "MixedMetadata"),
        ("1.targets.json", "MixedMetadata"),
    ] {
        let path = fixture.metadata(name);
        let whole = fs::read(&path).unwrap();
        edit(&path, |value| {
            value["signed"]["expires"] = "2036-01-01T00:00:00Z".into()
        });
        // The same length, so that it is the contents that are judged.
        assert_eq!(fs::read(&path).unwrap().len(), whole.len());
        assert_eq!(code(&fixture).await, wanted, "{name}");
        fs::write(&path, whole).unwrap();
    }
    fixture.load(now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_is_missing_is_unsigned() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    edit(&fixture.metadata("timestamp.json"), |value| {
        value["signatures"] = Value::Array(vec![])
    });
    assert_eq!(code(&fixture).await, "Unsigned");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_repository_with_other_keys_is_unsigned() {
    let (fixture, other) = (Fixture::new().await, Fixture::new().await);
    fixture.release("1.0", 1).await;
    other.release("1.0", 1).await;
    let mut cfg = other.config();
    cfg.shipped_root = fixture.config().shipped_root;
    assert_eq!(
        Repository::load(&cfg, now()).await.unwrap_err().code(),
        "Unsigned"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_role_signs_nothing() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    // The signature of another role's key, moved into this role's file.
    edit(&fixture.metadata("timestamp.json"), |value| {
        let snapshot: Value =
            serde_json::from_slice(&fs::read(fixture.metadata("1.snapshot.json")).unwrap()).unwrap();
        value["signatures"] = snapshot["signatures"].clone();
    });
    assert_eq!(code(&fixture).await, "Unsigned");
    // And a thief of the timestamp key, which lies on a machine that is always on, signs no targets.
    let keys = fixture.path("stolen");
    fs::create_dir(&keys).unwrap();
    fs::copy(fixture.keys().join("timestamp-1.pk8"), keys.join("targets-1.pk8")).unwrap();
    fs::copy(
        fixture.keys().join("timestamp-1.pk8"),
        keys.join("timestamp-1.pk8"),
    )
    .unwrap();
    fs::remove_dir_all(fixture.repo()).unwrap();
    let honest = fixture.release("1.1", 2).await;
    let signing = Signing {
        keys,
        ..fixture.signing()
    };
    let error = withdraw(&signing, &honest, "never mind").await.unwrap_err();
    assert!(error.to_string().contains("targets.json"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_twice_is_not_two_keys() {
    let fixture = Fixture::with_keys(3, 2).await;
    fixture.release("1.0", 1).await;
    fixture.load(now()).await.unwrap();

    let only_one = fixture.path("one");
    copy_dir(&fixture.keys(), &only_one);
    fs::remove_file(only_one.join("targets-2.pk8")).unwrap();
    fs::copy(only_one.join("targets-1.pk8"), only_one.join("targets-2.pk8")).unwrap();
    fs::remove_file(only_one.join("targets-3.pk8")).unwrap();
    let built = fixture.build("1.1", 2).await;
    let signing = Signing {
        keys: only_one,
        ..fixture.signing()
    };
    let request = PublishRequest {
        signing,
        ..fixture.publish_request(&built.path)
    };
    assert!(
        publish(request)
            .await
            .unwrap_err()
            .to_string()
            .contains("needs 2 signatures")
    );

    // What a repository would look like whose owner signs its root twice with one key.
    for (twice, wanted) in [(false, "BadRoot"), (true, "BadRoot")] {
        let mut cfg = fixture.config();
        let mut root: Value = serde_json::from_slice(&cfg.shipped_root).unwrap();
        let signatures = root["signatures"].as_array_mut().unwrap();
        signatures.truncate(1);
        if twice {
            signatures.push(signatures[0].clone());
        }
        cfg.shipped_root = serde_json::to_vec(&root).unwrap();
        assert_eq!(Repository::load(&cfg, now()).await.unwrap_err().code(), wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn below_the_threshold_is_told_from_unsigned() {
    let fixture = Fixture::with_keys(2, 2).await;
    fixture.release("1.0", 1).await;
    // The mirror takes one of two signatures off targets.json, and its own hashes cannot follow.
    let path = fixture.metadata("1.targets.json");
    let mut targets: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    targets["signatures"].as_array_mut().unwrap().pop();
    fs::write(&path, serde_json::to_vec(&targets).unwrap()).unwrap();
    assert_eq!(code(&fixture).await, "MixedMetadata");
    fs::remove_dir_all(fixture.repo()).unwrap();
    fixture.release("1.1", 2).await;
    // The next root has no file above it that names its hash: there the threshold is all there is.
    let request = RotateRequest {
        signing: fixture.signing(),
        new_keys: None,
        threshold: 1,
    };
    rotate_root(request).await.unwrap();
    let path = fixture.metadata("2.root.json");
    let whole = fs::read(&path).unwrap();
    for (signatures, wanted) in [
        (&[][..], "Unsigned"),
        (&[0], "UnderThreshold"),
        (&[0, 0], "Malformed"),
    ] {
        fs::write(&path, &whole).unwrap();
        edit(&path, |root| {
            let kept = signatures
                .iter()
                .map(|at: &usize| root["signatures"][*at].clone())
                .collect();
            root["signatures"] = Value::Array(kept);
        });
        assert_eq!(code(&fixture).await, wanted, "{signatures:?}");
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(fixture.load(now()).await.unwrap().versions().root, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_state_is_refused_after_a_newer_one_was_seen() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    let old = fixture.path("old");
    copy_dir(&fixture.repo(), &old);
    fixture.release("1.1", 2).await;
    fixture.load(now()).await.unwrap();
    fs::rename(&old, fixture.path("replayed")).unwrap();
    let cfg = fixture.config_at(url::Url::from_directory_path(fixture.path("replayed")).unwrap());
    let error = Repository::load(&cfg, now()).await.unwrap_err();
    assert_eq!(error.code(), "OlderThanSeen", "{error}");
    // And a node that never saw the newer one cannot know.
    let mut fresh = cfg.clone();
    fresh.datastore = fixture.path("fresh");
    Repository::load(&fresh, now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_repository_expires_role_by_role() {
    let fixture = Fixture::new().await;
    let day = std::time::Duration::from_secs(86_400);
    let built = fixture.build("1.0", 1).await;
    let lives = |targets, snapshot, timestamp| Lifetimes {
        targets: day * targets,
        snapshot: day * snapshot,
        timestamp: day * timestamp,
        ..Lifetimes::default()
    };
    for (lifetimes, file) in [
        (lives(9, 9, 2), "timestamp.json"),
        (lives(9, 2, 9), "snapshot.json"),
        (lives(2, 9, 9), "targets.json"),
    ] {
        let signing = Signing {
            lifetimes,
            ..fixture.signing()
        };
        publish(PublishRequest {
            signing,
            ..fixture.publish_request(&built.path)
        })
        .await
        .unwrap();
        fixture.load(now()).await.unwrap();
        let error = fixture.load(later(2)).await.unwrap_err();
        assert_eq!(error.code(), "Expired");
        assert!(error.to_string().contains(file), "{error}");
    }
    let last = fixture.load(now()).await.unwrap();
    assert_eq!(last.check_current(later(2)).unwrap_err().code(), "Expired");
    assert_eq!(fixture.load(later(1096)).await.unwrap_err().code(), "Expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_two_states_do_not_mix() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    fixture.release("1.1", 2).await;
    for (old, new) in [
        ("1.snapshot.json", "2.snapshot.json"),
        ("1.targets.json", "2.targets.json"),
    ] {
        let kept = fs::read(fixture.metadata(new)).unwrap();
        fs::copy(fixture.metadata(old), fixture.metadata(new)).unwrap();
        assert_eq!(code(&fixture).await, "MixedMetadata", "{new}");
        fs::write(fixture.metadata(new), kept).unwrap();
    }
    fixture.load(now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_signed_in_is_not_listed() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    let evil = fixture.build("6.6", 6).await;
    // Everything is on the server, only not in the signed list.
    copy_dir(&evil.path.join("chunks"), &fixture.repo().join("chunks"));
    copy_dir(&evil.path.join("indexes"), &fixture.repo().join("indexes"));
    let repository = fixture.load(now()).await.unwrap();
    assert_eq!(
        repository.manifest(&evil.digest).await.unwrap_err().code(),
        "NotListed"
    );
    assert_eq!(
        repository
            .channel(&"nightly".parse().unwrap())
            .await
            .unwrap_err()
            .code(),
        "NotListed"
    );
}

/// The one file below `dir` whose name contains `part`.
fn one_file(dir: &Path, part: &str) -> PathBuf {
    let mut found: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains(part))
        .collect();
    assert_eq!(found.len(), 1, "{part}");
    found.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_or_index_that_was_changed_cut_or_extended_is_refused() {
    let fixture = Fixture::new().await;
    let digest = fixture.release("1.0", 1).await;
    let repository = fixture.load(now()).await.unwrap();
    let artifact = repository.manifest(&digest).await.unwrap().artifacts[0].clone();
    for path in [
        one_file(&fixture.repo().join("targets"), "manifest-"),
        fixture.repo().join("indexes").join(artifact.index.digest.hex()),
    ] {
        let whole = fs::read(&path).unwrap();
        let flipped = [&whole[..whole.len() - 1], &[whole[whole.len() - 1] ^ 1]].concat();
        let extended = [&whole[..], b" "].concat();
        for (bytes, wanted) in [
            (flipped, "Tampered"),
            (whole[..whole.len() - 1].to_vec(), "Truncated"),
            (vec![], "Truncated"),
            (extended, "TooLong"),
        ] {
            fs::write(&path, bytes).unwrap();
            let error = match repository.manifest(&digest).await {
                Err(error) => error,
                Ok(manifest) => repository.index(&manifest.artifacts[0]).await.unwrap_err(),
            };
            assert_eq!(error.code(), wanted, "{}", path.display());
        }
        fs::remove_file(&path).unwrap();
        let gone = match repository.manifest(&digest).await {
            Err(error) => error,
            Ok(manifest) => repository.index(&manifest.artifacts[0]).await.unwrap_err(),
        };
        assert_eq!(gone.code(), "NotFound");
        fs::write(&path, whole).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_anything_else_than_itself_is_refused() {
    let fixture = Fixture::new().await;
    let digest = fixture.release("1.0", 1).await;
    let repository = fixture.load(now()).await.unwrap();
    let manifest = repository.manifest(&digest).await.unwrap();
    let index = repository.index(&manifest.artifacts[0]).await.unwrap();
    let chunk = index.chunks().next().unwrap();
    let ChunkContent::Stored(content) = chunk.content else {
        panic!("noise is stored")
    };
    let path = fixture.repo().join(drydock_images::layout::chunk_path(&content));
    let whole = fs::read(&path).unwrap();
    let pack = |data: &[u8]| zstd::bulk::compress(data, 3).unwrap();
    let data = repository.chunk(&chunk).await.unwrap().data;
    let cases: BTreeMap<&str, (Vec<u8>, &str)> = BTreeMap::from([
        (
            "other content",
            (pack(&noise(99, chunk.length as usize)), "Tampered"),
        ),
        ("shorter content", (pack(&data[..data.len() - 1]), "Tampered")),
        ("not a frame", (noise(1, 100), "Tampered")),
        (
            "a second frame",
            ([whole.clone(), pack(b"more")].concat(), "Tampered"),
        ),
        ("trailing bytes", ([whole.as_slice(), b"x"].concat(), "Tampered")),
        ("a bomb", (pack(&vec![0; 64 << 20]), "Tampered")),
        ("cut off", (whole[..whole.len() / 2].to_vec(), "Truncated")),
        ("empty", (vec![], "Tampered")),
        ("endless", (vec![0; 1 << 20], "TooLong")),
    ]);
    for (what, (bytes, wanted)) in cases {
        fs::write(&path, bytes).unwrap();
        assert_eq!(
            repository.chunk(&chunk).await.unwrap_err().code(),
            wanted,
            "{what}"
        );
    }
    // Packed by another level it is the same chunk.
    fs::write(&path, zstd::bulk::compress(&data, 19).unwrap()).unwrap();
    assert_eq!(repository.chunk(&chunk).await.unwrap().data, data);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_the_one_wrong_byte_in_chunks_and_in_images() {
    let fixture = Fixture::new().await;
    let digest = fixture.release("1.0", 1).await;
    let repository = fixture.load(now()).await.unwrap();
    let path = fixture.path("slot");
    let images = [LocalImage {
        name: "rootfs".parse().unwrap(),
        path: path.clone(),
    }];
    let silent = Progress::none();
    let verify = || verify_release(&repository, &digest, &images, now(), &silent);
    // A partition is longer than its image.
    fs::write(&path, [image(1), noise(3, 5000)].concat()).unwrap();
    let good = verify().await.unwrap();
    assert_eq!(good.artifacts[0].image.as_deref(), Some(path.as_path()));
    for (at, wanted) in [(0, "digest"), (image(1).len() - 1, "digest")] {
        let mut wrong = image(1);
        wrong[at] ^= 1;
        fs::write(&path, wrong).unwrap();
        assert!(verify().await.unwrap_err().to_string().contains(wanted));
    }
    fs::write(&path, &image(1)[1..]).unwrap();
    assert!(verify().await.is_err());
    withdraw(&fixture.signing(), &digest, "bad").await.unwrap();
    let repository = fixture.load(now()).await.unwrap();
    let refused = verify_release(&repository, &digest, &[], now(), &Progress::none())
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("withdrawn"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_says_what_to_do_in_one_line() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    let error = fixture.load(later(400)).await.unwrap_err();
    assert!(error.to_string().contains("publish --timestamp-only"), "{error}");
    let unknown = Digest::of(b"no release");
    let error = fixture
        .load(now())
        .await
        .unwrap()
        .manifest(&unknown)
        .await
        .unwrap_err();
    assert!(matches!(error, TrustError::NotListed { .. }));
    assert!(!error.to_string().contains('\n'));
}
