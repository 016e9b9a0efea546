//! Writes a changed partition table so that at every instant at least one copy on the medium is the
//! whole old table or the whole new one.
//!
//! The only valid copy is never written: a broken or differing copy is first made equal to the old
//! table and flushed; then backup, flush, primary, flush. No other bits than the boot bits of the
//! partitions that were named can change here.

use std::io::{self, Seek, SeekFrom, Write};

use gptman::{GPTHeader, GPTPartitionEntry};

use super::bits::{BOOT_BITS_MASK, BootBits};
use super::device::{Device, RawDisk};
use super::error::DiskError;
use super::table::{ENTRY_BYTES, GptHealth, Table};

/// The attributes' place in an entry, in bytes.
const ATTRIBUTES_AT: usize = 48;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Primary,
    Backup,
}

/// New boot bits for one partition, by its number in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitsChange {
    pub partition: u32,
    pub bits: BootBits,
}

impl Table {
    /// Writes `changes`, mending a broken copy first. Writes nothing where both copies already say so.
    /// The caller holds the table's lock since before it read `self`.
    ///
    /// # Errors
    /// I/O errors (the table on the medium is then the old or the new one), and
    /// [`DiskError::ForeignChange`], with nothing written.
    pub fn commit(&self, device: &Device, changes: &[BitsChange]) -> Result<(), DiskError> {
        let mut entries = self.entries.clone();
        for change in changes {
            let entry = usize::try_from(change.partition)
                .ok()
                .and_then(|number| number.checked_sub(1))
                .and_then(|index| entries.get_mut(index))
                .filter(|entry| entry.is_used())
                .ok_or_else(|| self.foreign(device, format!("unused partition {}", change.partition)))?;
            entry.attribute_bits = change.bits.apply_to(entry.attribute_bits);
        }
        let old = self.serialise(device, Which::Primary, &self.entries)?;
        let new = self.serialise(device, Which::Primary, &entries)?;
        self.assert_only_boot_bits(device, &old.entries, &new.entries, changes)?;

        let (source, other) = match self.health() {
            GptHealth::PrimaryBroken { .. } => (Which::Backup, Which::Primary),
            GptHealth::Healthy | GptHealth::BackupBroken { .. } | GptHealth::CopiesDiffer => {
                (Which::Primary, Which::Backup)
            }
        };
        if !self.stands(device, other, &self.entries)? {
            self.write_copy(device, other, &self.entries)?;
            tracing::warn!(disk = %device.path().display(), "{}: it was mended from the other one", self.health());
        }
        // The copy that counts may name a place of the other that is no longer right.
        if entries != self.entries || !self.stands(device, source, &self.entries)? {
            self.write_copy(device, Which::Backup, &entries)?;
            self.write_copy(device, Which::Primary, &entries)?;
        }
        for which in [Which::Primary, Which::Backup] {
            if !self.stands(device, which, &entries)? {
                return Err(DiskError::TableReadsBackDifferently {
                    path: device.path().to_owned(),
                });
            }
        }
        Ok(())
    }

    /// One copy and its flush: entries and header may reach the medium in any order, the checksums tell.
    fn write_copy(
        &self,
        device: &Device,
        which: Which,
        entries: &[GPTPartitionEntry],
    ) -> Result<(), DiskError> {
        let image = self.serialise(device, which, entries)?;
        let error = |doing| DiskError::io(doing, device.path());
        device
            .write_at(image.entries_at, &image.entries)
            .map_err(error("write the partition table of"))?;
        device
            .write_at(image.header_at, &image.header)
            .map_err(error("write the partition table of"))?;
        device.flush().map_err(error("flush the partition table of"))
    }

    fn serialise(
        &self,
        device: &Device,
        which: Which,
        entries: &[GPTPartitionEntry],
    ) -> Result<CopyImage, DiskError> {
        let mut header: GPTHeader = self.header.clone();
        match which {
            Which::Primary => {}
            Which::Backup => {
                std::mem::swap(&mut header.primary_lba, &mut header.backup_lba);
                header.partition_entry_lba = self.backup_entries_lba;
            }
        }
        let error = || DiskError::io("lay out the partition table of", device.path());
        let mut image = CopyImage::blank(device.raw(), self, header.primary_lba, header.partition_entry_lba)
            .map_err(error())?;
        header
            .write_into(&mut image, self.sector_bytes, entries)
            .map_err(|e| error()(io::Error::other(e.to_string())))?;
        Ok(image)
    }

