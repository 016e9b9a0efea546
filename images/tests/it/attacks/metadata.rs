//! Signed metadata: one test per attack of TUF 1.0 section 1.5.2.

use std::fs;
use std::path::Path;

use drydock_images::publish::{
    Lifetimes, PublishRequest, RotateRequest, Signing, publish, rotate_root, withdraw,
};
use drydock_images::{Digest, Repository, TrustError};
use serde_json::Value;

use crate::support::{Fixture, copy_dir, later, now};

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
    copy_dir(&evil.path.join("packs"), &fixture.repo().join("packs"));
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
