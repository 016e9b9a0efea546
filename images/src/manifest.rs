//! The manifest: what a release is. The SHA-256 of its bytes is the release's name, so nothing that
//! changes later (channels, advisories, withdrawals) is ever in it, and everything it names, it names
//! by digest.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::canonical;
use crate::chunk::{MAX_ARTIFACT_BYTES, MAX_INDEX_BYTES};
use crate::digest::{Digest, ImageDigests, SPAN_BYTES};
use crate::names::{Arch, ArtifactName, Board, ReleaseName};
use crate::version::Version;

/// The manifest format that is written, and the newest that is read.
pub const MANIFEST_FORMAT: u32 = 1;
/// The longest manifest, in bytes.
pub const MAX_MANIFEST_BYTES: usize = 256 * 1024;
/// The most artifacts in one release.
pub const MAX_ARTIFACTS: usize = 16;

/// Why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Longer than [`MAX_MANIFEST_BYTES`].
    #[error("the manifest has {length} bytes, more than the {MAX_MANIFEST_BYTES} allowed")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// Written in a format that this program does not know.
    #[error(
        "the manifest has format {found}, this program reads up to {MANIFEST_FORMAT}: update Drydock on this machine first"
    )]
    NewerFormat {
        /// The format it says it has.
        found: u64,
    },
    /// Not JSON of the expected shape.
    #[error("the manifest cannot be read: {0}")]
    Shape(#[from] serde_json::Error),
    /// Of the expected shape, but its contents contradict each other or break a bound.
    #[error("the manifest breaks a rule: {0}")]
    Rule(String),
}

/// A manifest's fields, as in `docs/release-format.md`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestBody {
    /// The major format, [`MANIFEST_FORMAT`].
    pub format: u32,
    /// The OS.
    pub name: ReleaseName,
    /// Its version.
    pub version: Version,
    /// The kind of machine it is for.
    pub board: Board,
    /// The processor architecture it is for.
    pub arch: Arch,
    /// The partition images, 1 to [`MAX_ARTIFACTS`], each name once.
    pub artifacts: Vec<Artifact>,
    /// A node on an older version goes to a stepping stone first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_from: Option<Version>,
    /// Once this release was marked good, the node refuses versions below this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Version>,
    /// What is inside, for whoever decides whether it may go somewhere.
    pub carries: Carries,
}

/// One partition image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    /// Its name, unique in the release.
    pub name: ArtifactName,
    /// Its length in bytes, 1 to [`MAX_ARTIFACT_BYTES`].
    pub size: u64,
    /// The SHA-256 of all its bytes.
    pub digest: Digest,
    /// The SHA-256 of every [`SPAN_BYTES`] of it in their order, the last of what is left; or nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spans: Vec<Digest>,
    /// Its chunk index.
    pub index: IndexRef,
    /// The dm-verity root hash under which a running system proves this image on its command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verity_root: Option<VerityRoot>,
}

impl Artifact {
    /// That an image with these digests, of the whole and of its spans, is this artifact.
    pub(crate) fn check_content(&self, (found, spans): &ImageDigests) -> Result<(), String> {
        if *found != self.digest {
            return Err(format!("what it holds of {} is {found}", self.name));
        }
        if !self.spans.is_empty() && *spans != self.spans {
            let name = &self.name;
            return Err(format!(
                "it is {name} as a whole, but not span by span: the manifest contradicts itself"
            ));
        }
        Ok(())
    }
}

/// Where a chunk index is: `indexes/HEX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexRef {
    /// The SHA-256 of the index file.
    pub digest: Digest,
    /// The index file's length in bytes.
    pub size: u64,
}

/// What the images carry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Carries {
    /// The guard, or null. A release without one is not staged.
    #[serde(default)]
    pub guard: Option<Guard>,
    /// The kubelet's version, or null where there is none.
    #[serde(default)]
    pub kubelet: Option<Version>,
    /// The SHA-256 of the kernel, or null where it is not known.
    #[serde(default)]
    pub kernel: Option<Digest>,
    /// The formats of the state that both slots share.
    #[serde(default)]
    pub state: SharedState,
}

/// The guard inside a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Guard {
    /// The number of the protocol it speaks with the agent.
    pub protocol: u32,
}

/// The formats of every piece of state that the releases of both slots read and write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedState {
    /// The node's journal.
    #[serde(default)]
    pub journal: StateFormat,
    /// The records of what each slot holds.
    #[serde(default)]
    pub slot_records: StateFormat,
    /// The trusted metadata seen so far.
    #[serde(default)]
    pub trust_store: StateFormat,
    /// The configuration shared by both slots.
    #[serde(default)]
    pub config: StateFormat,
}

/// What a release does to one piece of shared state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateFormat {
    /// The format it writes.
    pub writes: u32,
    /// The oldest format it reads.
    pub reads_from: u32,
}

impl Default for StateFormat {
    fn default() -> Self {
        Self {
            writes: 1,
            reads_from: 1,
        }
    }
}

impl StateFormat {
    /// Whether a release with these formats can read what a release with `writer`'s formats wrote.
    #[must_use]
    pub const fn reads(&self, writer: &Self) -> bool {
        // What is newer than what it writes itself, it does not know.
        writer.writes >= self.reads_from && writer.writes <= self.writes
    }
}

