//! What a release engineer or an auditor reads when `drydock-images verify` refuses a repository: the real
//! program, each text in one snapshot, and nothing in the repository or the trust store changes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use drydock_images::Digest;
use drydock_images::publish::{Lifetimes, RotateRequest, Signing, refresh_timestamp, rotate_root, withdraw};
use jiff::Timestamp;
use serde_json::Value;

use crate::support::{Fixture, copy_dir};

struct Repo {
    fixture: Fixture,
    digest: Digest,
}

impl Repo {
    fn signing(&self) -> Signing {
        Signing {
            now: Timestamp::now(),
            ..self.fixture.signing()
        }
    }

    fn verify(&self) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_drydock-images"))
            .arg("verify")
            .args(["--repo".as_ref(), self.fixture.repo().as_os_str()])
            .args([
                "--root".as_ref(),
                self.fixture.keys().join("1.root.json").as_os_str(),
            ])
            .args(["--datastore".as_ref(), self.fixture.path("seen").as_os_str()])
            .args(["--release", &self.digest.to_string()])
            .output()
            .unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), self.plain(&text))
    }

    fn plain(&self, text: &str) -> String {
        let dir = self.fixture.dir.path().to_str().unwrap();
        let text = text
            .replace(dir, "DIR")
            .replace(&self.digest.to_string(), "<1.1>")
            .replace(self.digest.hex().as_str(), "<1.1>");
        let word = |word: &str| {
            let bare = word.trim_end_matches([' ', '\n', ',', ';', ':', '.', ')']);
            let end = &word[bare.len()..];
            let tail = bare.trim_end_matches(|c: char| c.is_ascii_hexdigit());
            match () {
                () if bare.parse::<Timestamp>().is_ok() => format!("TIME{end}"),
                () if bare.len() - tail.len() >= 64 => format!("{tail}HEX{end}"),
                () => word.to_owned(),
            }
        };
        text.split_inclusive([' ', '\n', ',']).map(word).collect()
    }

    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut all = BTreeMap::new();
        collect(&self.fixture.repo(), &mut all);
        all
    }
}

fn collect(folder: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, into);
        } else {
            into.insert(path.clone(), fs::read(path).unwrap());
        }
    }
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn edit(path: &Path, edit: impl FnOnce(&mut Value)) {
    change(path, |bytes| {
        let mut value: Value = serde_json::from_slice(bytes).unwrap();
        edit(&mut value);
        *bytes = serde_json::to_vec(&value).unwrap();
    });
}

fn manifest(repo: &Repo) -> PathBuf {
    let name = format!("manifest-{}", repo.digest.hex());
    let mut all = repo.files().into_keys();
    all.find(|path| path.to_string_lossy().contains(&name)).unwrap()
}

fn pack(repo: &Repo) -> PathBuf {
    let mut all = repo.files().into_keys();
    all.find(|path| path.parent().is_some_and(|folder| folder.ends_with("packs")))
        .unwrap()
}

async fn published() -> Repo {
    let fixture = Fixture::with_keys(2, 2).await;
    let built = fixture.build("1.1", 1).await;
    let repo = Repo {
        digest: built.digest,
        fixture,
    };
    let mut request = repo.fixture.publish_request(&built.path);
    request.signing = repo.signing();
    drydock_images::publish::publish(request).await.unwrap();
    assert_eq!(repo.verify().0, 0, "{}", repo.verify().1);
    repo
}

async fn spoil(repo: &Repo, what: &str) {
    let fixture = &repo.fixture;
    match what {
        "tampered with" => change(&manifest(repo), |bytes| *bytes.last_mut().unwrap() ^= 1),
        "truncated" => change(&manifest(repo), |bytes| bytes.truncate(100)),
        "extended" => change(&manifest(repo), |bytes| bytes.push(b' ')),
        "a pack tampered with" => change(&pack(repo), |bytes| bytes[1000] ^= 1),
        "a pack cut off" => change(&pack(repo), |bytes| bytes.truncate(1000)),
        "a pack missing" => fs::remove_file(pack(repo)).unwrap(),
        "expired" => {
            let day = Duration::from_secs(24 * 60 * 60);
            let signing = Signing {
                now: Timestamp::now() - day * 30,
                lifetimes: Lifetimes {
                    timestamp: day,
                    ..Lifetimes::default()
                },
                ..repo.signing()
            };
            refresh_timestamp(&signing).await.unwrap();
        }
        "unsigned" => edit(&fixture.metadata("timestamp.json"), |it| {
            it["signatures"] = Value::Array(Vec::new())
        }),
        "under the threshold" => {
            let request = RotateRequest {
                signing: repo.signing(),
                new_keys: None,
                threshold: 2,
            };
            rotate_root(request).await.unwrap();
            edit(&fixture.metadata("2.root.json"), |root| {
                root["signatures"].as_array_mut().unwrap().truncate(1)
            });
        }
        "older than seen" => {
            copy_dir(&fixture.repo(), &fixture.path("old"));
            refresh_timestamp(&repo.signing()).await.unwrap();
            assert_eq!(repo.verify().0, 0);
            fs::remove_dir_all(fixture.repo()).unwrap();
            fs::rename(fixture.path("old"), fixture.repo()).unwrap();
        }
        "withdrawn" => {
            withdraw(&repo.signing(), &repo.digest, "it eats disks")
                .await
                .unwrap();
        }
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_refuses_in_one_line_that_says_what_to_do() {
    let mut all = String::new();
    for what in [
        "tampered with",
        "truncated",
        "extended",
        "a pack tampered with",
        "a pack cut off",
        "a pack missing",
        "expired",
        "unsigned",
        "under the threshold",
        "older than seen",
        "withdrawn",
    ] {
        let repo = published().await;
        spoil(&repo, what).await;
        let before = repo.files();
        let (code, text) = repo.verify();
        assert!(code == 1 && text.lines().count() == 1, "{what}: {code}: {text}");
        assert!(before == repo.files(), "{what}: the repository was changed");
        write!(all, "# {what}\n{text}\n").unwrap();
    }
    insta::assert_snapshot!(all);
}
