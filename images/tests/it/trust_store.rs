//! What a machine remembers, when its disk and its clock fail it.

use std::fs;

use drydock_images::Repository;
use drydock_images::publish::{RotateRequest, refresh_timestamp, rotate_root};

use crate::support::{Fixture, copy_dir, later, now};

#[tokio::test(flavor = "multi_thread")]
async fn a_store_cut_at_any_length_never_switches_the_rollback_check_off() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    let old = fixture.path("old");
    copy_dir(&fixture.repo(), &old);
    fixture.release("1.1", 2).await;
    fixture.load(now()).await.unwrap();
    let replay = fixture.config_at(url::Url::from_directory_path(&old).unwrap());
    let store = fixture.path("trust").join("trust.json");
    let whole = fs::read(&store).unwrap();
    // Every length near the ends and a step in between: the loads cost the time, not the cuts.
    let lengths = (0..40)
        .chain((40..whole.len()).step_by(97))
        .chain(whole.len() - 40..whole.len());
    for length in lengths {
        fs::write(&store, &whole[..length]).unwrap();
        let error = Repository::load(&replay, now())
            .await
            .expect_err("an older state was accepted");
        assert_eq!(error.code(), "TrustStoreDamaged", "cut at {length}");
        assert!(error.to_string().contains(store.to_str().unwrap()));
        assert_eq!(
            fs::read(&store).unwrap(),
            &whole[..length],
            "the damaged file is left to be looked at"
        );
    }
    fs::write(&store, &whole).unwrap();
    assert_eq!(
        Repository::load(&replay, now()).await.unwrap_err().code(),
        "OlderThanSeen"
    );
    fixture.load(now()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_ten_years_off_blocks_nothing_afterwards() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    fixture.load(now()).await.unwrap();
    // Ten years forward everything has expired, and the time is not remembered.
    assert_eq!(fixture.load(later(3650)).await.unwrap_err().code(), "Expired");
    fixture.load(now()).await.unwrap();
    // Ten years back, metadata are judged by the latest time that was known, and still accepted.
    fixture.load(later(-3650)).await.unwrap();
    fixture.load(later(13)).await.unwrap();
    assert_eq!(fixture.load(later(14)).await.unwrap_err().code(), "Expired");
    fixture.load(later(-3650)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_back_does_not_make_expired_metadata_current() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    fixture.load(later(10)).await.unwrap();
    // A newer timestamp that expires on day 5, while this machine knows of day 10 and says day 1.
    let mut signing = fixture.signing();
    signing.lifetimes.timestamp = std::time::Duration::from_secs(5 * 86_400);
    refresh_timestamp(&signing).await.unwrap();
    assert_eq!(fixture.load(later(1)).await.unwrap_err().code(), "Expired");
    let mut fresh = fixture.config();
    fresh.datastore = fixture.path("fresh");
    Repository::load(&fresh, later(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timestamp_that_was_verified_is_kept_though_what_is_below_it_is_missing() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    fixture.load(now()).await.unwrap();
    let before = fixture.path("before");
    copy_dir(&fixture.repo(), &before);
    fixture.release("1.1", 2).await;
    fs::remove_file(fixture.metadata("2.snapshot.json")).unwrap();
    assert_eq!(fixture.load(now()).await.unwrap_err().code(), "NotFound");
    let replay = fixture.config_at(url::Url::from_directory_path(&before).unwrap());
    assert_eq!(
        Repository::load(&replay, now()).await.unwrap_err().code(),
        "OlderThanSeen"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_root_is_followed_from_any_older_one_and_never_back() {
    let fixture = Fixture::with_keys(2, 2).await;
    fixture.release("1.0", 1).await;
    fixture.load(now()).await.unwrap();
    let before = fixture.path("before");
    copy_dir(&fixture.repo(), &before);

    let other = Fixture::with_keys(3, 2).await;
    fs::remove_file(other.keys().join("1.root.json")).unwrap();
    let request = RotateRequest {
        signing: fixture.signing(),
        new_keys: Some(other.keys()),
        threshold: 2,
    };
    let rotated = rotate_root(request).await.unwrap();
    assert_eq!(rotated.version, 2);
    assert_eq!(
        rotated.changed_roles,
        ["root", "targets", "snapshot", "timestamp"]
    );
    // At the moment before the new root appears, whoever trusts the old one reads on.
    let (root, away) = (fixture.metadata("2.root.json"), fixture.path("away"));
    fs::rename(&root, &away).unwrap();
    assert_eq!(fixture.load(now()).await.unwrap().versions().root, 1);
    fs::rename(&away, &root).unwrap();
    assert_eq!(fixture.load(now()).await.unwrap().versions().root, 2);
    // A fresh node that was shipped root 1 comes as far.
    let mut fresh = fixture.config();
    fresh.datastore = fixture.path("fresh");
    assert_eq!(Repository::load(&fresh, now()).await.unwrap().versions().root, 2);
    // The repository as it was is signed by keys that root 2 took away.
    let replay = fixture.config_at(url::Url::from_directory_path(&before).unwrap());
    assert_eq!(
        Repository::load(&replay, now()).await.unwrap_err().code(),
        "Unsigned"
    );
    // The old keys publish no more, the new ones do.
    let built = fixture.build("1.1", 2).await;
    drydock_images::publish::publish(fixture.publish_request(&built.path))
        .await
        .unwrap_err();
    let mut request = fixture.publish_request(&built.path);
    request.signing.keys = other.keys();
    drydock_images::publish::publish(request).await.unwrap();
    assert_eq!(fixture.load(now()).await.unwrap().release_digests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_gets_more_time_with_the_keys_it_has() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    let mut signing = fixture.signing();
    signing.now = later(1000);
    let versions = refresh_timestamp(&signing).await.unwrap();
    assert_eq!(versions.timestamp, 2);
    let request = RotateRequest {
        signing: signing.clone(),
        new_keys: None,
        threshold: 1,
    };
    assert!(rotate_root(request).await.unwrap().changed_roles.is_empty());
    let built = fixture.build("1.1", 2).await;
    let mut request = fixture.publish_request(&built.path);
    request.signing.now = later(1094);
    drydock_images::publish::publish(request).await.unwrap();
    assert_eq!(fixture.load(later(1096)).await.unwrap().versions().root, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_that_were_seen_are_kept_though_the_rest_of_the_load_failed() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    fixture.load(now()).await.unwrap();
    let before = fixture.path("before");
    copy_dir(&fixture.repo(), &before);
    let other = Fixture::new().await;
    let request = RotateRequest {
        signing: fixture.signing(),
        new_keys: Some(other.keys()),
        threshold: 1,
    };
    // The keys of another repository may have its first root beside them; it is not touched.
    rotate_root(request).await.unwrap();
    fs::remove_file(fixture.metadata("timestamp.json")).unwrap();
    assert_eq!(fixture.load(now()).await.unwrap_err().code(), "NotFound");
    // Root 2 is remembered, so the old state with the old keys is refused.
    let replay = fixture.config_at(url::Url::from_directory_path(&before).unwrap());
    assert_eq!(
        Repository::load(&replay, now()).await.unwrap_err().code(),
        "Unsigned"
    );
}
