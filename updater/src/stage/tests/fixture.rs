//! A signed repository with releases, and a node's disk whose slot A runs the first of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use drydock_images::build::{ArtifactSource, BuildRequest, build};
use drydock_images::keys::{KeygenRequest, generate};
use drydock_images::publish::{Lifetimes, PublishRequest, Signing, publish};
use drydock_images::{Carries, Digest, Guard, Progress, Repository, RepositoryConfig, SharedState};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::super::*;
use crate::disk::gate::{OpenGate, WriteGate};
use crate::disk::layout::DiskLayout;
use crate::disk::sim::SimDisk;
use crate::disk::*;
use crate::state::*;

pub(super) const MIB: u64 = 1 << 20;

pub(super) fn now() -> Timestamp {
    "2026-11-01T00:00:00Z".parse().unwrap()
}

pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// A root image: some of its own, a run of zeros, and much that every release has, moved by a few bytes.
pub(super) fn root_image(seed: u64) -> Vec<u8> {
    if seed >= SHUFFLED {
        let order = if seed.is_multiple_of(2) {
            [0, 1, 2, 3]
        } else {
            [2, 1, 0, 3]
        };
        return order.map(|nth| noise(6000 + nth, MIB as usize)).concat();
    }
    if seed >= UNIFORM {
        let times = usize::try_from((seed - UNIFORM) / 2).unwrap() * 2 + 1;
        let run = vec![0x5A; times * 850_000];
        return [
            noise(seed, 45_000),
            noise(5000, 700_000),
            run,
            noise(5001, 600_000),
        ]
        .concat();
    }
    if seed >= SQUASHED {
        return squashed_image(seed);
    }
    if seed >= DOUBLED {
        let times = usize::try_from(seed - DOUBLED).unwrap() + 1;
        return [noise(3000, 1_300_000).repeat(times), noise(seed, 45_000)].concat();
    }
    if seed >= STRIPED {
        return striped_image(seed);
    }
    [
        noise(seed, 200_001 + seed as usize),
        vec![0; 600_000],
        noise(1000, 700_000),
    ]
    .concat()
}

/// From this seed on, roots are striped.
pub(super) const STRIPED: u64 = 100;

/// From this seed on, roots have the same once, twice, and so on, and then some of their own.
pub(super) const DOUBLED: u64 = 200;

/// From this seed on, roots consist of blocks that are packed with zstd, as a squashfs does.
pub(super) const SQUASHED: u64 = 300;

/// From this seed on, roots have a long run of one value, whose chunks are as long as chunks may be: the first
/// two a run of 850 KB, the next two one of 2.5 MB.
pub(super) const UNIFORM: u64 = 400;

/// From this seed on, roots have the same four pieces of 1 MiB; odd ones have the first in the place of the
/// third, and the third in that of the first.
pub(super) const SHUFFLED: u64 = 500;

/// Blocks of which each release has some otherwise by a few bytes; all behind the first are elsewhere.
fn squashed_image(seed: u64) -> Vec<u8> {
    let words = noise(77, 4096);
    let mut image = noise(seed, 999 + seed as usize);
    for nth in 0..40 {
        let mut block = Vec::new();
        for pick in noise(4000 + nth, 20_000) {
            block.extend_from_slice(&words[usize::from(pick) * 16..][..usize::from(pick % 13) + 1]);
        }
        block.truncate(BLOCK_BYTES);
        if nth % 4 == 0 {
            let changed = block[5000..6000].iter_mut().step_by(200);
            changed.for_each(|byte| *byte ^= seed.to_le_bytes()[0]);
        }
        let mut packed = Vec::with_capacity(block.len() * 2);
        zstd::zstd_safe::compress(&mut packed, &block, 15).unwrap();
        image.extend_from_slice(&packed);
    }
    image
}

/// Bytes of such a block before it is packed.
pub(super) const BLOCK_BYTES: usize = 100_000;

/// What every release has, in turn with some of its own, so that the latter is fetched in many ranges.
fn striped_image(seed: u64) -> Vec<u8> {
    let stripe = |nth| [noise(2000 + nth, 90_000), noise(seed * 100 + nth, 45_000)].concat();
    (0..13).flat_map(stripe).collect()
}

pub(super) fn kernel_image(seed: u64) -> Vec<u8> {
    noise(seed + 50, 90_000)
}

pub(super) struct Fixture {
    pub dir: tempfile::TempDir,
    pub repository: Repository,
    /// Seed -> digest.
    pub releases: BTreeMap<u64, Digest>,
}

impl Fixture {
    /// A repository with one release per seed; release `n` has version `1.n`.
    pub(super) async fn new(seeds: &[u64]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        generate(KeygenRequest {
            out: path("keys"),
            keys: 1,
            threshold: 1,
            root_lifetime: Lifetimes::default().root,
            now: now(),
        })
        .await
        .unwrap();
        let mut releases = BTreeMap::new();
        for seed in seeds {
            releases.insert(*seed, release(dir.path(), *seed).await);
        }
        let repository = Repository::load(&config(dir.path()), now()).await.unwrap();
        Self {
            dir,
            repository,
            releases,
        }
    }

    /// The repository, loaded with another configuration.
    pub(super) async fn load(&self, change: impl FnOnce(&mut RepositoryConfig)) -> Repository {
        let mut config = config(self.dir.path());
        change(&mut config);
        Repository::load(&config, now()).await.unwrap()
    }

