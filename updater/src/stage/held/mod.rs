//! What an artifact's partition holds, by ids: where to look for a chunk or for a whole page's list of
//! chunks. Made while a slot is staged, or by reading it once; kept in the state folder, and read from there
//! piece by piece, so that it takes little memory however large the image is. Only a hint: what is found by
//! it is hashed before it counts, and a file that was lost or changed costs a reading.
//!
//! The file: runs of chunks in the order of the image, each sorted ([`RUN_CHUNKS`], the last may be shorter);
//! the lists, sorted; the tail. Numbers are little endian. A chunk is its offset (36 bits) and 28 bits of its
//! id above it; a list is its id and its offset (64 bits). The tail: magic, format, the cuts' code, the
//! numbers of chunks and of lists (32 bits each), the artifact's digest, and the SHA-256 of all before it.

mod build;

use std::io;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use drydock_images::chunk::{ChunkId, Cuts, ListId};
use drydock_images::{Digest, Hasher};

use crate::disk::SlotName;
use crate::state::{FileReader, Hints};

pub(super) use build::{HeldBuilder, Keeping};

/// The bound of a kept file, in bytes; what would be longer is not kept.
const MAX_FILE_BYTES: u64 = 48 << 20;
const MAGIC: [u8; 8] = *b"DRYDOCKH";
const FORMAT: u32 = 2;
const TAIL_BYTES: usize = 8 + 4 + 4 + 4 + 4 + 32 + 32;
const CHUNK_BYTES: usize = 8;
const ID_BYTES: usize = 16;
const LIST_BYTES: usize = ID_BYTES + 8;
/// Another chunk with the same 28 bits is found now and then, and is told apart by its hash.
const OFFSET_BITS: u32 = 36;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;
/// Places that are looked at for one chunk.
const MAX_PLACES: usize = 4;

/// Chunks that are sorted together.
const RUN_CHUNKS: usize = 64 << 10;
/// Chunks that are read together.
const LEAF_CHUNKS: usize = 512;
const LEAF_BYTES: usize = LEAF_CHUNKS * CHUNK_BYTES;
const RUN_LEAVES: usize = RUN_CHUNKS / LEAF_CHUNKS;
/// Leaves that are remembered.
const LEAVES: usize = 128;
/// Lists that are read together; one in tests, whose images are small, so that leaves come and go there too.
const LEAF_LISTS: usize = if cfg!(test) { 1 } else { 128 };
const LIST_LEAF_BYTES: usize = LEAF_LISTS * LIST_BYTES;
/// Leaves of lists that are remembered.
const LIST_LEAVES: usize = if cfg!(test) { 2 } else { 8 };

fn tag(id: &ChunkId) -> u32 {
    let bytes = id.as_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) << 4 >> 4
}

const fn tag_of(chunk: u64) -> u32 {
    // 28 bits are left.
    (chunk >> OFFSET_BITS) as u32
}

/// See the module.
#[derive(Debug)]
pub(super) struct Held {
    cuts: Cuts,
    chunks: usize,
    /// The tag that each leaf begins with.
    fences: Vec<u32>,
    /// Where in the image each run begins at the earliest.
    runs: Vec<u64>,
    lists: usize,
    /// The id that each leaf of lists begins with.
    list_fences: Vec<[u8; ID_BYTES]>,
    content: Content,
}

/// Where the chunks and, behind them, the lists are.
#[derive(Debug)]
enum Content {
    Memory(Vec<u8>),
    File(FileReader, Mutex<Leaves>),
}

/// What was read of a file, each leaf at one place, with where it begins in the file.
#[derive(Debug)]
struct Leaves(Vec<Option<(usize, Vec<u8>)>>);

impl Content {
    /// The bytes of a leaf, handed to `look`. A file's leaf is remembered at that place.
    fn leaf<T>(&self, place: usize, which: Range<usize>, look: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        match self {
            Self::Memory(all) => Ok(look(&all[which])),
            Self::File(file, leaves) => {
                let mut leaves = leaves.lock().unwrap_or_else(PoisonError::into_inner);
                let place = &mut leaves.0[place];
                if place.as_ref().is_none_or(|(at, _)| *at != which.start) {
                    let mut memory = place.take().map_or_else(Vec::new, |(_, memory)| memory);
                    memory.resize(which.len(), 0);
                    file.read_at(&mut memory, which.start as u64)?;
                    *place = Some((which.start, memory));
                }
                let content = place.as_ref().map(|(_, memory)| memory.as_slice());
                Ok(look(content.unwrap_or_default()))
            }
        }
    }
}

