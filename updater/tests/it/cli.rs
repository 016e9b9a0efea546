//! The command line as a newcomer meets it, on a disk image and a signed repository: what each command
//! says, what it refuses, and with which exit code. The texts are golden.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::node_world::{Machine, pace};
use clap::Parser as _;
use drydock_images::build::{ArtifactSource, BuildRequest, build};
use drydock_images::keys::{KeygenRequest, generate};
use drydock_images::publish::{Lifetimes, PublishRequest, Signing, publish};
use drydock_images::{Carries, Guard as CarriedGuard, Progress, SharedState};
use drydock_updater::cli::{Cli, main_with};
use drydock_updater::config::load;
use drydock_updater::disk::gate::OpenGate;
use drydock_updater::disk::layout::DiskLayout;
use drydock_updater::disk::{BootBits, SlotName};
use drydock_updater::guard;
use drydock_updater::node::NodeEnv;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

const MIB: usize = 1 << 20;

/// A node's folder: configuration, disk image, state, and a repository with releases 1.1 and 1.2.
struct Node {
    folder: tempfile::TempDir,
    machine: Arc<Machine>,
    releases: BTreeMap<u8, String>,
}

impl Node {
    /// Slot A holds release 1.1 as after a first install: bootable, marked good by nobody, no record.
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let machine = Arc::new(Machine::new());
        let now = jiff::Timestamp::now();
        let root_lifetime = Lifetimes::default().root;
        generate(KeygenRequest {
            out: path("keys"),
            keys: 1,
            threshold: 1,
            root_lifetime,
            now,
        })
        .await
        .unwrap();
        let mut releases = BTreeMap::new();
        for seed in [1, 2] {
            releases.insert(seed, release(folder.path(), seed, now).await);
        }
        let mut layout = DiskLayout::cos_like(7, MIB as u64, MIB as u64, MIB as u64);
        layout.partitions[1].bits = BootBits {
            priority: 1,
            tries: 15,
            successful: false,
        };
        layout.create(&path("disk.img")).unwrap();
        std::fs::write(path("updater.toml"), config(folder.path())).unwrap();
        let node = Self {
            folder,
            machine,
            releases,
        };
        let settings = load(&[node.path("updater.toml")], "node-1").unwrap().settings;
        let (_, slots) = node.env().open(&settings).unwrap().control.read().unwrap();
        let disk = std::fs::OpenOptions::new()
            .write(true)
            .open(node.path("disk.img"))
            .unwrap();
        for (artifact, content) in images(1) {
            disk.write_all_at(&content, slots.a.artifact(artifact).unwrap().start_bytes)
                .unwrap();
        }
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn env(&self) -> NodeEnv {
        NodeEnv {
            outside: self.machine.clone(),
            gate: Arc::new(OpenGate),
            disk: None,
            pace: pace(),
        }
    }

    /// What a command prints and its exit code, with what differs from run to run replaced.
    async fn run(&self, words: &[&str]) -> String {
        let config = self.path("updater.toml");
        let all = ["drydock-updater", "--config", config.to_str().unwrap()];
        let cli = Cli::try_parse_from(all.iter().chain(words)).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = main_with(cli, self.env(), &mut out, &mut err).await;
        let said = format!(
            "{}{}",
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap()
        );
        format!(
            "$ drydock-updater {}\n{}exit {code}\n",
            words.join(" "),
            self.plain(&said)
        )
    }

    fn plain(&self, text: &str) -> String {
        let mut text = text.replace(self.folder.path().to_str().unwrap(), "DIR");
        for (seed, digest) in &self.releases {
            let short = format!("{}…", &digest[..19]);
            text = text
                .replace(digest, &format!("<1.{seed}>"))
                .replace(&short, &format!("<1.{seed}>"));
        }
        let words = text.split_inclusive([' ', '\n']).map(|word| {
            let end = &word[word.trim_end().len()..];
            let bare = word.trim_end();
            match () {
                () if bare.starts_with("root-") && bare.len() > 30 => format!("root-UUID{end}"),
                () if bare.trim_end_matches(';').parse::<jiff::Timestamp>().is_ok() => format!("TIME;{end}"),
                () => word.to_owned(),
            }
        });
        words.collect()
    }

    fn start_guard(&self) -> (CancellationToken, JoinHandle<()>) {
        let stop = CancellationToken::new();
        let config = Arc::new(load(&[self.path("updater.toml")], "node-1").unwrap());
        let (env, cancel) = (self.env(), stop.clone());
        let task = tokio::spawn(async move { guard::run(config, env, cancel).await.unwrap() });
        (stop, task)
    }

    async fn guard_is_there(&self) {
        while !self.run(&["status"]).await.contains("guard      runs") {
            tokio::task::yield_now().await;
        }
    }
}

fn config(folder: &Path) -> String {
    let dir = folder.display();
    let repo = Url::from_directory_path(folder.join("repo")).unwrap();
    format!(
        r#"
[node]
name = "node-1"
board = "generic"
arch = "amd64"
[disk]
path = "{dir}/disk.img"
loader = "gptprio"
[slots.A]
boot = "PARTLABEL=KERN-A"
artifacts = {{ kernel = "PARTLABEL=KERN-A", root = "PARTLABEL=ROOT-A" }}
[slots.B]
boot = "PARTLABEL=KERN-B"
artifacts = {{ kernel = "PARTLABEL=KERN-B", root = "PARTLABEL=ROOT-B" }}
[paths]
state = "{dir}/state"
run = "{dir}/run"
[[repositories]]
name = "stable"
url = "{repo}"
root = "{dir}/keys/1.root.json"
[health]
confirm_wait = "5s"
deadline = "1s"
[[health.checks]]
name = "kubelet"
command = ["true"]
"#
    )
}

