//! How many bytes of a release this node already has: chunks of the running slot, and zeros. An estimate
//! for `check`; staging itself compares every byte. Reads only.

use std::collections::HashSet;
use std::io::{self, Read};

use drydock_images::{ChunkContent, Digest, Manifest, Repository, chunk_reader};

use super::session::{CliError, Session};
use crate::disk::PartitionReader;

/// Bytes of a release.
pub(super) struct Bytes {
    pub total: u64,
    pub here: u64,
    pub missing: u64,
}

pub(super) async fn count(
    session: &Session,
    repository: &Repository,
    manifest: &Manifest,
) -> Result<Bytes, CliError> {
    let running = session.running()?;
    let mut bytes = Bytes {
        total: manifest.total_bytes(),
        here: 0,
        missing: 0,
    };
    for artifact in &manifest.artifacts {
        let index = repository.index(artifact).await?;
        let (view, name) = (session.view.clone(), artifact.name.as_str().to_owned());
        let held = tokio::task::spawn_blocking(move || held_chunks(&view, running, &name)).await??;
        let mut fetched = HashSet::new();
        for chunk in index.chunks() {
            let length = u64::from(chunk.length);
            match chunk.content {
                ChunkContent::Stored(digest) if !held.contains(&digest) => {
                    if fetched.insert(digest) {
                        bytes.missing += length;
                    }
                }
                ChunkContent::Stored(_) | ChunkContent::Zeros => bytes.here += length,
            }
        }
    }
    Ok(bytes)
}

fn held_chunks(
    view: &crate::guard::NodeView,
    running: crate::disk::SlotName,
    artifact: &str,
) -> Result<HashSet<Digest>, CliError> {
    let control = &view.node().control;
    let failed = |error: crate::disk::DiskError| CliError::Node(error.into());
    let (_, slots) = control.read().map_err(failed)?;
    let Ok(partition) = slots.get(running).artifact(artifact) else {
        return Ok(HashSet::new());
    };
    let reader = PartitionReader::open(control.device(), partition).map_err(failed)?;
    let content = Content {
        at: 0,
        len: partition.len_bytes,
        reader,
    };
    let mut held = HashSet::new();
    for chunk in chunk_reader(content) {
        let chunk = chunk.map_err(|error| CliError::Failed {
            word: "Disk",
            text: error.to_string(),
        })?;
        held.insert(Digest::of(&chunk.data));
    }
    Ok(held)
}

/// A partition from its start to its end.
struct Content {
    reader: PartitionReader,
    at: u64,
    len: u64,
}

impl Read for Content {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len - self.at).unwrap_or(usize::MAX);
        let count = buf.len().min(left);
        self.reader
            .read_at(self.at, &mut buf[..count])
            .map_err(io::Error::other)?;
        self.at += count as u64;
        Ok(count)
    }
}