impl Held {
    /// Knows nothing: everything is fetched.
    pub(super) fn nothing(cuts: Cuts) -> Self {
        HeldBuilder::in_memory().into_memory(cuts)
    }

    /// Where a list with this id begins.
    pub(super) fn list(&self, id: &ListId) -> Option<u64> {
        let behind = self.list_fences.partition_point(|fence| fence <= id.as_bytes());
        let looked = self.list_leaf(behind.checked_sub(1)?, |lists| {
            let at = lists.partition_point(|list| list[..ID_BYTES] < id.as_bytes()[..]);
            let (found, offset) = lists.get(at)?.split_first_chunk::<ID_BYTES>()?;
            (found == id.as_bytes()).then(|| offset.try_into().map_or(0, u64::from_le_bytes))
        });
        // What cannot be read any more is fetched.
        looked.ok()?
    }

    /// Where a chunk with this id may be: first those around `near`, which is where it is wanted.
    pub(super) fn chunk(&self, id: &ChunkId, near: u64) -> impl Iterator<Item = u64> + '_ {
        let wanted = tag(id);
        let nearest = self
            .runs
            .partition_point(|begin| *begin <= near)
            .saturating_sub(1);
        let others = (0..self.runs.len()).filter(move |run| *run != nearest);
        let runs = (nearest < self.runs.len())
            .then_some(nearest)
            .into_iter()
            .chain(others);
        runs.flat_map(move |run| self.in_run(run, wanted))
            .take(MAX_PLACES)
    }

    /// The places with that tag in one run.
    fn in_run(&self, run: usize, wanted: u32) -> Vec<u64> {
        let last = self.fences.len().min((run + 1) * RUN_LEAVES);
        let first = run * RUN_LEAVES;
        let fences = &self.fences[first..last];
        // The tag may begin in the leaf before the first that begins with it.
        let begin = first + fences.partition_point(|fence| *fence < wanted).saturating_sub(1);
        let mut places = Vec::new();
        for leaf in begin..last {
            if self.fences[leaf] > wanted || places.len() >= MAX_PLACES {
                break;
            }
            let looked = self.leaf(leaf, |chunks| {
                let from = chunks.partition_point(|chunk| tag_of(u64::from_le_bytes(*chunk)) < wanted);
                let found = chunks[from..].iter().map(|chunk| u64::from_le_bytes(*chunk));
                let found = found.take_while(|chunk| tag_of(*chunk) == wanted);
                places.extend(found.take(MAX_PLACES).map(|chunk| chunk & OFFSET_MASK));
            });
            // What cannot be read any more is fetched.
            if looked.is_err() {
                break;
            }
        }
        places
    }

    fn leaf<T>(&self, leaf: usize, look: impl FnOnce(&[[u8; CHUNK_BYTES]]) -> T) -> io::Result<T> {
        let chunks = (self.chunks - leaf * LEAF_CHUNKS).min(LEAF_CHUNKS);
        let at = leaf * LEAF_BYTES;
        let which = at..at + chunks * CHUNK_BYTES;
        self.content
            .leaf(leaf % LEAVES, which, |bytes| look(bytes.as_chunks().0))
    }

    fn list_leaf<T>(&self, leaf: usize, look: impl FnOnce(&[[u8; LIST_BYTES]]) -> T) -> io::Result<T> {
        let lists = (self.lists - leaf * LEAF_LISTS).min(LEAF_LISTS);
        let at = self.chunks * CHUNK_BYTES + leaf * LIST_LEAF_BYTES;
        let which = at..at + lists * LIST_BYTES;
        self.content.leaf(LEAVES + leaf % LIST_LEAVES, which, |bytes| {
            look(bytes.as_chunks().0)
        })
    }

    /// By which rule it was cut.
    pub(super) fn cuts(&self) -> Cuts {
        self.cuts
    }

    /// What was kept of an artifact with that digest in that slot.
    pub(super) fn load(hints: &Hints, slot: SlotName, name: &str, artifact: &Digest) -> Option<Self> {
        Self::read(hints.open(&file_of(slot, name))?, artifact)
    }

    /// None for anything but what a [`HeldBuilder`] makes of that artifact.
    fn read(file: FileReader, artifact: &Digest) -> Option<Self> {
        let bytes = file.len_bytes();
        let tail_at = bytes.checked_sub(TAIL_BYTES as u64)?;
        if bytes > MAX_FILE_BYTES {
            return None;
        }
        let mut tail = [0; TAIL_BYTES];
        file.read_at(&mut tail, tail_at).ok()?;
        let (tail, check) = Tail::parse(&tail).filter(|(tail, _)| tail.artifact == *artifact)?;
        let mut hasher = Hasher::new();
        let mut shape = Shape::default();
        let mut leaf = vec![0; LEAF_BYTES];
        let chunk_bytes = tail.chunks.checked_mul(CHUNK_BYTES)?;
        let list_bytes = tail.lists.checked_mul(LIST_BYTES)?;
        if chunk_bytes.checked_add(list_bytes)? as u64 != tail_at {
            return None;
        }
        for at in (0..chunk_bytes).step_by(LEAF_BYTES) {
            let leaf = &mut leaf[..LEAF_BYTES.min(chunk_bytes - at)];
            file.read_at(leaf, at as u64).ok()?;
            hasher.update(leaf);
            shape.push(leaf.as_chunks().0);
        }
        for at in (0..list_bytes).step_by(LIST_LEAF_BYTES) {
            let leaf = &mut leaf[..LIST_LEAF_BYTES.min(list_bytes - at)];
            file.read_at(leaf, (chunk_bytes + at) as u64).ok()?;
            hasher.update(leaf);
            shape.list_fences.extend(leaf.first_chunk::<ID_BYTES>());
        }
        if tail.checksum(hasher) != check {
            return None;
        }
        let leaves = Leaves((0..LEAVES + LIST_LEAVES).map(|_| None).collect());
        Some(Self {
            cuts: tail.cuts,
            chunks: tail.chunks,
            fences: shape.fences,
            runs: shape.runs,
            lists: tail.lists,
            list_fences: shape.list_fences,
            content: Content::File(file, Mutex::new(leaves)),
        })
    }
}

