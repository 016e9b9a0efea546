//! Makes a disk image as a COS-like node has it: GPT, slots A and B, a state partition. For the demo,
//! the simulator and tests; the updater never makes a partition table on a node.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use gptman::{GPT, GPTPartitionEntry};
use uuid::{Uuid, uuid};

use super::bits::BootBits;
use super::slots::{PartitionSelector, SlotName, SlotSelectors};

/// Type of a ChromeOS kernel partition, which carries the boot bits there.
pub const CHROMEOS_KERNEL: Uuid = uuid!("FE3A2A5D-4F32-41A7-B725-ACCC3285A309");
/// Type of a ChromeOS root partition.
pub const CHROMEOS_ROOT: Uuid = uuid!("3CB8E202-3B7E-47DD-8A3C-7FF2A13CFCEC");
/// Type of a Flatcar /usr partition, which carries the boot bits there.
pub const FLATCAR_USR: Uuid = uuid!("5DFBF5F4-2848-4BAC-AA5E-0D9A20B745A6");
/// Linux file system data.
pub const LINUX_DATA: Uuid = uuid!("0FC63DAF-8483-4772-8E79-3D69D8477DE4");

const ALIGN_BYTES: u64 = 1 << 20;

/// One partition to make.
#[derive(Debug, Clone)]
pub struct PartitionSpec {
    /// Its place in the table, from 1.
    pub number: u32,
    pub label: String,
    pub type_guid: Uuid,
    pub guid: Uuid,
    /// Rounded up to whole MiB.
    pub size_bytes: u64,
    pub bits: BootBits,
}

/// A disk to make.
#[derive(Debug, Clone)]
pub struct DiskLayout {
    /// 512 or 4096.
    pub sector_bytes: u64,
    pub disk_guid: Uuid,
    pub partitions: Vec<PartitionSpec>,
}

impl DiskLayout {
    /// As COS has it: 1 STATE, 2/3 KERN-A/ROOT-A, 4/5 KERN-B/ROOT-B. Slot A is marked good, B cannot be
    /// booted. `seed` makes the GUIDs, so that the same seed gives the same disk.
    #[must_use]
    pub fn cos_like(seed: u64, kernel_bytes: u64, root_bytes: u64, state_bytes: u64) -> Self {
        let guid = |number: u32| Uuid::from_u64_pair(seed, 0x8000_0000_0000_0000 | u64::from(number));
        let good = BootBits {
            priority: 2,
            tries: 0,
            successful: true,
        };
        let rows = [
            (1, "STATE", LINUX_DATA, state_bytes, BootBits::UNBOOTABLE),
            (2, "KERN-A", CHROMEOS_KERNEL, kernel_bytes, good),
            (3, "ROOT-A", CHROMEOS_ROOT, root_bytes, BootBits::UNBOOTABLE),
            (4, "KERN-B", CHROMEOS_KERNEL, kernel_bytes, BootBits::UNBOOTABLE),
            (5, "ROOT-B", CHROMEOS_ROOT, root_bytes, BootBits::UNBOOTABLE),
        ];
        let partitions = rows.map(|(number, label, type_guid, size_bytes, bits)| PartitionSpec {
            number,
            label: label.to_owned(),
            type_guid,
            guid: guid(number),
            size_bytes,
            bits,
        });
        Self {
            sector_bytes: 512,
            disk_guid: guid(0),
            partitions: partitions.into(),
        }
    }

    /// How the configuration names a slot of [`DiskLayout::cos_like`]: artifacts `kernel` and `root`.
    #[must_use]
    pub fn cos_selectors(slot: SlotName) -> SlotSelectors {
        let label = |name: &str| PartitionSelector::Label(format!("{name}-{slot}"));
        let artifacts = [
            ("kernel".to_owned(), label("KERN")),
            ("root".to_owned(), label("ROOT")),
        ];
        SlotSelectors {
            boot: label("KERN"),
            artifacts: artifacts.into(),
        }
    }

    /// Bytes that the image takes (it is sparse until written).
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        let partitions: u64 = self.partitions.iter().map(|p| aligned(p.size_bytes)).sum();
        partitions + 2 * ALIGN_BYTES
    }

    /// The table's bytes in an otherwise empty image, as (offset, content) pieces.
    fn pieces(&self) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let len = usize::try_from(self.total_bytes()).map_err(io::Error::other)?;
        let mut space = Sparse {
            len: len as u64,
            position: 0,
            pieces: Vec::new(),
        };
        let mut gpt = GPT::new_from(&mut space, self.sector_bytes, self.disk_guid.to_bytes_le())
            .map_err(|e| io::Error::other(e.to_string()))?;
        let mut at = ALIGN_BYTES;
        for spec in &self.partitions {
            let size = aligned(spec.size_bytes);
            gpt[spec.number] = GPTPartitionEntry {
                partition_type_guid: spec.type_guid.to_bytes_le(),
                unique_partition_guid: spec.guid.to_bytes_le(),
                starting_lba: at / self.sector_bytes,
                ending_lba: (at + size) / self.sector_bytes - 1,
                attribute_bits: spec.bits.apply_to(0),
                partition_name: spec.label.as_str().into(),
            };
            at += size;
        }
        gpt.write_into(&mut space)
            .map_err(|e| io::Error::other(e.to_string()))?;
        GPT::write_protective_mbr_into(&mut space, self.sector_bytes)
            .map_err(|e| io::Error::other(e.to_string()))?;
        Ok(space.pieces)
    }

    /// The whole image in memory; for small disks.
    ///
    /// # Errors
    /// If the layout is impossible (two partitions with one GUID, say).
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut image = vec![0; usize::try_from(self.total_bytes()).map_err(io::Error::other)?];
        for (offset, bytes) in self.pieces()? {
            let at = usize::try_from(offset).map_err(io::Error::other)?;
            image[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(image)
    }

    /// Makes a new sparse image file at `path`, which must not exist yet.
    ///
    /// # Errors
    /// I/O errors, and an impossible layout.
    pub fn create(&self, path: &Path) -> io::Result<()> {
        let pieces = self.pieces()?;
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.set_len(self.total_bytes())?;
        for (offset, bytes) in pieces {
            file.write_all_at(&bytes, offset)?;
        }
        file.sync_all()
    }
}

fn aligned(bytes: u64) -> u64 {
    bytes.div_ceil(ALIGN_BYTES) * ALIGN_BYTES
}

/// Enough of a file for gptman to write a table into: remembers the pieces, holds no zeros.
struct Sparse {
    len: u64,
    position: u64,
    pieces: Vec<(u64, Vec<u8>)>,
}

impl io::Seek for Sparse {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let at = match to {
            io::SeekFrom::Start(at) => Some(at),
            io::SeekFrom::End(by) => self.len.checked_add_signed(by),
            io::SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl io::Read for Sparse {
    fn read(&mut self, _buf: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl io::Write for Sparse {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.pieces.push((self.position, buf.to_vec()));
        self.position += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
