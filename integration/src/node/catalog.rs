//! What a slot holds: every release that was built, by the hashes of its images, and what its system
//! does when it is booted. Made from the image files themselves, never from what the updater noted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use sha2::{Digest as _, Sha256};

use crate::firmware::Gpt;
use crate::observer::{Content, SlotId};

const PIECE_BYTES: usize = 1 << 20;

/// What a system does once it is booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Comes up, passes its checks, its kubelet reports.
    Healthy,
    /// Comes up, but a required check fails.
    UnhealthyCheck,
    /// Its kernel never reaches userspace: no guard, no agent, no kubelet.
    HangsBeforeUserspace,
    /// Comes up and passes its checks, but its kubelet never reports.
    KubeletBroken,
}

/// A release that was built.
#[derive(Debug, Clone)]
pub struct BuiltImages {
    /// Its digest, `sha256:HEX`.
    pub digest: String,
    /// Its version.
    pub version: String,
    /// The kubelet in it.
    pub kubelet: String,
    /// What it does.
    pub behaviour: Behaviour,
    /// Of each artifact: its length and SHA-256.
    pub artifacts: BTreeMap<String, (u64, [u8; 32])>,
}

/// All releases that were built.
#[derive(Debug, Default)]
pub struct Catalog {
    releases: RwLock<Vec<Arc<BuiltImages>>>,
}

/// The SHA-256 and the length of a whole file.
///
/// # Errors
/// If it cannot be read.
pub fn hash_file(path: &Path) -> io::Result<(u64, [u8; 32])> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; PIECE_BYTES];
    let mut len = 0;
    loop {
        let got = file.read(&mut buffer)?;
        if got == 0 {
            return Ok((len, hasher.finalize().into()));
        }
        hasher.update(&buffer[..got]);
        len += got as u64;
    }
}

impl Catalog {
    /// Takes a release in.
    pub fn add(&self, release: BuiltImages) {
        self.releases
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::new(release));
    }

    /// The release of this digest.
    #[must_use]
    pub fn find(&self, digest: &str) -> Option<Arc<BuiltImages>> {
        self.all().into_iter().find(|release| release.digest == digest)
    }

    fn all(&self) -> Vec<Arc<BuiltImages>> {
        self.releases
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What a slot of a disk holds, by hashing its partitions.
    ///
    /// # Errors
    /// If the disk or its partition table cannot be read.
    pub fn identify(&self, disk: &Path, slot: SlotId) -> io::Result<Option<Arc<BuiltImages>>> {
        let gpt = Gpt::read(disk, 512).map_err(io::Error::other)?;
        let file = File::open(disk)?;
        let releases = self.all();
        let mut fits: Vec<_> = releases.iter().collect();
        for artifact in ["kernel", "root"] {
            let label = partition_of(artifact, slot);
            let Some(entry) = gpt.by_label(&label) else {
                return Ok(None);
            };
            let mut lengths: Vec<u64> = fits
                .iter()
                .filter_map(|release| Some(release.artifacts.get(artifact)?.0))
                .collect();
            lengths.sort_unstable();
            lengths.dedup();
            lengths.retain(|length| *length <= entry.len_bytes);
            let hashes = prefix_hashes(&file, entry.start_bytes, &lengths)?;
            fits.retain(|release| {
                let wanted = release.artifacts.get(artifact);
                wanted.is_some_and(|(length, hash)| hashes.get(length) == Some(hash))
            });
        }
        Ok(fits.first().map(|release| Arc::clone(release)))
    }

    /// [`Catalog::identify`] as the observer wants it; what cannot be read is unknown.
    #[must_use]
    pub fn content(&self, disk: &Path, slot: SlotId) -> Content {
        match self.identify(disk, slot) {
            Ok(Some(release)) => Content::Release(release.digest.clone()),
            Ok(None) | Err(_) => Content::Unknown,
        }
    }
}

/// The label of the partition that holds an artifact in a slot.
#[must_use]
pub fn partition_of(artifact: &str, slot: SlotId) -> String {
    match artifact {
        "kernel" => format!("KERN-{slot}"),
        _ => format!("ROOT-{slot}"),
    }
}

/// The SHA-256 of the first bytes from `start`, for each of these lengths (rising), in one pass.
fn prefix_hashes(file: &File, start: u64, lengths: &[u64]) -> io::Result<BTreeMap<u64, [u8; 32]>> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; PIECE_BYTES];
    let mut at = 0;
    let mut hashes = BTreeMap::new();
    for length in lengths {
        while at < *length {
            let piece = usize::try_from(length - at)
                .unwrap_or(usize::MAX)
                .min(PIECE_BYTES);
            file.read_exact_at(&mut buffer[..piece], start + at)?;
            hasher.update(&buffer[..piece]);
            at += piece as u64;
        }
        hashes.insert(*length, hasher.clone().finalize().into());
    }
    Ok(hashes)
}
