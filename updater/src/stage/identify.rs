//! Which release a slot holds: proven, or unknown. A guess is never given out as a proof.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use drydock_images::{Digest, Hasher, Manifest};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::StageError;
use super::ahead::{Ahead, pieces};
use super::verify::read_back;
use crate::disk::{GptBootControl, PartitionReader, SlotName, names_verity_root, with_idle_priority};
use crate::state::{Loaded, Lost, SlotRecord, SlotRecords};

/// May the whole slot be read and hashed to prove what it is?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hashing {
    /// At idle priority.
    Idle,
    /// At normal priority: in a trial boot, where the cluster waits for the answer.
    Now,
    /// Not at all; without a verity root the slot stays unknown.
    No,
}

/// What the running slot holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Identity {
    Proven { record: SlotRecord, by: Proof },
    Unknown(UnknownWhy),
}

impl Identity {
    /// The proven release.
    #[must_use]
    pub fn release(&self) -> Option<Digest> {
        match self {
            Self::Proven { record, .. } => Some(record.release),
            Self::Unknown(_) => None,
        }
    }
}

/// How a slot's identity was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The kernel runs on the dm-verity root hash of the record.
    VerityRoot,
    /// Every byte was hashed and compared with the record.
    Content,
}

/// Why a slot's identity is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownWhy {
    #[error(
        "the slot has no record yet, as after a first install; `drydock-updater adopt` looks for its release"
    )]
    NoRecord,
    #[error("{0}; `drydock-updater adopt` looks for the slot's release")]
    RecordLost(Lost),
    #[error("the slot is not what its record says ({0}); `drydock-updater adopt` looks for its release")]
    Different(String),
    #[error("the slot has no dm-verity root hash, and its content was not hashed yet")]
    NotHashed,
}

/// Proves what the running slot holds, by its record and the kernel's command line, else by its content.
/// Blocks, for as long as reading the slot takes.
///
/// # Errors
/// I/O errors and a cancellation; a slot that is not what its record says is [`Identity::Unknown`].
pub fn identify_running(
    control: &GptBootControl,
    records: &SlotRecords,
    running: SlotName,
    cmdline: &str,
    hashing: Hashing,
    cancel: &CancellationToken,
) -> Result<Identity, StageError> {
    let record = match records.peek(running)? {
        Loaded::Absent => return Ok(Identity::Unknown(UnknownWhy::NoRecord)),
        Loaded::Lost(lost) => return Ok(Identity::Unknown(UnknownWhy::RecordLost(lost))),
        Loaded::Present(record) => record,
    };
    let roots: Vec<&str> = record
        .artifacts
        .values()
        .filter_map(|a| a.verity_root.as_ref())
        .map(|root| root.as_str())
        .collect();
    if !roots.is_empty() && roots.iter().all(|root| names_verity_root(cmdline, root)) {
        return Ok(Identity::Proven {
            record,
            by: Proof::VerityRoot,
        });
    }
    let hashed = match hashing {
        Hashing::No => return Ok(Identity::Unknown(UnknownWhy::NotHashed)),
        Hashing::Now => read_back(control, running, &record, cancel, |_| {}),
        Hashing::Idle => with_idle_priority(|| read_back(control, running, &record, cancel, |_| {}))
            .unwrap_or_else(|| Err(StageError::Stopped("the hashing thread panicked".to_owned()))),
    };
    match hashed {
        Ok(()) => Ok(Identity::Proven {
            record,
            by: Proof::Content,
        }),
        Err(error @ (StageError::ReadsBackDifferently { .. } | StageError::OtherPartition { .. })) => {
            Ok(Identity::Unknown(UnknownWhy::Different(error.to_string())))
        }
        Err(other) => Err(other),
    }
}

/// The release among `manifests` whose every artifact is what `slot` holds, as a record that can be saved
/// (`adopt`). Each partition is read once. Blocks.
///
/// # Errors
/// I/O errors and a cancellation; no match is `None`.
pub fn match_releases(
    control: &GptBootControl,
    slot: SlotName,
    manifests: &[Manifest],
    now: Timestamp,
    cancel: &CancellationToken,
) -> Result<Option<SlotRecord>, StageError> {
    let (_, slots) = control.read()?;
    let slot = slots.get(slot);
    let same_artifacts = |manifest: &&Manifest| {
        manifest.artifacts.len() == slot.artifacts.len()
            && manifest
                .artifacts
                .iter()
                .all(|a| slot.artifacts.contains_key(a.name.as_str()))
    };
    let mut left: Vec<&Manifest> = manifests.iter().filter(same_artifacts).collect();
    for (name, partition) in &slot.artifacts {
        let size = |manifest: &&Manifest| manifest.artifact(name).map(|artifact| artifact.size);
        let sizes: BTreeSet<u64> = left
            .iter()
            .filter_map(size)
            .filter(|size| *size <= partition.len_bytes)
            .collect();
        let reader = PartitionReader::open(control.device(), partition)?;
        let found: BTreeMap<u64, Digest> = digests_at(&reader, &sizes, cancel)?;
        left.retain(|manifest| {
            manifest
                .artifact(name)
                .is_some_and(|a| found.get(&a.size) == Some(&a.digest))
        });
    }
    left.first()
        .map(|manifest| SlotRecord::of(manifest, slot, now))
        .transpose()
        .map_err(StageError::from)
}

/// The digest of the first `n` bytes of a partition for each `n` in `sizes`, in one pass. None is longer
/// than the partition (that is an I/O error here).
///
/// # Errors
/// I/O errors, and [`StageError::Cancelled`].
fn digests_at(
    reader: &PartitionReader,
    sizes: &BTreeSet<u64>,
    cancel: &CancellationToken,
) -> Result<BTreeMap<u64, Digest>, StageError> {
    let mut digests = BTreeMap::new();
    let mut hasher = Hasher::new();
    // From each size to the next one, so that none of them lies inside of a piece.
    let from = std::iter::once(0).chain(sizes.iter().copied());
    let places = from.zip(sizes).flat_map(|(from, to)| pieces(from..*to));
    thread::scope(|scope| {
        let mut ahead = Ahead::start(scope, reader.clone(), places);
        for size in sizes {
            while hasher.length_bytes() < *size && ahead.advance()? {
                if cancel.is_cancelled() {
                    return Err(StageError::Cancelled);
                }
                hasher.update(ahead.bytes());
            }
            digests.insert(*size, hasher.clone().finish());
        }
        Ok(digests)
    })
}
