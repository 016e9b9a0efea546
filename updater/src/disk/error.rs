//! What can go wrong between the updater and the disk, in words for the person who has to mend it.

use std::io;
use std::path::PathBuf;

use super::slots::SlotName;

/// Errors of reading and writing the disk and its partition table.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error(
        "cannot {doing} {}: {source}; check the path `disk.path` in the configuration and that the updater runs as root",
        path.display()
    )]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error(
        "neither copy of the partition table on {} can be used (primary: {primary}; backup: {backup}); \
         nothing is written. Mend it with `sgdisk --verify` and gdisk's recovery menu (r, then b or c), or \
         install the node again",
        path.display()
    )]
    BothCopiesBroken {
        path: PathBuf,
        primary: String,
        backup: String,
    },

    #[error(
        "the partition table of {} leaves no room for its {copy} copy (needed: {needed}); nothing is written. \
         Mend it with gdisk (x, then e) and check the partitions at the end of the disk",
        path.display()
    )]
    NoRoomForCopy {
        path: PathBuf,
        copy: &'static str,
        needed: String,
    },

    #[error(
        "refused to write the partition table of {}: the change touches {what}, and Drydock changes the boot \
         bits of the configured slots alone. This is a defect of Drydock; please report it",
        path.display()
    )]
    ForeignChange { path: PathBuf, what: String },

    #[error(
        "after writing the partition table of {} it reads back differently; the disk may be failing: look at \
         the kernel log",
        path.display()
    )]
    TableReadsBackDifferently { path: PathBuf },

    #[error(
        "slot {slot} has its {role} in the partition {wanted}, and {} has {found} of that name, not one. Its \
         partitions are: {present}. Correct `slots.{slot}` in the configuration, or `disk.path` if it is another disk",
        path.display()
    )]
    PartitionNotFound {
        path: PathBuf,
        slot: SlotName,
        role: String,
        wanted: String,
        found: usize,
        present: String,
    },

    #[error("the slots do not fit {}: {problem}. Correct `slots` in the configuration", path.display())]
    SlotsDoNotFit { path: PathBuf, problem: String },

    #[error("slot {slot} is the running one; Drydock never writes to it. The target is the other slot")]
    TargetIsRunning { slot: SlotName },

    #[error("no artifact `{artifact}` is configured for slot {slot}; configured are: {configured}")]
    UnknownArtifact {
        slot: SlotName,
        artifact: String,
        configured: String,
    },

    #[error(
        "refused to {doing} {len} bytes at {offset} of partition {partition} ({size} bytes): outside the partition"
    )]
    OutsidePartition {
        doing: &'static str,
        partition: String,
        offset: u64,
        len: u64,
        size: u64,
    },

    #[error(
        "the device node {} does not match partition {partition} of the table ({problem}); the kernel's view is \
         stale: run `partx --update` on the disk, or reboot",
        node.display()
    )]
    NodeMismatch {
        node: PathBuf,
        partition: String,
        problem: String,
    },
}

impl DiskError {
    pub(super) fn io(doing: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}
