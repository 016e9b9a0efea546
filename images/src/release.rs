//! A release's folder on an engineer's disk: `manifest.json`, `indexes/`, `packs/`. Read back with the
//! same suspicion as if it had come over the network.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::chunk::{ChunkId, ChunkIndex, ListId, Page, PageRef, Part, Rebuilder};
use crate::digest::{Digest, ImageHasher};
use crate::error::ReleaseError;
use crate::layout;
use crate::manifest::{Artifact, MAX_MANIFEST_BYTES, Manifest};
use crate::names::ArtifactName;
use crate::progress::Progress;

/// A release's folder whose manifest was read.
#[derive(Debug, Clone)]
pub struct ReleaseDir {
    path: PathBuf,
    manifest: Manifest,
}

impl ReleaseDir {
    /// Opens the folder and reads the manifest.
    ///
    /// # Errors
    /// No manifest, or not one that this program reads.
    pub fn open(path: &Path) -> Result<Self, ReleaseError> {
        let file = path.join(layout::MANIFEST_FILE);
        let bytes = read_bounded(&file, MAX_MANIFEST_BYTES as u64)?;
        Ok(Self {
            path: path.to_path_buf(),
            manifest: Manifest::parse(&bytes)?,
        })
    }

    /// A repository holds a release's files at the same places.
    pub(crate) fn of_repository(repository: &Path, manifest: Manifest) -> Self {
        Self {
            path: repository.to_path_buf(),
            manifest,
        }
    }

    /// Its manifest.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The index file of an artifact, and what it says.
    ///
    /// # Errors
    /// Not there, or not the one that the manifest names.
    pub fn index(&self, artifact: &Artifact) -> Result<(Vec<u8>, ChunkIndex), ReleaseError> {
        let path = self.path.join(layout::index_path(&artifact.index.digest));
        let bytes = read_bounded(&path, artifact.index.size)?;
        let broken = |detail: String| ReleaseError::Release {
            path: path.clone(),
            detail,
        };
        let found = Digest::of(&bytes);
        if found != artifact.index.digest {
            return Err(broken(format!("it has digest {found}")));
        }
        let index = ChunkIndex::parse(&bytes).map_err(|error| broken(error.to_string()))?;
        index
            .check_artifact(&artifact.digest, artifact.size)
            .map_err(|error| broken(error.to_string()))?;
        Ok((bytes, index))
    }

    /// The pack of an artifact.
    #[must_use]
    pub fn pack(&self, artifact: &Artifact) -> PathBuf {
        self.path.join(layout::pack_path(&artifact.index.digest))
    }
}

/// What releases are known to hold, by ids.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub chunks: HashSet<ChunkId>,
    pub lists: HashSet<ListId>,
}

impl Known {
    /// Adds what that release holds of the artifact with that name, if it has one.
    ///
    /// # Errors
    /// Its index or a page is missing or wrong.
    pub fn add(&mut self, release: &ReleaseDir, name: &ArtifactName) -> Result<(), ReleaseError> {
        let Some(artifact) = release.manifest().artifact(name.as_str()) else {
            return Ok(());
        };
        each_page(release, artifact, |named, page| {
            self.lists.insert(named.list);
            self.chunks.extend(page.list().chunks().map(|chunk| chunk.id));
        })
    }

    /// Stored bytes that someone who has all of this fetches for an artifact in chunks: its index, lists that
    /// are new, and frames with a chunk that is new.
    ///
    /// # Errors
    /// Its index or a page is missing or wrong.
    pub fn chunks_bytes(&self, release: &ReleaseDir, artifact: &Artifact) -> Result<u64, ReleaseError> {
        let mut fetched = artifact.index.size;
        each_page(release, artifact, |named, page| {
            if self.lists.contains(&named.list) {
                return;
            }
            fetched += u64::from(named.page_bytes);
            let new: Vec<bool> = page
                .list()
                .chunks()
                .map(|chunk| !self.chunks.contains(&chunk.id))
                .collect();
            for frame in page.frames() {
                let inside = new.iter().skip(usize::from(frame.first_chunk));
                if inside.take(usize::from(frame.chunks)).any(|new| *new) {
                    fetched += u64::from(frame.stored_bytes);
                }
            }
        })?;
        Ok(fetched)
    }
}

/// Reads all pages of an artifact, without what they list.
fn each_page(
    release: &ReleaseDir,
    artifact: &Artifact,
    mut each: impl FnMut(&PageRef, &Page),
) -> Result<(), ReleaseError> {
    let (_, index) = release.index(artifact)?;
    let path = release.pack(artifact);
    let file = File::open(&path).map_err(ReleaseError::io("read", &path))?;
    let mut stored = Vec::new();
    for named in index.pages() {
        each(named, &read_page(&file, &path, named, &mut stored)?);
    }
    Ok(())
}

