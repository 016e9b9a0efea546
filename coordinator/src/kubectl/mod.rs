//! `kubectl drydock`: what a person sees and says. What is shown is computed here, by the same planner, on
//! a snapshot that is read once; what is said are annotations and ReleaseHalts, written by the person's
//! own rights.

mod ask;
mod doctor;
mod explain;
mod forgive;
mod halt;
mod install;
mod plan;
mod show;
mod snapshot;
mod status;

use std::io::Write;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use kube::config::{KubeConfigOptions, Kubeconfig};

pub use snapshot::Snapshot;

/// Shows and steers upgrades of nodes.
#[derive(Debug, Parser)]
#[command(name = "kubectl-drydock", bin_name = "kubectl drydock", version)]
pub struct Args {
    /// The kubeconfig file.
    #[arg(long, global = true)]
    kubeconfig: Option<std::path::PathBuf>,
    /// The context in it.
    #[arg(long, global = true)]
    context: Option<String>,
    /// How the answer is written.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Policies and nodes: where each is, and what it waits for.
    Status,
    /// What the coordinator would do now, and what holds the rest.
    Plan,
    /// Why a node or a policy is where it is, and what a person can do; without a name, every reason.
    Explain(explain::Args),
    /// Lifts a halt: failures of a release digest count no more.
    Forgive(forgive::Args),
    /// Ends the attempt of a node before its reboot.
    Cancel(ask::Args),
    /// Lets a node in dock go as it is: it is uncordoned and its place freed.
    Release(ask::Args),
    /// Bans a release digest: it is staged and granted nowhere.
    Halt(halt::Args),
    /// Whether the installation is whole and at work, and what to do where it is not.
    Doctor(doctor::Args),
    /// Prints what Drydock needs in a cluster: `kubectl drydock install | kubectl apply -f -`.
    Install(install::Args),
}

/// Runs one command against the cluster that the arguments name.
///
/// # Errors
/// What went wrong, to what, and what to do.
pub async fn main(args: Args, out: &mut (impl Write + Send)) -> anyhow::Result<()> {
    if let Command::Install(what) = &args.command
        && what.is_offline()
    {
        return install::print(what, out);
    }
    let config = config(&args).await?;
    run(args, config, out).await
}

/// Runs one command against a cluster.
///
/// # Errors
/// What went wrong, to what, and what to do.
pub async fn run(args: Args, config: kube::Config, out: &mut (impl Write + Send)) -> anyhow::Result<()> {
    let output = args.output;
    match args.command {
        Command::Status => status::show(&Snapshot::read(config).await?, output, out),
        Command::Plan => plan::show(&Snapshot::read(config).await?, output, out),
        Command::Explain(what) => explain::main(what, config, output, out).await,
        Command::Forgive(what) => forgive::main(what, config, out).await,
        Command::Cancel(what) => ask::main(what, ask::Verb::Cancel, config, out).await,
        Command::Release(what) => ask::main(what, ask::Verb::Release, config, out).await,
        Command::Halt(what) => halt::main(what, config, out).await,
        Command::Doctor(what) => doctor::main(what, config, output, out).await,
        Command::Install(what) if what.is_offline() => install::print(&what, out),
        Command::Install(what) => install::dry_run(&what, config, out).await,
    }
}

async fn config(args: &Args) -> anyhow::Result<kube::Config> {
    let options = KubeConfigOptions {
        context: args.context.clone(),
        ..KubeConfigOptions::default()
    };
    if let Some(path) = &args.kubeconfig {
        let file = Kubeconfig::read_from(path)
            .with_context(|| format!("the kubeconfig {} cannot be read", path.display()))?;
        return kube::Config::from_custom_kubeconfig(file, &options)
            .await
            .with_context(|| format!("the kubeconfig {} names no usable cluster", path.display()));
    }
    if args.context.is_some() {
        return kube::Config::from_kubeconfig(&options)
            .await
            .context("that context cannot be used");
    }
    kube::Config::infer()
        .await
        .context("no cluster was found: neither a kubeconfig nor a service account")
}

/// A client that shows every refusal at once.
fn client(mut config: kube::Config) -> anyhow::Result<kube::Client> {
    config.default_retry = false;
    kube::Client::try_from(config).context("no client can be made from the kubeconfig")
}
