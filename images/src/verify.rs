//! What a node does, without a partition to write to: from the trusted root to the last byte of a
//! release, and, where asked, of images on this machine.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use serde::Serialize;

use crate::digest::{Digest, Hasher};
use crate::manifest::{Artifact, Manifest};
use crate::names::ArtifactName;
use crate::progress::Progress;
use crate::repository::Repository;
use crate::trust::{MetadataVersions, TrustError};
use crate::version::Version;

/// Chunks in work at a time: some being fetched, the others being unpacked.
const PARALLEL_CHUNKS: usize = 8;

/// Why a release, or an image, is not what was signed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Something from the repository.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// An image on this machine.
    #[error("{path} is not {name} of release {release}: {detail}")]
    Image {
        /// The file or device.
        path: PathBuf,
        /// The artifact it should be.
        name: ArtifactName,
        /// The release.
        release: Digest,
        /// In what way it differs.
        detail: String,
    },
}

/// An image on this machine that should be an artifact of the release.
#[derive(Debug, Clone)]
pub struct LocalImage {
    /// The artifact.
    pub name: ArtifactName,
    /// The file or partition; what follows the artifact's last byte is not looked at.
    pub path: PathBuf,
}

/// A release that was verified to its last byte.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedRelease {
    /// The release.
    pub release: Digest,
    /// Its version.
    pub version: Version,
    /// The metadata that list it.
    pub metadata: MetadataVersions,
    /// When the first of them expires.
    pub expires: Timestamp,
    /// Its artifacts.
    pub artifacts: Vec<VerifiedArtifact>,
}

/// An artifact that was verified to its last byte.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedArtifact {
    /// Its name.
    pub name: ArtifactName,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Its chunks.
    pub chunks: u64,
    /// What came over the wire for it, in bytes.
    pub fetched_bytes: u64,
    /// The image on this machine that is the same.
    pub image: Option<PathBuf>,
}

/// Fetches every byte of a release that may be staged at `now` and compares it with what was signed.
///
/// # Errors
/// The first thing that is not as signed.
pub async fn verify_release(
    repository: &Repository,
    release: &Digest,
    images: &[LocalImage],
    now: Timestamp,
    progress: &Progress,
) -> Result<VerifiedRelease, VerifyError> {
    let manifest = repository.stageable(release, now).await?;
    if let Some(unknown) = images
        .iter()
        .find(|image| manifest.artifact(image.name.as_str()).is_none())
    {
        let LocalImage { name, path } = unknown.clone();
        let detail = format!("the release has no such artifact, it has {}", names(&manifest));
        return Err(VerifyError::Image {
            path,
            name,
            release: *release,
            detail,
        });
    }
    let mut artifacts = Vec::new();
    for artifact in &manifest.artifacts {
        let mut verified = verify_artifact(repository, artifact, progress).await?;
        for image in images.iter().filter(|image| image.name == artifact.name) {
            check_image(*release, artifact, image.clone()).await?;
            verified.image = Some(image.path.clone());
        }
        artifacts.push(verified);
    }
    Ok(VerifiedRelease {
        release: *release,
        version: manifest.version.clone(),
        metadata: repository.versions(),
        expires: repository.expires(),
        artifacts,
    })
}

fn names(manifest: &Manifest) -> String {
    manifest
        .artifacts
        .iter()
        .map(|artifact| artifact.name.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

async fn verify_artifact(
    repository: &Repository,
    artifact: &Artifact,
    progress: &Progress,
) -> Result<VerifiedArtifact, TrustError> {
    let index = repository.index(artifact).await?;
    let mut whole = Hasher::new();
    let mut fetched_bytes = 0;
    let chunks: Vec<_> = index.chunks().collect();
    let mut fetched = stream::iter(&chunks)
        .map(|chunk| repository.chunk(chunk))
        .buffered(PARALLEL_CHUNKS);
    while let Some(chunk) = fetched.try_next().await? {
        whole.update(&chunk.data);
        fetched_bytes += chunk.fetched_bytes;
        progress.advance(chunk.data.len() as u64);
    }
    let found = whole.finish();
    if found != artifact.digest {
        let what = format!("artifact {}", artifact.name);
        return Err(TrustError::Tampered {
            what,
            detail: format!("its chunks make {found}"),
        });
    }
    Ok(VerifiedArtifact {
        name: artifact.name.clone(),
        digest: artifact.digest,
        size: artifact.size,
        chunks: chunks.len() as u64,
        fetched_bytes,
        image: None,
    })
}

async fn check_image(release: Digest, artifact: &Artifact, image: LocalImage) -> Result<(), VerifyError> {
    let (size, wanted) = (artifact.size, artifact.digest);
    let LocalImage { name, path } = image;
    let read = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || hash_front(&path, size)).await
    };
    let differs = |detail: String| VerifyError::Image {
        path,
        name,
        release,
        detail,
    };
    match read.unwrap_or_else(|stopped| Err(std::io::Error::other(stopped))) {
        Err(error) => Err(differs(error.to_string())),
        Ok((length, _)) if length < size => Err(differs(format!("it has {length} of {size} bytes"))),
        Ok((_, found)) if found != wanted => {
            Err(differs(format!("its first {size} bytes have digest {found}")))
        }
        Ok(_) => Ok(()),
    }
}

fn hash_front(path: &Path, size: u64) -> std::io::Result<(u64, Digest)> {
    let mut front = File::open(path)?.take(size);
    let mut buffer = vec![0; 1024 * 1024];
    let mut hasher = Hasher::new();
    loop {
        match front.read(&mut buffer)? {
            0 => return Ok((hasher.length_bytes(), hasher.finish())),
            read => hasher.update(&buffer[..read]),
        }
    }
}
