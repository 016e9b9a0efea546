//! Shortened digests by which a node finds what it has already. They choose where to look and are
//! compared again with what was read; what is written is proven by whole digests alone.

use std::fmt;

use super::page::CHUNK_BYTES;
use crate::digest::Digest;

/// Bytes of an id: enough that no second content with the same id can be made on purpose.
pub const ID_BYTES: usize = 16;

/// The first half of the SHA-256 of a chunk's bytes; all zero for a run of zeros.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId([u8; ID_BYTES]);

/// The first half of the SHA-256 of a list of chunks as it stands in a page: equal lists are equal content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListId([u8; ID_BYTES]);

fn shortened(digest: Digest) -> [u8; ID_BYTES] {
    let mut id = [0; ID_BYTES];
    id.copy_from_slice(&digest.as_bytes()[..ID_BYTES]);
    id
}

impl ChunkId {
    /// The id of a run of zeros.
    pub const ZEROS: Self = Self([0; ID_BYTES]);

    /// The id of a chunk with these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        if is_zeros(bytes) {
            Self::ZEROS
        } else {
            Self(shortened(Digest::of(bytes)))
        }
    }

    /// An id from its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; ID_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; ID_BYTES] {
        &self.0
    }
}

impl ListId {
    /// The id of a list in its stored form, a whole number of entries.
    #[must_use]
    pub fn of(list: &[u8]) -> Self {
        debug_assert!(list.len().is_multiple_of(CHUNK_BYTES));
        Self(shortened(Digest::of(list)))
    }

    /// An id from its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; ID_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; ID_BYTES] {
        &self.0
    }
}

/// Whether there are only zeros; a comparison with itself one byte on is one call of memcmp.
fn is_zeros(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0) && bytes[1..] == bytes[..bytes.len() - 1]
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Debug for ListId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
