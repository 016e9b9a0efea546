//! What a release engineer reads when a root hash is not what it should be: the real program, each text in
//! one snapshot, and nothing is made. And what is accepted is carried into the manifest.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use drydock_images::{ReleaseDir, VerityRoot};
use serde_json::Value;

use crate::support::noise;

const OTHER: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A shipyard of one release: a root image, its hash tree, a UKI, a boot loader's entry, a boot partition.
struct Yard {
    dir: tempfile::TempDir,
    root: VerityRoot,
}

impl Yard {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut yard = Self {
            dir,
            root: OTHER.parse().unwrap(),
        };
        yard.write("rootfs.img", &noise(1, 300 * 4096));
        let (code, text) = yard.run(&["--json", "verity", "DIR/rootfs.img", "--tree", "DIR/tree"]);
        assert_eq!(code, 0, "{text}");
        let made: Value = serde_json::from_str(&text).unwrap();
        yard.root = made["root"].as_str().unwrap().parse().unwrap();
        let cmdline = format!("quiet roothash={} ro", yard.root.as_str());
        yard.write("uki", &uki(&cmdline));
        yard.write(
            "entry",
            format!("title Harbor\nlinux /vmlinuz\noptions {cmdline}\n").as_bytes(),
        );
        yard.write(
            "boot",
            &[&noise(2, 100_000), cmdline.as_bytes(), &[0; 4096]].concat(),
        );
        yard
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.dir.path().join(name), bytes).unwrap();
    }

    /// Runs the program; `DIR` and `ROOT` in its arguments are replaced, and put back into what it says.
    fn run(&self, arguments: &[&str]) -> (i32, String) {
        let dir = self.dir.path().to_str().unwrap();
        let replaced = arguments
            .iter()
            .map(|argument| argument.replace("DIR", dir).replace("ROOT", self.root.as_str()));
        let output = Command::new(env!("CARGO_BIN_EXE_drydock-images"))
            .args(replaced)
            .output()
            .unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), text.replace(dir, "DIR"))
    }

    fn build(&self, arguments: &[&str]) -> (i32, String) {
        let fixed = [
            "build",
            "--name",
            "harbor",
            "--version",
            "1.0",
            "--board",
            "generic",
            "--arch",
            "amd64",
            "--level",
            "1",
            "--out",
            "DIR/release",
            "--artifact",
            "rootfs=DIR/rootfs.img",
        ];
        self.run(&[&fixed, arguments].concat())
    }

    fn files(&self) -> Vec<String> {
        let files = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// A PE file with a command line and a kernel, as small as its headers allow.
fn uki(cmdline: &str) -> Vec<u8> {
    let mut file = vec![0; 0x40];
    file[..2].copy_from_slice(b"MZ");
    file[0x3c] = 0x40;
    file.extend_from_slice(b"PE\0\0\x64\x86\x02\0");
    file.extend_from_slice(&[0; 16]);
    let kernel = b"kernel";
    let mut at = u32::try_from(file.len() + 80).unwrap();
    for (name, data) in [(b".cmdline", cmdline.as_bytes()), (b".linux\0\0", kernel)] {
        let length = u32::try_from(data.len()).unwrap();
        file.extend_from_slice(name);
        for value in [length, 0x1000, length, at, 0, 0, 0, 0] {
            file.extend_from_slice(&value.to_le_bytes());
        }
        at += length;
    }
    file.extend_from_slice(cmdline.as_bytes());
    file.extend_from_slice(kernel);
    file
}

#[test]
fn a_root_hash_that_is_proven_is_carried_into_the_release() {
    let yard = Yard::new();
    let (code, text) = yard.build(&[
        "--json",
        "--artifact=verity=DIR/tree",
        "--artifact=uki=DIR/uki",
        "--artifact=entry=DIR/entry",
        "--artifact=boot=DIR/boot",
        "--verity-root=rootfs=ROOT",
        "--verity-cmdline=rootfs=uki",
        "--verity-cmdline=rootfs=entry",
        "--verity-cmdline=rootfs=boot",
        "--verity-tree=rootfs=verity",
    ]);
    assert_eq!(code, 0, "{text}");
    let built: Value = serde_json::from_str(&text).unwrap();
    let proofs = built["verity"].as_array().unwrap().iter();
    let proofs: Vec<_> = proofs.map(|proven| proven["proof"].as_str().unwrap()).collect();
    assert_eq!(proofs, ["uki", "text", "bytes", "hashTree"]);
    let release = ReleaseDir::open(&yard.dir.path().join("release")).unwrap();
    let rootfs = release.manifest().artifact("rootfs").unwrap();
    assert_eq!(rootfs.verity_root.as_ref(), Some(&yard.root));
}

#[test]
fn build_refuses_a_root_hash_that_is_not_proven() {
    let mut all = String::new();
    let yard = Yard::new();
    yard.write("uki-of-another", &uki(&format!("roothash={OTHER}")));
    yard.write("uki-of-none", &uki("quiet"));
    yard.write(
        "kernel",
        &uki("quiet")[..0x58]
            .iter()
            .copied()
            .chain([0; 80])
            .collect::<Vec<_>>(),
    );
    yard.write("entry-of-none", b"title Harbor\n# options roothash=commented\n");
    let mut damaged = fs::read(yard.dir.path().join("tree")).unwrap();
    damaged[3 * 4096] ^= 1;
    yard.write("tree-damaged", &damaged);
    let before = yard.files();
    let root = "--verity-root=rootfs=ROOT";
    let table: &[(&str, &[&str])] = &[
        (
            "a UKI that names another root",
            &[
                "--artifact=uki=DIR/uki-of-another",
                "--verity-cmdline=rootfs=uki",
                root,
            ],
        ),
        (
            "a UKI that names none",
            &[
                "--artifact=uki=DIR/uki-of-none",
                "--verity-cmdline=rootfs=uki",
                root,
            ],
        ),
        (
            "a kernel that is no UKI",
            &["--artifact=uki=DIR/kernel", "--verity-cmdline=rootfs=uki", root],
        ),
        (
            "a boot loader's entry that names none",
            &[
                "--artifact=entry=DIR/entry-of-none",
                "--verity-cmdline=rootfs=entry",
                root,
            ],
        ),
        (
            "a command line without a root to look for",
            &["--artifact=uki=DIR/uki", "--verity-cmdline=rootfs=uki"],
        ),
        (
            "a command line in no artifact",
            &["--verity-cmdline=rootfs=uki", root],
        ),
        (
            "a tree under another root",
            &[
                "--artifact=verity=DIR/tree",
                "--verity-tree=rootfs=verity",
                "--verity-root=rootfs=OTHER",
            ],
        ),
        (
            "a tree that is damaged",
            &[
                "--artifact=verity=DIR/tree-damaged",
                "--verity-tree=rootfs=verity",
                root,
            ],
        ),
        (
            "a tree of another image",
            &[
                "--artifact=verity=DIR/tree",
                "--artifact=usr=DIR/boot",
                "--verity-tree=usr=verity",
                "--verity-root=usr=ROOT",
            ],
        ),
        (
            "a tree that is none",
            &["--artifact=verity=DIR/entry", "--verity-tree=rootfs=verity", root],
        ),
    ];
    for (what, arguments) in table {
        let arguments: Vec<String> = arguments.iter().map(|a| a.replace("OTHER", OTHER)).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (code, text) = yard.build(&arguments);
        assert!(code == 1 && text.lines().count() == 1, "{what}: {code}: {text}");
        assert_eq!(yard.files(), before, "{what}");
        write!(all, "# {what}\n{text}\n").unwrap();
    }
    insta::assert_snapshot!(all);
}

#[test]
fn verity_refuses_what_it_cannot_hash() {
    let mut all = String::new();
    let yard = Yard::new();
    yard.write("empty", b"");
    yard.write("uneven", &[7; 5000]);
    let before = yard.files();
    let long = "--salt=".to_owned() + &"00".repeat(257);
    let table: &[(&str, &[&str])] = &[
        ("an image that is not there", &["DIR/missing"]),
        ("an empty image", &["DIR/empty"]),
        ("a last block that is not whole", &["DIR/uneven"]),
        ("more blocks than there are", &["DIR/uneven", "--data-blocks=2"]),
        ("no block", &["DIR/uneven", "--data-blocks=0"]),
        (
            "a tree that is there already",
            &["DIR/rootfs.img", "--tree=DIR/boot"],
        ),
        ("a salt that is no hex", &["DIR/rootfs.img", "--salt=xyz"]),
        ("a salt of half a byte", &["DIR/rootfs.img", "--salt=abc"]),
        ("a salt that is too long", &["DIR/rootfs.img", &long]),
        ("a UUID that is none", &["DIR/rootfs.img", "--uuid=1234"]),
        (
            "a block size that is none",
            &["DIR/rootfs.img", "--data-block-size=4000"],
        ),
        (
            "a block size out of bounds",
            &["DIR/rootfs.img", "--hash-block-size=131072"],
        ),
        ("a hash that is not made", &["DIR/rootfs.img", "--hash=sha1"]),
    ];
    for (what, arguments) in table {
        let tree: &[&str] = if arguments.iter().any(|a| a.starts_with("--tree")) {
            &[]
        } else {
            &["--tree=DIR/new"]
        };
        let (code, text) = yard.run(&[&["verity"], tree, arguments].concat());
        assert!(code != 0, "{what}: {text}");
        assert_eq!(yard.files(), before, "{what}");
        let text = text.split("\n\nFor more").next().unwrap().trim_end();
        write!(all, "# {what}\n{text}\n\n").unwrap();
    }
    insta::assert_snapshot!(all);
}
