//! A page: a list of neighbouring chunks, and the frames in which those are stored that are no zeros. The
//! list depends on the content alone, so a node can make it from what it has and knows a page that it need
//! not fetch; how the chunks are stored does not enter it.

use super::cut::{Cuts, chunk_slice};
use super::id::{ChunkId, ID_BYTES, ListId};
use super::{MAX_CHUNK_BYTES, MAX_FRAME_BYTES, MAX_FRAME_CONTENT_BYTES, MAX_PAGE_CHUNKS};
use crate::digest::Digest;

/// Bytes before the list.
pub const HEADER_BYTES: usize = 4;
/// Bytes of each chunk in the list.
pub const CHUNK_BYTES: usize = 4 + ID_BYTES;
/// Bytes of each frame after the list.
pub const FRAME_BYTES: usize = 4 + 2 + 2 + 32;
/// The bit of a chunk's length that marks a run of zeros.
const ZEROS: u32 = 1 << 31;
/// A list that is cut by content has at least this many chunks, ...
const MIN_LIST_CHUNKS: usize = 16;
/// ... and ends with a chunk that is no zeros and whose id has these bits clear: one in 64.
const LIST_MASK: u16 = 63;

/// Why bytes are no page, or not the page asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// A length, a count or a reserved field breaks a bound.
    #[error("the page breaks a rule: {0}")]
    Rule(String),
    /// It is another page than the index names.
    #[error("the page is not the one that the index names: {0}")]
    Other(String),
}

fn rule<T>(text: String) -> Result<T, PageError> {
    Err(PageError::Rule(text))
}

/// One chunk of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Its length in bytes, 1 to [`MAX_CHUNK_BYTES`].
    pub length: u32,
    /// What is in it.
    pub id: ChunkId,
}

impl Chunk {
    /// The chunk with these bytes, at most [`MAX_CHUNK_BYTES`] of them.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            length: bytes.len() as u32,
            id: ChunkId::of(bytes),
        }
    }
}

/// Neighbouring chunks in the form in which they are stored and named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChunkList {
    stored: Vec<u8>,
    bytes: u32,
}

impl ChunkList {
    /// The list that these bytes are cut into, which for what a page covers is the page's.
    #[must_use]
    pub fn of(bytes: &[u8], cuts: Cuts) -> Self {
        let mut list = Self::default();
        for chunk in chunk_slice(bytes, cuts) {
            list.push(Chunk::of(chunk));
        }
        list
    }

    /// Adds the next chunk; at most [`MAX_PAGE_CHUNKS`] of them.
    pub fn push(&mut self, chunk: Chunk) {
        let mark = if chunk.id == ChunkId::ZEROS { ZEROS } else { 0 };
        self.stored
            .extend_from_slice(&(chunk.length | mark).to_le_bytes());
        self.stored.extend_from_slice(chunk.id.as_bytes());
        self.bytes += chunk.length;
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.stored.len() / CHUNK_BYTES
    }

    /// How many bytes of the image they are.
    #[must_use]
    pub const fn image_bytes(&self) -> u32 {
        self.bytes
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> ListId {
        ListId::of(&self.stored)
    }

    /// The chunks in order.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> + '_ {
        self.stored.chunks_exact(CHUNK_BYTES).map(|entry| {
            let (word, id) = split_entry(entry);
            Chunk {
                length: word & !ZEROS,
                id,
            }
        })
    }
}

fn split_entry(entry: &[u8]) -> (u32, ChunkId) {
    let mut id = [0; ID_BYTES];
    id.copy_from_slice(&entry[4..CHUNK_BYTES]);
    let word = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
    (word, ChunkId::from_bytes(id))
}

/// Ends lists where their content says so, so that two images that share content share lists.
#[derive(Debug, Default)]
pub struct ListCutter {
    list: ChunkList,
}

impl ListCutter {
    /// Adds the next chunk of the image; the list that it completes, if it does.
    pub fn push(&mut self, chunk: Chunk) -> Option<ChunkList> {
        self.list.push(chunk);
        let [low, high, ..] = *chunk.id.as_bytes();
        let marked = chunk.id != ChunkId::ZEROS && u16::from_le_bytes([low, high]) & LIST_MASK == 0;
        let count = self.list.count();
        ((marked && count >= MIN_LIST_CHUNKS) || count == MAX_PAGE_CHUNKS)
            .then(|| std::mem::take(&mut self.list))
    }

    /// What is left at the image's end.
    #[must_use]
    pub fn finish(self) -> Option<ChunkList> {
        (self.list.count() > 0).then_some(self.list)
    }
}

/// In which part of a pack something is stored. What is new in a release stands together at the front.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// What is in none of the releases that this one was built after.
    Front,
    /// The rest.
    Rest,
}

/// One stored frame: some neighbouring chunks of a page, none of them zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The part of the pack that it is in.
    pub part: Part,
    /// The place of its first chunk in the page.
    pub first_chunk: u16,
    /// How many chunks it has.
    pub chunks: u16,
    /// Bytes that are stored.
    pub stored_bytes: u32,
    /// Bytes of the image that are in it.
    pub content_bytes: u32,
    /// The SHA-256 of what is stored.
    pub digest: Digest,
}

/// A page that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    list: ChunkList,
    frames: Vec<Frame>,
}

