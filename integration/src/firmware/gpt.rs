//! The loader's own reading and writing of a GPT (UEFI 2.10, chapter 5). It shares nothing with the
//! updater's: what one of them misreads, the other shows.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::FirmwareError;

const SIGNATURE: &[u8; 8] = b"EFI PART";
const HEADER_BYTES: usize = 92;
/// UEFI asks for at least 128 entries; no known disk has more than 1,024.
const MAX_ENTRIES: u32 = 1024;

const PRIORITY_SHIFT: u32 = 48;
const TRIES_SHIFT: u32 = 52;
const SUCCESSFUL_SHIFT: u32 = 56;

/// Which of the two copies of the table was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    /// The one at the start of the disk.
    Primary,
    /// The one at its end, because the first was broken.
    Backup,
}

/// The bits that loaders read of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bits {
    /// 15 first, 0 never.
    pub priority: u8,
    /// Boots left.
    pub tries: u8,
    /// Marked good.
    pub successful: bool,
}

/// One used entry of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the table, from 1.
    pub number: u32,
    /// The partition's type, as the sixteen bytes on disk.
    pub kind: [u8; 16],
    /// The partition's own GUID, as the sixteen bytes on disk.
    pub guid: [u8; 16],
    /// Its name.
    pub label: String,
    /// Its first byte on the disk.
    pub start_bytes: u64,
    /// Its length.
    pub len_bytes: u64,
    /// The attributes as they stand on disk.
    pub attributes: u64,
}

impl Entry {
    /// What loaders read of the attributes.
    #[must_use]
    pub fn bits(&self) -> Bits {
        Bits {
            priority: (self.attributes >> PRIORITY_SHIFT & 0xf) as u8,
            tries: (self.attributes >> TRIES_SHIFT & 0xf) as u8,
            successful: self.attributes >> SUCCESSFUL_SHIFT & 1 == 1,
        }
    }
}

/// A table that was read and found whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpt {
    /// Where it was read.
    pub copy: Copy,
    /// Whether the other copy is whole, too, and says the same.
    pub copies_agree: bool,
    /// Whether each of the two copies is whole by itself.
    pub whole: [bool; 2],
    /// The used entries, in the order of the table.
    pub entries: Vec<Entry>,
    sector_bytes: u64,
    header: Vec<u8>,
    array: Vec<u8>,
}

struct Raw {
    header: Vec<u8>,
    array: Vec<u8>,
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

impl Raw {
    /// Reads the copy whose header is at `lba`; none if anything about it is wrong.
    fn read(file: &File, lba: u64, sector_bytes: u64) -> Option<Self> {
        let mut header = vec![0; usize::try_from(sector_bytes).ok()?];
        file.read_exact_at(&mut header, lba.checked_mul(sector_bytes)?)
            .ok()?;
        let size = le32(&header, 12) as usize;
        let sane = header.starts_with(SIGNATURE) && (HEADER_BYTES..=header.len()).contains(&size);
        if !sane || le64(&header, 24) != lba {
            return None;
        }
        let mut summed = header.get(..size)?.to_vec();
        summed.get_mut(16..20)?.fill(0);
        if crc32fast::hash(&summed) != le32(&header, 16) {
            return None;
        }
        let (count, each) = (le32(&header, 80), le32(&header, 84));
        if count == 0 || count > MAX_ENTRIES || !(128..=512).contains(&each) {
            return None;
        }
        let mut array = vec![0; count as usize * each as usize];
        file.read_exact_at(&mut array, le64(&header, 72).checked_mul(sector_bytes)?)
            .ok()?;
        (crc32fast::hash(&array) == le32(&header, 88)).then_some(Self { header, array })
    }

