//! Images in chunks: cut by content, stored by the digest of what is in them, listed in an index.
//! The bounds of all three are here, and a reader refuses whatever breaks one before it acts on it.

pub mod cut;
pub mod frame;
pub mod index;

pub use cut::{Chunker, CutChunk, chunk_reader};
pub use frame::{FrameError, decode_frame, encode_frame};
pub use index::{ChunkContent, ChunkIndex, ChunkRef, IndexBuilder, IndexError};

/// No chunk but the last of an image is shorter, in bytes.
pub const MIN_CHUNK_BYTES: u32 = 16 * 1024;
/// The length the cuts aim at, in bytes.
pub const AVG_CHUNK_BYTES: u32 = 64 * 1024;
/// No chunk is longer, in bytes.
pub const MAX_CHUNK_BYTES: u32 = 256 * 1024;
/// The most chunks in one index.
pub const MAX_CHUNKS: u32 = 1 << 20;
/// The longest artifact, in bytes: 64 GiB, which its chunks reach well before they are too many.
pub const MAX_ARTIFACT_BYTES: u64 = 64 << 30;
/// The longest index file, in bytes.
pub const MAX_INDEX_BYTES: u64 = index::HEADER_BYTES as u64 + MAX_CHUNKS as u64 * index::ENTRY_BYTES as u64;
/// The longest stored chunk, in bytes: zstd's own bound for what cannot be compressed, rounded up.
pub const MAX_FRAME_BYTES: u64 = MAX_CHUNK_BYTES as u64 + 4096;