    /// The last look before writing: apart from the boot bits of the named partitions, byte for byte the same.
    fn assert_only_boot_bits(
        &self,
        device: &Device,
        old: &[u8],
        new: &[u8],
        changes: &[BitsChange],
    ) -> Result<(), DiskError> {
        let size = ENTRY_BYTES as usize;
        if old.len() != new.len() {
            return Err(self.foreign(device, "the length of the entries".to_owned()));
        }
        for (index, (old, new)) in old.chunks(size).zip(new.chunks(size)).enumerate() {
            let named = changes
                .iter()
                .any(|change| change.partition as usize == index + 1);
            let mut allowed = new.to_vec();
            if named {
                let attributes = ATTRIBUTES_AT..ATTRIBUTES_AT + 8;
                let mask = BOOT_BITS_MASK.to_le_bytes();
                let pairs = allowed[attributes.clone()].iter_mut().zip(&old[attributes]);
                for ((byte, old), mask) in pairs.zip(mask) {
                    *byte = (*byte & !mask) | (old & mask);
                }
            }
            if allowed != old {
                return Err(self.foreign(device, format!("entry {}", index + 1)));
            }
        }
        Ok(())
    }

    /// Does this copy stand on the medium, byte for byte, with these entries?
    fn stands(
        &self,
        device: &Device,
        which: Which,
        entries: &[GPTPartitionEntry],
    ) -> Result<bool, DiskError> {
        let image = self.serialise(device, which, entries)?;
        for (at, expected) in [
            (image.header_at, &image.header),
            (image.entries_at, &image.entries),
        ] {
            let mut found = vec![0_u8; expected.len()];
            // What cannot be read does not stand; writing it is what mends such a sector.
            let read = device.raw().read_past_cache(at, &mut found);
            if read.is_err() || found != *expected {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn foreign(&self, device: &Device, what: String) -> DiskError {
        DiskError::ForeignChange {
            path: device.path().to_owned(),
            what,
        }
    }
}

/// One copy in memory, in whole sectors; gptman writes into it as if it were the disk.
struct CopyImage {
    position: u64,
    header_at: u64,
    header: Vec<u8>,
    entries_at: u64,
    entries: Vec<u8>,
}

impl CopyImage {
    /// The header's sector is zero after the header (UEFI 2.10, table 5-5); what stands in the last
    /// sector of the entries behind them stays.
    fn blank(raw: &dyn RawDisk, table: &Table, header_lba: u64, entries_lba: u64) -> io::Result<Self> {
        let bytes = |sectors: u64| usize::try_from(sectors * table.sector_bytes).map_err(io::Error::other);
        let mut entries = vec![0_u8; bytes(table.array_sectors())?];
        let entries_at = entries_lba * table.sector_bytes;
        let whole = u64::from(table.header.number_of_partition_entries) * ENTRY_BYTES;
        let whole = usize::try_from(whole).map_err(io::Error::other)?;
        if whole < entries.len() {
            raw.read_at(entries_at + whole as u64, &mut entries[whole..])?;
        }
        Ok(Self {
            position: 0,
            header_at: header_lba * table.sector_bytes,
            header: vec![0; bytes(1)?],
            entries_at,
            entries,
        })
    }
}

impl Write for CopyImage {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        for (at, region) in [
            (self.header_at, &mut self.header),
            (self.entries_at, &mut self.entries),
        ] {
            let Some(start) = self
                .position
                .checked_sub(at)
                .and_then(|n| usize::try_from(n).ok())
            else {
                continue;
            };
            if let Some(part) = region.get_mut(start..start + buf.len()) {
                part.copy_from_slice(buf);
                self.position += buf.len() as u64;
                return Ok(buf.len());
            }
        }
        Err(io::Error::other("the partition table reaches outside its place"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for CopyImage {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        match pos {
            SeekFrom::Start(at) => {
                self.position = at;
                Ok(at)
            }
            SeekFrom::Current(_) | SeekFrom::End(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}
