//! The chunk index of one artifact: the list of its chunks in order, as a bounded binary file. There
//! are no offsets in it, so chunks cannot overlap or leave gaps; a run of zeros needs no fetch.

use super::{MAX_ARTIFACT_BYTES, MAX_CHUNK_BYTES, MAX_CHUNKS, MAX_INDEX_BYTES};
use crate::digest::Digest;

/// The first bytes of every index.
pub const MAGIC: [u8; 8] = *b"DRYDOCKX";
/// The index format that is written, and the newest that is read.
pub const INDEX_FORMAT: u16 = 1;
/// Bytes before the first entry.
pub const HEADER_BYTES: usize = 64;
/// Bytes of each entry.
pub const ENTRY_BYTES: usize = 36;
/// The bit of an entry's length that marks a run of zeros.
const ZEROS: u32 = 1 << 31;

/// Why bytes are no index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// It does not begin with the magic.
    #[error("this is no chunk index")]
    Magic,
    /// Written in a format that this program does not know.
    #[error(
        "the chunk index has format {found}, this program reads up to {INDEX_FORMAT}: update Drydock on this machine first"
    )]
    NewerFormat {
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
    /// Its chunks do not add up to the artifact.
    #[error("the chunks add up to {sum} bytes, the artifact has {wanted}")]
    Sum {
        /// The sum of the lengths.
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

/// What is in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChunkContent {
    /// Zeros only; nothing is stored.
    Zeros,
    /// Bytes with this digest, stored as `chunks/HE/HEX.zst`.
    Stored(Digest),
}

/// One chunk of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkRef {
    /// Where it begins in the artifact, in bytes.
    pub offset: u64,
    /// Its length in bytes, 1 to [`MAX_CHUNK_BYTES`].
    pub length: u32,
    /// What is in it.
    pub content: ChunkContent,
}

/// A chunk index that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkIndex {
    artifact: Digest,
    size: u64,
    entries: Vec<(u32, ChunkContent)>,
}

impl ChunkIndex {
    /// Reads an index: magic, format, bounds, exact length, and the sum of all lengths.
    ///
    /// # Errors
    /// See [`IndexError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, IndexError> {
        let rule = |text: String| Err(IndexError::Rule(text));
        if !bytes.starts_with(&MAGIC) {
            return Err(IndexError::Magic);
        }
        let (head, body) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(IndexError::Length {
                found: bytes.len() as u64,
                wanted: HEADER_BYTES as u64,
            })?;
        let format = u16::from_le_bytes([head[8], head[9]]);
        if format != INDEX_FORMAT {
            return Err(IndexError::NewerFormat { found: format });
        }
        let count = u32::from_le_bytes([head[12], head[13], head[14], head[15]]);
        if [head[10], head[11]] != [0, 0] || head[24..32] != [0; 8] {
            return rule("a reserved field is not zero".to_owned());
        }
        if count == 0 || count > MAX_CHUNKS {
            return rule(format!("{count} chunks, where 1 to {MAX_CHUNKS} are allowed"));
        }
        let wanted = (HEADER_BYTES + count as usize * ENTRY_BYTES) as u64;
        if bytes.len() as u64 != wanted {
            return Err(IndexError::Length {
                found: bytes.len() as u64,
                wanted,
            });
        }
        let mut size = [0u8; 8];
        size.copy_from_slice(&head[16..24]);
        let mut artifact = [0u8; 32];
        artifact.copy_from_slice(&head[32..64]);
        let (artifact, size) = (Digest::from_bytes(artifact), u64::from_le_bytes(size));
        let mut entries = Vec::with_capacity(count as usize);
        let mut sum = 0u64;
        for entry in body.chunks_exact(ENTRY_BYTES) {
            let (length, content) = parse_entry(entry)?;
            sum += u64::from(length);
            entries.push((length, content));
        }
        if sum != size || size > MAX_ARTIFACT_BYTES {
            return Err(IndexError::Sum { sum, wanted: size });
        }
        Ok(Self {
            artifact,
            size,
            entries,
        })
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

    /// The artifact's size in bytes, which is the sum of its chunks' lengths.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// How many chunks there are, 1 to [`MAX_CHUNKS`].
    #[must_use]
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// The chunks in order. Their offsets are contiguous from 0 to the artifact's size.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkRef> + '_ {
        let mut next = 0;
        self.entries.iter().map(move |&(length, content)| {
            let offset = next;
            next += u64::from(length);
            ChunkRef {
                offset,
                length,
                content,
            }
        })
    }
}

fn parse_entry(entry: &[u8]) -> Result<(u32, ChunkContent), IndexError> {
    let word = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
    let mut digest = [0u8; 32];
    digest.copy_from_slice(&entry[4..ENTRY_BYTES]);
    let length = word & !ZEROS;
    if length == 0 || length > MAX_CHUNK_BYTES {
        return Err(IndexError::Rule(format!("a chunk of {length} bytes")));
    }
    if word & ZEROS == 0 {
        return Ok((length, ChunkContent::Stored(Digest::from_bytes(digest))));
    }
    if digest != [0; 32] {
        return Err(IndexError::Rule("a run of zeros with a digest".to_owned()));
    }
    Ok((length, ChunkContent::Zeros))
}

