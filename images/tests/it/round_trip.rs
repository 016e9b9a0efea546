//! From partition images to verified bytes: what was put in is what comes out.

use crate::support::{Fixture, image, later, noise, now, verify_release};
use drydock_images::chunk::{Part, Rebuilder};
use drydock_images::publish::{advise, promote, publish, refresh_timestamp, withdraw};
use drydock_images::{Hasher, Progress, Severity, Vulnerability};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_built_is_what_a_node_reads() {
    let fixture = Fixture::new().await;
    let digest = fixture.release("1.0", 1).await;
    let repository = fixture.load(now()).await.unwrap();
    assert_eq!(repository.release_digests(), [digest]);
    let manifest = repository.stageable(&digest, now()).await.unwrap();
    let artifact = manifest.artifact("rootfs").unwrap();
    let index = repository.index(artifact).await.unwrap();
    let pages = repository.pages(artifact, index.pages()).await.unwrap();
    let mut rebuilder = Rebuilder::new(index.window_bytes());
    let mut whole = Vec::new();
    for (named, page) in index.pages().iter().zip(&pages) {
        assert_eq!(named.offset, whole.len() as u64);
        let stored = repository
            .pack_range(artifact, named.frames(Part::Front))
            .await
            .unwrap();
        rebuilder
            .page(page, [&stored, &[]], |content| whole.extend_from_slice(content))
            .unwrap();
    }
    assert!(whole == image(1));
    let mut hasher = Hasher::new();
    hasher.update(&whole);
    assert_eq!(hasher.finish(), artifact.digest);
    // The image is noise, zeros and the same noise again.
    assert!(
        index.pack_bytes() < 1_300_000,
        "zeros are not stored: {}",
        index.pack_bytes()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_image_makes_the_same_bytes() {
    let fixture = Fixture::new().await;
    let first = fixture.build("1.0", 4).await;
    let kept = fixture.path("first");
    std::fs::rename(&first.path, &kept).unwrap();
    let second = fixture.build("1.0", 4).await;
    assert_eq!(first.digest, second.digest);
    assert_eq!(listing(&kept), listing(&second.path));
}

/// What nodes of the release before lack stands together.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_new_after_a_release_is_at_the_front() {
    let fixture = Fixture::new().await;
    let old = image(1);
    // Two places change, far apart.
    let mut new = old.clone();
    new[300_000..300_100].copy_from_slice(&[7; 100]);
    new[1_500_000..1_500_100].copy_from_slice(&[8; 100]);
    let first = fixture.build_of("1.0", &old, Vec::new()).await;
    let second = fixture.build_of("1.1", &new, vec![first.path.clone()]).await;
    publish(fixture.publish_request(&first.path)).await.unwrap();
    publish(fixture.publish_request(&second.path)).await.unwrap();
    let repository = fixture.load(now()).await.unwrap();
    let bytes = async |release: &drydock_images::build::BuiltRelease| {
        let artifact = &release.manifest.artifacts[0];
        let index = repository.index(artifact).await.unwrap();
        [0, 1].map(|part| {
            index
                .pages()
                .iter()
                .map(|page| page.frames_bytes[part])
                .sum::<u32>()
        })
    };
    let [all, none] = bytes(&first).await;
    assert!(all > 1_000_000 && none == 0);
    let [front, rest] = bytes(&second).await;
    assert!(
        (10_000..100_000).contains(&front) && rest > all - 200_000,
        "{front} and {rest} of {all}"
    );
    for release in [&first, &second] {
        let verified = verify_release(&repository, &release.digest, &[], now(), &Progress::none()).await;
        verified.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_new_after_a_release_refers_further_back() {
    let fixture = Fixture::new().await;
    let (old, new) = (image(1), noise(2, 300_000));
    let first = fixture.build_of("1.0", &old, Vec::new()).await;
    let twice = [old, new.clone(), new].concat();
    let alone = fixture.build_of("1.1", &twice, Vec::new()).await;
    let after = fixture.build_of("1.2", &twice, vec![first.path.clone()]).await;
    let stored = |release: &drydock_images::build::BuiltRelease| release.stats.stored_bytes;
    // The second time is in what stands 300,000 bytes before it; a small frame does not look so far.
    assert!(
        stored(&alone) > stored(&first) + 590_000 && stored(&after) < stored(&first) + 450_000,
        "{} and {} after {}",
        stored(&alone),
        stored(&after),
        stored(&first)
    );
    publish(fixture.publish_request(&after.path)).await.unwrap();
    let repository = fixture.load(now()).await.unwrap();
    let verified = verify_release(&repository, &after.digest, &[], now(), &Progress::none()).await;
    verified.unwrap();
}

fn listing(dir: &std::path::Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                files.push((
                    path.strip_prefix(dir).unwrap().to_path_buf(),
                    std::fs::read(&path).unwrap(),
                ));
            }
        }
    }
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_advisories_and_withdrawals_change_no_digest() {
    let fixture = Fixture::new().await;
    let old = fixture.release("1.0", 1).await;
    let new = fixture.release("1.1", 2).await;
    let signing = fixture.signing();
    let beta = "beta".parse().unwrap();
    promote(&signing, &beta, &new, true).await.unwrap();
    promote(&signing, &beta, &old, false).await.unwrap();
    let flaw = Vulnerability {
        id: "CVE-2026-0001".to_owned(),
        severity: Severity::High,
    };
    advise(&signing, &new, "Fixes a flaw.\n", std::slice::from_ref(&flaw))
        .await
        .unwrap();
    withdraw(&signing, &old, "does not boot on board X")
        .await
        .unwrap();

    let repository = fixture.load(now()).await.unwrap();
    let channel = repository.channel(&beta).await.unwrap();
    assert_eq!(
        channel.releases.iter().map(|r| r.digest).collect::<Vec<_>>(),
        [old, new]
    );
    assert_eq!(channel.latest().unwrap().digest, new);
    assert_eq!(channel.next_from(&"0.9".parse().unwrap()).unwrap().digest, new);
    assert!(channel.next_from(&"1.1".parse().unwrap()).is_none());
    assert_eq!(
        repository.advisory(&new).await.unwrap().unwrap().vulnerabilities,
        [flaw]
    );
    assert_eq!(repository.advisory(&old).await.unwrap(), None);
    assert_eq!(
        repository.stageable(&old, now()).await.unwrap_err().code(),
        "Withdrawn"
    );
    assert_eq!(repository.manifest(&old).await.unwrap().digest(), old);
    assert!(
        repository
            .channel(&"stable".parse().unwrap())
            .await
            .unwrap()
            .releases[0]
            .withdrawn
            .is_some()
    );
    promote(&signing, &beta, &old, false).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_again_keeps_what_is_there_and_copies_nothing() {
    let fixture = Fixture::new().await;
    let built = fixture.build("1.0", 1).await;
    let first = publish(fixture.publish_request(&built.path)).await.unwrap();
    let again = publish(fixture.publish_request(&built.path)).await.unwrap();
    assert_eq!(again.digest, first.digest);
    assert_eq!((again.new_packs, again.known_packs), (0, first.new_packs));
    assert_eq!(again.versions.timestamp, first.versions.timestamp + 1);
    assert_eq!(fixture.load(now()).await.unwrap().versions(), again.versions);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_timestamp_alone_gives_more_time_with_its_key_alone() {
    let fixture = Fixture::new().await;
    fixture.release("1.0", 1).await;
    for key in ["root-1.pk8", "targets-1.pk8", "snapshot-1.pk8"] {
        std::fs::remove_file(fixture.keys().join(key)).unwrap();
    }
    assert_eq!(fixture.load(later(15)).await.unwrap_err().code(), "Expired");
    let signing = drydock_images::publish::Signing {
        now: later(15),
        ..fixture.signing()
    };
    refresh_timestamp(&signing).await.unwrap();
    assert_eq!(fixture.load(later(15)).await.unwrap().versions().timestamp, 2);
}
