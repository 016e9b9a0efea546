//! `drydock-updater`: everything a node does to its own slots. See `docs/updater.md`.

use std::process::ExitCode;

use clap::Parser as _;
use drydock_updater::cli::{Cli, main_with};
use drydock_updater::node::NodeEnv;

#[tokio::main]
async fn main() -> ExitCode {
    drydock_updater::memory::give_back_large();
    let cli = Cli::parse();
    let env = NodeEnv::real();
    ExitCode::from(main_with(cli, env, &mut std::io::stdout(), &mut std::io::stderr()).await)
}
