//! What an artifact's partition holds, by ids: where to look for a chunk or for a whole page's list of
//! chunks. Made while a slot is staged, or by reading it once; kept in the state folder. Only a hint: what
//! is found by it is hashed before it counts, and a file that was lost or changed costs a reading.

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
/// A chunk is an offset of 36 bits and 28 bits of its id: another chunk with the same is found now and then,
/// and is told apart by its hash.
const OFFSET_BITS: u32 = 36;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;
/// Places that are looked at for one chunk.
const MAX_PLACES: usize = 4;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    artifact: Digest,
    cuts: Cuts,
    /// Sorted.
    chunks: Vec<u64>,
    /// Sorted.
    lists: Vec<(ListId, u64)>,
}

fn tag(id: &ChunkId) -> u64 {
    let bytes = id.as_bytes();
    u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])) << OFFSET_BITS
}

/// Gathers what is where.
#[derive(Debug, Default)]
pub(super) struct HeldBuilder {
    chunks: Vec<u64>,
    lists: Vec<(ListId, u64)>,
}

impl HeldBuilder {
    /// A list of chunks that begins at `offset`.
    pub(super) fn list(&mut self, offset: u64, id: ListId, chunks: impl Iterator<Item = Chunk>) {
        self.lists.push((id, offset));
        let mut at = offset;
        for chunk in chunks {
            if chunk.id != ChunkId::ZEROS {
                self.chunks.push(tag(&chunk.id) | (at & OFFSET_MASK));
            }
            at += u64::from(chunk.length);
        }
    }

    pub(super) fn finish(self, artifact: Digest, cuts: Cuts) -> Held {
        let Self {
            mut chunks,
            mut lists,
        } = self;
        chunks.sort_unstable();
        lists.sort_unstable();
        Held {
            artifact,
            cuts,
            chunks,
            lists,
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
        for chunk in chunk_reader(SeedStream::new(seed), cuts) {
            if cancel.is_cancelled() {
                return Err(StageError::Cancelled);
            }
            let Ok(chunk) = chunk else { break };
            end = chunk.offset + chunk.data.len() as u64;
            if let Some(list) = cutter.push(Chunk::of(&chunk.data)) {
                add(list, end, &mut list_at);
            }
        }
        if let Some(list) = cutter.finish() {
            add(list, end, &mut list_at);
        }
        Ok(builder.finish(artifact, cuts))
    }

    /// Where a list with this id begins.
    pub(super) fn list(&self, id: &ListId) -> Option<u64> {
        let at = self.lists.partition_point(|(held, _)| held < id);
        self.lists
            .get(at)
            .filter(|(held, _)| held == id)
            .map(|(_, offset)| *offset)
    }

    /// Where a chunk with this id may be.
    pub(super) fn chunk(&self, id: &ChunkId) -> impl Iterator<Item = u64> + '_ {
        let first = tag(id);
        let from = self.chunks.partition_point(|held| *held < first);
        self.chunks[from..]
            .iter()
            .take_while(move |held| **held & !OFFSET_MASK == first)
            .map(|held| held & OFFSET_MASK)
            .take(MAX_PLACES)
    }

    /// By which rule it was cut.
    pub(super) fn cuts(&self) -> Cuts {
        self.cuts
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(HEADER_BYTES + self.chunks.len() * 8 + self.lists.len() * 24);
        body.extend_from_slice(&[0; HEADER_BYTES]);
        for chunk in &self.chunks {
            body.extend_from_slice(&chunk.to_le_bytes());
        }
        for (id, offset) in &self.lists {
            body.extend_from_slice(id.as_bytes());
            body.extend_from_slice(&offset.to_le_bytes());
        }
        let mut head = Vec::with_capacity(HEADER_BYTES);
        head.extend_from_slice(&MAGIC);
        // Both counts are bounded by the chunks of an image, which fit.
        let words = [
            FORMAT,
            self.cuts.code(),
            self.chunks.len() as u32,
            self.lists.len() as u32,
        ];
        words
            .iter()
            .for_each(|word| head.extend_from_slice(&word.to_le_bytes()));
        head.extend_from_slice(self.artifact.as_bytes());
        let check = checksum(&head, &body[HEADER_BYTES..]);
        head.extend_from_slice(check.as_bytes());
        body[..HEADER_BYTES].copy_from_slice(&head);
        body
    }

    /// None for anything but what [`Held::encode`] writes.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, body) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (head_front, check) = head.split_at(HEADER_BYTES - 32);
        let sound =
            head.starts_with(&MAGIC) && word(8) == FORMAT && checksum(head_front, body).as_bytes() == check;
        let (chunks, lists) = (word(16) as usize, word(20) as usize);
        if !sound || body.len() != chunks.checked_mul(8)?.checked_add(lists.checked_mul(24)?)? {
            return None;
        }
        let (chunks, lists) = body.split_at(chunks * 8);
        let eight = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        let mut artifact = [0; 32];
        artifact.copy_from_slice(&head[24..56]);
        let list = |entry: &[u8]| {
            let id = entry[..16].try_into().unwrap_or_default();
            (ListId::from_bytes(id), eight(&entry[16..]))
        };
        Some(Self {
            artifact: Digest::from_bytes(artifact),
            cuts: Cuts::from_code(word(12))?,
            chunks: chunks.chunks_exact(8).map(eight).collect(),
            lists: lists.chunks_exact(24).map(list).collect(),
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
        let held = Self::decode(&hints.load(&file_of(slot, name), MAX_FILE_BYTES)?)?;
        (held.artifact == *artifact).then_some(held)
    }

    /// Keeps it for when that slot is the source; where that cannot be, the slot is read then.
    pub(super) fn keep(&self, hints: &Hints, lock: &StateLock, slot: SlotName, name: &str) {
        let bytes = self.encode();
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return;
        }
        if let Err(error) = hints.save(lock, &file_of(slot, name), &bytes) {
            tracing::warn!(%error, "what slot {slot} holds of {name} is not kept; it is read when it is needed");
        }
    }
}
