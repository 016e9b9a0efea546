//! Pair deltas: made from published releases, and what a node makes of them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use drydock_images::delta::{DeltaArtifact, DeltaHead, Effort, Ground, SegmentDecoder, Source};
use drydock_images::publish::{MadeDelta, delta, withdraw};
use drydock_images::verify::{Verification, VerifyError};
use drydock_images::{Digest, Progress, ReleaseError, Repository};

use zstd::zstd_safe::CCtx;

use crate::support::{Fixture, noise, now};

async fn published(fixture: &Fixture, version: &str, image: &[u8]) -> Digest {
    let built = fixture.build_of(version, image, Vec::new()).await;
    let request = fixture.publish_request(&built.path);
    drydock_images::publish::publish(request).await.unwrap().digest
}

async fn make(fixture: &Fixture, from: &Digest, to: &Digest) -> Result<MadeDelta, ReleaseError> {
    let job = delta(&fixture.signing(), from, to).await?;
    job.make(Effort::default(), Progress::none()).await
}

/// What a node makes of `old` by the delta: the new image, and the bytes that it fetched.
async fn applied(repository: &Repository, from: &Digest, to: &Digest, old: &[u8]) -> (Vec<u8>, u64) {
    let artifact = repository.manifest(to).await.unwrap().artifacts[0].clone();
    let delta = repository.delta(from, to).await.unwrap().unwrap();
    let described = delta.artifact(&artifact.name).unwrap();
    let head = repository.delta_head(&artifact, described).await.unwrap();
    head.check_packing().unwrap();
    let (mut decoder, mut ground) = (SegmentDecoder::new(head.header().packing), Ground::default());
    let (mut new, mut at) = (Vec::new(), 0);
    let range = |at: u64, bytes: u32| &old[usize::try_from(at).unwrap()..][..bytes as usize];
    for segment in head.segments() {
        match &segment.source {
            Source::Copy { at } => new.extend_from_slice(range(*at, segment.bytes)),
            Source::Frame(frame) => {
                let end = at + u64::from(frame.stored_bytes);
                let stored = repository
                    .delta_range(&artifact, described, at..end)
                    .await
                    .unwrap();
                ground.clear();
                for reference in &frame.references {
                    let old = range(reference.at, reference.bytes);
                    ground.add(reference, old).unwrap();
                }
                let made = decoder.decode(&segment, frame, &stored, &mut ground).unwrap();
                new.extend_from_slice(made);
                at = end;
            }
        }
    }
    assert_eq!(at, described.frames_bytes);
    (new, described.head.size + described.frames_bytes)
}

/// Like a program that was built again: a few bytes in each hundred are others.
fn built_again(image: &[u8], part: Range<usize>) -> Vec<u8> {
    let mut changed = image.to_vec();
    changed[part]
        .iter_mut()
        .step_by(150)
        .for_each(|byte| *byte ^= 0x55);
    changed
}

/// What comes behind each image below, so that its delta is worth keeping.
const BUILT_AGAIN_BYTES: usize = 448_577;

/// Old and new images, and about what of the new one is new.
fn pairs() -> impl Iterator<Item = (&'static str, Vec<u8>, Vec<u8>, u64)> {
    let end = noise(5, BUILT_AGAIN_BYTES);
    let new_end = built_again(&end, 0..BUILT_AGAIN_BYTES);
    images().into_iter().map(move |(what, old, new, new_bytes)| {
        let (old, new) = ([old, end.clone()].concat(), [new, new_end.clone()].concat());
        // Each change costs more than its byte, but far less than what is around it.
        (what, old, new, new_bytes + BUILT_AGAIN_BYTES as u64 / 150 * 8)
    })
}

