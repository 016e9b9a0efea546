//! Gathering what is where, in the order of the image: into a file that is kept, or into memory.

use std::thread;

use drydock_images::chunk::{Chunk, ChunkId, Cuts, ListCutter, ListId, chunk_reader};
use drydock_images::{Digest, Hasher};
use tokio_util::sync::CancellationToken;

use super::super::StageError;
use super::super::seed::{Seed, SeedStream};
use super::{
    CHUNK_BYTES, Content, Held, ID_BYTES, LEAF_CHUNKS, LEAF_LISTS, LIST_BYTES, MAX_FILE_BYTES, OFFSET_BITS,
    OFFSET_MASK, RUN_CHUNKS, Shape, Tail, file_of, tag,
};
use crate::disk::SlotName;
use crate::state::{HintWriter, Hints, StateError, StateLock};

/// Where what is gathered is to be kept.
#[derive(Clone, Copy)]
pub(in super::super) struct Keeping<'a> {
    pub hints: &'a Hints,
    pub lock: &'a StateLock,
    pub slot: SlotName,
    /// The artifact's name.
    pub name: &'a str,
}

/// See the module.
pub(in super::super) struct HeldBuilder<'a> {
    /// The chunks of the run that is not whole yet.
    run: Vec<[u8; CHUNK_BYTES]>,
    lists: Vec<[u8; LIST_BYTES]>,
    chunks: usize,
    hasher: Hasher,
    to: To<'a>,
}

enum To<'a> {
    Memory(Vec<u8>),
    File(HintWriter<'a>),
    /// Cannot be kept.
    Nowhere,
}

impl<'a> HeldBuilder<'a> {
    pub(super) fn in_memory() -> Self {
        Self::to(To::Memory(Vec::new()))
    }

    /// Where the file cannot be written nothing is kept; the slot is then read when it is needed.
    pub(in super::super) fn in_file(keeping: Keeping<'a>) -> Self {
        let Keeping {
            hints,
            lock,
            slot,
            name,
        } = keeping;
        let file = hints.begin(lock, file_of(slot, name));
        Self::to(file.map_or_else(|error| given_up(&error), To::File))
    }

    fn to(to: To<'a>) -> Self {
        Self {
            run: Vec::new(),
            lists: Vec::new(),
            chunks: 0,
            hasher: Hasher::new(),
            to,
        }
    }

    /// A list of chunks that begins at `offset`, behind all others.
    pub(in super::super) fn list(&mut self, offset: u64, id: ListId, chunks: impl Iterator<Item = Chunk>) {
        let mut list = [0; LIST_BYTES];
        list[..ID_BYTES].copy_from_slice(id.as_bytes());
        list[ID_BYTES..].copy_from_slice(&offset.to_le_bytes());
        self.lists.push(list);
        let mut at = offset;
        for chunk in chunks {
            if chunk.id != ChunkId::ZEROS {
                let chunk = u64::from(tag(&chunk.id)) << OFFSET_BITS | (at & OFFSET_MASK);
                self.run.push(chunk.to_le_bytes());
                if self.run.len() == RUN_CHUNKS {
                    self.end_run();
                }
            }
            at += u64::from(chunk.length);
        }
    }

    /// The run as it is stored.
    fn take_run(&mut self) -> Vec<u8> {
        let mut run = std::mem::take(&mut self.run);
        run.sort_unstable_by_key(|chunk| u64::from_le_bytes(*chunk));
        self.chunks += run.len();
        run.into_flattened()
    }

    fn end_run(&mut self) {
        let run = self.take_run();
        self.put(&run);
    }

    fn put(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        match &mut self.to {
            To::Memory(all) => all.extend_from_slice(bytes),
            To::File(file) => {
                if self.chunks * CHUNK_BYTES > MAX_FILE_BYTES as usize {
                    self.to = To::Nowhere;
                } else if let Err(error) = file.append(bytes) {
                    self.to = given_up(&error);
                }
            }
            To::Nowhere => {}
        }
    }