impl SharedState {
    /// The pieces by name, in a fixed order, with what this release does to each.
    #[must_use]
    pub const fn pieces(&self) -> [(&'static str, StateFormat); 4] {
        [
            ("journal", self.journal),
            ("slotRecords", self.slot_records),
            ("trustStore", self.trust_store),
            ("config", self.config),
        ]
    }

    /// The first piece of state written by `writer` that a release with this state could not read.
    #[must_use]
    pub fn unreadable(&self, writer: &Self) -> Option<&'static str> {
        let pairs = self.pieces().into_iter().zip(writer.pieces());
        pairs
            .into_iter()
            .find(|((_, own), (_, other))| !own.reads(other))
            .map(|((name, _), _)| name)
    }
}

/// A dm-verity root hash: 32 to 128 lower-case hex digits, as on the kernel's command line.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct VerityRoot(String);

impl VerityRoot {
    /// The root hash of these bytes, a digest of 16 to 64.
    pub(crate) fn of_digest(digest: &[u8]) -> Self {
        debug_assert!((16..=64).contains(&digest.len()));
        Self(hex::encode(digest))
    }

    /// The hex digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VerityRoot {
    type Err = ManifestError;

    fn from_str(text: &str) -> Result<Self, ManifestError> {
        let hex = text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if hex && (32..=128).contains(&text.len()) && text.len().is_multiple_of(2) {
            Ok(Self(text.to_owned()))
        } else {
            let message = "a verity root hash is 32 to 128 lower-case hex digits, an even number of them";
            Err(ManifestError::Rule(message.to_owned()))
        }
    }
}

impl fmt::Display for VerityRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for VerityRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for VerityRoot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A manifest that was read or made: its fields (through `Deref`), its exact bytes, its digest.
#[derive(Debug, Clone)]
pub struct Manifest {
    body: ManifestBody,
    bytes: Vec<u8>,
    digest: Digest,
}

impl Manifest {
    /// Reads a manifest. Unknown fields of this format are ignored and stay in [`Manifest::bytes`].
    ///
    /// # Errors
    /// Too long, a newer format, not the expected shape, or a broken rule.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Head {
            format: u64,
        }
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLong { length: bytes.len() });
        }
        let head: Head = serde_json::from_slice(bytes)?;
        if head.format > u64::from(MANIFEST_FORMAT) {
            return Err(ManifestError::NewerFormat { found: head.format });
        }
        let body: ManifestBody = serde_json::from_slice(bytes)?;
        check(&body)?;
        Ok(Self {
            body,
            digest: Digest::of(bytes),
            bytes: bytes.to_vec(),
        })
    }

    /// Makes a manifest: checks the fields and writes them in their canonical form.
    ///
    /// # Errors
    /// As [`Manifest::parse`].
    pub fn seal(body: ManifestBody) -> Result<Self, ManifestError> {
        let bytes = canonical::to_vec(&body)?;
        Self::parse(&bytes)
    }

    /// The release's name: the SHA-256 of the manifest's bytes.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The exact bytes that were read or made.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The artifact of that name.
    #[must_use]
    pub fn artifact(&self, name: &str) -> Option<&Artifact> {
        self.body
            .artifacts
            .iter()
            .find(|artifact| artifact.name.as_str() == name)
    }

    /// The bytes of all artifacts together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.body.artifacts.iter().map(|artifact| artifact.size).sum()
    }
}

impl Deref for Manifest {
    type Target = ManifestBody;

    fn deref(&self) -> &ManifestBody {
        &self.body
    }
}

fn check(body: &ManifestBody) -> Result<(), ManifestError> {
    let rule = |text: String| Err(ManifestError::Rule(text));
    if body.format == 0 {
        return rule("format 0 does not exist".to_owned());
    }
    let count = body.artifacts.len();
    if count == 0 || count > MAX_ARTIFACTS {
        return rule(format!(
            "{count} artifacts, where 1 to {MAX_ARTIFACTS} are allowed"
        ));
    }
    let mut names = BTreeSet::new();
    for artifact in &body.artifacts {
        if !names.insert(&artifact.name) {
            return rule(format!("two artifacts are named {}", artifact.name));
        }
        if artifact.size == 0 || artifact.size > MAX_ARTIFACT_BYTES {
            let (name, size) = (&artifact.name, artifact.size);
            return rule(format!(
                "{name} has {size} bytes, where 1 to {MAX_ARTIFACT_BYTES} are allowed"
            ));
        }
        let spans = artifact.size.div_ceil(SPAN_BYTES);
        if !artifact.spans.is_empty() && artifact.spans.len() as u64 != spans {
            let (name, found) = (&artifact.name, artifact.spans.len());
            return rule(format!(
                "{name} has the digests of {found} spans, where its size makes {spans}"
            ));
        }
        if artifact.index.size > MAX_INDEX_BYTES {
            let (name, size) = (&artifact.name, artifact.index.size);
            return rule(format!(
                "the index of {name} has {size} bytes, more than the {MAX_INDEX_BYTES} allowed"
            ));
        }
    }
    if let Some(floor) = body.floor.as_ref().filter(|floor| **floor > body.version) {
        return rule(format!(
            "the floor {floor} is above the release's own version {}",
            body.version
        ));
    }
    for (piece, format) in body.carries.state.pieces() {
        if format.writes == 0 || format.reads_from == 0 || format.reads_from > format.writes {
            return rule(format!("the state formats of {piece} contradict each other"));
        }
    }
    Ok(())
}
