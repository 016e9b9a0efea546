//! `guard` and `agent`: they run until the service manager says stop, and log to standard error.

use std::io::IsTerminal as _;
use std::sync::Arc;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::Answer;
use super::session::CliError;
use crate::config::{KubernetesAccess, LoadedConfig};
use crate::guard::config_problems;
use crate::node::NodeEnv;
use crate::{agent, guard};

pub(super) async fn guard(config: LoadedConfig, env: NodeEnv) -> Result<Answer, CliError> {
    let stop = begin(&config)?;
    guard::run(Arc::new(config), env, stop).await?;
    Ok(stopped())
}

pub(super) async fn agent(config: LoadedConfig, env: NodeEnv) -> Result<Answer, CliError> {
    let stop = begin(&config)?;
    let access = config.settings.kubernetes.clone().ok_or_else(|| {
        CliError::Refused(
            "no cluster is configured, so there is nothing for an agent to follow; add `[kubernetes]` with \
             `kubeconfig` or `in_cluster`"
                .to_owned(),
        )
    })?;
    let client = connect(&access).await?;
    agent::run(Arc::new(config), env, client, stop).await?;
    Ok(stopped())
}

/// A client without kube's hidden retries: the agent paces itself.
async fn connect(access: &KubernetesAccess) -> Result<Client, CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::Kube(error.to_string());
    let mut config = match access {
        KubernetesAccess::InCluster => Config::incluster().map_err(|e| failed(&e))?,
        KubernetesAccess::Kubeconfig(path) => {
            let kubeconfig = Kubeconfig::read_from(path).map_err(|e| failed(&e))?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .map_err(|e| failed(&e))?
        }
    };
    config.default_retry = false;
    Client::try_from(config).map_err(|e| failed(&e))
}

fn begin(config: &LoadedConfig) -> Result<CancellationToken, CliError> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Already there where another part of this process logs (a test, say).
    let _there = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // The journal of a service manager is no terminal.
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
    for problem in config_problems(config) {
        tracing::error!("{problem}");
    }
    let failed = |error: std::io::Error| CliError::Failed {
        word: "Internal",
        text: error.to_string(),
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
    });
    Ok(stop)
}

fn stopped() -> Answer {
    Answer {
        text: String::new(),
        json: Value::Null,
    }
}
