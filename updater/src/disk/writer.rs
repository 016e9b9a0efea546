//! The only way to write a slot's content: [`SlotWriter`] is made for the configured target that does
//! not run, and cannot reach a byte outside that slot's artifact partitions (S1).
//!
//! On a real disk it writes through the partition's own device node, opened exclusively, so that the
//! kernel holds the bounds too and a mounted partition is refused; on an image, or where the kernel
//! shows no partition nodes, through the whole disk.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::device::{Access, Device, FileDisk, RawDisk};
use super::device_node::device_node;
use super::error::DiskError;
use super::gate::{WriteEvent, WriteKind, through};
use super::slots::{Slot, SlotName, Slots};
use super::table::Partition;

/// Reads one partition. Offsets are from the partition's start.
#[derive(Debug, Clone)]
pub struct PartitionReader {
    raw: RawRef,
    partition: Partition,
    /// Where the partition starts in `raw`: 0 for its own device node.
    base: u64,
}

#[derive(Debug, Clone)]
enum RawRef {
    Whole(Device),
    Node(Arc<FileDisk>),
}

impl RawRef {
    fn raw(&self) -> &dyn RawDisk {
        match self {
            Self::Whole(device) => device.raw(),
            Self::Node(node) => &**node,
        }
    }
}

impl PartitionReader {
    /// # Errors
    /// I/O errors of opening the partition's device node.
    pub fn open(device: &Device, partition: &Partition) -> Result<Self, DiskError> {
        Self::open_as(device, partition, Access::ReadOnly)
    }

    fn open_as(device: &Device, partition: &Partition, access: Access) -> Result<Self, DiskError> {
        let node = device_node(device.path(), partition)?;
        let (raw, base) = match node {
            Some(path) => {
                let node = FileDisk::open(&path, access)
                    .map_err(DiskError::io("open (is it mounted or in use?)", &path))?;
                if node.len_bytes() != partition.len_bytes {
                    return Err(DiskError::NodeMismatch {
                        node: path,
                        partition: partition.to_string(),
                        problem: format!("{} bytes, not {}", node.len_bytes(), partition.len_bytes),
                    });
                }
                (RawRef::Node(Arc::new(node)), 0)
            }
            None => (RawRef::Whole(device.clone()), partition.start_bytes),
        };
        Ok(Self {
            raw,
            partition: partition.clone(),
            base,
        })
    }

    #[must_use]
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// # Errors
    /// [`DiskError::OutsidePartition`] and I/O errors.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.check("read", offset, buf.len())?;
        let read = self.raw.raw().read_at(self.base + offset, buf);
        read.map_err(self.io("read"))
    }

    /// From the medium, not from what the kernel remembers of having written.
    ///
    /// # Errors
    /// As [`PartitionReader::read_at`].
    pub fn read_past_cache(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.check("read back", offset, buf.len())?;
        let read = self.raw.raw().read_past_cache(self.base + offset, buf);
        read.map_err(self.io("read back"))
    }

    fn check(&self, doing: &'static str, offset: u64, len: usize) -> Result<(), DiskError> {
        let size = self.partition.len_bytes;
        let inside = offset.checked_add(len as u64).is_some_and(|end| end <= size);
        if inside {
            return Ok(());
        }
        let partition = self.partition.to_string();
        Err(DiskError::OutsidePartition {
            doing,
            partition,
            offset,
            len: len as u64,
            size,
        })
    }

    fn io(&self, doing: &'static str) -> impl FnOnce(io::Error) -> DiskError + use<> {
        let name = PathBuf::from(format!("partition {}", self.partition));
        move |source| DiskError::Io {
            doing,
            path: name,
            source,
        }
    }
}

/// Writes the artifacts of one slot that does not run.
#[derive(Debug)]
pub struct SlotWriter {
    device: Device,
    slot: SlotName,
    artifacts: BTreeMap<String, PartitionReader>,
}

impl SlotWriter {
    /// Opens every artifact partition of `target`.
    ///
    /// # Errors
    /// [`DiskError::TargetIsRunning`], and I/O errors: a partition in use is `EBUSY`.
    pub fn open(
        device: &Device,
        slots: &Slots,
        target: SlotName,
        running: SlotName,
    ) -> Result<Self, DiskError> {
        if target == running {
            return Err(DiskError::TargetIsRunning { slot: target });
        }
        let slot: &Slot = slots.get(target);
        let mut artifacts = BTreeMap::new();
        for (name, partition) in &slot.artifacts {
            let reader = PartitionReader::open_as(device, partition, Access::ReadWriteExclusive)?;
            artifacts.insert(name.clone(), reader);
        }
        Ok(Self {
            device: device.clone(),
            slot: target,
            artifacts,
        })
    }

    #[must_use]
    pub fn slot(&self) -> SlotName {
        self.slot
    }

    /// For reading what is there: before (reuse) and after (read-back).
    ///
    /// # Errors
    /// [`DiskError::UnknownArtifact`].
    pub fn reader(&self, artifact: &str) -> Result<&PartitionReader, DiskError> {
        self.artifacts
            .get(artifact)
            .ok_or_else(|| DiskError::UnknownArtifact {
                slot: self.slot,
                artifact: artifact.to_owned(),
                configured: self.artifacts.keys().cloned().collect::<Vec<_>>().join(", "),
            })
    }

    /// Writes `buf` at `offset` of an artifact's partition; lasting after [`SlotWriter::flush`].
    ///
    /// # Errors
    /// [`DiskError::OutsidePartition`] with nothing written, and I/O errors.
    pub fn write_at(&self, artifact: &str, offset: u64, buf: &[u8]) -> Result<(), DiskError> {
        let to = self.reader(artifact)?;
        to.check("write", offset, buf.len())?;
        let event = WriteEvent {
            kind: WriteKind::DeviceWrite,
            path: self.device.path(),
            from: None,
            offset: to.partition.start_bytes + offset,
            len: buf.len() as u64,
        };
        through(&*self.device.gate(), &event, || {
            to.raw.raw().write_at(to.base + offset, buf)
        })
        .map_err(to.io("write"))
    }

    /// Returns when everything written is on the medium.
    ///
    /// # Errors
    /// I/O errors; the content is then in doubt.
    pub fn flush(&self) -> Result<(), DiskError> {
        let event = WriteEvent {
            kind: WriteKind::DeviceFlush,
            path: self.device.path(),
            from: None,
            offset: 0,
            len: 0,
        };
        for to in self.artifacts.values() {
            through(&*self.device.gate(), &event, || to.raw.raw().flush()).map_err(to.io("flush"))?;
        }
        Ok(())
    }
}