fn images(seed: u8) -> [(&'static str, Vec<u8>); 2] {
    // The first half is every release's.
    let root = [vec![7; MIB / 2], vec![seed; MIB / 4]].concat();
    [("kernel", vec![seed ^ 0x55; 4096]), ("root", root)]
}

async fn release(dir: &Path, seed: u8, now: jiff::Timestamp) -> String {
    let mut artifacts = Vec::new();
    for (name, content) in images(seed) {
        let path = dir.join(format!("{name}-{seed}.img"));
        std::fs::write(&path, content).unwrap();
        artifacts.push(ArtifactSource {
            name: name.parse().unwrap(),
            path,
            verity_root: None,
        });
    }
    let built = build(BuildRequest {
        name: "harbor".parse().unwrap(),
        version: format!("1.{seed}").parse().unwrap(),
        board: "generic".parse().unwrap(),
        arch: "amd64".parse().unwrap(),
        min_from: None,
        floor: None,
        carries: Carries {
            guard: Some(CarriedGuard { protocol: 1 }),
            kubelet: None,
            kernel: None,
            state: SharedState::default(),
        },
        artifacts,
        out: dir.join(format!("release-{seed}")),
        after: Vec::new(),
        level: 1,
        progress: Progress::none(),
    });
    let digest = built.await.unwrap().digest;
    let signing = Signing {
        repo: dir.join("repo"),
        keys: dir.join("keys"),
        now,
        lifetimes: Lifetimes::default(),
    };
    let channel = Some("stable".parse().unwrap());
    let request = PublishRequest {
        release: dir.join(format!("release-{seed}")),
        channel,
        stepping_stone: false,
        signing,
        progress: Progress::none(),
    };
    publish(request).await.unwrap();
    digest.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_first_install_to_the_next_release_and_back() {
    let node = Node::new().await;
    let mut said = String::new();
    for words in [
        &["status"][..],
        &["stage", "--channel", "stable"],
        &["adopt"],
        &["check", "--channel", "stable"],
        &["stage", "--channel", "stable"],
        &["rollback"],
        &["arm"],
    ] {
        said += &node.run(words).await;
    }
    let (stop, task) = node.start_guard();
    node.guard_is_there().await;
    said += &node.run(&["arm"]).await;
    said += &node.run(&["arm"]).await;
    said += &node.run(&["disarm"]).await;
    said += &node.run(&["arm", "--reboot"]).await;
    assert_eq!(node.machine.reboots.load(Ordering::SeqCst), 1);
    stop.cancel();
    task.await.unwrap();

    *node.machine.running.lock().unwrap() = SlotName::B;
    node.machine.boot.fetch_add(1, Ordering::SeqCst);
    said += "(reboot into slot B)\n";
    let (stop, task) = node.start_guard();
    let is_settled = |said: &str| said.contains("Committed: Root") && said.contains("proven by its content");
    while !is_settled(&node.run(&["status"]).await) {
        tokio::task::yield_now().await;
    }
    said += &node.run(&["status"]).await;
    said += &node.run(&["rollback"]).await;
    said += &node.run(&["disarm"]).await;
    said += &node.run(&["forgive"]).await;
    said += &node.run(&["mark-good"]).await;
    stop.cancel();
    task.await.unwrap();
    insta::assert_snapshot!(said);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_field_stops_every_command_but_not_the_guard() {
    let node = Node::new().await;
    let text = config(node.folder.path()).replace("[health]", "[health]\nconfrim_wait = \"1s\"");
    std::fs::write(node.path("updater.toml"), text).unwrap();
    let mut said = String::new();
    for words in [
        &["status"][..],
        &["check"],
        &["adopt"],
        &["stage", "--channel", "stable"],
        &["arm"],
        &["rollback"],
        &["disarm"],
        &["mark-good"],
        &["forgive"],
        &["--json", "status"],
    ] {
        said += &node.run(words).await;
    }
    insta::assert_snapshot!(said);
    let (stop, task) = node.start_guard();
    let socket = node.path("run").join("guard.sock");
    let client = guard::GuardClient::new(&socket, std::time::Duration::from_secs(5));
    let status = loop {
        if let Ok(status) = client.ask(&drydock_machine::Request::Status).await {
            break status;
        }
        tokio::task::yield_now().await;
    };
    assert!(
        status.problems[0].contains("health.confrim_wait"),
        "{:?}",
        status.problems
    );
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_says_why_and_what_to_do() {
    let node = Node::new().await;
    let mut said = String::new();
    node.machine.healthy.store(false, Ordering::SeqCst);
    said += &node.run(&["mark-good"]).await;
    node.machine.healthy.store(true, Ordering::SeqCst);
    said += &node.run(&["adopt"]).await;
    said += &node.run(&["stage"]).await;
    said += &node.run(&["stage", "--release", "sha256:00"]).await;
    said += &node.run(&["check", "--repository", "other"]).await;
    said += &node
        .run(&["check", "--release", &format!("sha256:{}", "0".repeat(64))])
        .await;
    said += &node.run(&["agent"]).await;
    std::fs::remove_dir_all(node.path("repo")).unwrap();
    said += &node.run(&["check"]).await;
    insta::assert_snapshot!(said);
    // JSON is for programs: the same, with stable words.
    let json = node.run(&["--json", "status"]).await;
    let body = json.split_once('\n').unwrap().1.rsplit_once("exit 0").unwrap().0;
    let status: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(status["status"]["running"], "A");
    assert_eq!(status["guardAnswers"], false);
}
