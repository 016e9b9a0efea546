//! The GUID partition table as it is on the disk (UEFI 2.10, chapter 5.3): both copies, what is wrong
//! with them, and which one counts. Reads only; writing is in [`super::commit`].
//!
//! Every number of a header is checked against the device before it is used.

use std::fmt;
use std::io::{self, Read};

use gptman::{GPTHeader, GPTPartitionEntry};
use uuid::Uuid;

use super::device::{Device, RawDisk};
use super::error::DiskError;

/// The only size of an entry that gptman can hold, and the only one seen on COS-like hosts.
pub(super) const ENTRY_BYTES: u64 = 128;
/// Bound on the number of entries that is read; the usual number is 128.
const MAX_ENTRIES: u32 = 1024;
const PRIMARY_LBA: u64 = 1;
/// Where a disk does not know its sector size (an image does not), these are tried in turn.
const SECTOR_BYTES_TRIED: [u64; 4] = [512, 4096, 1024, 2048];

/// Are both copies of the table there and the same?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GptHealth {
    Healthy,
    /// Works from the backup; the next write mends the primary first.
    PrimaryBroken {
        why: String,
    },
    /// Works from the primary; the next write mends the backup first.
    BackupBroken {
        why: String,
    },
    /// Both are valid but not the same (a cut between two writes); the primary counts.
    CopiesDiffer,
}

impl GptHealth {
    /// What is wrong, and what comes of it; `None` if nothing is.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Healthy => None,
            Self::PrimaryBroken { .. } | Self::BackupBroken { .. } | Self::CopiesDiffer => {
                Some(format!("{self}; the next write of boot bits mends it"))
            }
        }
    }
}

impl fmt::Display for GptHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Healthy => f.write_str("both copies of the partition table are valid"),
            Self::PrimaryBroken { why } => {
                write!(
                    f,
                    "the primary partition table is broken ({why}); the backup is used"
                )
            }
            Self::BackupBroken { why } => {
                write!(
                    f,
                    "the backup partition table is broken ({why}); the primary is used"
                )
            }
            Self::CopiesDiffer => f.write_str("the two partition tables differ; the primary is used"),
        }
    }
}

/// One partition, as bytes of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// As in the table, from 1.
    pub number: u32,
    pub guid: Uuid,
    pub type_guid: Uuid,
    pub label: String,
    /// From the start of the disk; a multiple of the sector size.
    pub start_bytes: u64,
    pub len_bytes: u64,
    /// All 64 attribute bits.
    pub attributes: u64,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.number, self.label, self.guid)
    }
}

/// The table that counts, and where its copies belong.
#[derive(Debug, Clone)]
pub struct Table {
    pub(super) sector_bytes: u64,
    /// The header of the copy that counts, as the primary has it.
    pub(super) header: GPTHeader,
    pub(super) entries: Vec<GPTPartitionEntry>,
    pub(super) backup_entries_lba: u64,
    health: GptHealth,
}

impl Table {
    /// Reads both copies. One of them is enough.
    ///
    /// # Errors
    /// [`DiskError::BothCopiesBroken`], and [`DiskError::NoRoomForCopy`] where a broken copy has no place.
    pub fn read(device: &Device) -> Result<Self, DiskError> {
        let raw = device.raw();
        let tried: Vec<u64> = match raw.sector_bytes() {
            Some(known) => vec![known],
            None => SECTOR_BYTES_TRIED.to_vec(),
        };
        let mut first_fault = None;
        for sector_bytes in tried {
            match Self::read_with(device, raw, sector_bytes) {
                Err(fault @ DiskError::BothCopiesBroken { .. }) => {
                    first_fault.get_or_insert(fault);
                }
                other => return other,
            }
        }
        Err(first_fault.unwrap_or_else(|| DiskError::BothCopiesBroken {
            path: device.path().to_owned(),
            primary: "no sector size fits".to_owned(),
            backup: "no sector size fits".to_owned(),
        }))
    }

