//! A real control plane on loopback ports: etcd, kube-apiserver, kube-controller-manager, kube-scheduler,
//! with certificates of its own, RBAC, Node authorization, NodeRestriction and an audit log. It judges what
//! the embedded API only stores: RBAC, CEL rules, admission policies, schemas. It runs no kubelet; nodes
//! are somebody else's. See `docs/real-cluster.md`.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use drydock_integration::realcluster::{Binaries, ControlPlane, Identity, Options};
//! let Some(binaries) = Binaries::find()? else { return Ok(()) }; // said so, loudly
//! let cluster = ControlPlane::start(Options::new(binaries)).await?;
//! let client = cluster.client(&Identity::user("jane", &["operators"])).await?;
//! cluster.stop().await?;
//! # Ok(()) }
//! ```

pub mod audit;
pub mod binaries;
pub mod build;
pub mod cases;
pub mod certificates;
pub mod helm;
pub mod identity;
pub mod process;
pub mod programs;

mod commands;
mod folder;
mod ports;
pub(crate) mod say;
mod start;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::io::AsyncWriteExt as _;

pub use self::audit::{AuditEntry, AuditLog, AuditMark};
pub use self::binaries::Binaries;
pub use self::commands::QEMU_HOST;
pub use self::identity::{BoundPod, Identity};
pub use self::process::Memory;

use self::certificates::Authority;
use self::commands::{Files, Ports};
use self::folder::Folder;
use self::identity::{Credential, kubeconfig, token_request};
use self::process::{Keeper, Process};
use self::say::say;

/// What a process gets between SIGTERM and SIGKILL when all end.
const GRACE: Duration = Duration::from_secs(10);
/// The same in an outage. Asked to end, a server answers no new connection, but waits for its open watches
/// for up to a minute; that is no outage, so soon after it is killed.
const OUTAGE_GRACE: Duration = Duration::from_secs(1);
/// Lines of each log that are shown when something went wrong.
const TAIL_LINES: usize = 15;
/// The processes, in the order in which they are ended: each before what it talks to.
const ORDER: [&str; 4] = [CONTROLLER_MANAGER, SCHEDULER, API_SERVER, ETCD];
const ETCD: &str = "etcd";
const API_SERVER: &str = "kube-apiserver";
const CONTROLLER_MANAGER: &str = "kube-controller-manager";
const SCHEDULER: &str = "kube-scheduler";

/// How a control plane is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// The programs.
    pub binaries: Binaries,
    /// More names and addresses for the API server's certificate; it has those of loopback, of the
    /// `kubernetes` service and of QEMU's user network.
    pub names: Vec<String>,
    /// The address in the endpoints of the `kubernetes` service; a loopback address keeps it without.
    pub advertise: Ipv4Addr,
    /// More flags for the API server; the last of two of one name holds.
    pub api_server_flags: Vec<String>,
    /// More flags for the controllers.
    pub controller_manager_flags: Vec<String>,
    /// More flags for the scheduler.
    pub scheduler_flags: Vec<String>,
    /// How long the start, and each later start of the API server, may take.
    pub patience: Duration,
    /// The folder that keeps the logs, in one of its own, when the control plane is gone; none: they go
    /// with it.
    pub keep_logs_in: Option<PathBuf>,
}

impl Options {
    /// With these programs, and the defaults. Logs stay in the folder that `DRYDOCK_CLUSTER_LOGS` names.
    #[must_use]
    pub fn new(binaries: Binaries) -> Options {
        Options {
            binaries,
            names: Vec::new(),
            advertise: Ipv4Addr::LOCALHOST,
            api_server_flags: Vec::new(),
            controller_manager_flags: Vec::new(),
            scheduler_flags: Vec::new(),
            patience: Duration::from_secs(60),
            keep_logs_in: std::env::var_os("DRYDOCK_CLUSTER_LOGS")
                .filter(|folder| !folder.is_empty())
                .map(PathBuf::from),
        }
    }
}

