//! One load of a repository's metadata: tough does the steps of TUF 1.0 section 5.3 to 5.6 on a copy
//! of what is remembered; what it verified is then judged by a time that never runs backwards, and
//! remembered by one atomic write. tough's own clock check stays off, because it reads this machine's
//! clock and keeps any time it ever saw.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use tough::error::Error as ToughError;
use tough::schema::{Error as SchemaError, Role, Root, Signed, Snapshot};
use tough::{ExpirationEnforcement, RepositoryLoader};
use url::Url;

use super::store::{Remembered, TrustStore};
use super::transport::{MetadataTransport, Origin};
use super::{MetadataVersions, TrustError};
use crate::digest::Digest;
use crate::fetch::FetchError;
use crate::layout::{METADATA_DIR, TARGETS_DIR};
use crate::repository::{Limits, RepositoryConfig};

/// Metadata that may be acted on until it expires.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub versions: MetadataVersions,
    pub expires: Timestamp,
    pub consistent_snapshot: bool,
    pub root_bytes: Vec<u8>,
    /// By target name: length in bytes and digest.
    pub targets: BTreeMap<String, (u64, Digest)>,
}

/// Loads and verifies the metadata as of `now`.
pub(crate) async fn load(
    cfg: &RepositoryConfig,
    base: &Url,
    origin: Origin,
    now: Timestamp,
) -> Result<Loaded, TrustError> {
    let (dir, watch) = (cfg.datastore.clone(), Arc::clone(&cfg.watch));
    let prepare = move || {
        let store = TrustStore::open(&dir, watch)?;
        let remembered = store.read()?;
        let copy = store.copy_dir()?;
        for (name, text) in [
            ("timestamp.json", &remembered.timestamp),
            ("snapshot.json", &remembered.snapshot),
        ] {
            if let Some(text) = text {
                fs::write(copy.path().join(name), text).map_err(|error| TrustError::Store {
                    path: copy.path().join(name),
                    detail: error.to_string(),
                })?;
            }
        }
        Ok((store, remembered, copy))
    };
    let (store, remembered, copy) = blocking(&cfg.datastore, prepare).await?;
    let shipped = parse_root(&cfg.shipped_root).map_err(|detail| TrustError::Root {
        repository: cfg.name.clone(),
        detail,
    })?;
    let trusted = newer_root(cfg, &store, shipped, &remembered)?;
    // A clock that fell back does not make an expired file current again.
    let judged_at = remembered.latest_known_time.map_or(now, |known| known.max(now));
    if judged_at > now {
        tracing::warn!(repository = %cfg.name, %now, known = %judged_at, "this machine's clock is behind a time seen before; metadata are judged by the later time");
    }
    let outcome = run_tough(cfg, base, origin, &trusted, copy.path())
        .await
        .and_then(|repository| judge(&cfg.name, &repository, judged_at).map(|()| repository));
    let verified = outcome.is_ok();
    let latest = if verified {
        Some(judged_at)
    } else {
        remembered.latest_known_time
    };
    let keep = move || {
        let next = next_memory(&remembered, &trusted, copy.path(), judged_at, verified, latest);
        if next == remembered {
            Ok(())
        } else {
            store.write(&next)
        }
    };
    let kept = blocking(&cfg.datastore, keep).await;
    let repository = outcome?;
    kept?;
    loaded(&repository)
}

async fn blocking<T: Send + 'static>(
    dir: &Path,
    work: impl FnOnce() -> Result<T, TrustError> + Send + 'static,
) -> Result<T, TrustError> {
    let path = dir.to_path_buf();
    let stopped = |error: tokio::task::JoinError| TrustError::Store {
        path,
        detail: error.to_string(),
    };
    tokio::task::spawn_blocking(work).await.map_err(stopped)?
}

/// Reads a root and checks that it signs itself with its own threshold.
fn parse_root(bytes: &[u8]) -> Result<Signed<Root>, String> {
    let root: Signed<Root> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    root.signed
        .verify_role(&root)
        .map_err(|error| error.to_string())?;
    Ok(root)
}

/// The newer of the shipped and the remembered root. At the same version the shipped one counts: it
/// is in the machine's own image, and the owner may have started the repository anew.
fn newer_root(
    cfg: &RepositoryConfig,
    store: &TrustStore,
    shipped: Signed<Root>,
    remembered: &Remembered,
) -> Result<Signed<Root>, TrustError> {
    let Some(text) = &remembered.root else {
        return Ok(shipped);
    };
    let stored = parse_root(text.as_bytes()).map_err(|detail| store.damaged(format!("root: {detail}")))?;
    if shipped.signed.version >= stored.signed.version {
        return Ok(shipped);
    }
    // A timestamp and snapshot that the stored root does not vouch for were never accepted under it.
    let damaged = |detail: String| store.damaged(detail);
    if let Some(text) = &remembered.timestamp {
        verify_text::<tough::schema::Timestamp>(&stored, text)
            .map_err(|detail| damaged(format!("timestamp: {detail}")))?;
    }
    if let Some(text) = &remembered.snapshot {
        verify_text::<Snapshot>(&stored, text).map_err(|detail| damaged(format!("snapshot: {detail}")))?;
    }
    tracing::debug!(repository = %cfg.name, version = stored.signed.version, "starting from the remembered root");
    Ok(stored)
}

