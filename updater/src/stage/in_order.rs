//! Writes what comes in the order of its places in whole blocks: a block that is written in part has to be
//! read from the device first, and that read is waited for. Holds less than two pieces; what it still holds
//! when it is dropped was never written.

use crate::disk::{DiskError, SlotWriter};

/// No sector and no page of what Linux runs on is expected to be larger, in bytes.
const BLOCK_BYTES: u64 = 4096;
/// Written at a time, in bytes.
const PIECE_BYTES: usize = 256 * 1024;

/// Neighbours that are not written yet.
pub(super) struct InOrder<'a> {
    writer: &'a SlotWriter,
    artifact: &'a str,
    /// Where `pending` belongs.
    at: u64,
    pending: Vec<u8>,
}

impl<'a> InOrder<'a> {
    pub(super) fn new(writer: &'a SlotWriter, artifact: &'a str) -> Self {
        Self {
            writer,
            artifact,
            at: 0,
            pending: Vec::new(),
        }
    }

    /// Takes the bytes for `offset`; they are written now or later, at the latest by [`InOrder::finish`].
    ///
    /// # Errors
    /// As [`SlotWriter::write_at`], for these bytes or earlier ones.
    pub(super) fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        if offset != self.end() {
            self.write(self.pending.len())?;
            self.at = offset;
        }
        self.pending.extend_from_slice(bytes);
        if self.pending.len() < PIECE_BYTES {
            return Ok(());
        }
        // Less than a block, so it fits.
        let into_a_block = (self.end() % BLOCK_BYTES) as usize;
        self.write(self.pending.len() - into_a_block)
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// As [`SlotWriter::write_at`].
    pub(super) fn finish(mut self) -> Result<(), DiskError> {
        self.write(self.pending.len())
    }

    fn end(&self) -> u64 {
        self.at + self.pending.len() as u64
    }

    fn write(&mut self, len: usize) -> Result<(), DiskError> {
        if len == 0 {
            return Ok(());
        }
        self.writer
            .write_at(self.artifact, self.at, &self.pending[..len])?;
        self.pending.drain(..len);
        self.at += len as u64;
        Ok(())
    }
}
