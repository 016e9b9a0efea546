//! `drydock-images`: makes, signs, publishes and verifies releases. Only parses, calls the library and
//! prints; every decision is the library's.

mod args;
mod build;
mod inspect;
mod keygen;
mod publish;
mod show;
mod verify;
mod verity;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command};

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let show = show::Show::new(cli.json);
    let done = match cli.command {
        Command::Keygen(args) => keygen::keygen(args, &show).await,
        Command::RotateRoot(args) => keygen::rotate_root(args, &show).await,
        Command::Verity(args) => verity::verity(args, &show).await,
        Command::Build(args) => build::build(args, &show).await,
        Command::Publish(args) => publish::publish(args, &show).await,
        Command::Promote(args) => publish::promote(args, &show).await,
        Command::Delta(args) => publish::delta(args, &show).await,
        Command::Withdraw(args) => publish::withdraw(args, &show).await,
        Command::Advise(args) => publish::advise(args, &show).await,
        Command::Verify(args) => verify::verify(args, &show).await,
        Command::Inspect(args) => inspect::inspect(args, &show).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            show.error(&error);
            ExitCode::FAILURE
        }
    }
}
