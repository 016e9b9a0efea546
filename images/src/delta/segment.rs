//! One segment out of its frame and what it refers to. Does no I/O.

use super::head::{SegmentFrame, SegmentId};
use super::{MAX_STORED_BYTES, SEGMENT_BYTES};
use crate::chunk::frame::Described;
use crate::chunk::{Decoder, FrameError};

/// Why what was made is not the segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// What was fetched is not the frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// What it was made out of is not what it should be.
    #[error("what was made out of the old image is not segment {wanted}")]
    Other {
        /// The segment that was wanted.
        wanted: SegmentId,
    },
}

/// Makes segments.
#[derive(Default)]
pub struct SegmentDecoder {
    frames: Decoder,
}

impl SegmentDecoder {
    /// The segment of `bytes` bytes, out of its stored frame and what that refers to in the old image.
    ///
    /// # Errors
    /// The frame is not the one that the head names; what comes out is not the segment, which means that the
    /// old image is another than the delta was made for.
    pub fn decode(
        &mut self,
        wanted: SegmentId,
        bytes: u32,
        frame: &SegmentFrame,
        stored: &[u8],
        references: &[u8],
    ) -> Result<&[u8], SegmentError> {
        let described = Described {
            stored_bytes: frame.stored_bytes.min(MAX_STORED_BYTES),
            content_bytes: bytes.min(SEGMENT_BYTES),
            digest: frame.digest,
        };
        let made = self.frames.unpack(stored, &described, references)?;
        if SegmentId::of(made) == wanted {
            Ok(made)
        } else {
            Err(SegmentError::Other { wanted })
        }
    }
}