    fn read_with(device: &Device, raw: &dyn RawDisk, sector_bytes: u64) -> Result<Self, DiskError> {
        let sectors = raw.len_bytes() / sector_bytes.max(1);
        let too_small = || Err("the disk is too small for a partition table".to_owned());
        let last_lba = sectors.saturating_sub(1);
        let (primary, backup) = if sector_bytes < 512 || sectors < 6 {
            (too_small(), too_small())
        } else {
            (
                Copy::read(raw, sector_bytes, PRIMARY_LBA, last_lba),
                Copy::read(raw, sector_bytes, last_lba, last_lba),
            )
        };
        let (source, health, primary_lba, backup_lba) = match (primary, backup) {
            (Ok(primary), Ok(backup)) => {
                let at = (
                    primary.header.partition_entry_lba,
                    backup.header.partition_entry_lba,
                );
                let same = primary.says_the_same_as(&backup);
                let health = if same {
                    GptHealth::Healthy
                } else {
                    GptHealth::CopiesDiffer
                };
                // A backup that describes another geometry is put where the primary needs it.
                let backup_at = at.1 > primary.header.last_usable_lba;
                (primary, health, Some(at.0), backup_at.then_some(at.1))
            }
            (Ok(primary), Err(why)) => {
                let at = primary.header.partition_entry_lba;
                let why = if primary.header.backup_lba == last_lba {
                    why
                } else {
                    format!("it is not at the end of the disk: the disk was made larger; {why}")
                };
                (primary, GptHealth::BackupBroken { why }, Some(at), None)
            }
            (Err(why), Ok(backup)) => {
                let at = backup.header.partition_entry_lba;
                (backup, GptHealth::PrimaryBroken { why }, None, Some(at))
            }
            (Err(primary), Err(backup)) => {
                return Err(DiskError::BothCopiesBroken {
                    path: device.path().to_owned(),
                    primary,
                    backup,
                });
            }
        };
        Self::placed(
            device,
            sector_bytes,
            last_lba,
            source,
            health,
            primary_lba,
            backup_lba,
        )
    }

    /// Gives both copies a place that touches no partition.
    fn placed(
        device: &Device,
        sector_bytes: u64,
        last_lba: u64,
        source: Copy,
        health: GptHealth,
        primary_lba: Option<u64>,
        backup_lba: Option<u64>,
    ) -> Result<Self, DiskError> {
        let Copy { mut header, entries } = source;
        let array_sectors = array_sectors(header.number_of_partition_entries, sector_bytes);
        let no_room = |copy, needed| DiskError::NoRoomForCopy {
            path: device.path().to_owned(),
            copy,
            needed,
        };
        let primary_entries_lba = primary_lba.unwrap_or(PRIMARY_LBA + 1);
        if primary_entries_lba + array_sectors > header.first_usable_lba {
            let needed = format!(
                "{array_sectors} sectors before the first usable one, {}",
                header.first_usable_lba
            );
            return Err(no_room("primary", needed));
        }
        let backup_entries_lba = backup_lba.unwrap_or(last_lba.saturating_sub(array_sectors));
        if backup_entries_lba <= header.last_usable_lba || backup_entries_lba + array_sectors > last_lba {
            let needed = format!(
                "{array_sectors} sectors between {} and {last_lba}",
                header.last_usable_lba
            );
            return Err(no_room("backup", needed));
        }
        header.primary_lba = PRIMARY_LBA;
        header.backup_lba = last_lba;
        header.partition_entry_lba = primary_entries_lba;
        Ok(Self {
            sector_bytes,
            header,
            entries,
            backup_entries_lba,
            health,
        })
    }

    #[must_use]
    pub fn health(&self) -> &GptHealth {
        &self.health
    }

    /// Logical sector size in bytes.
    #[must_use]
    pub fn sector_bytes(&self) -> u64 {
        self.sector_bytes
    }

    /// The partitions in use, in the order of the table.
    #[must_use]
    pub fn partitions(&self) -> Vec<Partition> {
        let used = self
            .entries
            .iter()
            .zip(1_u32..)
            .filter(|(entry, _)| entry.is_used());
        used.map(|(entry, number)| Partition {
            number,
            guid: Uuid::from_bytes_le(entry.unique_partition_guid),
            type_guid: Uuid::from_bytes_le(entry.partition_type_guid),
            label: entry.partition_name.as_str().to_owned(),
            start_bytes: entry.starting_lba * self.sector_bytes,
            len_bytes: (entry.ending_lba - entry.starting_lba + 1) * self.sector_bytes,
            attributes: entry.attribute_bits,
        })
        .collect()
    }

