//! Simulated nodes: a disk image with two slots, a boot loader that chooses one, and what runs on top:
//! the real guard and agent, and a model of a kubelet. Nothing here decides what Drydock decides.

mod boot;
mod catalog;
mod disk;
mod install;
pub mod kubelet;
mod machine;
mod power;
mod process;

pub use catalog::{Behaviour, BuiltImages, Catalog, hash_file, partition_of};
pub use disk::{
    Fate, FirstImages, GateKeeper, NoSabotage, NodeGate, Saboteur, Side, kernel_type, make_disk, table_view,
};
pub use install::{Install, Installed, OtherKernels, install};
pub use machine::{NodePace, NodeSpec, NodeStatus, SimNode};
pub use power::{Loss, Power};
pub use process::Kind;