fn verify_text<T>(root: &Signed<Root>, text: &str) -> Result<Signed<T>, String>
where
    T: Role + serde::de::DeserializeOwned + serde::Serialize,
{
    let signed: Signed<T> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    root.signed
        .verify_role(&signed)
        .map_err(|error| error.to_string())?;
    Ok(signed)
}

async fn run_tough(
    cfg: &RepositoryConfig,
    base: &Url,
    origin: Origin,
    trusted: &Signed<Root>,
    copy: &Path,
) -> Result<tough::Repository, TrustError> {
    let below = |part: &str| {
        base.join(&format!("{part}/"))
            .map_err(|error| TrustError::Configuration {
                repository: cfg.name.clone(),
                detail: error.to_string(),
            })
    };
    let root = serde_json::to_vec(trusted).map_err(|error| TrustError::Root {
        repository: cfg.name.clone(),
        detail: error.to_string(),
    })?;
    let Limits {
        root_bytes,
        timestamp_bytes,
        snapshot_bytes,
        targets_bytes,
        root_updates,
    } = cfg.limits;
    let limits = tough::Limits {
        max_root_size: root_bytes,
        max_targets_size: targets_bytes,
        max_timestamp_size: timestamp_bytes,
        max_snapshot_size: snapshot_bytes,
        max_root_updates: root_updates,
    };
    let (metadata_url, targets_url) = (below(METADATA_DIR)?, below(TARGETS_DIR)?);
    RepositoryLoader::new(&root, metadata_url, targets_url)
        .transport(MetadataTransport {
            origin,
            limits: cfg.limits,
        })
        .limits(limits)
        .datastore(copy)
        // Judged below, by a time that is an argument. Rollback checks are not part of this switch.
        .expiration_enforcement(ExpirationEnforcement::Unsafe)
        .load()
        .await
        .map_err(|error| classify(&cfg.name, error))
}

/// TUF 1.0, 5.3.10, 5.4.4, 5.5.6 and 5.6.5: none of the four has expired.
fn judge(name: &str, repository: &tough::Repository, at: Timestamp) -> Result<(), TrustError> {
    let current = |file: &str, expires: Timestamp| {
        if at < expires {
            Ok(())
        } else {
            Err(TrustError::Expired {
                what: format!("{file} of repository {name}"),
                expired: expires,
                now: at,
            })
        }
    };
    current("root.json", repository.root().signed.expires)?;
    current("timestamp.json", repository.timestamp().signed.expires)?;
    current("snapshot.json", repository.snapshot().signed.expires)?;
    current("targets.json", repository.targets().signed.expires)
}

/// What to remember after a load. Roots that were verified are kept even if the load failed later
/// (TUF 1.0, 5.3.8), and so are a timestamp and a snapshot that were verified and current, so that
/// whoever makes the rest fail cannot bring an older one back.
fn next_memory(
    before: &Remembered,
    trusted: &Signed<Root>,
    copy: &Path,
    judged_at: Timestamp,
    verified: bool,
    latest_known_time: Option<Timestamp>,
) -> Remembered {
    let text = |name: &str| fs::read_to_string(copy.join(name)).ok();
    let Some(root_text) = text("root.json") else {
        return before.clone();
    };
    let Ok(root) = parse_root(root_text.as_bytes()) else {
        return before.clone();
    };
    if root.signed.version < trusted.signed.version {
        return before.clone();
    }
    let mut next = before.clone();
    next.latest_known_time = latest_known_time;
    next.root = Some(root_text);
    let root_current = judged_at < root.signed.expires;
    let timestamp = text("timestamp.json");
    let snapshot = text("snapshot.json");
    // tough took these away because their keys were rotated (TUF 1.0, 5.3.11).
    if timestamp.is_none() && snapshot.is_none() {
        next.timestamp = None;
        next.snapshot = None;
        return next;
    }
    let current_timestamp = timestamp.filter(|text| {
        verify_text::<tough::schema::Timestamp>(&root, text)
            .is_ok_and(|signed| verified || (root_current && judged_at < signed.signed.expires))
    });
    if let Some(timestamp) = current_timestamp {
        next.timestamp = Some(timestamp);
        let current_snapshot = snapshot.filter(|text| {
            verify_text::<Snapshot>(&root, text)
                .is_ok_and(|signed| verified || (root_current && judged_at < signed.signed.expires))
        });
        if let Some(snapshot) = current_snapshot {
            next.snapshot = Some(snapshot);
        }
    }
    next
}

