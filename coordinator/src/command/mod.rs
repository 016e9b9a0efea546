//! The commands of `drydock-coordinator`, one file each.

pub mod chart;
pub mod crds;
pub mod run;
