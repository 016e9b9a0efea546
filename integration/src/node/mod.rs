//! Simulated nodes: a disk image with two slots, a boot loader that chooses one, and what runs on top:
//! the real guard and agent, and a model of a kubelet. Nothing here decides what Drydock decides.

mod catalog;
mod disk;
mod install;
pub mod kubelet;
mod machine;
mod process;

pub use catalog::{Behaviour, BuiltImages, Catalog, hash_file, partition_of};
pub use disk::{
    FirstImages, GateKeeper, NoSabotage, NodeGate, Saboteur, Side, kernel_type, make_disk, table_view,
};
pub use install::{Install, Installed, OtherKernels, install};
pub use machine::{NodePace, NodeSpec, NodeStatus, SimNode};
pub use process::Kind;
