//! The command line of one node. Each command gives an [`Answer`]: a text for people, JSON with `--json`.
//!
//! Exit codes: 0 done, 1 failed, 2 the command line is wrong, 3 refused by a rule, 4 the guard does not
//! answer. Every command but `guard` and `agent` refuses a configuration with unknown fields.

mod daemon;
mod guarded;
mod order;
mod session;
mod slot;
mod status;

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};

use crate::config::{DEFAULT_PATHS, load};
use crate::node::NodeEnv;
pub use session::CliError;
use session::Session;

/// The variable in which a pod is told its node: `fieldRef: spec.nodeName`.
const NODE_NAME: &str = "NODE_NAME";

/// Writes OS releases into the other slot of this node, tries them, and goes back where they fail.
#[derive(Debug, Parser)]
#[command(
    name = "drydock-updater",
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a rule, 4 no guard."
)]
pub struct Cli {
    /// Configuration file, or folder of *.toml; may be given several times, later ones on top.
    #[arg(long = "config", value_name = "FILE", global = true)]
    config: Vec<PathBuf>,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything about this node: slots, way back, guard, attempt, partition table, trust.
    Status,
    /// Are the repositories reachable and their metadata current, and what would staging do?
    Check(Choice),
    /// Find out which release runs, run the required checks, and mark the running slot good.
    Adopt,
    /// Write a release into the other slot and read it back. Nothing is booted by it.
    Stage(Staging),
    /// Boot the staged release once, on trial. Needs a running guard.
    Arm(Reboot),
    /// Do not boot the armed slot after all.
    Disarm,
    /// Run the required checks and mark the running slot good.
    MarkGood,
    /// Boot the other slot, which was good before. Needs no repository.
    Rollback(Reboot),
    /// Let releases that failed here be tried again.
    Forgive(Forgiven),
    /// Run the guard (drydock-guard.service).
    Guard,
    /// Run the agent (drydock-agent.service or a DaemonSet).
    Agent,
}

/// Which release.
#[derive(Debug, Args)]
struct Choice {
    /// The repository; needed where several are configured.
    #[arg(long)]
    repository: Option<String>,
    /// The release's digest, sha256:HEX.
    #[arg(long, conflicts_with = "channel")]
    release: Option<String>,
    /// The next release for this node in a channel.
    #[arg(long)]
    channel: Option<String>,
}

#[derive(Debug, Args)]
struct Staging {
    #[command(flatten)]
    choice: Choice,
    /// Fetch everything, where the running slot cannot be relied on; it is not read then.
    #[arg(long)]
    fetch_all: bool,
}

#[derive(Debug, Args)]
struct Reboot {
    /// Reboot at once.
    #[arg(long)]
    reboot: bool,
}

#[derive(Debug, Args)]
struct Forgiven {
    /// Release digests or attempts, as `status` shows them; none: all.
    what: Vec<String>,
}

/// What a command came to.
#[derive(Debug)]
pub struct Answer {
    text: String,
    json: Value,
}

/// Runs one command and prints; gives the exit code.
pub async fn main_with(cli: Cli, env: NodeEnv, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let json = cli.json;
    let done = run(cli, env).await;
    let printed = match &done {
        Ok(answer) if json => writeln!(out, "{:#}", answer.json),
        Ok(answer) => write!(out, "{}", answer.text),
        Err(error) if json => {
            let shown = json!({ "error": { "code": error.word(), "text": error.to_string() } });
            writeln!(out, "{shown:#}")
        }
        Err(error) => writeln!(err, "drydock-updater: {error}"),
    };
    match (done, printed) {
        (Ok(_), Ok(())) => 0,
        (Ok(_), Err(_)) => 1,
        (Err(error), _) => error.exit_code(),
    }
}

/// The node's name where the configuration has none. In a pod the host name is the pod's, so what its
/// manifest says comes first.
fn unnamed(from_environment: Option<String>, host_name: Option<String>) -> String {
    from_environment
        .filter(|name| !name.is_empty())
        .or(host_name)
        .unwrap_or_default()
}

async fn run(cli: Cli, env: NodeEnv) -> Result<Answer, CliError> {
    let paths = if cli.config.is_empty() {
        DEFAULT_PATHS.iter().map(PathBuf::from).collect()
    } else {
        cli.config
    };
    // A path that was named must be there; the default ones may be missing.
    let missing = paths
        .iter()
        .find(|path| paths.len() != DEFAULT_PATHS.len() && !path.exists());
    if let Some(missing) = missing {
        return Err(CliError::NoConfig(missing.clone()));
    }
    let host_name = nix::unistd::gethostname().ok();
    let host_name = host_name.map(|name| name.to_string_lossy().into_owned());
    let config = load(&paths, &unnamed(std::env::var(NODE_NAME).ok(), host_name))?;
    match cli.command {
        Command::Guard => return daemon::guard(config, env).await,
        Command::Agent => return daemon::agent(config, env).await,
        _ if !config.unknown_fields.is_empty() => {
            return Err(CliError::UnknownFields(config.unknown_fields.join(", ")));
        }
        _ => {}
    }
    let session = Session::open(config, env).await?;
    let before = session.table_problem().await?;
    let mut answer = follow(cli.command, &session).await?;
    if before.is_some() && session.table_problem().await?.is_none() {
        answer.text += "the broken copy of the partition table was mended from the other one\n";
        if let Value::Object(members) = &mut answer.json {
            members.insert("tableMended".to_owned(), before.into());
        }
    }
    Ok(answer)
}

async fn follow(command: Command, session: &Session) -> Result<Answer, CliError> {
    match command {
        Command::Status => status::status(session).await,
        Command::Check(choice) => slot::check(session, &choice).await,
        Command::Stage(choice) => slot::stage(session, &choice).await,
        Command::Adopt => slot::adopt(session).await,
        Command::Arm(reboot) => order::arm(session, reboot.reboot).await,
        Command::Rollback(reboot) => order::rollback(session, reboot.reboot).await,
        Command::Disarm => order::disarm(session).await,
        Command::MarkGood => order::mark_good(session).await,
        Command::Forgive(forgiven) => order::forgive(session, &forgiven.what).await,
        // Answered by `run`.
        Command::Guard | Command::Agent => Ok(Answer {
            text: String::new(),
            json: Value::Null,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::unnamed;

    #[test]
    fn a_pod_is_its_node_and_not_its_host_name() {
        let text = |text: &str| Some(text.to_owned());
        for (environment, host, is) in [
            (text("berth-1"), text("drydock-agent-x7k2p"), "berth-1"),
            (text(""), text("berth-2"), "berth-2"),
            (None, text("berth-2"), "berth-2"),
            (None, None, ""),
        ] {
            assert_eq!(unnamed(environment, host), is);
        }
    }
}
