//! Repositories in several places: one that fails, lags or lies stops no one while another is good.

use drydock_images::{Digest, FetchError, Repository, TrustError};
use url::Url;

use super::wire::{Reply, Seen, Wire, fetcher, nobody};
use crate::support::{Fixture, copy_dir, noise, now};

fn file() -> Vec<u8> {
    noise(11, 10_000)
}

fn digest() -> Digest {
    Digest::of(&file())
}

fn bases(of: &[&Wire]) -> Vec<Url> {
    of.iter().map(|wire| wire.url.clone()).collect()
}

fn corrupt() -> Vec<u8> {
    let mut bytes = file();
    bytes[17] ^= 1;
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_in_mid_file_goes_on_at_the_next_mirror() {
    let breaks = |seen: &Seen, _: usize| {
        Reply::ranged(&file(), seen)
            .header("ETag", "\"at-first\"")
            .broken_after(1_000)
    };
    let (first, second) = (
        Wire::serve(breaks).await,
        Wire::serve(|seen, _| Reply::ranged(&file(), seen)).await,
    );
    let fetcher = fetcher().with_mirrors(bases(&[&first, &second]));
    let got = fetcher.fetch_verified(&first.file(), 10_000, &digest()).await;
    assert_eq!(got.unwrap(), file());
    assert_eq!(
        (first.ranges(), second.ranges()),
        (vec![String::new()], vec!["bytes=1000-".to_owned()])
    );
    // The ETag of one says nothing about the other.
    assert_eq!(second.seen()[0].if_range, None);
    assert_eq!(fetcher.traffic().body_bytes, 10_000);

    // The one that failed is asked last now.
    let got = fetcher.fetch_range(&first.file(), 100..200).await;
    assert_eq!(got.unwrap(), file()[100..200]);
    assert_eq!((first.seen().len(), second.seen().len()), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_may_change_is_never_put_together_from_two_mirrors() {
    let first = Wire::serve(|seen, _| Reply::ranged(&file(), seen).broken_after(1_000)).await;
    let second = Wire::serve(|seen, _| Reply::ranged(b"another version", seen)).await;
    let fetcher = fetcher().with_mirrors(bases(&[&first, &second]));
    let got = fetcher.fetch(&first.file(), 10_000).await.unwrap();
    assert_eq!(&got[..], b"another version");
    assert_eq!(second.ranges(), [""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_corrupt_mirror_stops_no_one_and_all_of_them_are_an_error() {
    let bad = || Wire::serve(|seen, _| Reply::ranged(&corrupt(), seen));
    let good = || Wire::serve(|seen, _| Reply::ranged(&file(), seen));
    let short = || Wire::serve(|seen, _| Reply::ranged(&file()[..500], seen));
    for (first, second, third) in [
        (bad().await, good().await, bad().await),
        (bad().await, short().await, good().await),
        (short().await, bad().await, good().await),
        (good().await, bad().await, short().await),
    ] {
        let fetcher = fetcher().with_mirrors(bases(&[&first, &second, &third]));
        let got = fetcher.fetch_verified(&first.file(), 10_000, &digest()).await;
        assert_eq!(got.unwrap(), file());
    }
    let (first, second) = (bad().await, bad().await);
    let fetcher = fetcher().with_mirrors(bases(&[&first, &second]));
    let error = fetcher
        .fetch_verified(&first.file(), 10_000, &digest())
        .await
        .unwrap_err();
    assert!(
        matches!(error, FetchError::NotAsSigned { found, .. } if found == Digest::of(&corrupt())),
        "{error}"
    );
    assert_eq!((first.seen().len(), second.seen().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_rest_of_a_bad_beginning_is_fetched_whole_from_one_mirror() {
    let first = Wire::serve(|seen, _| Reply::ranged(&corrupt(), seen).broken_after(1_000)).await;
    let second = Wire::serve(|seen, _| Reply::ranged(&file(), seen)).await;
    let fetcher = fetcher().with_mirrors(bases(&[&first, &second]));
    let got = fetcher.fetch_verified(&first.file(), 10_000, &digest()).await;
    assert_eq!(got.unwrap(), file());
    assert_eq!(second.ranges(), ["bytes=1000-", ""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_its_caller_does_not_take_is_asked_of_the_next_mirror() {
    let first = Wire::serve(|seen, _| Reply::ranged(&corrupt(), seen)).await;
    let second = Wire::serve(|seen, _| Reply::ranged(&file(), seen)).await;
    let fetcher = fetcher().with_mirrors(bases(&[&first, &second]));
    let check = |bytes: bytes::Bytes| {
        let taken = bytes == file()[10..20];
        std::future::ready(if taken { Ok(bytes.len()) } else { Err("not it") })
    };
    let got = fetcher.fetch_range_checked(&first.file(), 10..20, check).await;
    assert_eq!(got.unwrap(), Ok(10));
    let got = fetcher.fetch_range_checked(&first.file(), 30..40, check).await;
    assert_eq!(got.unwrap(), Err("not it"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_does_not_exist_only_if_every_mirror_says_so() {
    let none = || Wire::serve(|_, _| Reply::status("404 Not Found").header("Content-Length", 0));
    let (first, second) = (none().await, none().await);
    let all = fetcher().with_mirrors(bases(&[&first, &second]));
    let error = all.fetch(&first.file(), 10).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!((first.seen().len(), second.seen().len()), (1, 1));

    let away = fetcher().with_mirrors(vec![first.url.clone(), nobody()]);
    let error = away.fetch(&first.file(), 10).await.unwrap_err();
    assert!(matches!(error, FetchError::Unreachable { .. }), "{error}");
    let broken = Wire::serve(|_, _| Reply::status("503 Busy").header("Content-Length", 0)).await;
    let busy = fetcher().with_mirrors(bases(&[&broken, &second]));
    let error = busy.fetch(&broken.file(), 10).await.unwrap_err();
    assert!(matches!(error, FetchError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("503"), "{error}");
    assert_eq!((broken.seen().len(), second.seen().len()), (3, 2));

    let has = Wire::serve(|seen, _| Reply::ranged(&file(), seen)).await;
    let lags = fetcher().with_mirrors(bases(&[&second, &has]));
    assert_eq!(lags.fetch(&second.file(), 10_000).await.unwrap(), file());
}

fn mirror_of(fixture: &Fixture, name: &str) -> Url {
    let path = fixture.path(name);
    copy_dir(&fixture.repo(), &path);
    Url::from_directory_path(path).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_loaded_and_verified_while_its_own_url_is_away() {
    let fixture = Fixture::new().await;
    let digest = fixture.release("1.0", 1).await;
    let mut cfg = fixture.config_at(nobody());
    let error = Repository::load(&cfg, now()).await.unwrap_err();
    assert_eq!(error.code(), "Unreachable");
    cfg.mirrors = vec![mirror_of(&fixture, "mirror")];
    let repository = Repository::load(&cfg, now()).await.unwrap();
    let silent = drydock_images::Progress::none();
    let verified = crate::support::verify_release(&repository, &digest, &[], now(), &silent).await;
    assert!(verified.unwrap().artifacts[0].fetched_bytes > 0);
    let traffic = repository.traffic();
    assert!(
        traffic.requests > 5 && traffic.body_bytes > 600_000,
        "{traffic:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_lags_or_lies_is_passed_over() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    let old = mirror_of(&fixture, "old");
    let digest = fixture.release("1.1", 2).await;
    let good = mirror_of(&fixture, "good");
    let lies = mirror_of(&fixture, "lies");
    std::fs::write(fixture.path("lies/metadata/timestamp.json"), "{}").unwrap();
    // The newest that was seen is remembered.
    Repository::load(&fixture.config(), now()).await.unwrap();
    let mut cfg = fixture.config_at(old.clone());
    let error = Repository::load(&cfg, now()).await.unwrap_err();
    assert_eq!(error.code(), "OlderThanSeen");
    cfg.mirrors = vec![lies.clone(), good];
    let repository = Repository::load(&cfg, now()).await.unwrap();
    assert!(repository.lists(&digest));
    repository.manifest(&digest).await.unwrap();

    // None of them would do: as it is without mirrors.
    cfg.mirrors = vec![lies];
    let error = Repository::load(&cfg, now()).await.unwrap_err();
    assert!(["OlderThanSeen", "Malformed"].contains(&error.code()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_that_make_no_sense_are_refused() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    let mut cfg = fixture.config();
    for wrong in [
        cfg.url.as_str(),
        "ftp://example.org/",
        "http://example.org/?key=1",
    ] {
        cfg.mirrors = vec![wrong.parse().unwrap()];
        let error = Repository::load(&cfg, now()).await.unwrap_err();
        assert!(
            matches!(error, TrustError::Configuration { .. }),
            "{wrong}: {error}"
        );
    }
}