/// The page of a pack that the index names; `stored` is memory for it.
fn read_page(pack: &File, path: &Path, named: &PageRef, stored: &mut Vec<u8>) -> Result<Page, ReleaseError> {
    stored.resize(named.page_bytes as usize, 0);
    pack.read_exact_at(stored, named.page_at)
        .map_err(ReleaseError::io("read", path))?;
    named.read(stored).map_err(|error| ReleaseError::Release {
        path: path.to_path_buf(),
        detail: error.to_string(),
    })
}

/// Reads a pack from its first byte to its last and compares every page, frame and chunk with what the
/// index says, and the whole with the artifact.
///
/// # Errors
/// Anything that is missing, wrong or too much.
pub(crate) fn check_pack(
    pack: &Path,
    index: &ChunkIndex,
    artifact: &Artifact,
    progress: &Progress,
) -> Result<(), ReleaseError> {
    let each = |named: &PageRef, _: &Page, _: &[u8]| {
        progress.advance(u64::from(named.image_bytes));
        Ok(())
    };
    read_pack(pack, index, artifact, each)
}

/// As [`check_pack`]; `each` is given every page with its content, which is proven in the end.
///
/// # Errors
/// Anything that is missing, wrong or too much; those of `each`.
pub(crate) fn read_pack(
    pack: &Path,
    index: &ChunkIndex,
    artifact: &Artifact,
    mut each: impl FnMut(&PageRef, &Page, &[u8]) -> Result<(), ReleaseError>,
) -> Result<(), ReleaseError> {
    let failed = ReleaseError::io("read", pack);
    let broken = |detail: String| ReleaseError::Release {
        path: pack.to_path_buf(),
        detail,
    };
    let file = File::open(pack).map_err(&failed)?;
    let length = file.metadata().map_err(&failed)?.len();
    if length != index.pack_bytes() {
        let wanted = index.pack_bytes();
        return Err(broken(format!("it has {length} bytes, its index says {wanted}")));
    }
    let mut rebuilder = Rebuilder::new(index.window_bytes());
    let mut whole = ImageHasher::default();
    let (mut stored_page, mut frames) = (Vec::new(), [Vec::new(), Vec::new()]);
    let mut content = Vec::new();
    for named in index.pages() {
        let page = read_page(&file, pack, named, &mut stored_page)?;
        for part in [Part::Front, Part::Rest] {
            let frames = &mut frames[part as usize];
            frames.resize(named.frames_bytes[part as usize] as usize, 0);
            file.read_exact_at(frames, named.frames(part).start)
                .map_err(&failed)?;
        }
        content.clear();
        rebuilder
            .page(&page, frames.each_ref().map(Vec::as_slice), |piece| {
                content.extend_from_slice(piece);
            })
            .map_err(|error| broken(error.to_string()))?;
        whole.update(&content);
        each(named, &page, &content)?;
    }
    artifact.check_content(&whole.finish()).map_err(broken)
}

/// All bytes of a file that may have `max_bytes` at most.
pub(crate) fn read_bounded(path: &Path, max_bytes: u64) -> Result<Vec<u8>, ReleaseError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(ReleaseError::io("read", path))?;
    file.take(max_bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(ReleaseError::io("read", path))?;
    if bytes.len() as u64 > max_bytes {
        let detail = format!("it has more than the {max_bytes} bytes it may have");
        return Err(ReleaseError::Release {
            path: path.to_path_buf(),
            detail,
        });
    }
    Ok(bytes)
}

/// Writes a file so that a reader sees all of it or nothing, readable by a web server.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], durable: Durable) -> Result<(), ReleaseError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(ReleaseError::io("make the folder", parent))?;
    let failed = ReleaseError::io("write", path);
    let write = || -> io::Result<()> {
        use std::io::Write;
        use std::os::unix::fs::PermissionsExt;
        let mut new = tempfile::Builder::new().prefix(".new-").tempfile_in(parent)?;
        new.write_all(bytes)?;
        new.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        if durable == Durable::Now {
            new.as_file().sync_all()?;
        }
        new.persist(path).map_err(|error| error.error)?;
        if durable == Durable::Now {
            File::open(parent)?.sync_all()
        } else {
            Ok(())
        }
    };
    write().map_err(failed)
}

/// When a written file must be on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durable {
    /// Before the call returns.
    Now,
    /// When the whole file system is flushed, which the caller does before it names the file.
    Later,
}
