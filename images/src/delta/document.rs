//! The signed target of a pair delta: which artifacts of one release can be made out of those of another.

use serde::{Deserialize, Serialize};

use super::{MAX_HEAD_BYTES, MAX_STORED_BYTES, SEGMENT_BYTES};
use crate::channel::Document;
use crate::chunk::MAX_ARTIFACT_BYTES;
use crate::digest::Digest;
use crate::manifest::{IndexRef, MAX_ARTIFACTS};
use crate::names::ArtifactName;

/// The longest such document, in bytes.
pub const MAX_DELTA_BYTES: u64 = 64 * 1024;

/// The frames of the longest artifact have at most so many bytes.
const MAX_FRAMES_BYTES: u64 = MAX_ARTIFACT_BYTES / SEGMENT_BYTES as u64 * MAX_STORED_BYTES as u64;

/// How to get from one release to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delta {
    /// The major format.
    pub format: u32,
    /// The release that a node runs.
    pub from: Digest,
    /// The release that it gets.
    pub to: Digest,
    /// The artifacts for which that is worth it; for the others it is as if there were no delta.
    pub artifacts: Vec<DeltaArtifact>,
}

/// How to get from one artifact to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeltaArtifact {
    /// The artifact's name in both releases.
    pub name: ArtifactName,
    /// The digest of what it is made out of.
    pub base: Digest,
    /// Its size in bytes.
    pub base_size: u64,
    /// The delta's head, which begins its file.
    pub head: IndexRef,
    /// Bytes of the frames behind the head.
    pub frames_bytes: u64,
}

impl Delta {
    /// How to make the artifact with that name, if this says so.
    #[must_use]
    pub fn artifact(&self, name: &ArtifactName) -> Option<&DeltaArtifact> {
        self.artifacts.iter().find(|artifact| artifact.name == *name)
    }
}

impl DeltaArtifact {
    /// Bytes of its file: the head and the frames.
    #[must_use]
    pub const fn stored_bytes(&self) -> u64 {
        self.head.size + self.frames_bytes
    }
}

impl Document for Delta {
    const WHAT: &'static str = "delta";
    const MAX_BYTES: u64 = MAX_DELTA_BYTES;

    fn check(&self) -> Result<(), String> {
        let count = self.artifacts.len();
        if count == 0 || count > MAX_ARTIFACTS {
            return Err(format!(
                "{count} artifacts, where 1 to {MAX_ARTIFACTS} are allowed"
            ));
        }
        if self.from == self.to {
            return Err(format!("it leads from {} to itself", self.from));
        }
        for (position, artifact) in self.artifacts.iter().enumerate() {
            let earlier = &self.artifacts[..position];
            if earlier.iter().any(|before| before.name == artifact.name) {
                return Err(format!("{} is listed twice", artifact.name));
            }
            if artifact.head.size > MAX_HEAD_BYTES {
                return Err(format!("a head of {} bytes", artifact.head.size));
            }
            if artifact.frames_bytes > MAX_FRAMES_BYTES {
                return Err(format!("frames of {} bytes", artifact.frames_bytes));
            }
        }
        Ok(())
    }
}
