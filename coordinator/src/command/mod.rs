//! The commands of `drydock-coordinator`, one file each.

pub mod crds;
pub mod run;
