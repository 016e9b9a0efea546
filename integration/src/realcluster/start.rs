//! How a control plane comes up: etcd and the API server, then the controllers and the scheduler, each step
//! bounded in time, with a line every few seconds for who waits.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::net::TcpStream;

use super::certificates::Authority;
use super::commands::{self, Files, Ports};
use super::folder::Folder;
use super::identity::{Credential, Identity, kubeconfig};
use super::process::Keeper;
use super::say::say;
use super::{API_SERVER, CONTROLLER_MANAGER, ControlPlane, ETCD, Options, SCHEDULER};

/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(50);
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(3);
/// How often other ports are tried when someone else was faster.
const PORT_TRIES: usize = 5;
/// What a Go program says then.
const PORT_TAKEN: &str = "address already in use";

/// Start one, on other ports if someone took the first ones.
pub async fn control_plane(options: Options) -> anyhow::Result<ControlPlane> {
    let mut tries = 1;
    loop {
        match once(options.clone()).await {
            Err(error) if tries < PORT_TRIES && format!("{error:#}").contains(PORT_TAKEN) => {
                tries += 1;
                say("somebody took one of its ports: it tries others");
            }
            other => return other,
        }
    }
}

async fn once(options: Options) -> anyhow::Result<ControlPlane> {
    let folder = Folder::new().context("a folder for the control plane")?;
    let ports = Ports::take()?;
    let ca = Authority::new()?;
    let files = Files::write(&folder, &ca, &options, &ports.url())?;
    let admin = {
        let pair = ca.client(&Identity::Admin.username(), &["system:masters".to_owned()])?;
        let username = Identity::Admin.username();
        let text = kubeconfig(
            &ports.url(),
            &ca.certificate(),
            &username,
            Credential::Certificate(pair),
        );
        super::client(super::config(&text).await?)?
    };
    let mut cluster = ControlPlane {
        processes: Mutex::new(BTreeMap::new()),
        keeper: Keeper::new()?,
        folder: Some(folder),
        files,
        ports,
        ca,
        options,
        admin,
        time_to_ready: Duration::ZERO,
    };
    let started = Instant::now();
    let until = started + cluster.options.patience;
    start(&cluster, ETCD)?;
    // A server that finds no etcd tries again later and later: waiting for it is faster.
    wait_for_port(&cluster, until, "etcd", cluster.ports.etcd()).await?;
    start(&cluster, API_SERVER)?;
    wait(&cluster, until, "the API server", "/readyz").await?;
    start(&cluster, SCHEDULER)?;
    start(&cluster, CONTROLLER_MANAGER)?;
    if cluster.options.binaries.controller_manager.is_some() {
        // The first thing that only a controller makes, and that pods need.
        let path = "/api/v1/namespaces/default/serviceaccounts/default";
        wait(&cluster, until, "the controllers", path).await?;
    }
    cluster.time_to_ready = started.elapsed();
    Ok(cluster)
}

/// Start the API server again.
pub async fn api_server(cluster: &ControlPlane) -> anyhow::Result<()> {
    let until = Instant::now() + cluster.options.patience;
    start(cluster, API_SERVER)?;
    wait(cluster, until, "the API server", "/readyz").await
}

/// Start one process, if there is a program for it.
fn start(cluster: &ControlPlane, name: &'static str) -> anyhow::Result<()> {
    let folder = cluster.folder.as_ref().context("the control plane was stopped")?;
    let (options, files, ports) = (&cluster.options, &cluster.files, &cluster.ports);
    let programs = &options.binaries;
    let command = match name {
        ETCD => Some(commands::etcd(&programs.etcd, folder, ports)),
        API_SERVER => Some(commands::api_server(
            &programs.api_server,
            folder,
            files,
            ports,
            options,
        )),
        CONTROLLER_MANAGER => programs
            .controller_manager
            .as_deref()
            .map(|program| commands::controller_manager(program, files, options)),
        SCHEDULER => programs
            .scheduler
            .as_deref()
            .map(|program| commands::scheduler(program, files, options)),
        other => anyhow::bail!("{other} is no process of a control plane"),
    };
    if let Some(command) = command {
        let process = cluster.keeper.start(name, command, &folder.log(name))?;
        cluster.processes().insert(name, process);
    }
    Ok(())
}

/// What is waited for, and since when.
struct Waiting<'a> {
    cluster: &'a ControlPlane,
    what: &'a str,
    started: Instant,
    until: Instant,
    said: Instant,
}

impl<'a> Waiting<'a> {
    fn new(cluster: &'a ControlPlane, until: Instant, what: &'a str) -> Waiting<'a> {
        let now = Instant::now();
        Waiting {
            cluster,
            what,
            started: now,
            until,
            said: now,
        }
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// A pause, after a look that ended in `why`; an error if waiting on is in vain.
    async fn on(&mut self, why: &str) -> anyhow::Result<()> {
        let what = self.what;
        all_run(self.cluster).with_context(|| format!("{what} did not become ready"))?;
        anyhow::ensure!(
            !self.left().is_zero(),
            "{what} is not ready after {:?} ({why}); the logs' ends:\n{}",
            self.cluster.options.patience,
            self.cluster.tails()
        );
        if self.said.elapsed() >= PROGRESS {
            self.said = Instant::now();
            say(&format!(
                "waiting for {what}: {} s so far",
                self.started.elapsed().as_secs()
            ));
        }
        tokio::time::sleep(LOOK).await;
        Ok(())
    }
}

/// Wait until somebody listens on this port.
async fn wait_for_port(cluster: &ControlPlane, until: Instant, what: &str, port: u16) -> anyhow::Result<()> {
    let mut waiting = Waiting::new(cluster, until, what);
    while let Err(error) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
        waiting.on(&error.to_string()).await?;
    }
    Ok(())
}

/// Wait until a GET of this path is answered with success.
async fn wait(cluster: &ControlPlane, until: Instant, what: &str, path: &str) -> anyhow::Result<()> {
    let mut waiting = Waiting::new(cluster, until, what);
    loop {
        let request = http::Request::get(path).body(Vec::new())?;
        let asked = tokio::time::timeout(waiting.left(), cluster.admin.request_text(request));
        let why = match asked.await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        waiting.on(&format!("{path}: {why}")).await?;
    }
}

fn all_run(cluster: &ControlPlane) -> anyhow::Result<()> {
    for process in cluster.processes().values_mut() {
        if let Some(status) = process.ended()? {
            anyhow::bail!(
                "{} has ended ({status}); its last words:\n{}",
                process.name(),
                process.tail(super::TAIL_LINES)
            );
        }
    }
    Ok(())
}
