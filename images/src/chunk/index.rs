//! The index of one artifact: its pages in order, as a bounded binary file. There are no offsets in it, so
//! pages cannot overlap or leave gaps, in the image or in the pack.

use std::ops::Range;

use super::cut::Cuts;
use super::id::{ID_BYTES, ListId};
use super::page::{Page, PageError, Part};
use super::{
    MAX_ARTIFACT_BYTES, MAX_CHUNK_BYTES, MAX_FRAME_BYTES, MAX_INDEX_BYTES, MAX_PAGE_BYTES, MAX_PAGE_CHUNKS,
    MAX_PAGES, MAX_WINDOW_BYTES,
};
use crate::digest::Digest;

/// The first bytes of every index.
pub const MAGIC: [u8; 8] = *b"DRYDOCKX";
/// The index format that is written and read.
pub const INDEX_FORMAT: u16 = 2;
/// Bytes before the first entry.
pub const HEADER_BYTES: usize = 72;
/// Bytes of each entry.
pub const ENTRY_BYTES: usize = 64;

/// Why bytes are no index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// It does not begin with the magic.
    #[error("this is no chunk index")]
    Magic,
    /// Written in a format that this program does not know.
    #[error(
        "the chunk index has format {found}, this program reads {INDEX_FORMAT}: update Drydock on this machine first"
    )]
    NewerFormat {
        /// The format it says it has.
        found: u16,
    },
    /// Written in a format that is not read any more.
    #[error("the chunk index has format {found}, this program reads {INDEX_FORMAT}: build the release again")]
    OlderFormat {
        /// The format it says it has.
        found: u16,
    },
    /// A field that must be zero is not, or a length breaks a bound.
    #[error("the chunk index breaks a rule: {0}")]
    Rule(String),
    /// Its length is not what its count says.
    #[error("the chunk index has {found} bytes where its count says {wanted}")]
    Length {
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        wanted: u64,
    },
    /// Its pages do not add up to the artifact.
    #[error("the pages add up to {sum} bytes, the artifact has {wanted}")]
    Sum {
        /// The sum of what they cover.
        sum: u64,
        /// The artifact's size.
        wanted: u64,
    },
    /// It belongs to another artifact.
    #[error("the chunk index belongs to the artifact {found}")]
    Artifact {
        /// The artifact digest in the index.
        found: Digest,
    },
}

/// One page as the index names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRef {
    /// What its list of chunks is called.
    pub list: ListId,
    /// The SHA-256 of the stored page.
    pub digest: Digest,
    /// Bytes of the stored page.
    pub page_bytes: u32,
    /// Bytes of the image that it covers.
    pub image_bytes: u32,
    /// Bytes of its frames in the front of the pack, and in the rest.
    pub frames_bytes: [u32; 2],
    /// Its chunks.
    pub chunks: u32,
    /// The part of the pack that the page itself is in.
    pub part: Part,
    /// Where it begins in the image.
    pub offset: u64,
    /// Where the first of its frames begins in the front of the pack, and in the rest.
    pub frames_at: [u64; 2],
    /// Where it is stored in the pack.
    pub page_at: u64,
}

impl PageRef {
    /// Reads the page that is stored as `bytes`.
    ///
    /// # Errors
    /// It is not the one that this names, or breaks a rule.
    pub fn read(&self, bytes: &[u8]) -> Result<Page, PageError> {
        let found = Digest::of(bytes);
        if found != self.digest {
            return Err(PageError::Other(format!("it has digest {found}")));
        }
        let page = Page::parse(bytes)?;
        let list = page.list();
        let (count, covers) = (list.count(), list.image_bytes());
        if list.id() != self.list || count != self.chunks as usize || covers != self.image_bytes {
            return Err(PageError::Other(format!(
                "it lists {count} chunks of {covers} bytes"
            )));
        }
        let found = [Part::Front, Part::Rest].map(|part| page.stored_bytes(part));
        if found != self.frames_bytes {
            return Err(PageError::Other(format!("its frames have {found:?} bytes")));
        }
        Ok(page)
    }

    /// Where its frames of that part are in the pack, one after another.
    #[must_use]
    pub fn frames(&self, part: Part) -> Range<u64> {
        let at = self.frames_at[part as usize];
        at..at + u64::from(self.frames_bytes[part as usize])
    }

