//! The running slot as what a staging copies from: its content, and what is known to be where in it.

use drydock_images::chunk::Cuts;
use drydock_images::{ArtifactName, Digest};
use tokio_util::sync::CancellationToken;

use super::StageError;
use super::held::{Held, Keeping};
use super::seed::Seed;
use crate::disk::{GptBootControl, PartitionReader, SlotName};
use crate::state::{Hints, SlotRecord, SlotRecords, StateDir, StateLock};

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct Running {
    control: GptBootControl,
    records: SlotRecords,
    hints: Hints,
    slot: SlotName,
}

impl Running {
    pub(super) fn new(control: &GptBootControl, state: &StateDir, slot: SlotName) -> Self {
        Self {
            control: control.clone(),
            records: SlotRecords::new(state),
            hints: Hints::new(state),
            slot,
        }
    }

    pub(super) fn slot(&self) -> SlotName {
        self.slot
    }

    /// What the slot's record says it holds; a lost record says nothing.
    ///
    /// # Errors
    /// I/O errors.
    pub(super) fn record(&self) -> Result<Option<SlotRecord>, StageError> {
        Ok(self.records.peek(self.slot)?.split().0)
    }

    /// The content of an artifact, as far as the slot's record goes, and the digest that it gives. Blocks.
    ///
    /// # Errors
    /// I/O errors.
    pub(super) fn seed(&self, artifact: &ArtifactName) -> Result<(Seed, Option<Digest>), StageError> {
        let (_, slots) = self.control.read()?;
        let partition = slots.get(self.slot).artifact(artifact.as_str())?;
        let record = self.record()?;
        let recorded = record
            .as_ref()
            .and_then(|record| record.artifacts.get(artifact.as_str()));
        let len_bytes = recorded.map_or(partition.len_bytes, |artifact| artifact.size_bytes);
        let reader = PartitionReader::open(self.control.device(), partition)?;
        Ok((
            Seed::new(reader, len_bytes),
            recorded.map(|artifact| artifact.digest),
        ))
    }

    /// What is where in an artifact, cut by that rule: as it was kept, or by reading all of it,
    /// which is kept then if the lock is there. Blocks.
    ///
    /// # Errors
    /// I/O errors of the table; a cancellation.
    pub(super) fn held(
        &self,
        artifact: &ArtifactName,
        cuts: Cuts,
        lock: Option<&StateLock>,
        cancel: &CancellationToken,
    ) -> Result<Held, StageError> {
        let (seed, recorded) = self.seed(artifact)?;
        let Some(digest) = recorded else {
            return Held::by_reading(seed, cuts, cancel);
        };
        let kept = Held::load(&self.hints, self.slot, artifact.as_str(), &digest);
        if let Some(kept) = kept.filter(|kept| kept.cuts() == cuts) {
            return Ok(kept);
        }
        if let Some(lock) = lock {
            let keeping = Keeping {
                hints: &self.hints,
                lock,
                slot: self.slot,
                name: artifact.as_str(),
            };
            if let Some(kept) = Held::kept_by_reading(seed, digest, cuts, keeping, cancel)? {
                return Ok(kept);
            }
        }
        Held::by_reading(self.seed(artifact)?.0, cuts, cancel)
    }
}
