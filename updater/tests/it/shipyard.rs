//! Builds releases and signs them into a repository, as a release engineer does with `drydock-images`: for
//! tests that need a repository to refuse. Calls block.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use drydock_images::build::{ArtifactSource, BuildRequest, build};
use drydock_images::keys::{KeygenRequest, generate};
use drydock_images::publish::{
    Lifetimes, PublishRequest, RotateRequest, Signing, publish, refresh_timestamp, rotate_root, withdraw,
};
use drydock_images::{Carries, Digest, Guard as CarriedGuard, Progress, SharedState};
use jiff::Timestamp;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MIB: usize = 1 << 20;

/// A release to build: small, for the board and architecture of the tests.
#[derive(Debug, Clone)]
pub struct Draft {
    pub version: &'static str,
    pub floor: Option<&'static str>,
    pub min_from: Option<&'static str>,
    pub guard: Option<CarriedGuard>,
    /// What its manifest says of the kernel.
    pub kernel: Option<Digest>,
    pub root_bytes: usize,
}

impl Draft {
    pub fn of(version: &'static str) -> Self {
        Self {
            version,
            floor: None,
            min_from: None,
            guard: Some(CarriedGuard { protocol: 1 }),
            kernel: None,
            root_bytes: MIB * 3 / 4,
        }
    }

    /// Kernel and root. The first half of the root is every release's, the rest is noise of its own.
    pub fn images(&self) -> [(&'static str, Vec<u8>); 2] {
        let seed = self
            .version
            .bytes()
            .fold(7_u64, |seed, byte| seed * 31 + u64::from(byte));
        let mut state = seed | 1;
        let noise = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        });
        let root = std::iter::repeat_n(7, MIB / 2).chain(noise).take(self.root_bytes);
        [("kernel", vec![seed as u8; 4096]), ("root", root.collect())]
    }
}

/// A folder with keys (two of two must sign), built releases and the repository.
#[derive(Debug, Clone)]
pub struct Shipyard {
    folder: PathBuf,
}

impl Shipyard {
    /// Makes the keys.
    pub fn open(folder: &Path) -> Self {
        let yard = Self::at(folder);
        let keys = generate(KeygenRequest {
            out: yard.keys(),
            keys: 2,
            threshold: 2,
            root_lifetime: Lifetimes::default().root,
            now: Timestamp::now(),
        });
        block(keys).unwrap();
        yard
    }

    /// One that is there already.
    pub fn at(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    fn keys(&self) -> PathBuf {
        self.folder.join("keys")
    }

    pub fn repository(&self) -> PathBuf {
        self.folder.join("repo")
    }

    pub fn metadata(&self, name: &str) -> PathBuf {
        self.repository().join("metadata").join(name)
    }

    fn signing(&self) -> Signing {
        Signing {
            repo: self.repository(),
            keys: self.keys(),
            lifetimes: Lifetimes::default(),
            now: Timestamp::now(),
        }
    }

    /// Builds and publishes into channel `stable`; the digest.
    pub fn release(&self, draft: &Draft) -> String {
        let folder = self.folder.join("built").join(draft.version);
        std::fs::create_dir_all(&folder).unwrap();
        let artifacts = draft.images().map(|(name, content)| {
            let path = folder.join(format!("{name}.img"));
            std::fs::write(&path, content).unwrap();
            ArtifactSource {
                name: name.parse().unwrap(),
                path,
                verity_root: None,
            }
        });
        let out = folder.join("release");
        let built = build(BuildRequest {
            name: "harbor".parse().unwrap(),
            version: draft.version.parse().unwrap(),
            board: "generic".parse().unwrap(),
            arch: "amd64".parse().unwrap(),
            min_from: draft.min_from.map(|version| version.parse().unwrap()),
            floor: draft.floor.map(|version| version.parse().unwrap()),
            carries: Carries {
                guard: draft.guard,
                kubelet: None,
                kernel: draft.kernel,
                state: SharedState::default(),
            },
            artifacts: artifacts.into(),
            out: out.clone(),
            after: Vec::new(),
            level: 1,
            progress: Progress::none(),
        });
        let digest = block(built).unwrap().digest;
        let request = PublishRequest {
            signing: self.signing(),
            release: out,
            channel: Some("stable".parse().unwrap()),
            stepping_stone: false,
            progress: Progress::none(),
        };
        block(publish(request)).unwrap();
        digest.to_string()
    }

    pub fn withdraw(&self, digest: &str) {
        let digest = digest.parse().unwrap();
        block(withdraw(&self.signing(), &digest, "it eats disks")).unwrap();
    }

    /// The timestamp is signed anew as if that had been 30 days ago, for one day.
    pub fn let_expire(&self) {
        let signing = Signing {
            now: Timestamp::now() - Duration::from_secs(30 * 24 * 60 * 60),
            lifetimes: Lifetimes {
                timestamp: DAY,
                ..Lifetimes::default()
            },
            ..self.signing()
        };
        block(refresh_timestamp(&signing)).unwrap();
    }

    /// A second root, with the same keys.
    pub fn rotate(&self) {
        let request = RotateRequest {
            signing: self.signing(),
            new_keys: None,
            threshold: 2,
        };
        block(rotate_root(request)).unwrap();
    }
}

fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}
