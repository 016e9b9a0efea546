//! A disk as bytes: a block device, or a disk image in a file; and [`Device`], the same behind the
//! write gate. Nothing here knows of partitions, and nothing here opens a disk that it was not told.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg, OFlag, PosixFadviseAdvice, posix_fadvise};

use super::aligned::{AlignedBuf, DIRECT_ALIGN, is_aligned};
use super::gate::{WriteEvent, WriteGate, WriteKind, through};
use super::ioctl;

/// Reads past the page cache that are not aligned are done in pieces of this size.
const DIRECT_PIECE_BYTES: usize = 1 << 20;

/// The bytes of one disk. Implementations: [`FileDisk`] and the simulated one of the tests.
pub trait RawDisk: Send + Sync + fmt::Debug {
    /// Length in bytes; does not change while the disk is open.
    fn len_bytes(&self) -> u64;

    /// Logical sector size, where the disk knows its own (a block device does, an image does not).
    fn sector_bytes(&self) -> Option<u64>;

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// I/O errors, and `UnexpectedEof` past the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// As [`RawDisk::read_at`], but from the medium instead of a cache of what was written.
    ///
    /// # Errors
    /// As [`RawDisk::read_at`].
    fn read_past_cache(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Writes all of `buf` at `offset`; lasting only after [`RawDisk::flush`].
    ///
    /// # Errors
    /// I/O errors; a disk never grows.
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()>;

    /// Returns when everything written is on the medium.
    ///
    /// # Errors
    /// I/O errors; what was written since the last flush is then in doubt.
    fn flush(&self) -> io::Result<()>;

    /// Keeps other processes (a second updater, udev) off the partition table until it is dropped.
    ///
    /// # Errors
    /// I/O errors.
    fn lock_table(&self) -> io::Result<TableLock>;
}

/// Held while the partition table is read, changed and written. See [`RawDisk::lock_table`].
#[derive(Debug)]
pub struct TableLock {
    _flock: Option<Flock<File>>,
}

impl TableLock {
    /// For disks that no other process can see.
    #[must_use]
    pub fn private() -> Self {
        Self { _flock: None }
    }
}

/// How a disk is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    ReadOnly,
    ReadWrite,
    /// For a partition's own device node: refused by the kernel while it is mounted or otherwise claimed.
    ReadWriteExclusive,
}

/// A block device or an image file.
#[derive(Debug)]
pub struct FileDisk {
    path: PathBuf,
    file: File,
    /// The same, opened past the page cache, where the file system allows it.
    direct: Option<File>,
    /// For writing past the page cache: whole blocks of a block device. What a node's programs have in
    /// memory is worth more than a slot that nobody reads before the next boot.
    direct_write: Option<File>,
    len_bytes: u64,
    sector_bytes: Option<u64>,
}

impl FileDisk {
    /// # Errors
    /// I/O errors; anything but a block device or a regular file is refused.
    pub fn open(path: &Path, access: Access) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(OFlag::O_CLOEXEC.bits());
        match access {
            Access::ReadOnly => {}
            Access::ReadWrite => {
                options.write(true);
            }
            Access::ReadWriteExclusive => {
                // O_EXCL without O_CREAT has this meaning for block devices alone (open(2)).
                let is_block = std::fs::metadata(path)?.file_type().is_block_device();
                let exclusive = if is_block { OFlag::O_EXCL } else { OFlag::empty() };
                options
                    .write(true)
                    .custom_flags((OFlag::O_CLOEXEC | exclusive).bits());
            }
        }
        let file = options.open(path)?;
        let metadata = file.metadata()?;
        let (len_bytes, sector_bytes) = if metadata.file_type().is_block_device() {
            (
                ioctl::block_device_bytes(&file)?,
                Some(ioctl::logical_sector_bytes(&file)?),
            )
        } else if metadata.is_file() {
            (metadata.len(), None)
        } else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is neither a block device nor a regular file", path.display()),
            ));
        };
        let past_cache = |writes: bool| {
            OpenOptions::new()
                .read(true)
                .write(writes)
                .custom_flags((OFlag::O_CLOEXEC | OFlag::O_DIRECT).bits())
                .open(path)
                .ok()
        };
        let direct = past_cache(false);
        // The claim of the exclusive descriptor above holds for this one too.
        let direct_write = match access {
            Access::ReadOnly => None,
            Access::ReadWrite | Access::ReadWriteExclusive => sector_bytes.and_then(|_| past_cache(true)),
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            direct,
            direct_write,
            len_bytes,
            sector_bytes,
        })
    }

    /// The device number of the block device itself (`st_rdev`), or `None` for an image.
    ///
    /// # Errors
    /// I/O errors.
    pub fn device_number(&self) -> io::Result<Option<u64>> {
        let metadata = self.file.metadata()?;
        Ok(metadata.file_type().is_block_device().then(|| metadata.rdev()))
    }

    /// Reads whole aligned blocks with O_DIRECT and copies the part that was asked for.
    fn read_direct(&self, direct: &File, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if is_aligned(offset, buf) {
            return direct.read_exact_at(buf, offset);
        }
        let align = DIRECT_ALIGN as u64;
        let room = buf.len().min(DIRECT_PIECE_BYTES) + 2 * DIRECT_ALIGN;
        let mut memory = AlignedBuf::new(room.div_ceil(DIRECT_ALIGN) * DIRECT_ALIGN);
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let block = at - at % align;
            let lead = (at - block) as usize;
            let want = (buf.len() - done).min(DIRECT_PIECE_BYTES - lead);
            // Asks for whole blocks; only at the end of the disk may the kernel give fewer bytes.
            let ask = (lead + want).div_ceil(DIRECT_ALIGN) * DIRECT_ALIGN;
            let piece = &mut memory[..ask];
            let mut got = 0;
            while got < lead + want {
                match direct.read_at(&mut piece[got..], block + got as u64) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(n) => got += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            buf[done..done + want].copy_from_slice(&piece[lead..lead + want]);
            done += want;
        }
        Ok(())
    }
}

