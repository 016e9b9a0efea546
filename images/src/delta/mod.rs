//! Pair deltas: an artifact of one release made from the same artifact of another. The new image is built in
//! segments, each a plain copy out of the old image or one zstd frame on the ground of a few ranges of it, so
//! a node needs a few megabytes of memory however long the images are. A delta only saves bytes: what it makes
//! is hashed like everything else, and where it does not fit, chunks are fetched.

mod document;
mod find;
mod head;
pub(crate) mod make;
mod segment;
mod similar;

pub use document::{Delta, DeltaArtifact, MAX_DELTA_BYTES};
pub use head::{DeltaError, DeltaHead, Reference, Segment, SegmentFrame, SegmentId, Source};
pub use make::{BEST_LEVEL, DEFAULT_LEVEL};
pub use segment::{SegmentDecoder, SegmentError};

#[cfg(test)]
mod tests;

/// The bytes of every segment but the last.
pub const SEGMENT_BYTES: u32 = 1 << 20;
/// The ranges of the old image that one segment refers to have at most this many bytes together. With the
/// segment that is 4 MiB, the window of zstd's levels from 9 on.
pub const MAX_REFERENCE_BYTES: u32 = 3 << 20;
/// A segment refers to at most this many ranges.
pub const MAX_REFERENCES: usize = 1024;
/// The longest head, in bytes.
pub const MAX_HEAD_BYTES: u64 = 16 << 20;
/// The longest stored frame of a segment, in bytes: zstd's own bound for what cannot be compressed, rounded up.
pub const MAX_STORED_BYTES: u32 = SEGMENT_BYTES + 8192;
