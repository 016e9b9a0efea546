//! Real nodes: machines under QEMU's own emulation, with a real kernel, systemd, containerd, kubelet and the
//! updater as it is shipped, on a disk with a state partition and two slots. See `docs/real-nodes.md`.
//!
//! QEMU ends when its guest reboots. Then the boot loader of `firmware`, which shares no code with the
//! updater, reads the disk's partition table by ChromeOS's rules, takes a try off, and QEMU is started again
//! with the kernel that lies in the slot it chose. So slots, tries and the way back are real, and so is the
//! boot ID of each boot. A machine without a sign of life is killed and started again by the same rules: the
//! watchdog of a board.

mod disk;
mod images;
mod loader;
mod machine;
mod programs;

pub use disk::{DiskPlan, make};
pub use images::{IMAGES, NodeImages};
pub use loader::{Loaded, load};
pub use machine::{Boot, End, Machine, MachineSpec, Signs};
pub use programs::{NodePrograms, find_programs};
