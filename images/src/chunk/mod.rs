//! Images in chunks: cut by content, listed in pages, stored in frames. An index names the pages of one
//! artifact; a pack holds its frames and pages. The bounds of all of them are here, and a reader refuses
//! whatever breaks one before it acts on it.

pub mod cut;
pub mod frame;
mod id;
pub mod index;
pub mod page;
mod rebuild;
mod window;

pub use cut::{Chunker, CutChunk, Cuts, FRONT_BYTES, chunk_reader, chunk_slice};
pub use frame::{Decoder, FrameError, encode_frame};
pub use id::{ChunkId, ListId};
pub use index::{ChunkIndex, IndexBuilder, IndexError, PageRef};
pub use page::{Chunk, ChunkList, Frame, ListCutter, Page, PageError, Part};
pub use rebuild::{Rebuilder, check_chunks};
pub use window::Window;

/// The length the cuts aim at in the smallest images, in bytes; see [`Cuts::for_image`].
pub const AVG_CHUNK_BYTES: u32 = 8 * 1024;
/// The blocks of the smallest images that are cut in blocks, in bytes.
pub const BLOCK_BYTES: u32 = 4096;
/// No chunk of any image is longer, in bytes.
pub const MAX_CHUNK_BYTES: u32 = 512 * 1024;
/// The longest artifact, in bytes: 64 GiB.
pub const MAX_ARTIFACT_BYTES: u64 = 64 << 30;
/// The most chunks in one page.
pub const MAX_PAGE_CHUNKS: usize = 128;
/// The longest page, in bytes.
pub const MAX_PAGE_BYTES: u32 =
    (page::HEADER_BYTES + MAX_PAGE_CHUNKS * (page::CHUNK_BYTES + page::FRAME_BYTES)) as u32;
/// The most pages in one index.
pub const MAX_PAGES: u32 = 1 << 18;
/// The longest index file, in bytes.
pub const MAX_INDEX_BYTES: u64 = (index::HEADER_BYTES + MAX_PAGES as usize * index::ENTRY_BYTES) as u64;
/// What a frame decodes to has at most this many bytes.
pub const MAX_FRAME_CONTENT_BYTES: u32 = MAX_CHUNK_BYTES;
/// The longest stored frame, in bytes: zstd's own bound for what cannot be compressed, rounded up.
pub const MAX_FRAME_BYTES: u32 = MAX_FRAME_CONTENT_BYTES + 4096;
/// A frame may refer back to at most this many bytes of the image before it.
pub const MAX_WINDOW_BYTES: u32 = 1 << 20;
