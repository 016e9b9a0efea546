//! Pair deltas: an artifact of one release made from the same artifact of another. The new image is built in
//! segments, each a plain copy out of the old image or one zstd frame on the ground of a few ranges of it, so
//! a node needs a few megabytes of memory however long the images are. What is packed with zstd in the images,
//! as everything in a squashfs is, is compared unpacked, and packed again. A delta only saves bytes: what it
//! makes is hashed like everything else, and where it does not fit, chunks are fetched.

mod document;
mod find;
mod ground;
mod head;
pub(crate) mod make;
mod packed;
mod segment;
mod similar;
mod view;

pub use document::{Delta, DeltaArtifact, MAX_DELTA_BYTES};
pub use ground::Ground;
pub use head::{
    DeltaError, DeltaHead, DeltaHeader, Packing, Reference, Run, Segment, SegmentFrame, SegmentId, Source,
    segments_from_bytes, segments_to_bytes,
};
pub use make::{BEST_LEVEL, DEFAULT_LEVEL, Effort};
pub use segment::{SegmentDecoder, SegmentError};

#[cfg(test)]
mod tests;

/// A segment has at most this many bytes, and its content has.
pub const SEGMENT_BYTES: u32 = 1 << 20;
/// The ranges of the old image that one segment refers to have at most this many bytes together, as they stand
/// there and unpacked. With the segment that is 4 MiB, the window of zstd's levels from 9 on.
pub const MAX_REFERENCE_BYTES: u32 = 3 << 20;
/// A segment refers to at most this many ranges.
pub const MAX_REFERENCES: usize = 1024;
/// A segment has at most this many runs.
pub const MAX_RUNS: usize = 4096;
/// Nothing of more content than this is unpacked or packed again: zstd's tables for longer content take more
/// memory than a node is to give.
pub const MAX_PACKED_BYTES: u32 = 256 << 10;
/// The longest head, in bytes.
pub const MAX_HEAD_BYTES: u64 = 16 << 20;
/// The longest stored frame of a segment, in bytes: zstd's own bound for what cannot be compressed, rounded up.
pub const MAX_STORED_BYTES: u32 = SEGMENT_BYTES + 8192;
