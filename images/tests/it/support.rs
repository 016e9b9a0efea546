//! A repository on disk for tests: small images with zeros, repeats and noise, real keys, real chunks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use drydock_images::build::{ArtifactSource, BuildRequest, BuiltRelease, build};
use drydock_images::keys::{KeygenRequest, generate};
use drydock_images::publish::{Lifetimes, PublishRequest, Signing, publish};
use drydock_images::verify::{LocalImage, Verification, VerifiedRelease, VerifyError};
use drydock_images::{
    Carries, Digest, Guard, Progress, Repository, RepositoryConfig, RetryPolicy, SharedState, Timeouts,
    TrustError,
};
use jiff::Timestamp;
use url::Url;

/// The time at which everything in these tests is signed, unless it says otherwise.
pub fn now() -> Timestamp {
    "2026-11-01T00:00:00Z".parse().unwrap()
}

pub fn later(days: i64) -> Timestamp {
    Timestamp::from_second(now().as_second() + days * 86_400).unwrap()
}

pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

/// Noise, a run of zeros, and the same noise again: 1.9 MB.
pub fn image(seed: u64) -> Vec<u8> {
    let part = noise(seed, 600_000);
    [part.as_slice(), &vec![0; 700_000], &part].concat()
}

pub struct Fixture {
    pub dir: tempfile::TempDir,
}

impl Fixture {
    pub async fn new() -> Self {
        Self::with_keys(1, 1).await
    }

    pub async fn with_keys(keys: u32, threshold: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Self { dir };
        let request = KeygenRequest {
            out: fixture.keys(),
            keys,
            threshold,
            root_lifetime: Lifetimes::default().root,
            now: now(),
        };
        generate(request).await.unwrap();
        fixture
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn keys(&self) -> PathBuf {
        self.path("keys")
    }

    pub fn repo(&self) -> PathBuf {
        self.path("repo")
    }

    pub fn signing(&self) -> Signing {
        Signing {
            repo: self.repo(),
            keys: self.keys(),
            lifetimes: Lifetimes::default(),
            now: now(),
        }
    }

    pub async fn build(&self, version: &str, seed: u64) -> BuiltRelease {
        self.build_of(version, &image(seed), Vec::new()).await
    }

    pub async fn build_of(&self, version: &str, image: &[u8], after: Vec<PathBuf>) -> BuiltRelease {
        let source = self.path(&format!("rootfs-{version}.img"));
        std::fs::write(&source, image).unwrap();
        build(BuildRequest {
            name: "harbor".parse().unwrap(),
            version: version.parse().unwrap(),
            board: "generic".parse().unwrap(),
            arch: "amd64".parse().unwrap(),
            min_from: None,
            floor: None,
            carries: Carries {
                guard: Some(Guard { protocol: 1 }),
                kubelet: Some("v1.34.2".parse().unwrap()),
                kernel: None,
                state: SharedState::default(),
            },
            artifacts: vec![ArtifactSource {
                name: "rootfs".parse().unwrap(),
                path: source,
                verity_root: None,
            }],
            out: self.path(&format!("release-{version}")),
            after,
            level: 3,
            progress: Progress::none(),
        })
        .await
        .unwrap()
    }

    pub fn publish_request(&self, release: &Path) -> PublishRequest {
        PublishRequest {
            signing: self.signing(),
            release: release.to_path_buf(),
            channel: Some("stable".parse().unwrap()),
            stepping_stone: false,
            progress: Progress::none(),
        }
    }

    /// Builds and publishes a release into channel `stable`.
    pub async fn release(&self, version: &str, seed: u64) -> Digest {
        let built = self.build(version, seed).await;
        publish(self.publish_request(&built.path)).await.unwrap().digest
    }

    pub fn config(&self) -> RepositoryConfig {
        self.config_at(Url::from_directory_path(self.repo()).unwrap())
    }

    pub fn config_at(&self, url: Url) -> RepositoryConfig {
        let root = std::fs::read(self.keys().join("1.root.json")).unwrap();
        let mut cfg = RepositoryConfig::new("test", url, root, self.path("trust"));
        cfg.retry = RetryPolicy {
            tries: 3,
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_millis(2),
            total: Duration::from_secs(20),
        };
        cfg.timeouts = Timeouts {
            connect: Duration::from_secs(2),
            idle: Duration::from_millis(300),
            window: Duration::from_secs(1),
            least_bytes_per_second: 1024,
        };
        cfg
    }

    pub async fn load(&self, at: Timestamp) -> Result<Repository, TrustError> {
        Repository::load(&self.config(), at).await
    }

    /// The bytes of a file in the repository's metadata.
    pub fn metadata(&self, name: &str) -> PathBuf {
        self.repo().join("metadata").join(name)
    }
}

pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Looks a release up and verifies all of it.
pub async fn verify_release(
    repository: &Repository,
    release: &Digest,
    images: &[LocalImage],
    now: Timestamp,
    progress: &Progress,
) -> Result<VerifiedRelease, VerifyError> {
    let verification = Verification::of(repository, release, now).await?;
    verification.run(images, progress).await
}