fn loaded(repository: &tough::Repository) -> Result<Loaded, TrustError> {
    let (root, timestamp, snapshot, targets) = (
        repository.root(),
        repository.timestamp(),
        repository.snapshot(),
        repository.targets(),
    );
    let expires = root
        .signed
        .expires
        .min(timestamp.signed.expires)
        .min(snapshot.signed.expires)
        .min(targets.signed.expires);
    let mut listed = BTreeMap::new();
    // Only what the targets role itself lists: delegations are not followed.
    for (name, target) in &targets.signed.targets {
        let digest = <[u8; 32]>::try_from(&target.hashes.sha256[..]).map_err(|_| TrustError::Malformed {
            what: "targets.json".to_owned(),
            detail: format!("the hash of {} is no SHA-256", name.raw()),
        })?;
        listed.insert(name.raw().to_owned(), (target.length, Digest::from_bytes(digest)));
    }
    Ok(Loaded {
        versions: MetadataVersions {
            root: root.signed.version.get(),
            timestamp: timestamp.signed.version.get(),
            snapshot: snapshot.signed.version.get(),
            targets: targets.signed.version.get(),
        },
        expires,
        consistent_snapshot: root.signed.consistent_snapshot,
        root_bytes: serde_json::to_vec(root).map_err(|error| TrustError::Malformed {
            what: "root.json".to_owned(),
            detail: error.to_string(),
        })?,
        targets: listed,
    })
}

/// Sorts tough's errors into this crate's. What none of the arms names is a file that is signed but
/// not as it must be.
fn classify(repository: &str, error: ToughError) -> TrustError {
    let of = |file: &dyn std::fmt::Display| format!("{file}.json of repository {repository}");
    let detail = error.to_string();
    match error {
        ToughError::VerifyMetadata { role, source, .. } => unsigned(of(&role), &source),
        ToughError::VerifyTrustedMetadata { source, .. } => TrustError::Root {
            repository: repository.to_owned(),
            detail: source.to_string(),
        },
        ToughError::ParseTrustedMetadata { source, .. } => TrustError::Root {
            repository: repository.to_owned(),
            detail: source.to_string(),
        },
        ToughError::OlderMetadata { .. }
        | ToughError::OlderSnapshotInTimestamp { .. }
        | ToughError::SnapshotRoleMissing { .. }
        | ToughError::SnapshotRoleRollback { .. } => TrustError::OlderThanSeen { detail },
        ToughError::VersionMismatch { .. } => TrustError::Mixed { detail },
        ToughError::ParseMetadata { role, source, .. } => TrustError::Malformed {
            what: of(&role),
            detail: source.to_string(),
        },
        ToughError::MaxUpdatesExceeded { max_root_updates, .. } => TrustError::Malformed {
            what: of(&"root"),
            detail: format!("there are more than {max_root_updates} new roots in a row"),
        },
        ToughError::Transport { url, source, .. } => classify_transport(&url, &source),
        // A full disk is no fault of the repository.
        ToughError::DatastoreCreate { path, source, .. }
        | ToughError::DatastoreOpen { path, source, .. }
        | ToughError::DatastoreRemove { path, source, .. } => TrustError::Store {
            path,
            detail: source.to_string(),
        },
        ToughError::DatastoreSerialize { path, source, .. } => TrustError::Store {
            path,
            detail: source.to_string(),
        },
        _ => TrustError::Malformed {
            what: format!("the metadata of repository {repository}"),
            detail,
        },
    }
}

fn unsigned(what: String, error: &SchemaError) -> TrustError {
    match error {
        SchemaError::SignatureThreshold { valid: 0, .. } | SchemaError::MissingRole { .. } => {
            TrustError::Unsigned { what }
        }
        SchemaError::SignatureThreshold { valid, threshold, .. } => TrustError::UnderThreshold {
            what,
            valid: *valid,
            threshold: *threshold,
        },
        SchemaError::DuplicateKeyId { .. } => TrustError::Malformed {
            what,
            detail: "one key signed it more than once".to_owned(),
        },
        other => TrustError::Malformed {
            what,
            detail: other.to_string(),
        },
    }
}

/// The cause is below tough's error: the fetcher's own, or tough's check of length or hash.
fn classify_transport(url: &Url, error: &(dyn StdError + 'static)) -> TrustError {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if let Some(fetch) = current.downcast_ref::<FetchError>() {
            return TrustError::fetching(url.as_str(), fetch.clone());
        }
        match current.downcast_ref::<ToughError>() {
            Some(ToughError::HashMismatch { .. }) => {
                return TrustError::Mixed {
                    detail: format!("{url} is not what the file above it names"),
                };
            }
            Some(ToughError::MaxSizeExceeded { max_size, .. }) => {
                return TrustError::TooLong {
                    what: url.to_string(),
                    max_bytes: *max_size,
                };
            }
            Some(_) | None => cause = current.source(),
        }
    }
    TrustError::Malformed {
        what: url.to_string(),
        detail: error.to_string(),
    }
}
