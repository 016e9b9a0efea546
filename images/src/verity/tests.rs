//! Hash trees against roots and bytes that `veritysetup format` of cryptsetup 2.6.1 made once, against a tree
//! made the slow way, and against what could have happened to image or tree.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use sha2::Digest as _;

use super::tree::TreeBuilder;
use super::tree_check::tree_fault;
use super::*;
use crate::digest::Digest;
use crate::progress::Progress;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn with_image(image: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("image"), image).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn request(&self) -> FormatRequest {
        FormatRequest {
            image: self.path("image"),
            tree: self.path("tree"),
            algorithm: HashAlgorithm::Sha256,
            data_block: BlockSize::DEFAULT,
            hash_block: BlockSize::DEFAULT,
            data_blocks: None,
            salt: Some(Salt::none()),
            uuid: None,
            header: Header::Superblock,
            progress: Progress::none(),
        }
    }

    fn fault(&self, tree: &HashTree) -> Option<String> {
        tree_fault(
            &self.path("image"),
            &self.path("tree"),
            &tree.root,
            &Progress::none(),
        )
        .unwrap()
    }

    fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.path(name)).unwrap();
        edit(&mut bytes);
        fs::write(self.path(name), bytes).unwrap();
    }
}

fn counted(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}

#[tokio::test]
async fn roots_and_trees_are_those_of_veritysetup() {
    let table = [
        (
            (4096, 4096, 4096, "sha256", "-"),
            "d67c656e01756650d77717b0839985a056ec28ffe174601d690fc407a2ceffca",
            "849544335e6bead7e36656cc71fce1a85d98c2f6f3fe893aa14e03df9201c53b",
        ),
        (
            (4096, 4096, 4096, "sha256", "00ff"),
            "71611f383ff4ce9716c6f1c239a47a6e5f2483176be387ce9d03fe5b3899e1eb",
            "ed48ede2ad6c0cf2099e4fa6c3b79ec8103affe8de71dfed0729be3fb4929bdc",
        ),
        (
            (520_192, 4096, 4096, "sha256", "00ff"),
            "17fab2e97b5bc2d2a496cdc12b34e0100521f088686d180e2394f537bbcacde9",
            "4c35ea2706dc671a21255365f5f37252f70fbe192bd083737cfd3246e47d99f1",
        ),
        (
            (528_384, 4096, 4096, "sha256", "00ff"),
            "e863893ed00793841730b0393b9dcf52fc996169a3d9fdb18d7117550bed2c22",
            "bf4055801140531422f4bd35f4866a80eefc53f91889545143f7130fa7417eca",
        ),
        (
            (8704, 512, 512, "sha256", "abcdef"),
            "97c5035c303726edac7e594cd43e97ea3eb2379315cc79e9a9ebcd4cdaf18d42",
            "a9d5a64d43715a84d691d4480b23ffa501754ba36e839af6d3acbf850a2d29a4",
        ),
        (
            (33_280, 512, 1024, "sha512", "-"),
            "6b1c5a3c38e0022b82a6858d798f35fa13a0d65f9b5ab1e02b566e31fbc3b35d80b18dfd26fac2a57ca2dd0a3bbc19fef0b1a0a0790399f8d01bd4dff2f07665",
            "e20c46b0c7bc4dca319e47baf1f7dabc825a7d0c68b0d1d9b2e5bba98fa320bc",
        ),
        (
            (262_656, 512, 512, "sha512", "0102030405"),
            "a21f8a6bfae8c15196a0d4ada50b0e8d2ee63ed2152a06f920644c86a00aa3bd99caada383998ace484fb179a43241b378dca47a797c8cade18a67bbfbd6f99f",
            "7e19939965ecd54360dc1a77f43956dc9457064cb689299c5c37228a46997848",
        ),
    ];
    for ((length, data_block, hash_block, algorithm, salt), root, tree_digest) in table {
        let bench = Bench::with_image(&counted(length));
        let tree = format(FormatRequest {
            algorithm: algorithm.parse().unwrap(),
            data_block: BlockSize::new(data_block).unwrap(),
            hash_block: BlockSize::new(hash_block).unwrap(),
            salt: Some(salt.parse().unwrap()),
            uuid: Some("01234567-89ab-4cde-8f01-23456789abcd".parse().unwrap()),
            ..bench.request()
        })
        .await
        .unwrap();
        assert_eq!(tree.root.as_str(), root, "{length}");
        let bytes = fs::read(bench.path("tree")).unwrap();
        assert_eq!(bytes.len() as u64, tree.tree_bytes);
        assert_eq!(Digest::of(&bytes).hex(), tree_digest, "{length}");
        assert_eq!(bench.fault(&tree), None);
    }
}

