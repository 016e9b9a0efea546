//! Memory that the kernel can move to and from a device without a copy (O_DIRECT).

use std::ops::{Deref, DerefMut};

/// Enough for O_DIRECT on every sector size that Linux knows (512 to 4096), in bytes.
pub const DIRECT_ALIGN: usize = 4096;

/// Bytes that begin at a multiple of [`DIRECT_ALIGN`]. Its length is fixed.
pub struct AlignedBuf {
    memory: Vec<u8>,
    skew: usize,
    len: usize,
}

impl AlignedBuf {
    /// `len` zeros.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let memory = vec![0; len + DIRECT_ALIGN];
        let skew = memory.as_ptr().align_offset(DIRECT_ALIGN);
        Self { memory, skew, len }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.skew..self.skew + self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.skew..self.skew + self.len]
    }
}

/// Whether O_DIRECT takes these bytes at this place.
pub(super) fn is_aligned(offset: u64, buf: &[u8]) -> bool {
    offset.is_multiple_of(DIRECT_ALIGN as u64)
        && buf.len().is_multiple_of(DIRECT_ALIGN)
        && buf.as_ptr().align_offset(DIRECT_ALIGN) == 0
}