/// Gathers chunks in order and writes the index. The same chunks give the same bytes.
#[derive(Debug, Default)]
pub struct IndexBuilder {
    body: Vec<u8>,
    count: u32,
    size: u64,
}

impl IndexBuilder {
    /// An index without chunks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next chunk.
    ///
    /// # Errors
    /// Too many chunks, or a length out of bounds.
    pub fn push(&mut self, length: u32, content: ChunkContent) -> Result<(), IndexError> {
        if length == 0 || length > MAX_CHUNK_BYTES || self.count == MAX_CHUNKS {
            return Err(IndexError::Rule(format!(
                "chunk {} of {length} bytes",
                self.count
            )));
        }
        let (word, digest) = match content {
            ChunkContent::Zeros => (length | ZEROS, [0; 32]),
            ChunkContent::Stored(digest) => (length, *digest.as_bytes()),
        };
        self.body.extend_from_slice(&word.to_le_bytes());
        self.body.extend_from_slice(&digest);
        self.count += 1;
        self.size += u64::from(length);
        Ok(())
    }

    /// The index file of the artifact with that digest.
    ///
    /// # Errors
    /// No chunk was added, or the artifact is too long.
    pub fn finish(self, artifact: &Digest) -> Result<Vec<u8>, IndexError> {
        if self.count == 0 || self.size > MAX_ARTIFACT_BYTES {
            return Err(IndexError::Rule(format!(
                "{} chunks with {} bytes",
                self.count, self.size
            )));
        }
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.body.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&INDEX_FORMAT.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&self.count.to_le_bytes());
        bytes.extend_from_slice(&self.size.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(artifact.as_bytes());
        bytes.extend_from_slice(&self.body);
        debug_assert!(bytes.len() as u64 <= MAX_INDEX_BYTES);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use proptest::prelude::*;

    fn example() -> Vec<u8> {
        let mut builder = IndexBuilder::new();
        builder
            .push(70_000, ChunkContent::Stored(Digest::of(b"a")))
            .unwrap();
        builder.push(MAX_CHUNK_BYTES, ChunkContent::Zeros).unwrap();
        builder.push(1, ChunkContent::Stored(Digest::of(b"b"))).unwrap();
        builder.finish(&Digest::of(b"artifact")).unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let index = ChunkIndex::parse(&example()).unwrap();
        let offsets: Vec<u64> = index.chunks().map(|chunk| chunk.offset).collect();
        assert_eq!(offsets, [0, 70_000, 332_144]);
        assert_eq!(index.size(), 332_145);
        index.check_artifact(&Digest::of(b"artifact"), 332_145).unwrap();
        assert!(index.check_artifact(&Digest::of(b"artifact"), 332_146).is_err());
        assert!(index.check_artifact(&Digest::of(b"other"), 332_145).is_err());
    }

    #[test]
    fn every_cut_and_every_addition_is_refused() {
        let bytes = example();
        for length in 0..bytes.len() {
            assert!(ChunkIndex::parse(&bytes[..length]).is_err(), "cut at {length}");
        }
        assert!(ChunkIndex::parse(&[bytes.as_slice(), b"x"].concat()).is_err());
        let entry = &bytes[HEADER_BYTES..HEADER_BYTES + ENTRY_BYTES];
        assert!(ChunkIndex::parse(&[bytes.as_slice(), entry].concat()).is_err());
    }

    #[test]
    fn lengths_that_do_not_add_up_are_refused() {
        let set = |at: usize, value: &[u8]| {
            let mut bytes = example();
            bytes[at..at + value.len()].copy_from_slice(value);
            ChunkIndex::parse(&bytes)
        };
        assert!(matches!(
            set(16, &332_146u64.to_le_bytes()),
            Err(IndexError::Sum { .. })
        ));
        assert!(matches!(
            set(16, &u64::MAX.to_le_bytes()),
            Err(IndexError::Sum { .. })
        ));
        assert!(matches!(
            set(64, &70_001u32.to_le_bytes()),
            Err(IndexError::Sum { .. })
        ));
        assert!(matches!(set(64, &0u32.to_le_bytes()), Err(IndexError::Rule(_))));
        assert!(matches!(
            set(64, &(MAX_CHUNK_BYTES + 1).to_le_bytes()),
            Err(IndexError::Rule(_))
        ));
        assert!(matches!(set(104, &[1]), Err(IndexError::Rule(_))));
        assert!(matches!(
            set(8, &2u16.to_le_bytes()),
            Err(IndexError::NewerFormat { found: 2 })
        ));
        assert!(matches!(set(10, &[1]), Err(IndexError::Rule(_))));
        assert!(matches!(
            set(12, &u32::MAX.to_le_bytes()),
            Err(IndexError::Rule(_))
        ));
        assert!(matches!(
            set(12, &4u32.to_le_bytes()),
            Err(IndexError::Length { .. })
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), real: bool) {
            if real && bytes.len() >= 10 {
                bytes[..8].copy_from_slice(&MAGIC);
                bytes[8..10].copy_from_slice(&1u16.to_le_bytes());
            }
            let _ = ChunkIndex::parse(&bytes);
        }
    }
}
