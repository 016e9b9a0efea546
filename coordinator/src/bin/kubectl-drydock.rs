//! `kubectl drydock`: shows and steers upgrades of nodes.

use clap::Parser as _;
use drydock_coordinator::kubectl;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    kubectl::main(kubectl::Args::parse(), &mut std::io::stdout()).await
}
