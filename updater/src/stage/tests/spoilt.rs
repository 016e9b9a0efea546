//! A disk that reads one byte other than it was written, as failing media do.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::sim::SimDisk;
use crate::disk::{RawDisk, TableLock};

#[derive(Debug)]
pub(super) struct Spoilt {
    disk: SimDisk,
    at: u64,
    sound_reads: AtomicU64,
    longest_read: AtomicU64,
    reads: AtomicU64,
}

impl Spoilt {
    /// The byte at `at` reads right so many times.
    pub(super) fn new(image: Vec<u8>, at: u64, sound_reads: u64) -> Self {
        Self {
            disk: SimDisk::new(image, 512),
            at,
            sound_reads: AtomicU64::new(sound_reads),
            longest_read: AtomicU64::new(0),
            reads: AtomicU64::new(0),
        }
    }

    /// Reads in which that byte was.
    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    /// Bytes of the longest read in which that byte was.
    pub(super) fn longest_read(&self) -> u64 {
        self.longest_read.load(Ordering::SeqCst)
    }
}

impl RawDisk for Spoilt {
    fn len_bytes(&self) -> u64 {
        self.disk.len_bytes()
    }
    fn sector_bytes(&self) -> Option<u64> {
        self.disk.sector_bytes()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.disk.read_at(offset, buf)
    }
    fn read_past_cache(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.disk.read_past_cache(offset, buf)?;
        let inside = self
            .at
            .checked_sub(offset)
            .and_then(|at| usize::try_from(at).ok());
        let len_bytes = buf.len() as u64;
        if let Some(byte) = inside.and_then(|at| buf.get_mut(at)) {
            self.reads.fetch_add(1, Ordering::SeqCst);
            self.longest_read.fetch_max(len_bytes, Ordering::SeqCst);
            let one_less = |left: u64| left.checked_sub(1);
            if self
                .sound_reads
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
                .is_err()
            {
                *byte ^= 1;
            }
        }
        Ok(())
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> std::io::Result<()> {
        self.disk.write_at(offset, buf)
    }
    fn flush(&self) -> std::io::Result<()> {
        self.disk.flush()
    }
    fn lock_table(&self) -> std::io::Result<TableLock> {
        self.disk.lock_table()
    }
}