fn images() -> Vec<(&'static str, Vec<u8>, Vec<u8>, u64)> {
    let base = noise(1, 3_400_000);
    let changed = built_again(&base, 700_000..1_500_000);
    let moved = [&noise(2, 12_345), &base[2_000_000..], &base[..2_000_000]].concat();
    let with_zeros = [&base[..1_000_000], &vec![0; 3_000_000], &base[1_000_000..]].concat();
    let ext4 = |first: &[u8]| {
        let mut image = [&vec![0; 4096], first, &base].concat();
        image[1080..1082].copy_from_slice(&[0x53, 0xEF]);
        image
    };
    vec![
        ("moved", base.clone(), moved, 12_345),
        ("zeros", base.clone(), with_zeros.clone(), 0),
        ("no zeros any more", with_zeros, base.clone(), 0),
        ("changed all over", base.clone(), changed, 5_334 * 8),
        ("shorter", base.clone(), base[..100_000].to_vec(), 0),
        (
            "longer than a segment by a byte",
            base.clone(),
            base[..1_048_577 - BUILT_AGAIN_BYTES].to_vec(),
            0,
        ),
        (
            "in blocks",
            ext4(&noise(3, 8192)),
            ext4(&noise(4, 12_288)),
            12_288,
        ),
        ("another kind of image", base.clone(), ext4(&[]), 4096),
        ("the same", base.clone(), base, 0),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_delta_makes_is_the_new_image_and_only_what_is_new_is_stored() {
    for (what, old, new, new_bytes) in pairs() {
        let fixture = Fixture::new().await;
        let from = published(&fixture, "1.0", &old).await;
        // Where nothing changed, the releases differ by their versions.
        let to = published(&fixture, "1.1", &new).await;
        let made = make(&fixture, &from, &to).await.unwrap();
        let repository = fixture.load(now()).await.unwrap();
        assert_eq!(repository.deltas(), [(from, to)]);
        assert_eq!(repository.delta(&to, &from).await.unwrap(), None);
        let (found, fetched) = applied(&repository, &from, &to, &old).await;
        assert!(found == new, "{what}");
        assert_eq!(made.artifacts[0].delta_bytes, fetched);
        assert!(fetched < new_bytes + 3000, "{what}: {fetched} bytes");

        // The same again changes no byte, and no name.
        let again = make(&fixture, &from, &to).await.unwrap();
        assert_eq!(again.artifacts, made.artifacts);
        let files = std::fs::read_dir(fixture.repo().join("deltas")).unwrap();
        assert_eq!(files.count(), 1);
    }
}

/// Where all of a segment stands in one place it is copied, though the chunk across its end is new, and zeros
/// are in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_stands_whole_is_a_copy() {
    const SEGMENT: usize = 1 << 20;
    let mut old = noise(1, 3 * SEGMENT);
    old[SEGMENT + 300_000..][..500_000].fill(0);
    let end = noise(5, BUILT_AGAIN_BYTES);
    let new_end = built_again(&end, 0..BUILT_AGAIN_BYTES);
    let mut new = old.clone();
    for at in [SEGMENT - 10, 2 * SEGMENT + 10] {
        new[at] ^= 1;
    }
    let fixture = Fixture::new().await;
    let from = published(&fixture, "1.0", &[old, end].concat()).await;
    let to = published(&fixture, "1.1", &[new, new_end].concat()).await;
    make(&fixture, &from, &to).await.unwrap();
    let repository = fixture.load(now()).await.unwrap();
    let artifact = repository.manifest(&to).await.unwrap().artifacts[0].clone();
    let delta = repository.delta(&from, &to).await.unwrap().unwrap();
    let described = delta.artifact(&artifact.name).unwrap();
    let head = repository.delta_head(&artifact, described).await.unwrap();
    let copies = head.segments().filter_map(|segment| match segment.source {
        Source::Copy { at } => Some(at),
        Source::Frame(_) => None,
    });
    assert_eq!(copies.collect::<Vec<_>>(), [SEGMENT as u64]);
}

/// Content as programs have it: words that come again.
fn words(seed: u64, bytes: usize) -> Vec<u8> {
    let dictionary = noise(77, 4096);
    let mut made = Vec::new();
    for pick in noise(seed, bytes) {
        made.extend_from_slice(&dictionary[usize::from(pick) * 16..][..usize::from(pick % 13) + 1]);
    }
    made.truncate(bytes);
    made
}

const BLOCK: usize = 128 * 1024;

/// Blocks as mksquashfs packs them: whole ones back to back, then small ones with their lengths before them;
/// what cannot be packed stands as it is.
fn squashed(blocks: &[Vec<u8>], level: i32) -> Vec<u8> {
    let mut context = CCtx::create();
    let mut image = b"hsqs, as it were".to_vec();
    for block in blocks {
        let mut packed = Vec::with_capacity(block.len() * 2);
        context.compress(&mut packed, block, level).unwrap();
        if block.len() < BLOCK {
            image.extend_from_slice(&u16::try_from(packed.len()).unwrap().to_le_bytes());
        }
        image.extend_from_slice(if packed.len() < block.len() {
            &packed
        } else {
            block
        });
    }
    image
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_packed_in_an_image_is_compared_unpacked() {
    let old: Vec<Vec<u8>> = (0..24)
        .map(|nth| match nth {
            7 | 8 => noise(nth, BLOCK),
            nth if nth < 20 => words(nth, BLOCK),
            nth => words(nth, 5000 + usize::try_from(nth).unwrap()),
        })
        .collect();
    let mut new = old.clone();
    // Of some blocks a few bytes, as a program that was built again has; all behind the first are elsewhere.
    for block in [2, 3, 10, 11, 12, 21] {
        new[block] = built_again(&new[block], 1000..2000);
    }
    new.insert(1, words(100, 20_000));
    for level in [3, 15, 19] {
        let [old_image, mut new_image] = [&old, &new].map(|blocks| squashed(blocks, level));
        // One more that zstd packs otherwise: what is around it goes the usual way.
        let other = squashed(&[words(101, BLOCK)], 1);
        new_image.extend_from_slice(&other);
        let fixture = Fixture::new().await;
        let from = published(&fixture, "1.0", &old_image).await;
        let to = published(&fixture, "1.1", &new_image).await;
        let kept = Effort {
            unpack: false,
            ..Effort::default()
        };
        let job = delta(&fixture.signing(), &from, &to).await.unwrap();
        let packed = match job.make(kept, Progress::none()).await {
            Ok(made) => {
                let made = &made.artifacts[0];
                assert_eq!((made.packed_again_bytes, made.pack_level), (0, None));
                made.delta_bytes
            }
            Err(ReleaseError::SavesTooLittle { .. }) => u64::MAX,
            Err(error) => panic!("{error}"),
        };
        let made = make(&fixture, &from, &to).await.unwrap().artifacts.remove(0);
        assert_eq!(made.pack_level, u16::try_from(level).ok());
        // The blocks that changed, and the one that is new.
        let changed = 5 * BLOCK as u64 + 5021 + 20_000;
        assert_eq!(made.packed_again_bytes, changed, "level {level}");
        assert_eq!(made.packed_otherwise_bytes, 0);
        let own = other.len() as u64 + 10_000;
        assert!(
            made.delta_bytes < own + 5000 && made.delta_bytes + 100_000 < packed,
            "level {level}: {} bytes, {packed} when it is kept, {own}",
            made.delta_bytes
        );
        let repository = fixture.load(now()).await.unwrap();
        let (found, _) = applied(&repository, &from, &to, &old_image).await;
        assert!(found == new_image, "level {level}");
        let again = make(&fixture, &from, &to).await.unwrap();
        assert_eq!(again.artifacts, [made]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_zstd_packed_is_left_packed_and_counted() {
    let blocks = |changed: usize| -> Vec<Vec<u8>> {
        let block = |nth| built_again(&words(nth, BLOCK), 0..changed);
        (0..12).map(block).collect()
    };
    // Every block at another level: no level makes all of them, as none does that another version made.
    let [old, new] = [0, 300].map(|changed| {
        let levels = (1..).step_by(2).zip(blocks(changed));
        let packed = levels.flat_map(|(level, block)| squashed(&[block], level));
        // For this part the delta is worth it.
        let behind = built_again(&noise(9, 3_000_000), 0..changed * 10_000);
        packed.chain(behind).collect::<Vec<u8>>()
    });
    let fixture = Fixture::new().await;
    let from = published(&fixture, "1.0", &old).await;
    let to = published(&fixture, "1.1", &new).await;
    let made = make(&fixture, &from, &to).await.unwrap().artifacts.remove(0);
    let packed = new.len() as u64 - 3_000_000 - 12 * 16;
    assert_eq!((made.pack_level, made.packed_otherwise_bytes), (None, packed));
    let repository = fixture.load(now()).await.unwrap();
    assert!(applied(&repository, &from, &to, &old).await.0 == new);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_that_makes_no_sense_is_refused_and_leaves_nothing() {
    let fixture = Fixture::new().await;
    let from = published(&fixture, "1.0", &noise(1, 300_000)).await;
    let to = published(&fixture, "1.1", &noise(2, 300_000)).await;
    let refused = |error: ReleaseError| error.to_string();
    let signing = fixture.signing();

    let itself = refused(delta(&signing, &from, &from).await.unwrap_err());
    assert!(itself.contains("to itself"), "{itself}");
    let unknown = delta(&signing, &Digest::of(b"unknown"), &to).await.unwrap_err();
    assert!(matches!(unknown, ReleaseError::NotListed { .. }), "{unknown}");
    for level in [8, 23] {
        let job = delta(&signing, &from, &to).await.unwrap();
        let level = refused(
            job.make(
                Effort {
                    level,
                    ..Effort::default()
                },
                Progress::none(),
            )
            .await
            .unwrap_err(),
        );
        assert!(level.contains("9 to 22"), "{level}");
    }
    let nothing = make(&fixture, &from, &to).await.unwrap_err();
    assert!(
        matches!(nothing, ReleaseError::SavesTooLittle { .. }),
        "{nothing}"
    );
    // What is in both is not fetched by a node without a delta either.
    let half = published(
        &fixture,
        "1.2",
        &[noise(1, 2_000_000), noise(3, 2_000_000)].concat(),
    )
    .await;
    let other = published(
        &fixture,
        "1.3",
        &[noise(1, 2_000_000), noise(4, 2_000_000)].concat(),
    )
    .await;
    let timestamp = std::fs::read(fixture.metadata("timestamp.json")).unwrap();
    let little = make(&fixture, &half, &other).await.unwrap_err();
    assert!(matches!(little, ReleaseError::SavesTooLittle { .. }), "{little}");
    assert_eq!(
        timestamp,
        std::fs::read(fixture.metadata("timestamp.json")).unwrap()
    );
    let deltas = std::fs::read_dir(fixture.repo().join("deltas")).unwrap();
    assert_eq!(deltas.count(), 0);

    withdraw(&signing, &to, "it does not boot").await.unwrap();
    let withdrawn = delta(&signing, &from, &to).await.unwrap_err();
    assert!(matches!(withdrawn, ReleaseError::Withdrawn { .. }), "{withdrawn}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_verified_with_the_deltas_that_lead_to_it() {
    let fixture = Fixture::new().await;
    let old = noise(1, 3_000_000);
    let from = published(&fixture, "1.0", &old).await;
    let to = published(&fixture, "1.1", &built_again(&old, 0..2_000_000)).await;
    make(&fixture, &from, &to).await.unwrap();
    let repository = fixture.load(now()).await.unwrap();
    let verify = async |release: &Digest| {
        let verification = Verification::of(&repository, release, now()).await?;
        let (total, told) = (verification.total_bytes(), Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&told);
        let progress = Progress::new(move |bytes| {
            counted.fetch_add(bytes, Ordering::Relaxed);
        });
        let verified = verification.run(&[], &progress).await?;
        assert_eq!(told.load(Ordering::Relaxed), total);
        Ok::<_, VerifyError>(verified)
    };
    assert!(verify(&from).await.unwrap().deltas.is_empty());
    let verified = verify(&to).await.unwrap();
    let described = repository.delta(&from, &to).await.unwrap().unwrap().artifacts[0].clone();
    let [of] = verified.deltas.as_slice() else {
        panic!("{verified:?}");
    };
    assert_eq!((of.from, of.fetched_bytes), (from, described.stored_bytes()));

    let path = fixture.repo().join("deltas").join(described.head.digest.hex());
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = verify(&to).await.unwrap_err();
    assert!(error.to_string().contains("the delta of rootfs"), "{error}");
    // Who does not come from there is not concerned.
    verify(&from).await.unwrap();
}

/// A node asks for a delta by what it runs, and takes none that is of something else.
#[tokio::test(flavor = "multi_thread")]
async fn a_delta_of_other_artifacts_is_refused() {
    let fixture = Fixture::new().await;
    let (old, new) = (noise(1, 300_000), [noise(1, 300_000), noise(2, 5000)].concat());
    let from = published(&fixture, "1.0", &old).await;
    let to = published(&fixture, "1.1", &new).await;
    make(&fixture, &from, &to).await.unwrap();
    let repository = fixture.load(now()).await.unwrap();
    let [base, artifact] = [from, to].map(async |digest| {
        let manifest = repository.manifest(&digest).await.unwrap();
        manifest.artifacts[0].clone()
    });
    let (base, artifact) = (base.await, artifact.await);
    let delta = repository.delta(&from, &to).await.unwrap().unwrap();
    let described = delta.artifacts[0].clone();
    repository.delta_head(&artifact, &described).await.unwrap();
    let error = repository.delta_head(&base, &described).await.unwrap_err();
    assert_eq!(error.code(), "Malformed");
    for change in [
        |of: &mut DeltaArtifact| of.base_size += 1,
        |of: &mut DeltaArtifact| of.frames_bytes += 1,
    ] {
        let mut other = described.clone();
        change(&mut other);
        let error = repository.delta_head(&artifact, &other).await.unwrap_err();
        assert_eq!(error.code(), "Malformed");
    }
    let path = fixture.repo().join("deltas").join(described.head.digest.hex());
    let mut bytes = std::fs::read(&path).unwrap();
    let head = &bytes[..usize::try_from(described.head.size).unwrap()];
    assert!(DeltaHead::parse(head.to_vec().into()).is_ok());
    bytes[20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = repository.delta_head(&artifact, &described).await.unwrap_err();
    assert_eq!(error.code(), "Tampered");
}
