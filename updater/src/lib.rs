//! The shell around the node's state machine: disk, state, staging, guard and agent.

pub mod config;
pub mod disk;
pub mod stage;
pub mod state;