    /// Ends the file, which is the artifact's from now on: call it when that was proven. Whether it is kept.
    pub(in super::super) fn keep(mut self, artifact: Digest, cuts: Cuts) -> bool {
        self.end_run();
        let mut lists = std::mem::take(&mut self.lists);
        lists.sort_unstable();
        self.put(lists.as_flattened());
        let tail = Tail {
            cuts,
            chunks: self.chunks,
            lists: lists.len(),
            artifact,
        };
        let mut end = tail.front().to_vec();
        end.extend_from_slice(tail.checksum(self.hasher).as_bytes());
        let To::File(mut file) = self.to else {
            return false;
        };
        let kept = file.append(&end).and_then(|()| file.keep());
        kept.inspect_err(|error| {
            given_up(error);
        })
        .is_ok()
    }

    pub(super) fn into_memory(mut self, cuts: Cuts) -> Held {
        self.end_run();
        self.lists.sort_unstable();
        let mut content = match self.to {
            To::Memory(content) => content,
            To::File(_) | To::Nowhere => Vec::new(),
        };
        let mut shape = Shape::default();
        let chunks = content.as_chunks::<CHUNK_BYTES>().0;
        chunks.chunks(LEAF_CHUNKS).for_each(|leaf| shape.push(leaf));
        let leaves = self.lists.chunks(LEAF_LISTS);
        shape
            .list_fences
            .extend(leaves.filter_map(|leaf| leaf.first()?.first_chunk::<ID_BYTES>()));
        let chunks = chunks.len();
        content.extend_from_slice(self.lists.as_flattened());
        Held {
            cuts,
            chunks,
            fences: shape.fences,
            runs: shape.runs,
            lists: self.lists.len(),
            list_fences: shape.list_fences,
            content: Content::Memory(content),
        }
    }
}

fn given_up<'a>(error: &StateError) -> To<'a> {
    tracing::warn!(%error, "what a slot holds is not kept; it is read when it is needed");
    To::Nowhere
}

impl Held {
    /// Reads a whole artifact and finds out, in memory. What cannot be read is not held. Blocks.
    ///
    /// # Errors
    /// A cancellation.
    pub(in super::super) fn by_reading(
        seed: Seed,
        cuts: Cuts,
        cancel: &CancellationToken,
    ) -> Result<Self, StageError> {
        let mut builder = HeldBuilder::in_memory();
        read_all(seed, cuts, cancel, &mut builder)?;
        Ok(builder.into_memory(cuts))
    }

    /// As [`Held::by_reading`], and kept; None where it cannot be. Blocks.
    ///
    /// # Errors
    /// A cancellation.
    pub(in super::super) fn kept_by_reading(
        seed: Seed,
        artifact: Digest,
        cuts: Cuts,
        keeping: Keeping<'_>,
        cancel: &CancellationToken,
    ) -> Result<Option<Self>, StageError> {
        let mut builder = HeldBuilder::in_file(keeping);
        read_all(seed, cuts, cancel, &mut builder)?;
        Ok(builder
            .keep(artifact, cuts)
            .then(|| Self::load(keeping.hints, keeping.slot, keeping.name, &artifact))
            .flatten())
    }
}

fn read_all(
    seed: Seed,
    cuts: Cuts,
    cancel: &CancellationToken,
    builder: &mut HeldBuilder<'_>,
) -> Result<(), StageError> {
    let (mut cutter, mut list_at, mut end) = (ListCutter::default(), 0, 0);
    thread::scope(|scope| {
        for chunk in chunk_reader(SeedStream::ahead(&seed, scope), cuts) {
            if cancel.is_cancelled() {
                return Err(StageError::Cancelled);
            }
            let Ok(chunk) = chunk else { break };
            end = chunk.offset + chunk.data.len() as u64;
            if let Some(list) = cutter.push(Chunk::of(&chunk.data)) {
                builder.list(list_at, list.id(), list.chunks());
                list_at = end;
            }
        }
        Ok(())
    })?;
    if let Some(list) = cutter.finish() {
        builder.list(list_at, list.id(), list.chunks());
    }
    Ok(())
}
