//! What is wrong with a release or its metadata.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Row, stage};
use crate::real_node::{Part, RealNode};
use crate::shipyard::Draft;

/// The one file of the repository below `folder` whose name contains `part`.
fn file(node: &RealNode, folder: &str, part: &str) -> PathBuf {
    let folder = node.yard().repository().join(folder);
    let found = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = found
        .filter(|path| path.to_string_lossy().contains(part))
        .collect();
    found.sort();
    found.pop().unwrap()
}

fn manifest(node: &RealNode) -> PathBuf {
    let digest = node.release("1.2").trim_start_matches("sha256:");
    file(node, "targets", &format!("manifest-{digest}"))
}

/// The chunk index of release 1.2's root.
fn index(node: &RealNode) -> PathBuf {
    let manifest: Value = serde_json::from_slice(&fs::read(manifest(node)).unwrap()).unwrap();
    let artifacts = manifest["artifacts"].as_array().unwrap();
    let root = artifacts
        .iter()
        .find(|artifact| artifact["name"] == "root")
        .unwrap();
    let digest = root["index"]["digest"].as_str().unwrap();
    file(node, "indexes", digest.trim_start_matches("sha256:"))
}

fn packs(node: &RealNode) -> Vec<PathBuf> {
    let files = fs::read_dir(node.yard().repository().join("packs")).unwrap();
    files.map(|entry| entry.unwrap().path()).collect()
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[allow(clippy::ptr_arg, reason = "what `change` takes")]
fn flip_last(bytes: &mut Vec<u8>) {
    *bytes.last_mut().unwrap() ^= 1;
}

fn edit(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, serde_json::to_vec(&value).unwrap()).unwrap();
}

/// Publishes a release, which the node sees: remembering the newest metadata is no change of the node.
fn publish(node: &RealNode, draft: &Draft) {
    node.yard().release(draft);
    node.does(&["check"]);
}

/// Withdraws release 1.2, and the node sees it.
pub(super) fn withdraw(node: &RealNode) {
    node.yard().withdraw(node.release("1.2"));
    node.does(&["check"]);
}

/// Release 1.3 is published and seen, then the repository is again what it was before.
pub(super) fn replay(node: &RealNode) {
    let (repo, old) = (node.yard().repository(), node.path("older"));
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .args([&repo, &old])
        .status();
    assert!(copied.unwrap().success());
    publish(node, &Draft::of("1.3"));
    fs::remove_dir_all(&repo).unwrap();
    fs::rename(old, repo).unwrap();
}

