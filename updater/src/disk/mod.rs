//! The disk of a node: its partition table, its two slots, and the bits that the loader reads.
//!
//! Invariants: every write passes a [`gate::WriteGate`]; nothing outside the configured target slot
//! and the boot bits of the configured slots is ever written (S1); the only valid copy of the
//! partition table is never written (S5). All calls block: async callers use `spawn_blocking`.

mod aligned;
mod bits;
mod boot;
mod commit;
mod device;
mod device_node;
mod error;
pub mod gate;
mod idle;
mod ioctl;
pub mod layout;
mod running;
pub mod sim;
mod slots;
mod table;
mod view;
mod writer;

#[cfg(test)]
mod tests;

pub use aligned::{AlignedBuf, DIRECT_ALIGN};
pub use bits::{BOOT_BITS_MASK, BootBits, Loader, NIBBLE_MAX};
pub use boot::{BootControl, BootError, BootState, Disarmed, GptBootControl, TRIAL_TRIES};
pub use commit::BitsChange;
pub use device::{Access, Device, FileDisk, RawDisk, TableLock};
pub use error::DiskError;
pub use idle::with_idle_priority;
pub use running::{RunningError, names_verity_root, running_slot};
pub use slots::{PartitionSelector, Slot, SlotName, SlotSelectors, Slots};
pub use table::{GptHealth, Partition, Table};
pub use writer::{PartitionReader, SlotWriter};
