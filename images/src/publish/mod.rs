//! Publishing: signed metadata over releases in a folder that any static web server can serve. What
//! readers trust changes by one rename, of `timestamp.json`, when everything it leads to is on the
//! disk; a crash before that changes nothing for them.

mod delta;
mod draft;
mod repo;
mod roles;
mod rotate;

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use crate::channel::{
    Advisory, Channel, ChannelRelease, DOCUMENT_FORMAT, Document, Vulnerability, Withdrawal, WithdrawnMark,
};
use crate::digest::Digest;
use crate::error::ReleaseError;
use crate::layout::TargetKind;
use crate::manifest::{MAX_MANIFEST_BYTES, Manifest};
use crate::names::ChannelName;
use crate::progress::Progress;
use crate::release::ReleaseDir;
use crate::trust::MetadataVersions;

pub use delta::{DeltaJob, MadeArtifact, MadeDelta, delta};
use draft::Draft;
use repo::{RepoDir, Signs};
pub use rotate::{RotateRequest, Rotated, rotate_root};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long signed files live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// root.json; renewed by `rotate-root`.
    pub root: Duration,
    /// targets.json; renewed by everything that publishes.
    pub targets: Duration,
    /// snapshot.json; as targets.json.
    pub snapshot: Duration,
    /// timestamp.json; renewed by `publish --timestamp-only` too.
    pub timestamp: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            root: DAY * 1095,
            targets: DAY * 180,
            snapshot: DAY * 90,
            timestamp: DAY * 14,
        }
    }
}

/// Which repository to change, with which keys.
#[derive(Debug, Clone)]
pub struct Signing {
    /// The repository's folder; made if need be.
    pub repo: PathBuf,
    /// The folder of keys; for a new repository also of its root.
    pub keys: PathBuf,
    /// How long what is signed now lives.
    pub lifetimes: Lifetimes,
    /// The time it is signed at.
    pub now: Timestamp,
}

/// A release to publish.
#[derive(Debug, Clone)]
pub struct PublishRequest {
    /// Where and with which keys.
    pub signing: Signing,
    /// The release's folder.
    pub release: PathBuf,
    /// A channel to put it into right away.
    pub channel: Option<ChannelName>,
    /// In that channel, whether nodes below it go through it.
    pub stepping_stone: bool,
    /// Told about every image byte that was checked.
    pub progress: Progress,
}

/// A release that was published.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    /// The release's name.
    pub digest: Digest,
    /// The metadata's versions now.
    pub versions: MetadataVersions,
    /// Artifacts whose packs were new to the repository.
    pub new_packs: u64,
    /// Bytes of those packs.
    pub new_bytes: u64,
    /// Artifacts whose packs were there already.
    pub known_packs: u64,
}

/// Checks a release to its last byte, copies what the repository does not have, and signs it in.
/// Targets that are there stay. Publishing the same release again changes no digest.
///
/// # Errors
/// A release that is not whole, keys missing, someone else publishing, or a disk that fails.
pub async fn publish(request: PublishRequest) -> Result<Published, ReleaseError> {
    let repo = RepoDir::lock(&request.signing.repo).await?;
    let (release, progress) = (request.release.clone(), request.progress.clone());
    let (repo, copied) = repo
        .blocking(move |repo| {
            let release = ReleaseDir::open(&release)?;
            let copied = repo.copy_release(&release, &progress)?;
            Ok((release.manifest().clone(), copied))
        })
        .await?;
    let (manifest, copied) = copied;
    let digest = manifest.digest();
    let edit = |draft: &mut Draft<'_>| {
        draft.put(&TargetKind::Manifest(digest), manifest.bytes().to_vec());
        match &request.channel {
            Some(channel) => {
                let stone = request.stepping_stone;
                into_channel(draft, channel, &manifest, stone, request.signing.now)
            }
            None => Ok(()),
        }
    };
    let versions = repo.change(&request.signing, Signs::All, edit).await?;
    Ok(Published {
        digest,
        versions,
        new_packs: copied.new_packs,
        new_bytes: copied.new_bytes,
        known_packs: copied.known_packs,
    })
}

/// Signs a new timestamp over what is there, which needs the timestamp key alone.
///
/// # Errors
/// A repository without metadata, the key missing, someone else publishing, or a disk that fails.
pub async fn refresh_timestamp(signing: &Signing) -> Result<MetadataVersions, ReleaseError> {
    RepoDir::lock(&signing.repo)
        .await?
        .change(signing, Signs::TimestampOnly, |_| Ok(()))
        .await
}

