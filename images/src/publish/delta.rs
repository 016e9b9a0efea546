//! Making pair deltas out of the releases of a repository, and signing them in.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::Serialize;

use super::draft::Draft;
use super::repo::{RepoDir, Signs};
use super::{Signing, listed_manifest};
use crate::channel::{DOCUMENT_FORMAT, Document, Withdrawal};
use crate::delta::make::{Effort, Made, Side, make};
use crate::delta::{Delta, DeltaArtifact, DeltaHead, Source};
use crate::digest::Digest;
use crate::error::ReleaseError;
use crate::layout::{self, TargetKind};
use crate::manifest::{Artifact, IndexRef, Manifest};
use crate::names::ArtifactName;
use crate::progress::Progress;
use crate::release::{Known, ReleaseDir};
use crate::trust::MetadataVersions;

/// The levels of zstd that look back far enough.
const LEVELS: std::ops::RangeInclusive<i32> = 9..=22;

/// A delta that can be made: both releases are in the repository, which is locked for as long as this lives.
#[derive(Debug)]
pub struct DeltaJob {
    repo: RepoDir,
    signing: Signing,
    from: Manifest,
    to: Manifest,
}

/// A delta that was signed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MadeDelta {
    /// The release that nodes run.
    pub from: Digest,
    /// The release that they get.
    pub to: Digest,
    /// The metadata's versions now.
    pub versions: MetadataVersions,
    /// Every artifact that both releases have.
    pub artifacts: Vec<MadeArtifact>,
}

/// What came of one artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MadeArtifact {
    /// Its name.
    pub name: ArtifactName,
    /// Its size.
    pub size: u64,
    /// Bytes of the delta's file.
    pub delta_bytes: u64,
    /// Bytes of the new image's content that a node packs with zstd to apply it; 0 where nothing is unpacked.
    pub packed_again_bytes: u64,
    /// The level that they are packed at.
    pub pack_level: Option<u16>,
    /// Bytes of the new image that are packed with zstd, but not as the zstd of this program does: they are
    /// compared as they are.
    pub packed_otherwise_bytes: u64,
    /// What a node that runs the one release fetches for the artifact without a delta.
    pub chunks_bytes: u64,
    /// Whether the delta has at most nine tenths of that, and was kept.
    pub kept: bool,
}

/// Looks up both releases.
///
/// # Errors
/// A release that is not in the repository, one to get that was withdrawn, someone else publishing.
pub async fn delta(signing: &Signing, from: &Digest, to: &Digest) -> Result<DeltaJob, ReleaseError> {
    if from == to {
        return Err(ReleaseError::Request(format!(
            "a delta leads from one release to another, not from {from} to itself"
        )));
    }
    let (from, to, keys) = (*from, *to, signing.keys.clone());
    let look_up = move |repo: &RepoDir| {
        let state = repo.state(&keys)?;
        let draft = Draft::new(repo, state.signed.as_ref());
        if let Some(withdrawal) = draft.document::<Withdrawal>(&TargetKind::Withdrawal(to))? {
            let Withdrawal { digest, reason, .. } = withdrawal;
            return Err(ReleaseError::Withdrawn { digest, reason });
        }
        Ok((listed_manifest(&draft, &from)?, listed_manifest(&draft, &to)?))
    };
    let (repo, (from, to)) = RepoDir::lock(&signing.repo).await?.blocking(look_up).await?;
    Ok(DeltaJob {
        repo,
        signing: signing.clone(),
        from,
        to,
    })
}

