//! From a signed release to a slot that provably holds it, and from a slot to the release it holds.
//!
//! Staging never arms anything and never touches the running slot. Its first write makes the target
//! unbootable; nothing here makes it bootable again, so a stop at any point leaves nothing to boot by
//! mistake. The slot record is written last, after the slot was read back from the device.

mod admit;
mod ahead;
mod assemble;
mod delta;
mod drain;
mod estimate;
mod groups;
mod held;
mod identify;
mod pages;
mod plan;
mod running;
mod seed;
mod segments;
mod standing;
mod supply;
mod verify;
mod way;
mod write;

#[cfg(test)]
mod tests;

use std::ops::Range;

use drydock_images::{Digest, TrustError};

use crate::disk::{BootError, DiskError, SlotName};
use crate::state::StateError;

pub use admit::{Refusal, Terms, admit};
pub use estimate::{Estimate, estimate};
pub use identify::{Hashing, Identity, Proof, UnknownWhy, identify_running, match_releases};
pub use verify::{read_back, read_back_async};
pub use write::{Reuse, StageJob, StagePhase, StageProgress, stage};

/// Why a slot was not staged, or is not what its record says.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    #[error(transparent)]
    Refused(#[from] Refusal),

    #[error(transparent)]
    Trust(#[from] TrustError),

    #[error(transparent)]
    Boot(#[from] BootError),

    #[error(transparent)]
    Disk(#[from] DiskError),

    #[error(transparent)]
    State(#[from] StateError),

    #[error(
        "slot {slot}: artifact {artifact} reads back as {found} in its bytes {} to {}, but {expected} was \
         signed, so the slot is not booted. Stage the release again; if this happens again, the disk is failing",
        bytes.start, bytes.end
    )]
    ReadsBackDifferently {
        slot: SlotName,
        artifact: String,
        /// Those that were hashed together.
        bytes: Range<u64>,
        expected: Digest,
        found: Digest,
    },

    #[error(
        "slot {slot}: its record is of partition {recorded} for artifact {artifact}, but that is now {present}; \
         stage the release again"
    )]
    OtherPartition {
        slot: SlotName,
        artifact: String,
        recorded: String,
        present: String,
    },

    #[error(
        "staging was cancelled; the slot is not bootable, and what is already right in it is used next time"
    )]
    Cancelled,

    #[error("staging stopped: {0}. This is a defect of Drydock; please report it")]
    Stopped(String),
}

impl StageError {
    /// A bounded word for metrics and statuses.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Trust(TrustError::Withdrawn { .. }) => "Withdrawn",
            Self::Trust(TrustError::NotListed { .. }) => "NotListed",
            Self::Trust(TrustError::Expired { .. }) => "MetadataExpired",
            Self::Trust(TrustError::Unreachable(_)) => "RepositoryUnreachable",
            Self::Trust(_) => "Untrusted",
            Self::Boot(_) => "BootControl",
            Self::Disk(_) => "Disk",
            Self::State(_) => "StatePartition",
            Self::ReadsBackDifferently { .. } | Self::OtherPartition { .. } => "ReadBackDiffers",
            Self::Cancelled => "Cancelled",
            Self::Stopped(_) => "Internal",
        }
    }
}
