//! The small files on the node's state partition: how they are written so that a power cut leaves the
//! old or the new one, how an older release reads them, and what is done with those it cannot read.
//!
//! What the files mean is said where their types are (the journal in `drydock-machine`, slot records
//! here). All calls block: async callers use `spawn_blocking`.

mod dir;
mod hints;
mod records;
mod scratch;
pub mod sim;
mod store;
mod trust;

#[cfg(test)]
mod tests;

pub use dir::{FileReader, Files, LockName, ReadAt, StateDir, StateError, StateLock};
pub use hints::{HintWriter, Hints};
pub use records::{ArtifactRecord, SlotRecord, SlotRecords};
pub use scratch::Scratch;
pub use store::{Loaded, Lost, LostReason, MAX_FILE_BYTES, Record, Store, UnknownFields};
pub use trust::TrustGate;