impl DeltaJob {
    /// Bytes that have to be unpacked and then made, of which [`DeltaJob::make`] tells its progress.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        let sizes = self.pairs().map(|(old, new)| old.size + 2 * new.size);
        sizes.sum()
    }

    fn pairs(&self) -> impl Iterator<Item = (&Artifact, &Artifact)> {
        let new = self.to.artifacts.iter();
        new.filter_map(|new| Some((self.from.artifact(new.name.as_str())?, new)))
    }

    /// Makes the delta, at a level of zstd from 9 to 22, writes it into the repository and signs it. Needs room
    /// for two artifacts in the folder for temporary files. The same releases, effort and version of zstd give
    /// the same bytes.
    ///
    /// # Errors
    /// Another level; [`ReleaseError::SavesTooLittle`]; keys missing; a disk that fails.
    pub async fn make(self, effort: Effort, progress: Progress) -> Result<MadeDelta, ReleaseError> {
        if !LEVELS.contains(&effort.level) {
            let (least, most, asked) = (LEVELS.start(), LEVELS.end(), effort.level);
            return Err(ReleaseError::Request(format!(
                "a delta has a level from {least} to {most}, not {asked}"
            )));
        }
        let Self {
            repo,
            signing,
            from,
            to,
        } = self;
        let (old, new) = (from.clone(), to.clone());
        let all = move |repo: &RepoDir| {
            let sides = [old, new].map(|manifest| ReleaseDir::of_repository(&repo.path, manifest));
            let [old, new] = &sides;
            let mut made = Vec::new();
            for artifact in &new.manifest().artifacts {
                if let Some(base) = old.manifest().artifact(artifact.name.as_str()) {
                    made.push(artifact_delta(
                        repo,
                        (old, base),
                        (new, artifact),
                        effort,
                        &progress,
                    )?);
                }
            }
            repo.flush()?;
            Ok(made)
        };
        let (repo, made) = repo.blocking(all).await?;
        let (artifacts, kept): (Vec<_>, Vec<_>) = made.into_iter().unzip();
        let (from, to) = (from.digest(), to.digest());
        let document = Delta {
            format: DOCUMENT_FORMAT,
            from,
            to,
            artifacts: kept.into_iter().flatten().collect(),
        };
        if document.artifacts.is_empty() {
            return Err(ReleaseError::SavesTooLittle { from, to });
        }
        let edit = |draft: &mut Draft<'_>| {
            draft.put(&TargetKind::Delta { from, to }, document.to_bytes()?);
            Ok(())
        };
        let versions = repo.change(&signing, Signs::All, edit).await?;
        Ok(MadeDelta {
            from,
            to,
            versions,
            artifacts,
        })
    }
}

/// Makes the delta of one artifact, and keeps its file if it saves at least a tenth of what chunks cost.
fn artifact_delta(
    repo: &RepoDir,
    (old, base): (&ReleaseDir, &Artifact),
    (new, artifact): (&ReleaseDir, &Artifact),
    effort: Effort,
    progress: &Progress,
) -> Result<(MadeArtifact, Option<DeltaArtifact>), ReleaseError> {
    let (old_index, new_index) = (old.index(base)?.1, new.index(artifact)?.1);
    let (old_pack, new_pack) = (old.pack(base), new.pack(artifact));
    let from = Side {
        pack: &old_pack,
        index: &old_index,
        artifact: base,
    };
    let to = Side {
        pack: &new_pack,
        index: &new_index,
        artifact,
    };
    let folder = repo.path.join(layout::DELTAS_DIR);
    fs::create_dir_all(&folder).map_err(ReleaseError::io("make the folder", &folder))?;
    let failed = ReleaseError::io("write into", &folder);
    let temporary = || tempfile::Builder::new().prefix(".new-").tempfile_in(&folder);
    let frames = temporary().map_err(&failed)?;
    let Made {
        head,
        packed_otherwise_bytes,
    } = make((&from, &to), effort, frames.path(), progress)?;
    let (head_size, frames_bytes) = (head.bytes().len() as u64, head.frames_bytes());
    let mut held = Known::default();
    held.add(old, &base.name)?;
    let mut made = MadeArtifact {
        name: artifact.name.clone(),
        size: artifact.size,
        delta_bytes: head_size + frames_bytes,
        packed_again_bytes: packed_again_bytes(&head),
        pack_level: head.header().packing.map(|packing| packing.level),
        packed_otherwise_bytes,
        chunks_bytes: held.chunks_bytes(new, artifact)?,
        kept: false,
    };
    if made.delta_bytes > made.chunks_bytes / 10 * 9 {
        return Ok((made, None));
    }
    made.kept = true;
    let digest = Digest::of(head.bytes());
    let file = temporary().map_err(&failed)?;
    let named = repo.path.join(layout::delta_path(&digest));
    write(head.bytes(), frames.path(), file.as_file()).map_err(&failed)?;
    file.persist(&named)
        .map_err(|error| ReleaseError::io("write", &named)(error.error))?;
    let described = DeltaArtifact {
        name: artifact.name.clone(),
        base: base.digest,
        base_size: base.size,
        head: IndexRef {
            digest,
            size: head_size,
        },
        frames_bytes,
    };
    Ok((made, Some(described)))
}

fn packed_again_bytes(head: &DeltaHead) -> u64 {
    let frames = head.segments().filter_map(|segment| match segment.source {
        Source::Frame(frame) => Some(frame),
        Source::Copy { .. } => None,
    });
    frames
        .flat_map(|frame| frame.runs)
        .map(|run| u64::from(run.packed))
        .sum()
}

fn write(head: &[u8], frames: &Path, mut to: &File) -> io::Result<()> {
    to.write_all(head)?;
    io::copy(&mut File::open(frames)?, &mut to)?;
    to.set_permissions(fs::Permissions::from_mode(0o644))
}