    /// A disk image whose slot A holds release `seed`.
    pub(super) fn disk_image(&self, seed: u64) -> Vec<u8> {
        self.disk_image_of(seed, 512)
    }

    pub(super) fn disk_image_of(&self, seed: u64, sector_bytes: u64) -> Vec<u8> {
        let layout = DiskLayout {
            sector_bytes,
            ..DiskLayout::cos_like(7, MIB, 4 * MIB, MIB)
        };
        let mut image = layout.to_bytes().unwrap();
        let disk = Arc::new(SimDisk::new(image.clone(), sector_bytes));
        let disk = Node::with(disk, self.path("probe"), Arc::new(OpenGate));
        let slot = disk.slots().a;
        for (name, content) in [("kernel", kernel_image(seed)), ("root", root_image(seed))] {
            let at = usize::try_from(slot.artifact(name).unwrap().start_bytes).unwrap();
            image[at..at + content.len()].copy_from_slice(&content);
        }
        image
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn job(&self, seed: u64, node: &Node) -> StageJob {
        StageJob {
            repository: self.repository.clone(),
            release: self.releases[&seed],
            terms: terms(),
            control: node.control.clone(),
            state: node.state.clone(),
            lock: Arc::new(node.state.lock(LockName::Slot).unwrap()),
            target: SlotName::B,
            running: SlotName::A,
            reuse: Reuse::Running,
            progress: Arc::new(|_| {}),
        }
    }

    pub(super) async fn stage(
        &self,
        seed: u64,
        node: &Node,
    ) -> (Result<SlotRecord, StageError>, StageProgress) {
        let last = Arc::new(Mutex::new(None));
        let seen = last.clone();
        let progress = Arc::new(move |progress| *seen.lock().unwrap() = Some(progress));
        let job = StageJob {
            progress,
            ..self.job(seed, node)
        };
        let result = stage(job, now(), CancellationToken::new()).await;
        let idle = StageProgress {
            phase: StagePhase::Writing,
            total: 0,
            done: 0,
            reused: 0,
            fetched: 0,
            stood: 0,
            read_back: 0,
        };
        (result, last.lock().unwrap().unwrap_or(idle))
    }
}

fn config(dir: &Path) -> RepositoryConfig {
    let root = std::fs::read(dir.join("keys").join("1.root.json")).unwrap();
    let url = Url::from_directory_path(dir.join("repo")).unwrap();
    RepositoryConfig::new("test", url, root, dir.join("trust"))
}

pub(super) fn terms() -> Terms {
    Terms {
        board: "generic".parse().unwrap(),
        arch: "amd64".parse().unwrap(),
        floor: None,
        running_version: Some("1.1".parse().unwrap()),
        allow_downgrade: false,
        barred: BTreeSet::new(),
    }
}

async fn release(dir: &Path, seed: u64) -> Digest {
    let mut artifacts = Vec::new();
    for (name, content) in [("kernel", kernel_image(seed)), ("root", root_image(seed))] {
        let path = dir.join(format!("{name}-{seed}.img"));
        std::fs::write(&path, content).unwrap();
        let verity_root = (name == "root").then(|| format!("{seed:064x}").parse().unwrap());
        artifacts.push(ArtifactSource {
            name: name.parse().unwrap(),
            path,
            verity_root,
        });
    }
    let request = BuildRequest {
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
        out: dir.join(format!("release-{seed}")),
        after: Vec::new(),
        level: 1,
        progress: Progress::none(),
    };
    let built = build(request).await.unwrap();
    let signing = Signing {
        repo: dir.join("repo"),
        keys: dir.join("keys"),
        lifetimes: Lifetimes::default(),
        now: now(),
    };
    let request = PublishRequest {
        signing,
        release: built.path,
        channel: Some("stable".parse().unwrap()),
        stepping_stone: false,
        progress: Progress::none(),
    };
    publish(request).await.unwrap().digest
}

/// A node: its disk behind a gate, and its state folder behind the same one.
pub(super) struct Node {
    pub disk: Arc<SimDisk>,
    pub control: GptBootControl,
    pub state: StateDir,
}

impl Node {
    pub(super) fn on(image: Vec<u8>, state: PathBuf, gate: Arc<dyn WriteGate>) -> Self {
        Self::with(Arc::new(SimDisk::new(image, 512)), state, gate)
    }

    pub(super) fn with(disk: Arc<SimDisk>, state: PathBuf, gate: Arc<dyn WriteGate>) -> Self {
        let control = control(Device::new(Path::new("sim"), disk.clone(), gate.clone()));
        Self {
            disk,
            control,
            state: StateDir::open(&state, gate).unwrap(),
        }
    }

    pub(super) fn slots(&self) -> Slots {
        self.control.read().unwrap().1
    }

    pub(super) fn record(&self, slot: SlotName) -> Option<SlotRecord> {
        SlotRecords::new(&self.state).peek(slot).unwrap().split().0
    }

    /// The first `len` bytes of an artifact's partition, as they are on the medium.
    pub(super) fn content(&self, slot: SlotName, artifact: &str, len: usize) -> Vec<u8> {
        let slots = self.slots();
        let reader =
            PartitionReader::open(self.control.device(), slots.get(slot).artifact(artifact).unwrap())
                .unwrap();
        let mut content = vec![0; len];
        reader.read_past_cache(0, &mut content).unwrap();
        content
    }
}

pub(super) fn control(device: Device) -> GptBootControl {
    let [a, b] = SlotName::BOTH.map(DiskLayout::cos_selectors);
    GptBootControl::new(device, Loader::Vboot, a, b)
}
