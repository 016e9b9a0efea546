//! The shell around the node's state machine: disk, state, staging, guard and agent.

pub mod agent;
pub mod cli;
pub mod config;
pub mod disk;
pub mod guard;
pub mod memory;
pub mod node;
pub mod stage;
pub mod state;
