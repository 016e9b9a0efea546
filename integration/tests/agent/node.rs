//! One node with guard and agent in this process: a disk image in memory, a signed repository in a folder.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use drydock_images::build::{ArtifactSource, BuildRequest, build};
use drydock_images::keys::{KeygenRequest, generate};
use drydock_images::publish::{Lifetimes, PublishRequest, Signing, publish};
use drydock_images::{Carries, Guard, Manifest, Progress, SharedState};
use drydock_updater::config::{HealthCheck, LoadedConfig, load};
use drydock_updater::disk::gate::{OpenGate, WriteGate};
use drydock_updater::disk::layout::DiskLayout;
use drydock_updater::disk::sim::SimDisk;
use drydock_updater::disk::{
    BitsChange, BootBits, Device, GptBootControl, Loader, RawDisk, SlotName, Table, gate::Recorder,
};
use drydock_updater::node::{NodeEnv, Outside, Pace};
use drydock_updater::state::{LockName, SlotRecord, SlotRecords};
use drydock_updater::{agent, guard};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

const MIB: u64 = 1 << 20;
pub const NAME: &str = "node-1";

#[derive(Debug)]
pub struct Kernel {
    boot: AtomicU64,
    running: Mutex<SlotName>,
    booted: Mutex<Instant>,
    pub reboots: AtomicU64,
}

