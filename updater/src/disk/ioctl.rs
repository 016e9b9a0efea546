//! The two questions that only an ioctl answers: how long a block device is, and its sector size.
//! The only `unsafe` of this crate's disk code; it never changes a device.

#![expect(
    unsafe_code,
    reason = "ioctl(2) has no safe form; each wrapper states why it is sound"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

mod raw {
    // BLKGETSIZE64 is _IOR(0x12, 114, size_t) but writes a u64 on every architecture.
    nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
    // BLKSSZGET is _IO(0x12, 104) and writes an int.
    nix::ioctl_read_bad!(blksszget, 0x1268, i32);
}

/// Length of a block device in bytes.
///
/// # Errors
/// The kernel's, for anything that is not a block device.
pub(super) fn block_device_bytes(file: &File) -> io::Result<u64> {
    let mut bytes = 0_u64;
    // SAFETY: the descriptor is open while `file` is borrowed, and the kernel writes exactly one u64.
    unsafe { raw::blkgetsize64(file.as_raw_fd(), &raw mut bytes) }?;
    Ok(bytes)
}

/// Logical sector size of a block device in bytes.
///
/// # Errors
/// The kernel's, for anything that is not a block device.
pub(super) fn logical_sector_bytes(file: &File) -> io::Result<u64> {
    let mut bytes = 0_i32;
    // SAFETY: the descriptor is open while `file` is borrowed, and the kernel writes exactly one int.
    unsafe { raw::blksszget(file.as_raw_fd(), &raw mut bytes) }?;
    u64::try_from(bytes).map_err(|_| io::Error::other("the kernel gave a negative sector size"))
}
