//! The boot loader of a simulated node: reads the disk's partition table by its own parser, chooses
//! what to boot by the rules of one of the three loaders that know the GPT's boot bits, and takes tries
//! off as that loader does. It never uses the updater's code, and never reads what is inside a slot.
//!
//! Sources: ChromeOS `vboot_reference` (`cgptlib.c`), ChromiumOS GRUB `gptpriority`, Flatcar's and
//! Bottlerocket's GRUB `gptprio.next`.

mod gpt;

use std::io;
use std::path::{Path, PathBuf};

pub use gpt::{Bits, Copy, Entry, Gpt};

/// Why a disk is not booted from.
#[derive(Debug, thiserror::Error)]
pub enum FirmwareError {
    /// The disk itself failed.
    #[error("the loader cannot use the disk {disk}: {source}")]
    Io {
        /// The disk image.
        disk: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Neither copy of the partition table is whole.
    #[error("the disk {disk} has no whole partition table: the node does not boot")]
    NoTable {
        /// The disk image.
        disk: PathBuf,
    },
    /// No partition of the type that this loader boots may be booted.
    #[error("no partition of the disk {disk} may be booted: {seen}")]
    NothingBootable {
        /// The disk image.
        disk: PathBuf,
        /// The candidates with their bits.
        seen: String,
    },
}

/// Which loader the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoaderKind {
    /// GRUB's `gptprio.next`: highest priority with tries or successful; takes a try off whenever there
    /// is one, good or not; mends and writes the table.
    GptPrio,
    /// ChromeOS firmware: the same choice; takes a try off only from what is not good, and at the last
    /// one the priority, too.
    Vboot,
    /// ChromiumOS GRUB's `gptpriority`: the priority alone; writes nothing.
    GptPriority,
}

/// What the loader did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Booted {
    /// The entry that is booted, with its attributes as they were read.
    pub entry: Entry,
    /// Its bits after the loader wrote its own.
    pub left: Bits,
    /// Which copy of the table was believed.
    pub copy: Copy,
}

/// One boot of the machine from `disk`: chooses among the partitions of type `kind`.
///
/// # Errors
/// If the node would not boot; see [`FirmwareError`].
pub fn boot(disk: &Path, loader: LoaderKind, kind: [u8; 16]) -> Result<Booted, FirmwareError> {
    let mut gpt = Gpt::read(disk, 512)?;
    let Some(entry) = choose(loader, &gpt.entries, kind).cloned() else {
        let candidates = gpt.entries.iter().filter(|e| e.kind == kind);
        let seen = candidates
            .map(|e| format!("{} {:?}; ", e.label, e.bits()))
            .collect();
        return Err(FirmwareError::NothingBootable {
            disk: disk.to_owned(),
            seen,
        });
    };
    let left = spend(loader, entry.bits());
    let writes = match loader {
        LoaderKind::GptPrio | LoaderKind::Vboot => left != entry.bits() || !gpt.copies_agree,
        LoaderKind::GptPriority => false,
    };
    if writes {
        gpt.set_bits(entry.number, left);
        gpt.write(disk)?;
    }
    Ok(Booted {
        left,
        copy: gpt.copy,
        entry,
    })
}

/// The entry that would be booted next; on a tie the first in the table.
#[must_use]
pub fn choose(loader: LoaderKind, entries: &[Entry], kind: [u8; 16]) -> Option<&Entry> {
    let mut best: Option<&Entry> = None;
    for entry in entries.iter().filter(|entry| entry.kind == kind) {
        let bits = entry.bits();
        let alive = match loader {
            LoaderKind::GptPrio | LoaderKind::Vboot => bits.successful || bits.tries > 0,
            LoaderKind::GptPriority => true,
        };
        let higher = best.is_none_or(|best| bits.priority > best.bits().priority);
        if bits.priority > 0 && alive && higher {
            best = Some(entry);
        }
    }
    best
}

fn spend(loader: LoaderKind, bits: Bits) -> Bits {
    match loader {
        LoaderKind::GptPrio => Bits {
            tries: bits.tries.saturating_sub(1),
            ..bits
        },
        LoaderKind::Vboot if bits.successful => bits,
        LoaderKind::Vboot if bits.tries > 1 => Bits {
            tries: bits.tries - 1,
            ..bits
        },
        LoaderKind::Vboot => Bits {
            tries: 0,
            priority: 0,
            ..bits
        },
        LoaderKind::GptPriority => bits,
    }
}

#[cfg(test)]
mod tests;
