//! What an artifact's partition holds, by ids: where to look for a chunk or for a whole page's list of
//! chunks. Made while a slot is staged, or by reading it once; kept in the state folder. Only a hint: what
//! is found by it is hashed before it counts, and a file that was lost or changed costs a reading.

use std::thread;

use drydock_images::chunk::{Chunk, ChunkId, Cuts, ListCutter, ListId, chunk_reader};
use drydock_images::{Digest, Hasher};
use tokio_util::sync::CancellationToken;

use super::StageError;
use super::seed::{Seed, SeedStream};
use crate::disk::SlotName;
use crate::state::{Hints, StateLock};

/// The bound of a kept file, in bytes; what would be longer is not kept.
const MAX_FILE_BYTES: u64 = 48 << 20;
const MAGIC: [u8; 8] = *b"DRYDOCKH";
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 8 + 4 + 4 + 4 + 4 + 32 + 32;
const CHUNK_BYTES: usize = 8;
const LIST_BYTES: usize = 16 + 8;
/// A chunk is an offset of 36 bits and 28 bits of its id: another chunk with the same is found now and then,
/// and is told apart by its hash.
const OFFSET_BITS: u32 = 36;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;
/// Places that are looked at for one chunk.
const MAX_PLACES: usize = 4;

/// See the module. In memory as it is kept: the head, the chunks, and the lists, both sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    artifact: Digest,
    cuts: Cuts,
    chunks: usize,
    bytes: Vec<u8>,
}

fn tag(id: &ChunkId) -> u64 {
    let bytes = id.as_bytes();
    u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])) << OFFSET_BITS
}

/// Gathers what is where.
#[derive(Debug)]
pub(super) struct HeldBuilder {
    /// Behind room for the head, so that nothing is copied in the end.
    chunks: Vec<[u8; CHUNK_BYTES]>,
    lists: Vec<(ListId, u64)>,
}

impl Default for HeldBuilder {
    fn default() -> Self {
        Self {
            chunks: vec![[0; CHUNK_BYTES]; HEADER_BYTES / CHUNK_BYTES],
            lists: Vec::new(),
        }
    }
}

impl HeldBuilder {
    /// A list of chunks that begins at `offset`.
    pub(super) fn list(&mut self, offset: u64, id: ListId, chunks: impl Iterator<Item = Chunk>) {
        self.lists.push((id, offset));
        let mut at = offset;
        for chunk in chunks {
            if chunk.id != ChunkId::ZEROS {
                let chunk = tag(&chunk.id) | (at & OFFSET_MASK);
                self.chunks.push(chunk.to_le_bytes());
            }
            at += u64::from(chunk.length);
        }
    }

    pub(super) fn finish(self, artifact: Digest, cuts: Cuts) -> Held {
        let Self {
            mut chunks,
            mut lists,
        } = self;
        let (_, sorted) = chunks.split_at_mut(HEADER_BYTES / CHUNK_BYTES);
        sorted.sort_unstable_by_key(|chunk| u64::from_le_bytes(*chunk));
        let count = sorted.len();
        lists.sort_unstable();
        let mut bytes = chunks.into_flattened();
        bytes.reserve_exact(lists.len() * LIST_BYTES);
        for (id, offset) in &lists {
            bytes.extend_from_slice(id.as_bytes());
            bytes.extend_from_slice(&offset.to_le_bytes());
        }
        let (head, body) = bytes.split_at_mut(HEADER_BYTES);
        let (front, check) = head.split_at_mut(HEADER_BYTES - 32);
        front[..8].copy_from_slice(&MAGIC);
        // Both counts are bounded by the chunks of an image, which fit.
        let words = [FORMAT, cuts.code(), count as u32, lists.len() as u32];
        for (place, word) in front[8..24].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        front[24..].copy_from_slice(artifact.as_bytes());
        check.copy_from_slice(checksum(front, body).as_bytes());
        Held {
            artifact,
            cuts,
            chunks: count,
            bytes,
        }
    }
}

impl Held {
    /// Knows nothing: everything is fetched.
    pub(super) fn nothing(cuts: Cuts) -> Self {
        HeldBuilder::default().finish(Digest::of(&[]), cuts)
    }

