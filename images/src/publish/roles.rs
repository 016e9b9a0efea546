//! The three signed files below the root: the next ones, unsigned, and the bytes they become.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use jiff::Timestamp;
use tough::TargetName;
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::{
    Hashes, Metafile, RoleType, Root, Snapshot, Target, Targets, Timestamp as TimestampRole,
};

use super::Signing;
use super::repo::SignedState;
use crate::digest::Digest;
use crate::error::ReleaseError;
use crate::keys::{KeyRing, SPEC_VERSION, to_json, whole_seconds};
use crate::trust::MetadataVersions;

/// A digest as TUF writes it.
pub(super) fn hash(bytes: &[u8]) -> Decoded<Hex> {
    Digest::of(bytes).as_bytes().to_vec().into()
}

/// The next three roles, not signed yet. The hashes of snapshot and timestamp come while signing.
pub(super) struct NextRoles {
    pub targets: Targets,
    pub snapshot: Snapshot,
    pub timestamp: TimestampRole,
}

/// The roles after the current ones, listing `listed`.
pub(super) fn next_roles(
    current: Option<&SignedState>,
    listed: BTreeMap<String, Target>,
    signing: &Signing,
) -> Result<NextRoles, ReleaseError> {
    let after = |version: Option<NonZeroU64>| version.map_or(NonZeroU64::MIN, |v| v.saturating_add(1));
    let expires = |lifetime| whole_seconds(signing.now, lifetime);
    let spec = || SPEC_VERSION.to_owned();
    let version = after(current.map(|state| state.targets.signed.version));
    let mut targets = Targets::new(spec(), version, expires(signing.lifetimes.targets)?);
    targets.delegations = current.and_then(|state| state.targets.signed.delegations.clone());
    for (name, target) in listed {
        let name = TargetName::new(name).map_err(|error| ReleaseError::Request(error.to_string()))?;
        targets.targets.insert(name, target);
    }
    let version = after(current.map(|state| state.snapshot.signed.version));
    let mut snapshot = Snapshot::new(spec(), version, expires(signing.lifetimes.snapshot)?);
    if let Some(state) = current {
        snapshot.meta = state.snapshot.signed.meta.clone();
    }
    let version = after(current.map(|state| state.timestamp.signed.version));
    let timestamp = TimestampRole::new(spec(), version, expires(signing.lifetimes.timestamp)?);
    Ok(NextRoles {
        targets,
        snapshot,
        timestamp,
    })
}

/// The files of a new state, ready to be written.
pub(super) struct SignedFiles {
    /// Names and bytes of what is written before the timestamp, in that order.
    pub below: Vec<(String, Vec<u8>)>,
    /// The bytes of timestamp.json.
    pub timestamp: Vec<u8>,
    versions: (NonZeroU64, NonZeroU64),
    timestamp_version: NonZeroU64,
}

impl SignedFiles {
    pub fn versions(&self, root: NonZeroU64) -> MetadataVersions {
        MetadataVersions {
            root: root.get(),
            timestamp: self.timestamp_version.get(),
            snapshot: self.versions.0.get(),
            targets: self.versions.1.get(),
        }
    }
}

/// Signs the three roles so that whoever trusts any of `roots` accepts them.
pub(super) async fn sign_all(
    keys: &KeyRing,
    roots: &[&Root],
    next: NextRoles,
) -> Result<SignedFiles, ReleaseError> {
    let NextRoles {
        targets,
        mut snapshot,
        mut timestamp,
    } = next;
    let versions = (snapshot.version, targets.version);
    let targets_name = format!("{}.targets.json", targets.version);
    let targets_version = targets.version;
    let targets = to_json(&keys.sign(targets, roots).await?)?;
    snapshot
        .meta
        .insert("targets.json".to_owned(), metafile(&targets, targets_version));
    let (snapshot_name, snapshot_version) = (format!("{}.snapshot.json", snapshot.version), snapshot.version);
    let snapshot = to_json(&keys.sign(snapshot, roots).await?)?;
    timestamp
        .meta
        .insert("snapshot.json".to_owned(), metafile(&snapshot, snapshot_version));
    let timestamp_version = timestamp.version;
    let timestamp = to_json(&keys.sign(timestamp, roots).await?)?;
    let below = vec![(targets_name, targets), (snapshot_name, snapshot)];
    Ok(SignedFiles {
        below,
        timestamp,
        versions,
        timestamp_version,
    })
}

/// Signs the current timestamp anew, with more time and over the same snapshot.
pub(super) async fn sign_timestamp(
    keys: &KeyRing,
    roots: &[&Root],
    current: &SignedState,
    signing: &Signing,
) -> Result<SignedFiles, ReleaseError> {
    let mut timestamp = current.timestamp.signed.clone();
    timestamp.version = timestamp.version.saturating_add(1);
    timestamp.expires = whole_seconds(signing.now, signing.lifetimes.timestamp)?;
    warn_of_expiry(current, timestamp.expires);
    let timestamp_version = timestamp.version;
    Ok(SignedFiles {
        below: Vec::new(),
        timestamp: to_json(&keys.sign(timestamp, roots).await?)?,
        versions: (current.snapshot.signed.version, current.targets.signed.version),
        timestamp_version,
    })
}

fn warn_of_expiry(current: &SignedState, until: Timestamp) {
    let (snapshot, targets) = (current.snapshot.signed.expires, current.targets.signed.expires);
    if snapshot.min(targets) < until {
        tracing::warn!(%snapshot, %targets, "snapshot.json or targets.json expires before the new timestamp: refresh them with a full publish or promote");
    }
}

fn metafile(bytes: &[u8], version: NonZeroU64) -> Metafile {
    let hashes = Some(Hashes {
        sha256: hash(bytes),
        _extra: Default::default(),
    });
    Metafile {
        length: Some(bytes.len() as u64),
        hashes,
        version,
        _extra: Default::default(),
    }
}

/// Whether a role has other keys or another threshold in `new` than in `old`.
pub(super) fn role_differs(old: &Root, new: &Root, role: RoleType) -> bool {
    let of = |root: &Root| root.roles.get(&role).cloned();
    of(old) != of(new)
}
