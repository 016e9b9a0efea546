//! `kubectl drydock`: shows and steers upgrades of nodes.

use std::process::ExitCode;

use clap::Parser as _;
use drydock_coordinator::kubectl;

#[tokio::main]
async fn main() -> ExitCode {
    match kubectl::main(kubectl::Args::parse(), &mut std::io::stdout()).await {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads (`| head`) has enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}
