//! The planner against a small cluster in memory: operator scripts, a simulation with faults, windows.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attempts;
mod checker;
mod drains;
mod faults;
mod machine;
mod model;
mod script;
mod simulation;
mod windows;
