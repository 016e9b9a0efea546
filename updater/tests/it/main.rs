//! Guard and command line of simulated nodes, from outside.

mod cli;
mod guard;
mod node_world;
