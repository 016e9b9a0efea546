//! What a segment's frame is unpacked on: ranges of the old image, as they stand there or unpacked. Does no I/O.

use zstd::zstd_safe;

use super::head::{Reference, SegmentId};
use super::segment::SegmentError;
use super::{MAX_PACKED_BYTES, MAX_REFERENCE_BYTES};

/// The ground of one segment after another.
pub struct Ground {
    bytes: Vec<u8>,
    context: zstd_safe::DCtx<'static>,
}

impl Default for Ground {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            context: zstd_safe::DCtx::create(),
        }
    }
}

impl Ground {
    /// Begins the next segment's.
    pub fn clear(&mut self) {
        self.bytes.clear();
        // All that is ever needed: what is not used takes no memory.
        self.bytes.reserve_exact(MAX_REFERENCE_BYTES as usize);
    }

    /// Gives its memory back.
    pub(super) fn free(&mut self) {
        self.bytes = Vec::new();
    }

    /// What was added.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds what was read for a reference, or a part of it where it is not packed.
    ///
    /// # Errors
    /// It is packed, and is not what it should be: nothing is unpacked that does not have the id that was
    /// signed. It is more than a segment may refer to.
    pub fn add(&mut self, reference: &Reference, read: &[u8]) -> Result<(), SegmentError> {
        let Some(wanted) = reference.packed else {
            self.room_for(read.len())?;
            self.bytes.extend_from_slice(read);
            return Ok(());
        };
        if SegmentId::of(read) != wanted {
            return Err(SegmentError::Other { wanted });
        }
        let mut left = read;
        while !left.is_empty() {
            let (frame, content) = frame(left).ok_or(SegmentError::NotPacked { wanted })?;
            self.room_for(content)?;
            let from = self.bytes.len();
            self.bytes.resize(from + content, 0);
            let made = self.context.decompress(&mut self.bytes[from..], &left[..frame]);
            if made != Ok(content) {
                return Err(SegmentError::NotPacked { wanted });
            }
            left = &left[frame..];
        }
        Ok(())
    }

    fn room_for(&self, bytes: usize) -> Result<(), SegmentError> {
        if self.bytes.len() + bytes > MAX_REFERENCE_BYTES as usize {
            return Err(SegmentError::TooMuchGround);
        }
        Ok(())
    }
}

/// The length of the zstd frame that `bytes` begin with, and of its content, if that is said and may be unpacked.
pub(super) fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let content = zstd_safe::get_frame_content_size(bytes).ok()??;
    let content = usize::try_from(content).ok()?;
    if !(1..=MAX_PACKED_BYTES as usize).contains(&content) {
        return None;
    }
    let frame = zstd_safe::find_frame_compressed_size(bytes).ok()?;
    (frame <= bytes.len()).then_some((frame, content))
}
