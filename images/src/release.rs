//! A release's folder on an engineer's disk: `manifest.json`, `indexes/`, `chunks/`. Read back with the
//! same suspicion as if it had come over the network.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::chunk::{ChunkContent, ChunkIndex, MAX_FRAME_BYTES, decode_frame};
use crate::digest::{Digest, Hasher};
use crate::error::ReleaseError;
use crate::layout;
use crate::manifest::{Artifact, MAX_MANIFEST_BYTES, Manifest};
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

    /// Reads an artifact through its index and its chunks, hands every stored chunk to `each` as it is
    /// stored, and compares the whole with the manifest.
    ///
    /// # Errors
    /// A chunk that is missing or wrong, a whole that is wrong, or what `each` returns.
    pub fn walk(
        &self,
        artifact: &Artifact,
        progress: &Progress,
        mut each: impl FnMut(&Digest, &[u8]) -> Result<(), ReleaseError>,
    ) -> Result<(), ReleaseError> {
        let (_, index) = self.index(artifact)?;
        let mut whole = Hasher::new();
        for chunk in index.chunks() {
            match chunk.content {
                ChunkContent::Zeros => whole.update(&vec![0; chunk.length as usize]),
                ChunkContent::Stored(digest) => {
                    let path = self.path.join(layout::chunk_path(&digest));
                    let stored = read_bounded(&path, MAX_FRAME_BYTES)?;
                    let data = decode_frame(&stored, chunk.length, &digest).map_err(|error| {
                        ReleaseError::Release {
                            path: path.clone(),
                            detail: error.to_string(),
                        }
                    })?;
                    whole.update(&data);
                    each(&digest, &stored)?;
                }
            }
            progress.advance(u64::from(chunk.length));
        }
        let found = whole.finish();
        if found == artifact.digest {
            Ok(())
        } else {
            let detail = format!("the chunks of {} make {found}", artifact.name);
            Err(ReleaseError::Release {
                path: self.path.clone(),
                detail,
            })
        }
    }
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
