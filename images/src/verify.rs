//! What a node does, without a partition to write to: from the trusted root to the last byte of a
//! release and of the deltas that lead to it, and, where asked, of images on this machine.

mod delta;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use serde::Serialize;

use crate::chunk::{Page, PageRef, Part, Rebuilder};
use crate::delta::{Delta, DeltaArtifact};
use crate::digest::{Digest, Hasher, ImageHasher};
use crate::manifest::{Artifact, Manifest};
use crate::names::ArtifactName;
use crate::progress::Progress;
use crate::repository::{MAX_RANGE_BYTES, Repository};
use crate::trust::{MetadataVersions, TrustError};
use crate::version::Version;

/// Pages that are fetched together, and kept while what they list is read.
const PAGES_TOGETHER: usize = 256;
/// Ranges of a pack that are fetched at a time.
const PARALLEL_RANGES: usize = 3;

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
    /// The deltas that lead to it.
    pub deltas: Vec<VerifiedDelta>,
}

/// A delta whose bytes were all as they were signed. What a node makes of them is compared again, segment
/// by segment.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedDelta {
    /// The release that it leads from.
    pub from: Digest,
    /// The artifacts that it makes.
    pub artifacts: Vec<ArtifactName>,
    /// What came over the wire for it, in bytes.
    pub fetched_bytes: u64,
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

/// A release that may be staged, and what there is of it to verify.
#[derive(Debug)]
pub struct Verification<'a> {
    repository: &'a Repository,
    manifest: Manifest,
    deltas: Vec<Delta>,
}

impl<'a> Verification<'a> {
    /// Looks up a release that may be staged at `now`, and the deltas that lead to it.
    ///
    /// # Errors
    /// Not listed, withdrawn, expired, or one of these few files is not as signed.
    pub async fn of(
        repository: &'a Repository,
        release: &Digest,
        now: Timestamp,
    ) -> Result<Self, TrustError> {
        let manifest = repository.stageable(release, now).await?;
        let mut from: Vec<Digest> = repository
            .deltas()
            .into_iter()
            .filter_map(|(from, to)| (to == *release).then_some(from))
            .collect();
        from.sort_unstable();
        let mut deltas = Vec::with_capacity(from.len());
        for from in &from {
            deltas.extend(repository.delta(from, release).await?);
        }
        Ok(Self {
            repository,
            manifest,
            deltas,
        })
    }

    /// Bytes of which [`Verification::run`] tells its progress: of the artifacts, and of the deltas as they
    /// are stored.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        let deltas = self.deltas.iter().flat_map(|delta| &delta.artifacts);
        self.manifest.total_bytes() + deltas.map(DeltaArtifact::stored_bytes).sum::<u64>()
    }

    /// Fetches every byte, compares it with what was signed, and compares the images with the artifacts.
    ///
    /// # Errors
    /// The first thing that is not as signed.
    pub async fn run(
        self,
        images: &[LocalImage],
        progress: &Progress,
    ) -> Result<VerifiedRelease, VerifyError> {
        let Self {
            repository,
            manifest,
            deltas,
        } = self;
        let release = manifest.digest();
        if let Some(unknown) = images
            .iter()
            .find(|image| manifest.artifact(image.name.as_str()).is_none())
        {
            let LocalImage { name, path } = unknown.clone();
            let detail = format!("the release has no such artifact, it has {}", names(&manifest));
            return Err(VerifyError::Image {
                path,
                name,
                release,
                detail,
            });
        }
        let mut artifacts = Vec::new();
        for artifact in &manifest.artifacts {
            let mut verified = verify_artifact(repository, artifact, progress).await?;
            for image in images.iter().filter(|image| image.name == artifact.name) {
                check_image(release, artifact, image.clone()).await?;
                verified.image = Some(image.path.clone());
            }
            artifacts.push(verified);
        }
        let mut verified = Vec::with_capacity(deltas.len());
        for delta in &deltas {
            verified.push(delta::verify(repository, &manifest, delta, progress).await?);
        }
        Ok(VerifiedRelease {
            release,
            version: manifest.version.clone(),
            metadata: repository.versions(),
            expires: repository.expires(),
            artifacts,
            deltas: verified,
        })
    }
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
    let mut rebuilding = (Rebuilder::new(index.window_bytes()), ImageHasher::default());
    for named in index.pages().chunks(PAGES_TOGETHER) {
        let pages = fetch_pages(repository, artifact, named).await?;
        let all: Vec<(&PageRef, Page)> = named.iter().zip(pages).collect();
        let fetches = together(all).into_iter().map(|pages| async move {
            let of = |part: Part| {
                let begin = pages.first().map_or(0, |(named, _)| named.frames(part).start);
                begin..pages.last().map_or(0, |(named, _)| named.frames(part).end)
            };
            let (front, rest) = tokio::try_join!(
                repository.pack_range(artifact, of(Part::Front)),
                repository.pack_range(artifact, of(Part::Rest)),
            )?;
            Ok::<_, TrustError>((pages, [front, rest]))
        });
        let mut fetched = stream::iter(fetches).buffered(PARALLEL_RANGES);
        while let Some((pages, stored)) = fetched.try_next().await? {
            let bytes: u64 = pages.iter().map(|(named, _)| u64::from(named.image_bytes)).sum();
            let what = format!(
                "the pack of {} in repository {}",
                artifact.name,
                repository.name()
            );
            let pages = pages.into_iter().map(|(_, page)| page).collect();
            rebuilding = rebuild(rebuilding, pages, stored, what).await?;
            progress.advance(bytes);
        }
    }
    let found = rebuilding.1.finish();
    artifact
        .check_content(&found)
        .map_err(|detail| TrustError::Tampered {
            what: format!("the pack of {}", artifact.name),
            detail,
        })?;
    Ok(VerifiedArtifact {
        name: artifact.name.clone(),
        digest: artifact.digest,
        size: artifact.size,
        chunks: index.chunks(),
        fetched_bytes: index.pack_bytes() + artifact.index.size,
        image: None,
    })
}