    fn entries(&self, sector_bytes: u64) -> Vec<Entry> {
        let each = le32(&self.header, 84) as usize;
        let mut found = Vec::new();
        for (index, entry) in self.array.chunks_exact(each).enumerate() {
            let (Ok(kind), Ok(guid)) = (entry[..16].try_into(), entry[16..32].try_into()) else {
                continue;
            };
            if kind == [0; 16] {
                continue;
            }
            let (first, last) = (le64(entry, 32), le64(entry, 40));
            let units = entry[56..128]
                .chunks_exact(2)
                .map(|u| u16::from_le_bytes([u[0], u[1]]));
            let label = char::decode_utf16(units.take_while(|u| *u != 0))
                .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect();
            found.push(Entry {
                number: u32::try_from(index + 1).unwrap_or(u32::MAX),
                kind,
                guid,
                label,
                start_bytes: first.saturating_mul(sector_bytes),
                len_bytes: (last + 1).saturating_sub(first).saturating_mul(sector_bytes),
                attributes: le64(entry, 48),
            });
        }
        found
    }
}

impl Gpt {
    /// Reads the table of a disk: the first copy, or the second where the first is broken.
    ///
    /// # Errors
    /// If the disk cannot be opened, or neither copy is whole.
    pub fn read(disk: &Path, sector_bytes: u64) -> Result<Self, FirmwareError> {
        let unreadable = |source| FirmwareError::Io {
            disk: disk.to_owned(),
            source,
        };
        let file = File::open(disk).map_err(unreadable)?;
        let last = (file.metadata().map_err(unreadable)?.len() / sector_bytes).saturating_sub(1);
        let primary = Raw::read(&file, 1, sector_bytes);
        let backup = Raw::read(&file, last, sector_bytes);
        let whole = [primary.is_some(), backup.is_some()];
        let copies_agree = matches!((&primary, &backup), (Some(a), Some(b)) if a.array == b.array);
        let (copy, raw) = match (primary, backup) {
            (Some(raw), _) => (Copy::Primary, raw),
            (None, Some(raw)) => (Copy::Backup, raw),
            (None, None) => {
                return Err(FirmwareError::NoTable {
                    disk: disk.to_owned(),
                });
            }
        };
        let entries = raw.entries(sector_bytes);
        Ok(Self {
            copy,
            copies_agree,
            whole,
            entries,
            sector_bytes,
            header: raw.header,
            array: raw.array,
        })
    }

    /// The entry of this name.
    #[must_use]
    pub fn by_label(&self, label: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.label == label)
    }

    /// The bytes of the entry array, to compare two tables by.
    #[must_use]
    pub fn array(&self) -> &[u8] {
        &self.array
    }

    pub(super) fn set_bits(&mut self, number: u32, bits: Bits) {
        let mask = 0xff_u64 << PRIORITY_SHIFT | 1 << SUCCESSFUL_SHIFT;
        let value = u64::from(bits.priority & 0xf) << PRIORITY_SHIFT
            | u64::from(bits.tries & 0xf) << TRIES_SHIFT
            | u64::from(bits.successful) << SUCCESSFUL_SHIFT;
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.number == number) else {
            return;
        };
        entry.attributes = entry.attributes & !mask | value;
        let at = (number as usize - 1) * le32(&self.header, 84) as usize + 48;
        if let Some(bytes) = self.array.get_mut(at..at + 8) {
            bytes.copy_from_slice(&entry.attributes.to_le_bytes());
        }
    }

    /// Writes both copies, the second first, each flushed: what the loaders that write do.
    pub(super) fn write(&self, disk: &Path) -> Result<(), FirmwareError> {
        let unwritable = |source| FirmwareError::Io {
            disk: disk.to_owned(),
            source,
        };
        let file = OpenOptions::new().write(true).open(disk).map_err(unwritable)?;
        let sectors = file.metadata().map_err(unwritable)?.len() / self.sector_bytes;
        let array_sectors = (self.array.len() as u64).div_ceil(self.sector_bytes);
        let last = sectors - 1;
        for (own, other, array_at) in [(last, 1, last - array_sectors), (1, last, 2)] {
            let mut header = self.header.clone();
            header[24..32].copy_from_slice(&own.to_le_bytes());
            header[32..40].copy_from_slice(&other.to_le_bytes());
            header[72..80].copy_from_slice(&array_at.to_le_bytes());
            header[88..92].copy_from_slice(&crc32fast::hash(&self.array).to_le_bytes());
            header[16..20].fill(0);
            let sum = crc32fast::hash(&header[..le32(&self.header, 12) as usize]);
            header[16..20].copy_from_slice(&sum.to_le_bytes());
            file.write_all_at(&self.array, array_at * self.sector_bytes)
                .map_err(unwritable)?;
            file.write_all_at(&header, own * self.sector_bytes)
                .map_err(unwritable)?;
            file.sync_data().map_err(unwritable)?;
        }
        Ok(())
    }
}