/// Puts a published release into a channel.
///
/// # Errors
/// As [`publish`]; a release that is not in the repository or was withdrawn.
pub async fn promote(
    signing: &Signing,
    channel: &ChannelName,
    digest: &Digest,
    stepping_stone: bool,
) -> Result<MetadataVersions, ReleaseError> {
    let edit = |draft: &mut Draft<'_>| {
        let manifest = listed_manifest(draft, digest)?;
        into_channel(draft, channel, &manifest, stepping_stone, signing.now)
    };
    RepoDir::lock(&signing.repo)
        .await?
        .change(signing, Signs::All, edit)
        .await
}

/// Withdraws a release, wherever it is listed: nobody stages or arms it any more.
///
/// # Errors
/// As [`publish`]; a release that is not in the repository.
pub async fn withdraw(
    signing: &Signing,
    digest: &Digest,
    reason: &str,
) -> Result<MetadataVersions, ReleaseError> {
    let edit = |draft: &mut Draft<'_>| {
        listed_manifest(draft, digest)?;
        let (at, reason) = (signing.now, reason.to_owned());
        for kind in draft.kinds() {
            let TargetKind::Channel(_) = &kind else { continue };
            let Some(mut channel) = draft.document::<Channel>(&kind)? else {
                continue;
            };
            let Some(entry) = channel
                .releases
                .iter_mut()
                .find(|release| release.digest == *digest)
            else {
                continue;
            };
            entry.withdrawn = Some(WithdrawnMark {
                reason: reason.clone(),
                at,
            });
            draft.put(&kind, channel.to_bytes()?);
        }
        let withdrawal = Withdrawal {
            format: DOCUMENT_FORMAT,
            digest: *digest,
            reason,
            at,
        };
        draft.put(&TargetKind::Withdrawal(*digest), withdrawal.to_bytes()?);
        Ok(())
    };
    RepoDir::lock(&signing.repo)
        .await?
        .change(signing, Signs::All, edit)
        .await
}

/// Sets the advisory on a release: notes and the vulnerabilities that it fixes.
///
/// # Errors
/// As [`publish`]; a release that is not in the repository, or an advisory out of bounds.
pub async fn advise(
    signing: &Signing,
    digest: &Digest,
    notes: &str,
    vulnerabilities: &[Vulnerability],
) -> Result<MetadataVersions, ReleaseError> {
    let edit = |draft: &mut Draft<'_>| {
        listed_manifest(draft, digest)?;
        let advisory = Advisory {
            format: DOCUMENT_FORMAT,
            digest: *digest,
            notes: notes.to_owned(),
            vulnerabilities: vulnerabilities.to_vec(),
        };
        draft.put(&TargetKind::Advisory(*digest), advisory.to_bytes()?);
        Ok(())
    };
    RepoDir::lock(&signing.repo)
        .await?
        .change(signing, Signs::All, edit)
        .await
}

fn listed_manifest(draft: &Draft<'_>, digest: &Digest) -> Result<Manifest, ReleaseError> {
    let kind = TargetKind::Manifest(*digest);
    match draft.get(&kind, MAX_MANIFEST_BYTES as u64)? {
        Some(bytes) => Ok(Manifest::parse(&bytes)?),
        None => Err(draft.not_listed(format!("release {digest}"))),
    }
}

fn into_channel(
    draft: &mut Draft<'_>,
    name: &ChannelName,
    manifest: &Manifest,
    stepping_stone: bool,
    now: Timestamp,
) -> Result<(), ReleaseError> {
    let digest = manifest.digest();
    if let Some(withdrawal) = draft.document::<Withdrawal>(&TargetKind::Withdrawal(digest))? {
        return Err(ReleaseError::Withdrawn {
            digest,
            reason: withdrawal.reason,
        });
    }
    let kind = TargetKind::Channel(name.clone());
    let mut channel = draft.document::<Channel>(&kind)?.unwrap_or_else(|| Channel {
        format: DOCUMENT_FORMAT,
        name: name.clone(),
        releases: Vec::new(),
    });
    match channel
        .releases
        .iter_mut()
        .find(|release| release.digest == digest)
    {
        Some(entry) => entry.stepping_stone = stepping_stone,
        None => {
            let version = manifest.version.clone();
            // Behind its equals, so that of one version the later published is the later.
            let place = channel
                .releases
                .partition_point(|release| release.version <= version);
            let entry = ChannelRelease {
                digest,
                version,
                published_at: now,
                withdrawn: None,
                stepping_stone,
            };
            channel.releases.insert(place, entry);
        }
    }
    draft.put(&kind, channel.to_bytes()?);
    Ok(())
}