#[tokio::test]
async fn the_same_image_makes_the_same_tree() {
    let bench = Bench::with_image(&counted(40_960));
    let derived = || FormatRequest {
        salt: None,
        ..bench.request()
    };
    let first = format(derived()).await.unwrap();
    let bytes = fs::read(bench.path("tree")).unwrap();
    fs::remove_file(bench.path("tree")).unwrap();
    assert_eq!(format(derived()).await.unwrap(), first);
    assert_eq!(fs::read(bench.path("tree")).unwrap(), bytes);
    // Its own salt and no UUID, in one reading: the same UUID.
    fs::remove_file(bench.path("tree")).unwrap();
    let salt = Some(first.salt.clone());
    let once = FormatRequest { salt, ..derived() };
    assert_eq!((once.reads(), derived().reads()), (1, 2));
    assert_eq!(format(once).await.unwrap(), first);
    fs::remove_file(bench.path("tree")).unwrap();
    bench.edit("image", |image| image[0] ^= 1);
    let other = format(derived()).await.unwrap();
    assert!(other.salt != first.salt && other.uuid != first.uuid && other.root != first.root);
}

#[tokio::test]
async fn what_cannot_be_hashed_is_refused_and_leaves_nothing() {
    let bench = Bench::with_image(&counted(5000));
    fs::write(bench.path("empty"), b"").unwrap();
    let refused = async |request: FormatRequest, words: &str| {
        let error = format(request).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        let files = fs::read_dir(bench.dir.path()).unwrap();
        assert_eq!(files.count(), 2, "{error}");
    };
    refused(bench.request(), "leave its end out with --data-blocks 1").await;
    let image = bench.path("empty");
    let empty = FormatRequest {
        image,
        ..bench.request()
    };
    refused(empty, "no block").await;
    for (data_blocks, words) in [(0, "no block"), (2, "ask for at most 1")] {
        let data_blocks = Some(data_blocks);
        let request = FormatRequest {
            data_blocks,
            ..bench.request()
        };
        refused(request, words).await;
    }
    let image = bench.dir.path().to_path_buf();
    let folder = FormatRequest {
        image,
        ..bench.request()
    };
    refused(folder, "cannot read the image").await;
    let tree = bench.path("image");
    let onto = FormatRequest {
        tree,
        ..bench.request()
    };
    refused(onto, "never overwritten").await;
    assert_eq!(fs::read(bench.path("image")).unwrap(), counted(5000));
}

#[tokio::test]
async fn bytes_after_the_blocks_asked_for_do_not_count() {
    let bench = Bench::with_image(&counted(5000));
    let request = FormatRequest {
        data_blocks: Some(1),
        salt: None,
        ..bench.request()
    };
    let first = format(request.clone()).await.unwrap();
    assert_eq!((first.data_blocks, first.hash_blocks), (1, 0));
    fs::remove_file(bench.path("tree")).unwrap();
    bench.edit("image", |image| image.truncate(4096));
    assert_eq!(format(request).await.unwrap(), first);
}

#[tokio::test]
async fn without_a_superblock_the_command_line_says_the_parameters() {
    let bench = Bench::with_image(&counted(8192));
    let tree = format(FormatRequest {
        header: Header::Absent,
        ..bench.request()
    })
    .await
    .unwrap();
    assert_eq!((tree.tree_bytes, tree.uuid), (4096, None));
    assert_eq!(
        tree.kernel_command_line,
        format!(
            "roothash={} systemd.verity_root_options=superblock=no,format=1,hash=sha256,data-block-size=4096,hash-block-size=4096,data-blocks=2,salt=-",
            tree.root
        )
    );
    assert!(bench.fault(&tree).unwrap().contains("superblock"));
}

