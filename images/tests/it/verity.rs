//! Hash trees beside those of the real `veritysetup format`: the same bytes, the same root hash. And the
//! real programs together: what is made here, `veritysetup verify` accepts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use drydock_images::Progress;
use drydock_images::verity::{BlockSize, FormatRequest, HashTree, Header, format};

use crate::support::noise;

const UUID: &str = "01234567-89ab-4cde-8f01-23456789abcd";

/// The program, which lies where no login shell of a user looks. Without it there is nothing to compare with:
/// said on standard error, and with CI set a failure.
fn veritysetup() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = folders
        .map(|folder| folder.join("veritysetup"))
        .find(|path| path.is_file());
    if found.is_none() {
        let text = "there is no veritysetup here (Debian's package cryptsetup-bin)";
        assert!(std::env::var_os("CI").is_none(), "{text}");
        eprintln!("SKIPPED: hash trees are not compared with real ones: {text}");
    }
    found
}

fn run(program: &Path, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output
}

/// What one comparison is made of: blocks, data block size, hash block size, hash, salt.
type Case<'a> = (u64, u32, u32, &'a str, &'a str);

struct Pair {
    dir: tempfile::TempDir,
    veritysetup: PathBuf,
}

impl Pair {
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Makes both trees and compares them; returns ours.
    async fn compare(&self, case: Case<'_>, header: Header) -> HashTree {
        let (data_blocks, data_block, hash_block, hash, salt) = case;
        let length = usize::try_from(data_blocks * u64::from(data_block)).unwrap();
        fs::write(self.path("image"), noise(data_blocks, length)).unwrap();
        for tree in ["ours", "theirs"] {
            let _ = fs::remove_file(self.path(tree));
        }
        let ours = format(FormatRequest {
            image: self.path("image").into(),
            tree: self.path("ours").into(),
            algorithm: hash.parse().unwrap(),
            data_block: BlockSize::new(data_block).unwrap(),
            hash_block: BlockSize::new(hash_block).unwrap(),
            data_blocks: None,
            salt: Some(salt.parse().unwrap()),
            uuid: Some(UUID.parse().unwrap()),
            header,
            progress: Progress::none(),
        })
        .await
        .unwrap();
        let (data_block, hash_block) = (data_block.to_string(), hash_block.to_string());
        let (image, theirs) = (self.path("image"), self.path("theirs"));
        let mut arguments = vec!["format", "--hash", hash, "--salt", salt, "--uuid", UUID];
        arguments.extend(["--data-block-size", &data_block, "--hash-block-size", &hash_block]);
        if header == Header::Absent {
            arguments.push("--no-superblock");
        }
        arguments.extend([image.as_str(), theirs.as_str()]);
        let said = String::from_utf8(run(&self.veritysetup, &arguments).stdout).unwrap();
        let root = said.lines().find_map(|line| line.strip_prefix("Root hash:"));
        assert_eq!(ours.root.as_str(), root.unwrap().trim(), "{case:?} {header:?}");
        let (ours_bytes, mut theirs_bytes) =
            (fs::read(self.path("ours")).unwrap(), fs::read(&theirs).unwrap());
        if ours.hash_blocks == 0 {
            // It does not pad a superblock alone to hash blocks above 4096 bytes.
            theirs_bytes.resize(theirs_bytes.len().max(ours_bytes.len()), 0);
        }
        assert!(ours_bytes == theirs_bytes, "{case:?} {header:?}: other bytes");
        ours
    }
}

fn pair() -> Option<Pair> {
    Some(Pair {
        dir: tempfile::tempdir().unwrap(),
        veritysetup: veritysetup()?,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_tree_is_byte_for_byte_that_of_veritysetup() {
    let Some(pair) = pair() else { return };
    let longest = "5a".repeat(256);
    let cases: &[Case<'_>] = &[
        (1, 4096, 4096, "sha256", "-"),
        (1, 512, 65_536, "sha256", "00"),
        (2, 4096, 4096, "sha256", "-"),
        (127, 4096, 4096, "sha256", "00ff10"),
        (128, 4096, 4096, "sha256", "-"),
        (
            129,
            4096,
            4096,
            "sha256",
            "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        ),
        (129, 4096, 4096, "sha256", &longest),
        (16_384, 512, 4096, "sha256", "ABCDEF"),
        (16_385, 4096, 4096, "sha256", "-"),
        (16_385, 512, 512, "sha256", "01"),
        (16_385, 1024, 512, "sha512", "0102030405060708090a0b0c0d"),
        (1025, 1024, 1024, "sha256", "-"),
        (1025, 512, 1024, "sha512", "-"),
        (65, 4096, 4096, "sha512", "00ff10"),
        (4097, 4096, 4096, "sha512", "-"),
        (33, 65_536, 1024, "sha256", "77"),
        (2049, 512, 65_536, "sha256", "77"),
    ];
    for case in cases {
        pair.compare(*case, Header::Superblock).await;
        pair.compare(*case, Header::Absent).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn veritysetup_accepts_a_tree_with_derived_salt_and_uuid() {
    let Some(pair) = pair() else { return };
    fs::write(pair.path("image"), noise(9, 300 * 4096)).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_drydock-images"));
    let (image, tree) = (pair.path("image"), pair.path("ours"));
    let made = run(program, &["--json", "verity", &image, "--tree", &tree]);
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    let root = text("root");
    run(&pair.veritysetup, &["verify", &image, &tree, &root]);
    let dump = String::from_utf8(run(&pair.veritysetup, &["dump", &tree]).stdout).unwrap();
    assert!(
        dump.contains(&text("uuid")) && dump.contains(&text("salt")),
        "{dump}"
    );
    assert_eq!(text("kernelCommandLine"), format!("roothash={root}"));
    // And with what it says, veritysetup makes the same file.
    let theirs = pair.path("theirs");
    let (salt, uuid) = (text("salt"), text("uuid"));
    run(
        &pair.veritysetup,
        &["format", "--salt", &salt, "--uuid", &uuid, &image, &theirs],
    );
    assert!(fs::read(&tree).unwrap() == fs::read(&theirs).unwrap());
}