    /// Where it is in the pack.
    #[must_use]
    pub fn stored(&self) -> Range<u64> {
        self.page_at..self.page_at + u64::from(self.page_bytes)
    }
}

/// A chunk index that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkIndex {
    artifact: Digest,
    size: u64,
    window_bytes: u32,
    cuts: Cuts,
    pages: Vec<PageRef>,
    pack_bytes: u64,
}

impl ChunkIndex {
    /// Reads an index: magic, format, bounds, exact length, and the sum of what its pages cover.
    ///
    /// # Errors
    /// See [`IndexError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, IndexError> {
        let rule = |text: String| Err(IndexError::Rule(text));
        if !bytes.starts_with(&MAGIC) {
            return Err(IndexError::Magic);
        }
        let length = |wanted: u64| IndexError::Length {
            found: bytes.len() as u64,
            wanted,
        };
        let (head, body) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or_else(|| length(HEADER_BYTES as u64))?;
        match u16::from_le_bytes([head[8], head[9]]) {
            INDEX_FORMAT => {}
            found if found > INDEX_FORMAT => return Err(IndexError::NewerFormat { found }),
            found => return Err(IndexError::OlderFormat { found }),
        }
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (count, window_bytes) = (word(12), word(24));
        if [head[10], head[11]] != [0, 0] || head[32..40] != [0; 8] {
            return rule("a reserved field is not zero".to_owned());
        }
        if count == 0 || count > MAX_PAGES {
            return rule(format!("{count} pages, where 1 to {MAX_PAGES} are allowed"));
        }
        if window_bytes > MAX_WINDOW_BYTES {
            return rule(format!("frames refer back {window_bytes} bytes"));
        }
        let Some(cuts) = Cuts::from_code(word(28)) else {
            return rule(format!("cut by the unknown rule {}", word(28)));
        };
        let wanted = (HEADER_BYTES + count as usize * ENTRY_BYTES) as u64;
        if bytes.len() as u64 != wanted {
            return Err(length(wanted));
        }
        let size = u64::from(word(16)) | u64::from(word(20)) << 32;
        let mut artifact = [0u8; 32];
        artifact.copy_from_slice(&head[40..72]);
        let (pages, sum) = parse_entries(body)?;
        if sum != size || size > MAX_ARTIFACT_BYTES {
            return Err(IndexError::Sum { sum, wanted: size });
        }
        let mut index = Self {
            artifact: Digest::from_bytes(artifact),
            size,
            window_bytes,
            cuts,
            pages,
            pack_bytes: 0,
        };
        for part in [Part::Front, Part::Rest] {
            index.place(part);
        }
        Ok(index)
    }

    /// Gives what is in a part of the pack its place: the frames, then the pages.
    fn place(&mut self, part: Part) {
        for page in &mut self.pages {
            page.frames_at[part as usize] = self.pack_bytes;
            self.pack_bytes += u64::from(page.frames_bytes[part as usize]);
        }
        for page in self.pages.iter_mut().filter(|page| page.part == part) {
            page.page_at = self.pack_bytes;
            self.pack_bytes += u64::from(page.page_bytes);
        }
    }

    /// That this is the index of the artifact with that digest and size.
    ///
    /// # Errors
    /// It belongs to another artifact, or adds up to another size.
    pub fn check_artifact(&self, digest: &Digest, size: u64) -> Result<(), IndexError> {
        if self.artifact != *digest {
            return Err(IndexError::Artifact { found: self.artifact });
        }
        if self.size != size {
            return Err(IndexError::Sum {
                sum: self.size,
                wanted: size,
            });
        }
        Ok(())
    }

    /// The artifact's digest.
    #[must_use]
    pub const fn artifact(&self) -> Digest {
        self.artifact
    }

    /// The artifact's size in bytes, which is the sum of what its pages cover.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// How many bytes before itself in the image a frame may refer to.
    #[must_use]
    pub const fn window_bytes(&self) -> u32 {
        self.window_bytes
    }

    /// By which rule the artifact is cut, so that a node can cut what it has alike.
    #[must_use]
    pub const fn cuts(&self) -> Cuts {
        self.cuts
    }

    /// The pages in order, 1 to [`MAX_PAGES`].
    #[must_use]
    pub fn pages(&self) -> &[PageRef] {
        &self.pages
    }

    /// The chunks of all pages.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.pages.iter().map(|page| u64::from(page.chunks)).sum()
    }

    /// The bytes of the pack.
    #[must_use]
    pub const fn pack_bytes(&self) -> u64 {
        self.pack_bytes
    }
}