    /// Reads a whole artifact and finds out. What cannot be read is not held. Blocks.
    ///
    /// # Errors
    /// A cancellation.
    pub(super) fn by_reading(
        seed: Seed,
        artifact: Digest,
        cuts: Cuts,
        cancel: &CancellationToken,
    ) -> Result<Self, StageError> {
        let mut builder = HeldBuilder::default();
        let (mut cutter, mut list_at, mut end) = (ListCutter::default(), 0, 0);
        let mut add = |list: drydock_images::chunk::ChunkList, end: u64, list_at: &mut u64| {
            builder.list(*list_at, list.id(), list.chunks());
            *list_at = end;
        };
        thread::scope(|scope| {
            for chunk in chunk_reader(SeedStream::ahead(seed, scope), cuts) {
                if cancel.is_cancelled() {
                    return Err(StageError::Cancelled);
                }
                let Ok(chunk) = chunk else { break };
                end = chunk.offset + chunk.data.len() as u64;
                if let Some(list) = cutter.push(Chunk::of(&chunk.data)) {
                    add(list, end, &mut list_at);
                }
            }
            Ok(())
        })?;
        if let Some(list) = cutter.finish() {
            add(list, end, &mut list_at);
        }
        Ok(builder.finish(artifact, cuts))
    }

    fn chunks(&self) -> &[[u8; CHUNK_BYTES]] {
        let chunks = &self.bytes[HEADER_BYTES..HEADER_BYTES + self.chunks * CHUNK_BYTES];
        chunks.as_chunks().0
    }

    fn lists(&self) -> &[[u8; LIST_BYTES]] {
        let lists = &self.bytes[HEADER_BYTES + self.chunks * CHUNK_BYTES..];
        lists.as_chunks().0
    }

    /// Where a list with this id begins.
    pub(super) fn list(&self, id: &ListId) -> Option<u64> {
        let lists = self.lists();
        let at = lists.partition_point(|list| list[..16] < id.as_bytes()[..]);
        let (found, offset) = lists.get(at)?.split_first_chunk::<16>()?;
        (found == id.as_bytes()).then(|| offset.try_into().map_or(0, u64::from_le_bytes))
    }

    /// Where a chunk with this id may be.
    pub(super) fn chunk(&self, id: &ChunkId) -> impl Iterator<Item = u64> + '_ {
        let first = tag(id);
        let chunks = self.chunks();
        let from = chunks.partition_point(|held| u64::from_le_bytes(*held) < first);
        chunks[from..]
            .iter()
            .map(|held| u64::from_le_bytes(*held))
            .take_while(move |held| held & !OFFSET_MASK == first)
            .map(|held| held & OFFSET_MASK)
            .take(MAX_PLACES)
    }

    /// By which rule it was cut.
    pub(super) fn cuts(&self) -> Cuts {
        self.cuts
    }

    /// None for anything but what [`HeldBuilder::finish`] makes.
    fn decode(bytes: Vec<u8>) -> Option<Self> {
        let (head, body) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (head_front, check) = head.split_at(HEADER_BYTES - 32);
        let sound =
            head.starts_with(&MAGIC) && word(8) == FORMAT && checksum(head_front, body).as_bytes() == check;
        let (chunks, lists) = (word(16) as usize, word(20) as usize);
        let wanted = chunks
            .checked_mul(CHUNK_BYTES)?
            .checked_add(lists.checked_mul(LIST_BYTES)?)?;
        if !sound || body.len() != wanted {
            return None;
        }
        let mut artifact = [0; 32];
        artifact.copy_from_slice(&head[24..56]);
        Some(Self {
            artifact: Digest::from_bytes(artifact),
            cuts: Cuts::from_code(word(12))?,
            chunks,
            bytes,
        })
    }
}

fn checksum(head: &[u8], body: &[u8]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finish()
}

fn file_of(slot: SlotName, name: &str) -> String {
    let slot = match slot {
        SlotName::A => 'a',
        SlotName::B => 'b',
    };
    format!("slot-{slot}.{name}.held")
}

impl Held {
    /// What was kept of an artifact with that digest in that slot.
    pub(super) fn load(hints: &Hints, slot: SlotName, name: &str, artifact: &Digest) -> Option<Self> {
        let held = Self::decode(hints.load(&file_of(slot, name), MAX_FILE_BYTES)?)?;
        (held.artifact == *artifact).then_some(held)
    }

    /// Keeps it for when that slot is the source; where that cannot be, the slot is read then.
    pub(super) fn keep(&self, hints: &Hints, lock: &StateLock, slot: SlotName, name: &str) {
        if self.bytes.len() as u64 > MAX_FILE_BYTES {
            return;
        }
        if let Err(error) = hints.save(lock, &file_of(slot, name), &self.bytes) {
            tracing::warn!(%error, "what slot {slot} holds of {name} is not kept; it is read when it is needed");
        }
    }
}
