//! Reading a slot back from the device, past everything that only remembers what was written.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use drydock_images::{Digest, Hasher};
use tokio_util::sync::CancellationToken;

use super::StageError;
use super::ahead::{Ahead, pieces};
use crate::disk::{DiskError, GptBootControl, PartitionReader, SlotName};
use crate::state::SlotRecord;

/// The digest of the first `n` bytes of a partition for each `n` in `sizes`, in one pass. None is longer
/// than the partition (that is an I/O error here). `advance` is told of every piece.
///
/// # Errors
/// I/O errors, and [`StageError::Cancelled`].
pub(super) fn digests_at(
    reader: &PartitionReader,
    sizes: &BTreeSet<u64>,
    cancel: &CancellationToken,
    mut advance: impl FnMut(u64),
) -> Result<BTreeMap<u64, Digest>, StageError> {
    let mut digests = BTreeMap::new();
    let mut hasher = Hasher::new();
    // From each size to the next one, so that none of them lies inside of a piece.
    let from = std::iter::once(0).chain(sizes.iter().copied());
    let places = from.zip(sizes).flat_map(|(from, to)| pieces(from..*to)).map(Ok);
    thread::scope(|scope| {
        let mut ahead = Ahead::start(scope, reader.clone(), places);
        for size in sizes {
            while hasher.length_bytes() < *size && ahead.advance()? {
                if cancel.is_cancelled() {
                    return Err(StageError::Cancelled);
                }
                hasher.update(ahead.bytes());
                advance(ahead.bytes().len() as u64);
            }
            digests.insert(*size, hasher.clone().finish());
        }
        Ok(digests)
    })
}

/// Compares every byte of a slot, read from the device, with its record: after staging, and again after
/// the grant, right before arming (S2). Blocks; flush before, if something was just written.
///
/// # Errors
/// [`StageError::ReadsBackDifferently`], [`StageError::OtherPartition`], I/O errors, a cancellation.
pub fn read_back(
    control: &GptBootControl,
    slot: SlotName,
    record: &SlotRecord,
    cancel: &CancellationToken,
    mut advance: impl FnMut(u64),
) -> Result<(), StageError> {
    let (_, slots) = control.read()?;
    let configured = slots.get(slot);
    for (name, artifact) in &record.artifacts {
        let partition = configured.artifact(name)?;
        if partition.guid != artifact.partition {
            return Err(StageError::OtherPartition {
                slot,
                artifact: name.clone(),
                recorded: artifact.partition.to_string(),
                present: partition.to_string(),
            });
        }
        let reader = PartitionReader::open(control.device(), partition)?;
        let sizes = BTreeSet::from([artifact.size_bytes]);
        let found = digests_at(&reader, &sizes, cancel, &mut advance)?;
        match found.get(&artifact.size_bytes) {
            Some(found) if *found == artifact.digest => {}
            found => {
                return Err(StageError::ReadsBackDifferently {
                    slot,
                    artifact: name.clone(),
                    expected: artifact.digest,
                    found: found.copied().unwrap_or_else(|| Digest::of(&[])),
                });
            }
        }
    }
    // A slot of which the record says less than the configuration is not wholly verified.
    match configured
        .artifacts
        .keys()
        .find(|name| !record.artifacts.contains_key(*name))
    {
        None => Ok(()),
        Some(name) => Err(StageError::Disk(DiskError::UnknownArtifact {
            slot,
            artifact: name.clone(),
            configured: record.artifacts.keys().cloned().collect::<Vec<_>>().join(", "),
        })),
    }
}

/// [`read_back`] off the reactor. Dropping the future stops the reading.
///
/// # Errors
/// As [`read_back`].
pub async fn read_back_async(
    control: GptBootControl,
    slot: SlotName,
    record: SlotRecord,
    cancel: CancellationToken,
) -> Result<(), StageError> {
    let cancel = cancel.child_token();
    let _stop_when_dropped = cancel.clone().drop_guard();
    tokio::task::spawn_blocking(move || read_back(&control, slot, &record, &cancel, |_| {}))
        .await
        .map_err(|error| StageError::Stopped(error.to_string()))?
}
