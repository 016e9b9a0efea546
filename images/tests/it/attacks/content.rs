//! What stands below the metadata: manifests, indexes and packs that are other bytes than those signed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use drydock_images::publish::withdraw;
use drydock_images::verify::LocalImage;
use drydock_images::{Digest, Progress, Repository};

use crate::support::{Fixture, image, noise, now, verify_release};

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

/// A mirror can change what it likes of a pack: whatever a node reads of it is compared with what was signed.
#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_anything_else_than_itself_is_refused() {
    let fixture = Fixture::new().await;
    let digest = fixture.release("1.0", 1).await;
    let repository = fixture.load(now()).await.unwrap();
    let artifact = repository.manifest(&digest).await.unwrap().artifacts[0].clone();
    let index = repository.index(&artifact).await.unwrap();
    let pages = repository.pages(&artifact, index.pages()).await.unwrap();
    let [first, second] =
        [pages[0].frames()[0], pages[0].frames()[1]].map(|frame| frame.stored_bytes as usize);
    let frames = usize::try_from(index.pages()[0].page_at).unwrap();
    let path = fixture
        .repo()
        .join(drydock_images::layout::pack_path(&artifact.index.digest));
    let whole = fs::read(&path).unwrap();
    assert_eq!(whole.len() as u64, index.pack_bytes());
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        bytes
    };
    let pack = |data: &[u8]| zstd::bulk::compress(data, 3).unwrap();
    let put = |bytes: &mut Vec<u8>, at: usize, new: &[u8]| bytes[at..at + new.len()].copy_from_slice(new);
    let cases: BTreeMap<&str, (Vec<u8>, &str)> = BTreeMap::from([
        (
            "a flipped byte in a frame",
            (changed(&|bytes| bytes[100] ^= 1), "Tampered"),
        ),
        (
            "a flipped byte in a page",
            (changed(&|bytes| bytes[frames + 100] ^= 1), "Tampered"),
        ),
        (
            "swapped frames",
            (
                changed(&|bytes| {
                    bytes[..first + second].rotate_left(first);
                }),
                "Tampered",
            ),
        ),
        (
            "a truncated frame, the rest moved up",
            (
                changed(&|bytes| {
                    bytes.remove(first - 1);
                    bytes.push(0);
                }),
                "Tampered",
            ),
        ),
        (
            "another valid frame",
            (
                changed(&|bytes| put(bytes, 0, &pack(&noise(99, 20_000)))),
                "Tampered",
            ),
        ),
        (
            "a second frame in the place of the first's end",
            (
                changed(&|bytes| put(bytes, first - 30, &pack(b"more"))),
                "Tampered",
            ),
        ),
        (
            "a bomb",
            (
                changed(&|bytes| put(bytes, 0, &pack(&vec![0; 64 << 20]))),
                "Tampered",
            ),
        ),
        ("cut off", (whole[..whole.len() / 2].to_vec(), "Truncated")),
        ("empty", (vec![], "Truncated")),
    ]);
    let verify = || verify_release_quietly(&repository, &digest);
    assert_eq!(verify().await, Ok(()));
    for (what, (bytes, wanted)) in cases {
        fs::write(&path, bytes).unwrap();
        assert_eq!(verify().await, Err(wanted), "{what}");
    }
    // What follows is not the pack's, and is not read.
    fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    assert_eq!(verify().await, Ok(()));
}

async fn verify_release_quietly(repository: &Repository, digest: &Digest) -> Result<(), &'static str> {
    let verified = verify_release(repository, digest, &[], now(), &Progress::none()).await;
    match verified {
        Ok(_) => Ok(()),
        Err(drydock_images::verify::VerifyError::Trust(error)) => Err(error.code()),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_the_one_wrong_byte_in_images() {
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