#[tokio::test]
async fn a_tree_of_another_image_or_root_is_told_apart() {
    let bench = Bench::with_image(&counted(130 * 4096));
    let tree = format(bench.request()).await.unwrap();
    let root = tree.root.clone();
    let with_root = |root: &str| HashTree {
        root: root.parse().unwrap(),
        ..tree.clone()
    };
    let other = "00".repeat(32);
    assert_eq!(
        bench.fault(&with_root(&other)).unwrap(),
        format!("image and tree belong together, but their root hash is {root}")
    );
    // Superblock, root block, then the two blocks of digests: entry 1 of the second is block 129.
    let damaged_at = 3 * 4096 + 40;
    bench.edit("tree", |bytes| bytes[damaged_at] ^= 1);
    assert_eq!(
        bench.fault(&tree).unwrap(),
        "the image has that root hash, but the tree is damaged or another one: the image's block 129 has another hash there (byte 12328 of the tree)"
    );
    bench.edit("tree", |bytes| bytes[damaged_at] ^= 1);
    for at in [4096, 3 * 4096 + 4000] {
        bench.edit("tree", |bytes| bytes[at] ^= 1);
        assert!(
            bench
                .fault(&tree)
                .unwrap()
                .ends_with(&format!("byte {at} of the tree differs"))
        );
        bench.edit("tree", |bytes| bytes[at] ^= 1);
    }
    bench.edit("image", |bytes| bytes[5 * 4096 + 7] ^= 1);
    let fault = bench.fault(&tree).unwrap();
    assert!(
        fault.contains("with the tree's salt the image has") && fault.contains("block 5 "),
        "{fault}"
    );
    bench.edit("image", |bytes| bytes.truncate(129 * 4096));
    assert!(bench.fault(&tree).unwrap().contains("and the image has 528384"));
    bench.edit("tree", |bytes| bytes.truncate(9000));
    assert_eq!(bench.fault(&tree).unwrap(), "it ends after 9000 of 16384 bytes");
    bench.edit("tree", |bytes| bytes.truncate(100));
    assert!(bench.fault(&tree).unwrap().contains("fewer than a superblock"));
}

#[tokio::test]
async fn a_tree_in_a_larger_partition_is_the_same_tree() {
    let bench = Bench::with_image(&counted(130 * 4096));
    let tree = format(bench.request()).await.unwrap();
    bench.edit("tree", |bytes| bytes.resize(65_536, 0xff));
    bench.edit("image", |bytes| bytes.resize(200 * 4096, 0xff));
    assert_eq!(bench.fault(&tree), None);
}

/// The whole level in memory, hashed into the whole level above.
fn slow_tree(parameters: &Parameters, data: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let salt = parameters.salt.as_bytes();
    let hash = |block: &[u8]| match parameters.algorithm {
        HashAlgorithm::Sha256 => sha2::Sha256::digest([salt, block].concat()).to_vec(),
        HashAlgorithm::Sha512 => sha2::Sha512::digest([salt, block].concat()).to_vec(),
    };
    let hash_block = parameters.hash_block.bytes() as usize;
    let mut digests: Vec<Vec<u8>> = data
        .chunks(parameters.data_block.bytes() as usize)
        .map(hash)
        .collect();
    let mut levels = Vec::new();
    while digests.len() > 1 {
        let mut level = digests.concat();
        level.resize(level.len().next_multiple_of(hash_block), 0);
        digests = level.chunks(hash_block).map(hash).collect();
        levels.push(level);
    }
    (digests.concat(), levels)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_tree_grown_block_by_block_is_the_tree_made_level_by_level(
        data_blocks in prop_oneof![1u64..20, 60u64..70, 250u64..260, 500u64..530],
        wide in any::<bool>(),
        salt in proptest::collection::vec(any::<u8>(), 0..70),
        header in prop_oneof![Just(Header::Superblock), Just(Header::Absent)],
        seed in any::<u8>(),
    ) {
        let small = BlockSize::new(512).unwrap();
        let parameters = Parameters {
            algorithm: if wide { HashAlgorithm::Sha512 } else { HashAlgorithm::Sha256 },
            data_block: small,
            hash_block: small,
            data_blocks,
            salt: Salt::new(salt).unwrap(),
        };
        let length = usize::try_from(parameters.data_bytes()).unwrap();
        let data: Vec<u8> = (0..length).map(|i| ((i / 512) as u8).wrapping_mul(seed).wrapping_add(i as u8)).collect();
        let (root, levels) = slow_tree(&parameters, &data);

        let geometry = Geometry::new(&parameters, header);
        let mut file = vec![0; usize::try_from(geometry.file_bytes()).unwrap()];
        let mut written = 0;
        let mut write = |block: tree::HashBlock<'_>| -> Result<(), std::convert::Infallible> {
            let at = usize::try_from(block.offset_bytes).unwrap();
            file[at..at + block.bytes.len()].copy_from_slice(block.bytes);
            written += 1;
            Ok(())
        };
        let hasher = parameters.hasher();
        let mut tree = TreeBuilder::new(&geometry, hasher.clone());
        for block in data.chunks(512) {
            let mut digest = Vec::new();
            hasher.append(block, &mut digest);
            tree.push(&digest, &mut write).unwrap();
        }
        let made = tree.finish(&mut write).unwrap();
        prop_assert_eq!(made, root);
        prop_assert_eq!(written, geometry.hash_blocks());
        prop_assert_eq!(levels.len(), geometry.levels().len());
        for (level, place) in levels.iter().zip(geometry.levels()) {
            let at = usize::try_from(place.first_block).unwrap() * 512;
            prop_assert_eq!(&file[at..at + level.len()], level.as_slice());
        }
    }
}
