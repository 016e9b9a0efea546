//! Guard and command line, from outside: of simulated nodes, and the real program on a disk image.

mod attempt;
mod broken_table;
mod cli;
mod full_disk;
mod guard;
mod kernel;
mod node_world;
mod offline;
mod real_node;
mod refusals;
mod services;
mod shipyard;