fn parse_entries(body: &[u8]) -> Result<(Vec<PageRef>, u64), IndexError> {
    let mut pages = Vec::with_capacity(body.len() / ENTRY_BYTES);
    let mut offset = 0;
    for entry in body.chunks_exact(ENTRY_BYTES) {
        let word = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
        let mut list = [0; ID_BYTES];
        list.copy_from_slice(&entry[..ID_BYTES]);
        let mut digest = [0; 32];
        digest.copy_from_slice(&entry[16..48]);
        let page = PageRef {
            list: ListId::from_bytes(list),
            digest: Digest::from_bytes(digest),
            page_bytes: word(48) & 0x7FFF,
            part: if word(48) & 0x8000 == 0 {
                Part::Front
            } else {
                Part::Rest
            },
            chunks: word(48) >> 16,
            image_bytes: word(52),
            frames_bytes: [word(56), word(60)],
            offset,
            frames_at: [0; 2],
            page_at: 0,
        };
        check_page(&page)?;
        offset += u64::from(page.image_bytes);
        pages.push(page);
    }
    Ok((pages, offset))
}

fn check_page(page: &PageRef) -> Result<(), IndexError> {
    let most = MAX_PAGE_CHUNKS as u32;
    let inside = (1..=most).contains(&page.chunks)
        && (1..=MAX_PAGE_BYTES).contains(&page.page_bytes)
        && (page.chunks..=page.chunks * MAX_CHUNK_BYTES).contains(&page.image_bytes)
        && page
            .frames_bytes
            .iter()
            .all(|bytes| *bytes <= page.chunks * MAX_FRAME_BYTES);
    if inside {
        return Ok(());
    }
    let PageRef {
        page_bytes,
        image_bytes,
        frames_bytes,
        chunks,
        ..
    } = page;
    Err(IndexError::Rule(format!(
        "a page of {page_bytes} bytes for {chunks} chunks of {image_bytes} bytes in {frames_bytes:?}"
    )))
}

/// Gathers pages in order and writes the index. The same pages give the same bytes.
#[derive(Debug, Default)]
pub struct IndexBuilder {
    body: Vec<u8>,
    count: u32,
    size: u64,
}

impl IndexBuilder {
    /// An index without pages.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next page, which is stored as `stored` in that part of the pack.
    ///
    /// # Errors
    /// Too many pages.
    pub fn push(&mut self, page: &Page, stored: &[u8], part: Part) -> Result<(), IndexError> {
        if self.count == MAX_PAGES {
            return Err(IndexError::Rule(format!("more than {MAX_PAGES} pages")));
        }
        let list = page.list();
        self.body.extend_from_slice(list.id().as_bytes());
        self.body.extend_from_slice(Digest::of(stored).as_bytes());
        // All of them are bounded by MAX_PAGE_CHUNKS chunks.
        let words = [
            stored.len() as u32 | (part as u32) << 15 | (list.count() as u32) << 16,
            list.image_bytes(),
            page.stored_bytes(Part::Front),
            page.stored_bytes(Part::Rest),
        ];
        for word in words {
            self.body.extend_from_slice(&word.to_le_bytes());
        }
        self.count += 1;
        self.size += u64::from(list.image_bytes());
        Ok(())
    }

    /// The index file of the artifact with that digest, whose frames refer back at most `window_bytes`.
    ///
    /// # Errors
    /// No page was added, or a bound is broken.
    pub fn finish(self, artifact: &Digest, window_bytes: u32, cuts: Cuts) -> Result<Vec<u8>, IndexError> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.body.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&INDEX_FORMAT.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&self.count.to_le_bytes());
        bytes.extend_from_slice(&self.size.to_le_bytes());
        bytes.extend_from_slice(&window_bytes.to_le_bytes());
        bytes.extend_from_slice(&cuts.code().to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(artifact.as_bytes());
        bytes.extend_from_slice(&self.body);
        debug_assert!(bytes.len() as u64 <= MAX_INDEX_BYTES);
        ChunkIndex::parse(&bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