impl RawDisk for FileDisk {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn sector_bytes(&self) -> Option<u64> {
        self.sector_bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn read_past_cache(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if let Some(direct) = &self.direct {
            match self.read_direct(direct, offset, buf) {
                Ok(()) => return Ok(()),
                // Some file systems take the flag at open and refuse the read.
                Err(e) if e.kind() == io::ErrorKind::InvalidInput => {}
                Err(e) => return Err(e),
            }
        }
        // Only clean pages are dropped, so this is past the cache after a flush, as every caller does.
        posix_fadvise(
            &self.file,
            i64::try_from(offset).unwrap_or(i64::MAX),
            i64::try_from(buf.len()).unwrap_or(i64::MAX),
            PosixFadviseAdvice::POSIX_FADV_DONTNEED,
        )?;
        self.file.read_exact_at(buf, offset)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        if offset
            .checked_add(buf.len() as u64)
            .is_none_or(|end| end > self.len_bytes)
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "write of {} bytes at {offset} is past the end of {}",
                    buf.len(),
                    self.path.display()
                ),
            ));
        }
        match &self.direct_write {
            Some(direct) if is_aligned(offset, buf) => direct.write_all_at(buf, offset),
            _ => self.file.write_all_at(buf, offset),
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn lock_table(&self) -> io::Result<TableLock> {
        // A lock on the whole disk's node is also what udev respects (systemd, BLOCK_DEVICE_LOCKING).
        let file = OpenOptions::new().read(true).open(&self.path)?;
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| io::Error::from(errno))?;
        Ok(TableLock { _flock: Some(lock) })
    }
}

/// A disk, its name for people, and the gate that every write to it passes. Cheap to clone.
#[derive(Clone)]
pub struct Device {
    path: Arc<Path>,
    raw: Arc<dyn RawDisk>,
    gate: Arc<dyn WriteGate>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("path", &self.path)
            .field("raw", &self.raw)
            .finish_non_exhaustive()
    }
}

impl Device {
    /// Opens the block device or image at `path`.
    ///
    /// # Errors
    /// As [`FileDisk::open`].
    pub fn open(path: &Path, access: Access, gate: Arc<dyn WriteGate>) -> io::Result<Self> {
        Ok(Self::new(path, Arc::new(FileDisk::open(path, access)?), gate))
    }

    /// The same disk behind another gate.
    #[must_use]
    pub fn behind(&self, gate: Arc<dyn WriteGate>) -> Self {
        Self { gate, ..self.clone() }
    }

    /// Puts a disk behind a gate.
    #[must_use]
    pub fn new(path: &Path, raw: Arc<dyn RawDisk>, gate: Arc<dyn WriteGate>) -> Self {
        Self {
            path: path.into(),
            raw,
            gate,
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[must_use]
    pub fn raw(&self) -> &dyn RawDisk {
        &*self.raw
    }

    #[must_use]
    pub fn gate(&self) -> Arc<dyn WriteGate> {
        self.gate.clone()
    }

    /// # Errors
    /// The gate's and the disk's.
    pub fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let event = WriteEvent {
            kind: WriteKind::DeviceWrite,
            path: &self.path,
            from: None,
            offset,
            len: buf.len() as u64,
        };
        through(&*self.gate, &event, || self.raw.write_at(offset, buf))
    }

    /// # Errors
    /// The gate's and the disk's.
    pub fn flush(&self) -> io::Result<()> {
        let event = WriteEvent {
            kind: WriteKind::DeviceFlush,
            path: &self.path,
            from: None,
            offset: 0,
            len: 0,
        };
        through(&*self.gate, &event, || self.raw.flush())
    }
}