/// A running control plane. Dropped, it ends: every process and its folder.
pub struct ControlPlane {
    // Dropped from top to bottom: the processes, the thread that started them, the folder.
    processes: Mutex<BTreeMap<&'static str, Process>>,
    keeper: Keeper,
    folder: Option<Folder>,
    files: Files,
    ports: Ports,
    ca: Authority,
    options: Options,
    admin: kube::Client,
    time_to_ready: Duration,
}

impl ControlPlane {
    /// Start one, and wait until it is ready: the API server says so, and the controllers have begun.
    ///
    /// # Errors
    /// When a process ends early or the time is over: with the ends of all logs.
    pub async fn start(options: Options) -> anyhow::Result<ControlPlane> {
        start::control_plane(options).await
    }

    /// `https://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        self.ports.url()
    }

    /// The API server's port; a QEMU guest with user networking reaches it at 10.0.2.2.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.ports.api_server()
    }

    /// The CA's certificate, in PEM.
    #[must_use]
    pub fn ca_pem(&self) -> String {
        self.ca.certificate()
    }

    /// kubectl, of the server's version.
    #[must_use]
    pub fn kubectl(&self) -> &Path {
        &self.options.binaries.kubectl
    }

    /// Runs it as somebody who may do everything, with this on its standard input, and waits for its end.
    ///
    /// # Errors
    /// When it cannot be started; how it ended is in the output.
    pub async fn run_kubectl(&self, words: &[&str], input: &str) -> anyhow::Result<Output> {
        let kubeconfig = self.folder().join("kubectl.kubeconfig");
        tokio::fs::write(&kubeconfig, self.kubeconfig(&Identity::Admin).await?)
            .await
            .with_context(|| format!("write {}", kubeconfig.display()))?;
        let mut child = tokio::process::Command::new(self.kubectl())
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            // One who refuses his arguments reads nothing.
            let _unread = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await.context("wait for kubectl")
    }

    /// The folder with data, certificates and `logs/`; it goes when this goes.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().map_or(Path::new(""), Folder::path)
    }

    /// From the first process's start to ready.
    #[must_use]
    pub fn time_to_ready(&self) -> Duration {
        self.time_to_ready
    }

    /// The API server's audit log.
    #[must_use]
    pub fn audit(&self) -> AuditLog {
        AuditLog::new(self.files.audit_log.clone())
    }

    /// A kubeconfig file (YAML) for who this is.
    ///
    /// # Errors
    /// When the API server gives no token, or a certificate cannot be signed.
    pub async fn kubeconfig(&self, identity: &Identity) -> anyhow::Result<String> {
        let credential = match identity {
            Identity::Admin => self.certificate(identity, &["system:masters".to_owned()])?,
            Identity::User { groups, .. } => self.certificate(identity, groups)?,
            Identity::Node(_) => self.certificate(identity, &["system:nodes".to_owned()])?,
            Identity::ServiceAccount { namespace, name, pod } => {
                let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
                let request = http::Request::post(path)
                    .header(http::header::CONTENT_TYPE, "application/json")
                    .body(serde_json::to_vec(&token_request(pod.as_ref()))?)?;
                let answer: serde_json::Value = self
                    .admin
                    .request(request)
                    .await
                    .with_context(|| format!("ask for a token of {}", identity.username()))?;
                let token = answer["status"]["token"]
                    .as_str()
                    .context("the answer has no token")?;
                Credential::Token(token.to_owned())
            }
        };
        Ok(kubeconfig(
            &self.url(),
            &self.ca_pem(),
            &identity.username(),
            credential,
        ))
    }

    fn certificate(&self, identity: &Identity, groups: &[String]) -> anyhow::Result<Credential> {
        let pair = self.ca.client(&identity.username(), groups)?;
        Ok(Credential::Certificate(pair))
    }

    /// A client configuration for who this is, with kube's hidden retries off.
    ///
    /// # Errors
    /// As [`ControlPlane::kubeconfig`].
    pub async fn config(&self, identity: &Identity) -> anyhow::Result<kube::Config> {
        config(&self.kubeconfig(identity).await?).await
    }

    /// A client for who this is, with kube's hidden retries off.
    ///
    /// # Errors
    /// As [`ControlPlane::kubeconfig`].
    pub async fn client(&self, identity: &Identity) -> anyhow::Result<kube::Client> {
        client(self.config(identity).await?)
    }

    /// The process IDs, by name.
    #[must_use]
    pub fn process_ids(&self) -> BTreeMap<&'static str, u32> {
        let processes = self.processes();
        processes
            .iter()
            .map(|(name, process)| (*name, process.id()))
            .collect()
    }

    /// What each process holds in memory.
    #[must_use]
    pub fn memory(&self) -> BTreeMap<&'static str, Memory> {
        let processes = self.processes();
        processes
            .iter()
            .filter_map(|(name, process)| Some((*name, process.memory()?)))
            .collect()
    }

    /// The ends of all logs.
    #[must_use]
    pub fn tails(&self) -> String {
        let folder = self.folder.as_ref();
        let tail = |name: &&str| folder.map(|folder| process::tail(name, &folder.log(name), TAIL_LINES));
        ORDER.iter().rev().filter_map(tail).collect()
    }

    /// End the API server and nothing else: an outage. Its port stays ours; connections are refused.
    ///
    /// # Errors
    /// When it is not running, or does not end.
    pub async fn stop_api_server(&self) -> anyhow::Result<()> {
        let process = self.processes().remove(API_SERVER);
        let mut process = process.context("the API server is not running: it was stopped before")?;
        let ending = tokio::task::spawn_blocking(move || {
            process.ask_to_end();
            process.wait_or_kill(OUTAGE_GRACE)
        });
        ending.await.context("end the API server")??;
        Ok(())
    }

    /// Start the API server again, and wait until it is ready.
    ///
    /// # Errors
    /// When it is running, ends early, or is not ready in time: with the ends of all logs.
    pub async fn start_api_server(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            !self.processes().contains_key(API_SERVER),
            "the API server is running: stop it first"
        );
        start::api_server(self).await
    }

    /// End every process and remove the folder, and say if anything of that fails.
    ///
    /// # Errors
    /// When something is left.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        tokio::task::spawn_blocking(move || {
            self.end_processes(GRACE);
            self.keep_logs();
            match self.folder.take() {
                Some(folder) => folder.remove(),
                None => Ok(()),
            }
        })
        .await
        .context("end the control plane")?
    }

    /// Each before what it talks to.
    fn end_processes(&self, grace: Duration) {
        let mut processes = std::mem::take(&mut *self.processes());
        let until = Instant::now() + grace;
        for name in ORDER {
            if let Some(mut process) = processes.remove(name) {
                process.ask_to_end();
                let left = until.saturating_duration_since(Instant::now());
                if let Err(error) = process.wait_or_kill(left) {
                    say(&format!("{error:#}"));
                }
            }
        }
    }

    fn keep_logs(&self) {
        let (Some(to), Some(name)) = (&self.options.keep_logs_in, self.folder().file_name()) else {
            return;
        };
        let to = to.join(name);
        let keep = || -> std::io::Result<()> {
            std::fs::create_dir_all(&to)?;
            for entry in std::fs::read_dir(self.folder().join("logs"))? {
                let entry = entry?;
                std::fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
            Ok(())
        };
        match keep() {
            Ok(()) => say(&format!("logs are in {}", to.display())),
            Err(error) => say(&format!("the logs cannot be kept in {}: {error}", to.display())),
        }
    }

    fn processes(&self) -> MutexGuard<'_, BTreeMap<&'static str, Process>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if self.folder.is_none() {
            return; // stopped
        }
        if std::thread::panicking() {
            say(&format!("the logs' ends:\n{}", self.tails()));
        }
        self.end_processes(GRACE);
        self.keep_logs();
    }
}

async fn config(text: &str) -> anyhow::Result<kube::Config> {
    let kubeconfig = Kubeconfig::from_yaml(text).context("read the kubeconfig just written")?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .context("a client configuration from the kubeconfig")?;
    config.default_retry = false;
    Ok(config)
}

fn client(config: kube::Config) -> anyhow::Result<kube::Client> {
    kube::Client::try_from(config).context("a client of the control plane")
}
