//! What must hold of disk, table and boot control, on simulated disks and images.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod boot;
mod crash;
mod hostile;
mod writer;

use std::path::Path;
use std::sync::Arc;

use super::gate::{OpenGate, WriteGate};
use super::layout::DiskLayout;
use super::sim::SimDisk;
use super::*;

pub(super) const MIB: u64 = 1 << 20;

pub(super) fn small_layout(sector_bytes: u64) -> DiskLayout {
    DiskLayout {
        sector_bytes,
        ..DiskLayout::cos_like(7, MIB, MIB, MIB)
    }
}

pub(super) fn small_image(sector_bytes: u64) -> Vec<u8> {
    small_layout(sector_bytes).to_bytes().unwrap()
}

pub(super) fn device(disk: Arc<SimDisk>, gate: Arc<dyn WriteGate>) -> Device {
    Device::new(Path::new("sim"), disk, gate)
}

pub(super) fn open_device(image: Vec<u8>, sector_bytes: u64) -> Device {
    device(Arc::new(SimDisk::new(image, sector_bytes)), Arc::new(OpenGate))
}

pub(super) fn control(device: Device, loader: Loader) -> GptBootControl {
    let [a, b] = SlotName::BOTH.map(DiskLayout::cos_selectors);
    GptBootControl::new(device, loader, a, b)
}

/// The entries as a loader finds them: the primary where it is valid, else the backup at the end of the
/// disk, else nothing. Written apart from the code under test, from UEFI 2.10 table 5-5.
pub(super) fn loader_sees(disk: &dyn RawDisk, sector_bytes: u64) -> Option<Vec<u8>> {
    let copy = |lba: u64| {
        let mut header = [0; 92];
        disk.read_at(lba * sector_bytes, &mut header).unwrap();
        let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
        let mut unsigned = header;
        unsigned[16..20].fill(0);
        let valid =
            &header[..8] == b"EFI PART" && crc32fast::hash(&unsigned) == u32_at(16) && u64_at(24) == lba;
        if !valid {
            return None;
        }
        let mut entries = vec![0; (u32_at(80) * u32_at(84)) as usize];
        disk.read_at(u64_at(72) * sector_bytes, &mut entries).unwrap();
        (crc32fast::hash(&entries) == u32_at(88)).then_some(entries)
    };
    copy(1).or_else(|| copy(disk.len_bytes() / sector_bytes - 1))
}
