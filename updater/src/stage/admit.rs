//! May this release be staged on this node? Judged before anything is written. Pure.

use std::collections::BTreeSet;

use drydock_images::{Arch, Board, Digest, Manifest, Version};

use crate::disk::Slot;

/// What this node demands of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    pub board: Board,
    pub arch: Arch,
    /// The highest of the configured floor and every floor that was marked good here.
    pub floor: Option<Version>,
    /// Of the running release, where it is known.
    pub running_version: Option<Version>,
    /// Both the node's configuration and the policy (or root) say so.
    pub allow_downgrade: bool,
    /// Releases that failed here and were not forgiven, and those with a halt.
    pub barred: BTreeSet<Digest>,
}

/// Why a release is not for this node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "release {release} is for board {found}, this node is {wanted}; choose a release of its own board"
    )]
    Board {
        release: Digest,
        found: Board,
        wanted: Board,
    },
    #[error(
        "release {release} is for {found}, this node is {wanted}; choose a release of its own architecture"
    )]
    Arch {
        release: Digest,
        found: Arch,
        wanted: Arch,
    },
    #[error(
        "release {release} ({found}) is below this node's floor {floor}, below which it never goes; \
         choose a newer one"
    )]
    BelowFloor {
        release: Digest,
        found: Version,
        floor: Version,
    },
    #[error(
        "release {release} ({found}) is older than the running {running}; set `releases.allow_downgrade` in the \
         node's configuration and `allowDowngrade` in the policy if that is meant"
    )]
    Downgrade {
        release: Digest,
        found: Version,
        running: Version,
    },
    #[error(
        "release {release} can be reached from {min_from} on, this node runs {running}; a stepping stone of the \
         channel comes first"
    )]
    TooFar {
        release: Digest,
        min_from: Version,
        running: String,
    },
    #[error(
        "release {release} failed on this node or was halted; `kubectl drydock forgive` lets it be tried again"
    )]
    Barred { release: Digest },
    #[error(
        "release {release} declares no guard, so nothing in it could go back; build it with the guard and \
         `carries.guard` in its manifest"
    )]
    NoGuard { release: Digest },
    #[error(
        "artifact {artifact} has {size} bytes, its partition {partition} only {room}; make the image smaller"
    )]
    TooLarge {
        artifact: String,
        size: u64,
        partition: String,
        room: u64,
    },
    #[error(
        "release {release} has artifact {artifact}, for which no slot has a partition (configured: {configured}); \
         add it to `slots` in the configuration"
    )]
    NoPartition {
        release: Digest,
        artifact: String,
        configured: String,
    },
    #[error(
        "release {release} has nothing for the configured artifact {artifact}; a slot with old content in one \
         partition is no release"
    )]
    NothingFor { release: Digest, artifact: String },
}

impl Refusal {
    /// A bounded word for metrics and statuses.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Board { .. } => "WrongBoard",
            Self::Arch { .. } => "WrongArch",
            Self::BelowFloor { .. } => "BelowFloor",
            Self::Downgrade { .. } => "Downgrade",
            Self::TooFar { .. } => "SteppingStoneFirst",
            Self::Barred { .. } => "Barred",
            Self::NoGuard { .. } => "NoGuard",
            Self::TooLarge { .. } => "TooLarge",
            Self::NoPartition { .. } | Self::NothingFor { .. } => "ArtifactsDiffer",
        }
    }
}

/// Judges a release for a slot. That the metadata are current and list it, and that it was not withdrawn,
/// is asked of the repository.
///
/// # Errors
/// The first reason against it.
pub fn admit(manifest: &Manifest, slot: &Slot, terms: &Terms) -> Result<(), Refusal> {
    let release = manifest.digest();
    let found = manifest.version.clone();
    if manifest.board != terms.board {
        let (found, wanted) = (manifest.board.clone(), terms.board.clone());
        return Err(Refusal::Board {
            release,
            found,
            wanted,
        });
    }
    if manifest.arch != terms.arch {
        let (found, wanted) = (manifest.arch.clone(), terms.arch.clone());
        return Err(Refusal::Arch {
            release,
            found,
            wanted,
        });
    }
    if terms.barred.contains(&release) {
        return Err(Refusal::Barred { release });
    }
    if manifest.carries.guard.is_none() {
        return Err(Refusal::NoGuard { release });
    }
    if let Some(floor) = terms.floor.clone().filter(|floor| found < *floor) {
        return Err(Refusal::BelowFloor {
            release,
            found,
            floor,
        });
    }
    if let Some(running) = terms.running_version.clone().filter(|running| found < *running)
        && !terms.allow_downgrade
    {
        return Err(Refusal::Downgrade {
            release,
            found,
            running,
        });
    }
    if let Some(min_from) = manifest.min_from.clone() {
        let running = terms.running_version.as_ref();
        if running.is_none_or(|running| *running < min_from) {
            let running = running.map_or_else(|| "an unknown release".to_owned(), ToString::to_string);
            return Err(Refusal::TooFar {
                release,
                min_from,
                running,
            });
        }
    }
    fits(manifest, slot)
}

fn fits(manifest: &Manifest, slot: &Slot) -> Result<(), Refusal> {
    let release = manifest.digest();
    for artifact in &manifest.artifacts {
        let name = artifact.name.as_str();
        let Some(partition) = slot.artifacts.get(name) else {
            let configured = slot.artifacts.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(Refusal::NoPartition {
                release,
                artifact: name.to_owned(),
                configured,
            });
        };
        if artifact.size > partition.len_bytes {
            return Err(Refusal::TooLarge {
                artifact: name.to_owned(),
                size: artifact.size,
                partition: partition.to_string(),
                room: partition.len_bytes,
            });
        }
    }
    let missing = slot
        .artifacts
        .keys()
        .find(|name| manifest.artifact(name).is_none());
    missing.map_or(Ok(()), |name| {
        Err(Refusal::NothingFor {
            release,
            artifact: name.clone(),
        })
    })
}
