//! A disk in memory that can lose its power: what was not flushed is then kept or lost sector by
//! sector, as a real disk may do it. For crash tests and the simulator; no node uses it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::device::{RawDisk, TableLock};

type Sectors = BTreeMap<u64, Vec<u8>>;

/// See the module. Reads see every write; [`RawDisk::read_past_cache`] sees only what was flushed.
#[derive(Debug)]
pub struct SimDisk {
    sector_bytes: u64,
    /// The content it was made with; what changed since stands in `inner`.
    base: Arc<Vec<u8>>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Clone, Default)]
struct Inner {
    /// What is on the medium, where it differs from the base.
    durable: Sectors,
    /// What a read sees, where it differs from the base.
    seen: Sectors,
    /// Written since the last flush: sector number and content, in order.
    pending: Vec<(u64, Vec<u8>)>,
}

impl SimDisk {
    /// A disk with this content; what is beyond its last whole sector does not exist.
    #[must_use]
    pub fn new(content: Vec<u8>, sector_bytes: u64) -> Self {
        Self::from_shared(Arc::new(content), sector_bytes)
    }

    /// As [`SimDisk::new`], for many disks that begin with the same content.
    #[must_use]
    pub fn from_shared(base: Arc<Vec<u8>>, sector_bytes: u64) -> Self {
        Self {
            sector_bytes,
            base,
            inner: Mutex::default(),
        }
    }

    /// How many written sectors a power cut now could lose.
    #[must_use]
    pub fn unflushed_sectors(&self) -> usize {
        self.lock().pending.len()
    }

    /// The disk after a power cut: `keep` is asked for each unflushed sector, in the order of writing.
    #[must_use]
    pub fn after_power_cut(&self, mut keep: impl FnMut(usize) -> bool) -> Self {
        let inner = self.lock();
        let mut durable = inner.durable.clone();
        for (nth, (sector, bytes)) in inner.pending.iter().enumerate() {
            if keep(nth) {
                durable.insert(*sector, bytes.clone());
            }
        }
        let seen = durable.clone();
        let inner = Inner {
            durable,
            seen,
            pending: Vec::new(),
        };
        Self {
            sector_bytes: self.sector_bytes,
            base: self.base.clone(),
            inner: Mutex::new(inner),
        }
    }

    /// As [`SimDisk::after_power_cut`], the choice made by a seed.
    #[must_use]
    pub fn after_seeded_power_cut(&self, seed: u64) -> Self {
        let mut state = seed;
        self.after_power_cut(|_| mixed(&mut state) & 1 == 1)
    }

    /// What a read sees, whole.
    ///
    /// # Errors
    /// None but a disk that does not fit memory.
    pub fn content(&self) -> io::Result<Vec<u8>> {
        let mut content = vec![0; usize::try_from(self.len_bytes()).map_err(io::Error::other)?];
        self.read_at(0, &mut content)?;
        Ok(content)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, changed: &Sectors, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.check(offset, buf.len())?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        buf.copy_from_slice(&self.base[start..start + buf.len()]);
        let end = offset + buf.len() as u64;
        for (sector, bytes) in changed.range(offset / self.sector_bytes..end.div_ceil(self.sector_bytes)) {
            let at = sector * self.sector_bytes;
            let (from, to) = (at.max(offset), (at + self.sector_bytes).min(end));
            let within =
                |position: u64, origin: u64| usize::try_from(position - origin).map_err(io::Error::other);
            buf[within(from, offset)?..within(to, offset)?]
                .copy_from_slice(&bytes[within(from, at)?..within(to, at)?]);
        }
        Ok(())
    }

    fn check(&self, offset: u64, len: usize) -> io::Result<()> {
        let inside = offset
            .checked_add(len as u64)
            .is_some_and(|end| end <= self.len_bytes());
        if inside {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

/// One step of SplitMix64.
pub(crate) fn mixed(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl RawDisk for SimDisk {
    fn len_bytes(&self) -> u64 {
        let len = self.base.len() as u64;
        len - len % self.sector_bytes
    }

    fn sector_bytes(&self) -> Option<u64> {
        Some(self.sector_bytes)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read(&self.lock().seen, offset, buf)
    }

    fn read_past_cache(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read(&self.lock().durable, offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.check(offset, buf.len())?;
        let mut inner = self.lock();
        let end = offset + buf.len() as u64;
        for sector in offset / self.sector_bytes..end.div_ceil(self.sector_bytes) {
            let at = sector * self.sector_bytes;
            let mut bytes = vec![0; usize::try_from(self.sector_bytes).map_err(io::Error::other)?];
            self.read(&inner.seen, at, &mut bytes)?;
            let (from, to) = (at.max(offset), (at + self.sector_bytes).min(end));
            let within =
                |position: u64, origin: u64| usize::try_from(position - origin).map_err(io::Error::other);
            bytes[within(from, at)?..within(to, at)?]
                .copy_from_slice(&buf[within(from, offset)?..within(to, offset)?]);
            inner.seen.insert(sector, bytes.clone());
            inner.pending.push((sector, bytes));
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut inner = self.lock();
        let pending = std::mem::take(&mut inner.pending);
        inner.durable.extend(pending);
        Ok(())
    }

    fn lock_table(&self) -> io::Result<TableLock> {
        Ok(TableLock::private())
    }
}