/// What is remembered of chunks and lists.
#[derive(Debug, Default)]
struct Shape {
    fences: Vec<u32>,
    runs: Vec<u64>,
    list_fences: Vec<[u8; ID_BYTES]>,
}

impl Shape {
    /// The next leaf.
    fn push(&mut self, leaf: &[[u8; CHUNK_BYTES]]) {
        let chunks = || leaf.iter().map(|chunk| u64::from_le_bytes(*chunk));
        let first = chunks()
            .map(|chunk| chunk & OFFSET_MASK)
            .min()
            .unwrap_or_default();
        match self.runs.last_mut() {
            Some(run) if !self.fences.len().is_multiple_of(RUN_LEAVES) => *run = first.min(*run),
            _ => self.runs.push(first),
        }
        self.fences.extend(chunks().next().map(tag_of));
    }
}

/// The end of a kept file.
#[derive(Debug)]
struct Tail {
    cuts: Cuts,
    chunks: usize,
    lists: usize,
    artifact: Digest,
}

impl Tail {
    /// Everything but the digest at its end.
    fn front(&self) -> [u8; TAIL_BYTES - 32] {
        let mut front = [0; TAIL_BYTES - 32];
        front[..8].copy_from_slice(&MAGIC);
        // Both counts are bounded by the chunks of an image, which fit.
        let words = [FORMAT, self.cuts.code(), self.chunks as u32, self.lists as u32];
        for (place, word) in front[8..24].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        front[24..].copy_from_slice(self.artifact.as_bytes());
        front
    }

    /// `hasher` has all that stands before the tail.
    fn checksum(&self, mut hasher: Hasher) -> Digest {
        hasher.update(&self.front());
        hasher.finish()
    }

    /// And the digest at its end.
    fn parse(bytes: &[u8; TAIL_BYTES]) -> Option<(Self, Digest)> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let digest = |at: usize| {
            let mut digest = [0; 32];
            digest.copy_from_slice(&bytes[at..at + 32]);
            Digest::from_bytes(digest)
        };
        let is_ours = bytes.starts_with(&MAGIC) && word(8) == FORMAT;
        let cuts = Cuts::from_code(word(12)).filter(|_| is_ours)?;
        let tail = Self {
            cuts,
            chunks: word(16) as usize,
            lists: word(20) as usize,
            artifact: digest(24),
        };
        Some((tail, digest(56)))
    }
}

fn file_of(slot: SlotName, name: &str) -> String {
    let slot = match slot {
        SlotName::A => 'a',
        SlotName::B => 'b',
    };
    format!("slot-{slot}.{name}.held")
}

#[cfg(test)]
mod tests;