/// All of these pages in their order, whichever part of the pack they are in.
async fn fetch_pages(
    repository: &Repository,
    artifact: &Artifact,
    named: &[PageRef],
) -> Result<Vec<Page>, TrustError> {
    let in_part = |part: Part| -> Vec<PageRef> {
        let pages = named.iter().filter(|named| named.part == part);
        pages.copied().collect()
    };
    let (front, rest) = (in_part(Part::Front), in_part(Part::Rest));
    let (front, rest) = tokio::try_join!(
        repository.pages(artifact, &front),
        repository.pages(artifact, &rest)
    )?;
    let mut pages = [front.into_iter(), rest.into_iter()];
    Ok(named
        .iter()
        .filter_map(|named| pages[named.part as usize].next())
        .collect())
}

/// Neighbouring pages whose frames are fetched together.
fn together(pages: Vec<(&PageRef, Page)>) -> Vec<Vec<(&PageRef, Page)>> {
    let mut groups: Vec<Vec<(&PageRef, Page)>> = Vec::new();
    let mut gathered = 0;
    for (named, page) in pages {
        let bytes: u64 = named.frames_bytes.iter().map(|bytes| u64::from(*bytes)).sum();
        gathered += bytes;
        match groups.last_mut() {
            Some(group) if gathered <= MAX_RANGE_BYTES => group.push((named, page)),
            _ => {
                groups.push(vec![(named, page)]);
                gathered = bytes;
            }
        }
    }
    groups
}

/// Unpacks and hashes off the reactor.
async fn rebuild(
    (mut rebuilder, mut whole): (Rebuilder, ImageHasher),
    pages: Vec<Page>,
    [front, rest]: [Bytes; 2],
    what: String,
) -> Result<(Rebuilder, ImageHasher), TrustError> {
    let stopped = |detail: String| TrustError::Malformed {
        what: what.clone(),
        detail,
    };
    let work = tokio::task::spawn_blocking(move || {
        let mut left = [&front[..], &rest[..]];
        for page in pages {
            let of_page = [Part::Front, Part::Rest].map(|part| {
                let of_part = left[part as usize];
                let bytes = page.stored_bytes(part) as usize;
                let (of_page, behind) = of_part.split_at_checked(bytes).unwrap_or((of_part, &[]));
                left[part as usize] = behind;
                of_page
            });
            rebuilder.page(&page, of_page, |content| whole.update(content))?;
        }
        Ok((rebuilder, whole))
    });
    let done = work.await.map_err(|error| stopped(error.to_string()))?;
    done.map_err(|error| TrustError::frame(&what, &error))
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