pub(super) fn rows() -> Vec<Row> {
    vec![
        stage(
            "a manifest that was tampered with",
            |node| change(&manifest(node), flip_last),
            &["not what was signed"],
        ),
        stage(
            "a chunk index that was tampered with",
            |node| change(&index(node), flip_last),
            &["not what was signed"],
        ),
        stage(
            "a signed list that was tampered with",
            |node| {
                edit(&file(node, "metadata", "targets.json"), |list| {
                    list["signed"]["expires"] = "2036-01-01T00:00:00Z".into()
                });
            },
            &["do not belong together", "try again"],
        ),
        stage(
            "a manifest that was truncated",
            |node| change(&manifest(node), |bytes| bytes.truncate(100)),
            &["ends after 100 of"],
        ),
        stage(
            "a chunk index that was truncated",
            |node| change(&index(node), |bytes| bytes.truncate(99)),
            &["ends after 99 of"],
        ),
        stage(
            "a manifest that was extended",
            |node| change(&manifest(node), |bytes| bytes.push(b' ')),
            &["more than the"],
        ),
        stage(
            "a chunk index that was extended",
            |node| change(&index(node), |bytes| bytes.push(0)),
            &["more than the"],
        ),
        Row {
            same: Part::AllButSlotB,
            ..stage(
                "packs that were tampered with",
                |node| {
                    packs(node)
                        .iter()
                        .for_each(|path| change(path, |bytes| bytes[0] ^= 1))
                },
                &["not what was signed"],
            )
        },
        Row {
            same: Part::AllButSlotB,
            ..stage(
                "pages that were tampered with",
                |node| packs(node).iter().for_each(|path| change(path, flip_last)),
                &["not what was signed"],
            )
        },
        Row {
            same: Part::AllButSlotB,
            ..stage(
                "packs that were truncated",
                |node| {
                    packs(node)
                        .iter()
                        .for_each(|path| change(path, |bytes| bytes.truncate(20)))
                },
                &["ends after 20 of"],
            )
        },
        stage(
            "metadata that expired",
            |node| node.yard().let_expire(),
            &["expired at", "clock"],
        ),
        stage(
            "metadata that nobody signed",
            |node| {
                edit(&node.yard().metadata("timestamp.json"), |it| {
                    it["signatures"] = Value::Array(Vec::new())
                })
            },
            &["no valid signature"],
        ),
        stage(
            "a root under its threshold",
            |node| {
                node.yard().rotate();
                edit(&node.yard().metadata("2.root.json"), |root| {
                    root["signatures"].as_array_mut().unwrap().truncate(1);
                });
            },
            &["1 valid signatures", "2 are needed"],
        ),
        stage(
            "metadata older than seen",
            replay,
            &["older metadata than was accepted before"],
        ),
        stage(
            "metadata of two states",
            |node| {
                fs::copy(
                    node.yard().metadata("1.snapshot.json"),
                    file(node, "metadata", "snapshot.json"),
                )
                .unwrap();
            },
            &["do not belong together"],
        ),
        Row {
            command: &["stage", "--release", "RELEASE 0.9"],
            ..stage(
                "a release below the floor of what was marked good",
                |_| {},
                &["below this node's floor 1.0"],
            )
        },
        stage(
            "a release below the configured floor",
            |node| {
                node.configure(|text| text + "\n[releases]\nfloor = \"2.0\"\n");
            },
            &["below this node's floor 2.0"],
        ),
        Row {
            command: &["stage", "--release", "RELEASE 1.0"],
            ..stage(
                "a release below the running one",
                |_| {},
                &["older than the running 1.1", "releases.allow_downgrade"],
            )
        },
        Row {
            command: &["stage", "--release", "RELEASE 1.2"],
            ..stage(
                "a release that was withdrawn",
                withdraw,
                &["was withdrawn", "it eats disks"],
            )
        },
        Row {
            command: &[
                "stage",
                "--release",
                "sha256:0000000000000000000000000000000000000000000000000000000000000000",
            ],
            ..stage("a release that nobody signed in", |_| {}, &["not listed"])
        },
        stage(
            "a release for another board",
            |node| node.configure(|text| text.replace("generic", "brig")),
            &["board generic", "this node is brig"],
        ),
        stage(
            "a release for another architecture",
            |node| node.configure(|text| text.replace("amd64", "arm64")),
            &["amd64", "this node is arm64"],
        ),
        stage(
            "a release without a guard",
            |node| {
                publish(
                    node,
                    &Draft {
                        guard: None,
                        ..Draft::of("1.3")
                    },
                );
            },
            &["declares no guard"],
        ),
        stage(
            "a release that needs a step between",
            |node| {
                publish(
                    node,
                    &Draft {
                        min_from: Some("1.2"),
                        ..Draft::of("1.3")
                    },
                );
            },
            &["from 1.2 on", "1.1"],
        ),
        stage(
            "an artifact larger than the slot",
            |node| {
                publish(
                    node,
                    &Draft {
                        root_bytes: 3 << 19,
                        ..Draft::of("1.3")
                    },
                );
            },
            &["1572864 bytes", "ROOT-B", "1048576"],
        ),
        stage(
            "an artifact without a partition",
            |node| {
                node.configure(|text| {
                    text.replace("kernel = \"PARTLABEL=KERN-A\", ", "")
                        .replace("kernel = \"PARTLABEL=KERN-B\", ", "")
                });
            },
            &["artifact kernel", "slots"],
        ),
    ]
}