impl Page {
    /// A page of these chunks, stored in these frames, which are checked as a reader does.
    ///
    /// # Errors
    /// A bound is broken, or the frames are not those of just these chunks.
    pub fn new(list: ChunkList, frames: Vec<Frame>) -> Result<Self, PageError> {
        let page = Self { list, frames };
        Self::parse(&page.to_bytes()).map(|read| {
            debug_assert_eq!(read, page);
            read
        })
    }

    /// Reads a page.
    ///
    /// # Errors
    /// See [`PageError::Rule`].
    pub fn parse(bytes: &[u8]) -> Result<Self, PageError> {
        let Some((head, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return rule(format!("it has {} bytes", bytes.len()));
        };
        let count = usize::from(u16::from_le_bytes([head[0], head[1]]));
        let frames = usize::from(u16::from_le_bytes([head[2], head[3]]));
        if count == 0 || count > MAX_PAGE_CHUNKS || frames > count {
            return rule(format!("{count} chunks in {frames} frames"));
        }
        let wanted = count * CHUNK_BYTES + frames * FRAME_BYTES;
        if body.len() != wanted {
            return rule(format!("{} bytes where its counts say {wanted}", body.len()));
        }
        let (list, frames) = body.split_at(count * CHUNK_BYTES);
        let list = parse_list(list)?;
        let frames = parse_frames(frames, &list)?;
        Ok(Self { list, frames })
    }

    /// The stored form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let counts = [self.list.count(), self.frames.len()];
        // Both are bounded by MAX_PAGE_CHUNKS; a longer list is refused where it is read.
        let mut bytes: Vec<u8> = counts
            .iter()
            .flat_map(|count| u16::try_from(*count).unwrap_or(u16::MAX).to_le_bytes())
            .collect();
        bytes.extend_from_slice(&self.list.stored);
        for frame in &self.frames {
            bytes.extend_from_slice(&frame.stored_bytes.to_le_bytes());
            bytes.extend_from_slice(&frame.chunks.to_le_bytes());
            bytes.extend_from_slice(&(frame.part as u16).to_le_bytes());
            bytes.extend_from_slice(frame.digest.as_bytes());
        }
        bytes
    }

    /// Its chunks.
    #[must_use]
    pub const fn list(&self) -> &ChunkList {
        &self.list
    }

    /// Its frames in order.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Bytes of its frames in that part of the pack.
    #[must_use]
    pub fn stored_bytes(&self, part: Part) -> u32 {
        let frames = self.frames.iter().filter(|frame| frame.part == part);
        frames.map(|frame| frame.stored_bytes).sum()
    }
}

fn parse_list(stored: &[u8]) -> Result<ChunkList, PageError> {
    let mut bytes = 0;
    for entry in stored.chunks_exact(CHUNK_BYTES) {
        let (word, id) = split_entry(entry);
        let length = word & !ZEROS;
        if length == 0 || length > MAX_CHUNK_BYTES {
            return rule(format!("a chunk of {length} bytes"));
        }
        if (word & ZEROS != 0) != (id == ChunkId::ZEROS) {
            return rule("a run of zeros with an id, or an id of zeros without the mark".to_owned());
        }
        bytes += length;
    }
    Ok(ChunkList {
        stored: stored.to_vec(),
        bytes,
    })
}

fn parse_frames(stored: &[u8], list: &ChunkList) -> Result<Vec<Frame>, PageError> {
    let chunks: Vec<Chunk> = list.chunks().collect();
    let mut next = 0;
    let mut frames = Vec::with_capacity(stored.len() / FRAME_BYTES);
    let skip_zeros = |from: usize| {
        let zeros = chunks[from..]
            .iter()
            .take_while(|chunk| chunk.id == ChunkId::ZEROS);
        from + zeros.count()
    };
    for entry in stored.chunks_exact(FRAME_BYTES) {
        let stored_bytes = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
        let count = usize::from(u16::from_le_bytes([entry[4], entry[5]]));
        let part = match u16::from_le_bytes([entry[6], entry[7]]) {
            0 => Part::Front,
            1 => Part::Rest,
            other => return rule(format!("a frame in part {other} of the pack")),
        };
        next = skip_zeros(next);
        let Some(inside) = chunks.get(next..next + count).filter(|inside| !inside.is_empty()) else {
            return rule(format!("a frame of {count} chunks from chunk {next} on"));
        };
        let content_bytes: u32 = inside.iter().map(|chunk| chunk.length).sum();
        if inside.iter().any(|chunk| chunk.id == ChunkId::ZEROS)
            || content_bytes > MAX_FRAME_CONTENT_BYTES
            || stored_bytes == 0
            || stored_bytes > MAX_FRAME_BYTES
        {
            return rule(format!("a frame of {stored_bytes} bytes for {content_bytes}"));
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(&entry[8..FRAME_BYTES]);
        frames.push(Frame {
            part,
            // Both are below MAX_PAGE_CHUNKS.
            first_chunk: next as u16,
            chunks: count as u16,
            stored_bytes,
            content_bytes,
            digest: Digest::from_bytes(digest),
        });
        next += count;
    }
    if skip_zeros(next) == chunks.len() {
        Ok(frames)
    } else {
        rule(format!("no frame holds chunk {next}"))
    }
}

#[cfg(test)]
mod tests;
