//! What must hold of staging: on simulated disks, image files and a loop device.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod admission;
mod ahead;
mod delta;
mod fixture;
mod identity;
mod loop_device;
mod sources;
mod spoilt;
mod staging;
mod standing;