#[async_trait]
impl Outside for Kernel {
    fn wall(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
    fn since_boot(&self) -> Duration {
        self.booted.lock().unwrap().elapsed()
    }
    fn boot_id(&self) -> io::Result<String> {
        Ok(format!("boot-{}", self.boot.load(Ordering::SeqCst)))
    }
    fn cmdline(&self) -> io::Result<String> {
        Ok(format!("drydock.slot={}", self.running.lock().unwrap()))
    }
    fn image_version(&self) -> Option<String> {
        None
    }
    async fn flush(&self) -> Result<(), String> {
        Ok(())
    }
    async fn reboot(&self) -> Result<(), String> {
        self.reboots.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    async fn run_check(&self, _check: &HealthCheck) -> Result<(), String> {
        Ok(())
    }
    fn notify(&self, _status: &str) {}
}

pub struct Node {
    folder: tempfile::TempDir,
    pub kernel: Arc<Kernel>,
    disk: Arc<SimDisk>,
    config: Arc<LoadedConfig>,
    pub writes: Arc<Recorder>,
    /// Digests of releases 1.1, which runs, and 1.2.
    pub old: String,
    pub new: String,
    pub url: String,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Node {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
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
        let old = release(folder.path(), 1, now).await;
        let new = release(folder.path(), 2, now).await;
        let url = Url::from_directory_path(path("repo")).unwrap().to_string();
        std::fs::write(path("updater.toml"), config(folder.path(), &url)).unwrap();
        let config = Arc::new(load(&[path("updater.toml")], NAME).unwrap());
        let disk = DiskLayout::cos_like(7, MIB, MIB, MIB).to_bytes().unwrap();
        let kernel = Kernel {
            boot: AtomicU64::new(1),
            running: Mutex::new(SlotName::A),
            booted: Mutex::new(Instant::now()),
            reboots: AtomicU64::new(0),
        };
        let node = Self {
            kernel: Arc::new(kernel),
            disk: Arc::new(SimDisk::new(disk, 512)),
            config,
            writes: Arc::new(Recorder::default()),
            old: old.digest().to_string(),
            new: new.digest().to_string(),
            url,
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
            folder,
        };
        let open = node.env(Arc::new(OpenGate)).open(&node.config.settings).unwrap();
        let (_, slots) = open.control.read().unwrap();
        for (artifact, content) in images(1) {
            node.disk
                .write_at(slots.a.artifact(artifact).unwrap().start_bytes, &content)
                .unwrap();
        }
        node.disk.flush().unwrap();
        let lock = open.state.lock(LockName::Slot).unwrap();
        let record = SlotRecord::of(&old, &slots.a, now).unwrap();
        SlotRecords::new(&open.state)
            .save(&lock, SlotName::A, &record)
            .unwrap();
        node
    }

    fn env(&self, gate: Arc<dyn WriteGate>) -> NodeEnv {
        let ms = Duration::from_millis;
        let pace = Pace {
            guard_retry: ms(5),
            check_retry: ms(5),
            shutdown: ms(200),
            guard_poll: ms(20),
            resync: ms(500),
            status_every: ms(20),
            retry_first: ms(10),
            retry_longest: ms(100),
            ..Pace::default()
        };
        let disk = Some(self.disk.clone() as Arc<dyn RawDisk>);
        NodeEnv {
            outside: self.kernel.clone(),
            gate,
            disk,
            pace,
        }
    }

    pub fn start(&mut self, client: kube::Client) {
        self.stop = CancellationToken::new();
        let (config, env, stop) = (
            self.config.clone(),
            self.env(self.writes.clone()),
            self.stop.clone(),
        );
        self.tasks
            .spawn(async move { guard::run(config, env, stop).await.unwrap() });
        let (config, env, stop) = (
            self.config.clone(),
            self.env(self.writes.clone()),
            self.stop.clone(),
        );
        self.tasks
            .spawn(async move { agent::run(config, env, client, stop).await.unwrap() });
    }

    pub async fn stop(&mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }

    /// The power goes and comes back; the loader chooses.
    pub async fn reboot(&mut self) -> SlotName {
        self.stop().await;
        let settings = &self.config.settings;
        let device = Device::new(Path::new("/sim"), self.disk.clone(), Arc::new(OpenGate));
        let (a, b) = (settings.slot_a.clone(), settings.slot_b.clone());
        let control = GptBootControl::new(device.clone(), Loader::GptPrio, a, b);
        let (table, slots) = control.read().unwrap();
        let pair = [&slots.a.boot, &slots.b.boot];
        let mut bits = pair.map(|partition| BootBits::from_attributes(partition.attributes));
        let index = Loader::GptPrio.boot(&mut bits).unwrap();
        let changes = [0, 1].map(|i| BitsChange {
            partition: pair[i].number,
            bits: bits[i],
        });
        Table::commit(&table, &device, &changes).unwrap();
        *self.kernel.running.lock().unwrap() = SlotName::BOTH[index];
        *self.kernel.booted.lock().unwrap() = Instant::now();
        self.kernel.boot.fetch_add(1, Ordering::SeqCst);
        SlotName::BOTH[index]
    }

    pub fn boot_id(&self) -> String {
        self.kernel.boot_id().unwrap()
    }

    pub fn journal(&self) -> PathBuf {
        self.folder.path().join("state/journal.json")
    }

    /// Flips one byte of release 1.2 in slot B.
    pub fn spoil_slot_b(&self) {
        let open = self.env(Arc::new(OpenGate)).open(&self.config.settings).unwrap();
        let (_, slots) = open.control.read().unwrap();
        self.disk
            .write_at(slots.b.artifact("root").unwrap().start_bytes + 5_000, &[0xff])
            .unwrap();
        self.disk.flush().unwrap();
    }
}

fn config(folder: &Path, url: &str) -> String {
    let dir = folder.display();
    format!(
        r#"
[node]
name = "{NAME}"
board = "generic"
arch = "amd64"
[disk]
path = "/sim"
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
url = "{url}"
root = "{dir}/keys/1.root.json"
"#
    )
}

fn images(seed: u8) -> [(&'static str, Vec<u8>); 2] {
    [("kernel", vec![seed ^ 0x55; 4096]), ("root", vec![seed; 300_000])]
}

async fn release(dir: &Path, seed: u8, now: jiff::Timestamp) -> Manifest {
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
    let out = dir.join(format!("release-{seed}"));
    let built = build(BuildRequest {
        name: "harbor".parse().unwrap(),
        version: format!("1.{seed}").parse().unwrap(),
        board: "generic".parse().unwrap(),
        arch: "amd64".parse().unwrap(),
        min_from: None,
        floor: None,
        carries: Carries {
            guard: Some(Guard { protocol: 1 }),
            kubelet: None,
            kernel: None,
            state: SharedState::default(),
        },
        artifacts,
        out: out.clone(),
        after: Vec::new(),
        level: 1,
        progress: Progress::none(),
    });
    built.await.unwrap();
    let lifetimes = Lifetimes::default();
    let signing = Signing {
        repo: dir.join("repo"),
        keys: dir.join("keys"),
        now,
        lifetimes,
    };
    let request = PublishRequest {
        release: out.clone(),
        channel: Some("stable".parse().unwrap()),
        stepping_stone: false,
        signing,
        progress: Progress::none(),
    };
    publish(request).await.unwrap();
    drydock_images::ReleaseDir::open(&out).unwrap().manifest().clone()
}
