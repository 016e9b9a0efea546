//! The running slot as a source of content. Reads it past the page cache, ahead, and never writes. What it
//! gives is a hint until it was hashed.

use std::io::{self, Read};

use crate::disk::{AlignedBuf, DIRECT_ALIGN, DiskError, PartitionReader};

/// Small pieces are read with what follows them, in bytes, since the next piece is mostly that.
const AHEAD_BYTES: usize = 128 * 1024;

/// The first bytes of a partition, read in pieces.
pub(super) struct Seed {
    reader: PartitionReader,
    len_bytes: u64,
    /// What was read last, and from where.
    memory: AlignedBuf,
    at: u64,
    held: usize,
}

impl Seed {
    /// `len_bytes` of the partition are worth reading.
    pub(super) fn new(reader: PartitionReader, len_bytes: u64) -> Self {
        let len_bytes = len_bytes.min(reader.partition().len_bytes);
        Self {
            reader,
            len_bytes,
            memory: AlignedBuf::new(AHEAD_BYTES),
            at: 0,
            held: 0,
        }
    }

    /// The same partition, of which nothing is worth reading.
    pub(super) fn empty(self) -> Self {
        Self {
            len_bytes: 0,
            held: 0,
            ..self
        }
    }

    /// `len` bytes at `offset`, or None where there are not so many.
    ///
    /// # Errors
    /// I/O errors.
    pub(super) fn read(&mut self, offset: u64, len: usize) -> Result<Option<&[u8]>, DiskError> {
        let inside = offset
            .checked_add(len as u64)
            .is_some_and(|end| end <= self.len_bytes);
        if !inside {
            return Ok(None);
        }
        let is_held = offset >= self.at && offset + len as u64 <= self.at + self.held as u64;
        if !is_held {
            self.load(offset, len)?;
        }
        // Both are inside of what is held, which is memory.
        let from = (offset - self.at) as usize;
        Ok(Some(&self.memory[from..from + len]))
    }

    fn load(&mut self, offset: u64, len: usize) -> Result<(), DiskError> {
        let at = offset - offset % DIRECT_ALIGN as u64;
        let lead = (offset - at) as usize;
        // A large piece is read alone: nothing is read twice for it.
        let wanted = if len < AHEAD_BYTES / 2 {
            AHEAD_BYTES
        } else {
            (lead + len).div_ceil(DIRECT_ALIGN) * DIRECT_ALIGN
        };
        if self.memory.len() < wanted {
            self.memory = AlignedBuf::new(wanted);
        }
        let left = self.len_bytes - at;
        let held = usize::try_from(left).unwrap_or(usize::MAX).min(wanted);
        self.held = 0;
        self.reader.read_past_cache(at, &mut self.memory[..held])?;
        (self.at, self.held) = (at, held);
        Ok(())
    }
}

/// A [`Seed`] from its start to its end.
pub(super) struct SeedStream {
    seed: Seed,
    at: u64,
}

impl SeedStream {
    pub(super) fn new(seed: Seed) -> Self {
        Self { seed, at: 0 }
    }
}

impl Read for SeedStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.seed.len_bytes - self.at).unwrap_or(usize::MAX);
        let len = left.min(buf.len());
        let read = self.seed.read(self.at, len).map_err(io::Error::other)?;
        buf[..len].copy_from_slice(read.unwrap_or_default());
        self.at += len as u64;
        Ok(len)
    }
}