    pub(super) fn array_sectors(&self) -> u64 {
        array_sectors(self.header.number_of_partition_entries, self.sector_bytes)
    }
}

fn array_sectors(entries: u32, sector_bytes: u64) -> u64 {
    (u64::from(entries) * ENTRY_BYTES).div_ceil(sector_bytes)
}

/// One copy that passed every check.
struct Copy {
    header: GPTHeader,
    entries: Vec<GPTPartitionEntry>,
}

impl Copy {
    /// `Err` says what is wrong with this copy; an unreadable sector is one of those things, because the
    /// other copy may still do.
    fn read(raw: &dyn RawDisk, sector_bytes: u64, lba: u64, last_lba: u64) -> Result<Self, String> {
        let mut sector = vec![0_u8; usize::try_from(sector_bytes).map_err(|e| e.to_string())?];
        raw.read_at(lba * sector_bytes, &mut sector)
            .map_err(|e| e.to_string())?;
        let header = GPTHeader::read_from(&mut io::Cursor::new(&sector)).map_err(|e| e.to_string())?;
        check_header(&header, sector_bytes, lba, last_lba)?;

        let len = u64::from(header.number_of_partition_entries) * ENTRY_BYTES;
        let mut array = vec![0_u8; usize::try_from(len).map_err(|e| e.to_string())?];
        raw.read_at(header.partition_entry_lba * sector_bytes, &mut array)
            .map_err(|e| e.to_string())?;
        if crc32fast::hash(&array) != header.partition_entry_array_crc32 {
            return Err("the checksum of the entries is wrong".to_owned());
        }
        let entries = array
            .chunks_exact(ENTRY_BYTES as usize)
            .map(parse_entry)
            .collect::<Result<Vec<_>, _>>()?;
        for (entry, number) in entries.iter().zip(1_u32..).filter(|(entry, _)| entry.is_used()) {
            let inside =
                header.first_usable_lba <= entry.starting_lba && entry.ending_lba <= header.last_usable_lba;
            if entry.starting_lba > entry.ending_lba || !inside {
                return Err(format!("partition {number} lies outside the usable sectors"));
            }
        }
        Ok(Self { header, entries })
    }

    fn says_the_same_as(&self, other: &Self) -> bool {
        let (a, b) = (&self.header, &other.header);
        self.entries == other.entries
            && a.disk_guid == b.disk_guid
            && (a.first_usable_lba, a.last_usable_lba) == (b.first_usable_lba, b.last_usable_lba)
            && (a.primary_lba, a.backup_lba) == (b.backup_lba, b.primary_lba)
    }
}

/// gptman asks for more bytes than an entry has (its own type is larger) and uses the first 128.
fn parse_entry(entry: &[u8]) -> Result<GPTPartitionEntry, String> {
    GPTPartitionEntry::read_from(&mut entry.chain(io::repeat(0))).map_err(|e| e.to_string())
}

fn check_header(header: &GPTHeader, sector_bytes: u64, lba: u64, last_lba: u64) -> Result<(), String> {
    if header.primary_lba != lba {
        return Err(format!(
            "it says that it belongs to sector {}, but was found at {lba}",
            header.primary_lba
        ));
    }
    if u64::from(header.size_of_partition_entry) != ENTRY_BYTES {
        return Err(format!(
            "its entries have {} bytes, not 128",
            header.size_of_partition_entry
        ));
    }
    if !(1..=MAX_ENTRIES).contains(&header.number_of_partition_entries) {
        return Err(format!(
            "it has {} entries, not 1 to {MAX_ENTRIES}",
            header.number_of_partition_entries
        ));
    }
    if header.first_usable_lba > header.last_usable_lba || header.last_usable_lba >= last_lba {
        return Err(format!(
            "its usable sectors {} to {} do not fit the disk's {last_lba}",
            header.first_usable_lba, header.last_usable_lba
        ));
    }
    let at = header.partition_entry_lba;
    let end = at.checked_add(array_sectors(header.number_of_partition_entries, sector_bytes));
    let fits = match end {
        Some(end) if lba == PRIMARY_LBA => at > PRIMARY_LBA && end <= header.first_usable_lba,
        Some(end) => at > header.last_usable_lba && end <= last_lba,
        None => false,
    };
    if fits {
        Ok(())
    } else {
        Err(format!("its entries at sector {at} do not fit"))
    }
}
