//! What each slot is known to hold, one file per slot, so that a release's identity survives reboots.
//! A record says what was verified once; proving that it still holds is in `crate::stage`.

use std::collections::BTreeMap;

use drydock_images::{Carries, Digest, Manifest, VerityRoot, Version};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::dir::{LockName, StateDir, StateError, StateLock};
use super::store::{Loaded, Record, Store, UnknownFields};
use crate::disk::{DiskError, Slot, SlotName};

/// What was read back from a slot and compared with what was signed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotRecord {
    /// The release: the SHA-256 of its manifest.
    pub release: Digest,
    pub version: Version,
    /// Below this the node refuses releases once this one was marked good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Version>,
    /// The manifest's own words: guard, kubelet, kernel, formats of shared state.
    pub carries: Carries,
    pub artifacts: BTreeMap<String, ArtifactRecord>,
    pub verified_at: Timestamp,
    #[serde(flatten)]
    pub unknown: UnknownFields,
}

/// One artifact in its partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArtifactRecord {
    pub digest: Digest,
    /// Of every [`SPAN_BYTES`](drydock_images::SPAN_BYTES) in their order, if they were signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spans: Vec<Digest>,
    pub size_bytes: u64,
    /// The partition's GUID: a partition made again is another one.
    pub partition: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verity_root: Option<VerityRoot>,
    #[serde(flatten)]
    pub unknown: UnknownFields,
}

impl Record for SlotRecord {
    const KIND: &'static str = "slot-record";
    const MAJOR: u32 = 1;
    const LOCK: LockName = LockName::Slot;
}

impl SlotRecord {
    /// The record of a slot that holds `manifest`'s artifacts.
    ///
    /// # Errors
    /// [`DiskError::UnknownArtifact`] if the slot has no partition for one of them.
    pub fn of(manifest: &Manifest, slot: &Slot, verified_at: Timestamp) -> Result<Self, DiskError> {
        let mut artifacts = BTreeMap::new();
        for artifact in &manifest.artifacts {
            let name = artifact.name.as_str();
            let record = ArtifactRecord {
                digest: artifact.digest,
                spans: artifact.spans.clone(),
                size_bytes: artifact.size,
                partition: slot.artifact(name)?.guid,
                verity_root: artifact.verity_root.clone(),
                unknown: UnknownFields::new(),
            };
            artifacts.insert(name.to_owned(), record);
        }
        Ok(Self {
            release: manifest.digest(),
            version: manifest.version.clone(),
            floor: manifest.floor.clone(),
            carries: manifest.carries.clone(),
            artifacts,
            verified_at,
            unknown: UnknownFields::new(),
        })
    }
}

/// The records of both slots. Written under [`LockName::Slot`].
#[derive(Debug, Clone)]
pub struct SlotRecords {
    a: Store<SlotRecord>,
    b: Store<SlotRecord>,
}

impl SlotRecords {
    #[must_use]
    pub fn new(dir: &StateDir) -> Self {
        Self {
            a: Store::new(dir, "slot-a.json"),
            b: Store::new(dir, "slot-b.json"),
        }
    }

    fn store(&self, slot: SlotName) -> &Store<SlotRecord> {
        match slot {
            SlotName::A => &self.a,
            SlotName::B => &self.b,
        }
    }

    /// # Errors
    /// As [`Store::peek`].
    pub fn peek(&self, slot: SlotName) -> Result<Loaded<SlotRecord>, StateError> {
        self.store(slot).peek()
    }

    /// # Errors
    /// As [`Store::load`].
    pub fn load(&self, lock: &StateLock, slot: SlotName) -> Result<Loaded<SlotRecord>, StateError> {
        self.store(slot).load(lock)
    }

    /// # Errors
    /// As [`Store::save`].
    pub fn save(&self, lock: &StateLock, slot: SlotName, record: &SlotRecord) -> Result<(), StateError> {
        self.store(slot).save(lock, record)
    }

    /// # Errors
    /// As [`Store::remove`].
    pub fn remove(&self, lock: &StateLock, slot: SlotName) -> Result<(), StateError> {
        self.store(slot).remove(lock)
    }
}
