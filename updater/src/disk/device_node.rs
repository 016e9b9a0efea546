//! The device node of a partition, found by the kernel's own numbers in sysfs and never by guessing a
//! name. Reads only.

use std::fs::{metadata, read_dir, read_to_string};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

use super::error::DiskError;
use super::table::Partition;

/// sysfs counts in these, whatever the disk's own sectors are.
const SYSFS_SECTOR_BYTES: u64 = 512;

/// The node of `partition` on the disk `whole`, checked against the table. `None` for an image, and for a
/// disk of which the kernel shows no partitions at all.
///
/// # Errors
/// [`DiskError::NodeMismatch`] where the kernel shows partitions, but not this one as the table has it:
/// writing past it through the whole disk would miss what the kernel knows of mounts.
pub(super) fn device_node(whole: &Path, partition: &Partition) -> Result<Option<PathBuf>, DiskError> {
    let Ok(disk) = metadata(whole).map(|found| (found.file_type(), found.rdev())) else {
        return Ok(None);
    };
    let (file_type, number) = disk;
    if !file_type.is_block_device() {
        return Ok(None);
    }
    let folder = PathBuf::from(format!("/sys/dev/block/{}:{}", major(number), minor(number)));
    let listing = || DiskError::io("list the partitions in", &folder);
    let mut shows_partitions = false;
    for child in read_dir(&folder).map_err(listing())? {
        let child = child.map_err(listing())?.path();
        let Some(found) = read_number(&child.join("partition")) else {
            continue;
        };
        shows_partitions = true;
        if found == u64::from(partition.number) {
            return check(&child, partition).map(Some);
        }
    }
    if shows_partitions {
        let problem = "the kernel shows other partitions of this disk, but not this one".to_owned();
        return Err(DiskError::NodeMismatch {
            node: whole.to_owned(),
            partition: partition.to_string(),
            problem,
        });
    }
    Ok(None)
}

fn check(child: &Path, partition: &Partition) -> Result<PathBuf, DiskError> {
    let node = Path::new("/dev").join(child.file_name().unwrap_or_default());
    let mismatch = |problem: String| DiskError::NodeMismatch {
        node: node.clone(),
        partition: partition.to_string(),
        problem,
    };
    let start = read_number(&child.join("start")).and_then(|n| n.checked_mul(SYSFS_SECTOR_BYTES));
    if start != Some(partition.start_bytes) {
        return Err(mismatch(format!(
            "it starts at byte {start:?}, not {}",
            partition.start_bytes
        )));
    }
    let found = metadata(&node).map_err(DiskError::io("open", &node))?.rdev();
    let found = format!("{}:{}", major(found), minor(found));
    let expected = read_to_string(child.join("dev")).map_err(DiskError::io("read", child))?;
    if expected.trim() != found {
        return Err(mismatch(format!("it is device {found}, not {}", expected.trim())));
    }
    Ok(node)
}

/// A number in a sysfs file; such files hold one short line.
fn read_number(path: &Path) -> Option<u64> {
    read_to_string(path).ok()?.trim().parse().ok()
}
