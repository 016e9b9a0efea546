//! `drydock-coordinator`: one replica of the coordinator, or the resources that it needs.

use clap::Parser;
use drydock_coordinator::command::{chart, crds, run};

/// Decides which node of a cluster may upgrade next, and sees it through.
#[derive(Parser)]
#[command(name = "drydock-coordinator", version)]
enum Command {
    /// Runs one replica until it is told to stop.
    Run(Box<run::Args>),
    /// Prints every CustomResourceDefinition as YAML, in the order in which they are to be applied.
    Crds,
    /// Writes the Helm chart of this version into a folder.
    Chart(chart::Args),
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Run(args) => run::main(*args),
        Command::Chart(args) => chart::main(&args),
        Command::Crds => crds::main(&mut std::io::stdout().lock()),
    }
}
