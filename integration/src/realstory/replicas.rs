//! Replicas of the coordinator as processes of this machine, each with a token of the coordinator's
//! ServiceAccount: what they may do, the API server says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use drydock_coordinator::install::COORDINATOR;

use url::Url;

use crate::cluster::SYSTEM;
use crate::realcluster::process::{Keeper, Process, tail};
use crate::realcluster::{ControlPlane, Identity, Memory};

/// The usual five minutes would be a fifth of the story.
const RETRY_PAUSE: &str = "1m";

/// Those that run.
pub struct Replicas {
    program: PathBuf,
    folder: PathBuf,
    proxy: Url,
    running: BTreeMap<String, Process>,
    peaks: BTreeMap<String, u64>,
    keeper: Keeper,
}

impl Replicas {
    /// None yet; logs and data go into `folder`. What they fetch they fetch through `proxy`: the nodes'
    /// repository has an address that only they reach.
    ///
    /// # Errors
    /// When the machine gives no thread.
    pub fn new(program: &Path, folder: &Path, proxy: &Url) -> anyhow::Result<Self> {
        Ok(Self {
            proxy: proxy.clone(),
            program: program.to_owned(),
            folder: folder.to_owned(),
            running: BTreeMap::new(),
            peaks: BTreeMap::new(),
            keeper: Keeper::new()?,
        })
    }

    /// Starts one.
    ///
    /// # Errors
    /// When it gets no token, or cannot be started.
    pub async fn start(&mut self, name: &str, cluster: &ControlPlane) -> anyhow::Result<()> {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let identity = Identity::service_account(SYSTEM, COORDINATOR);
        let kubeconfig = folder.join("kubeconfig");
        std::fs::write(&kubeconfig, cluster.kubeconfig(&identity).await?)
            .context("the kubeconfig of a coordinator")?;
        let mut command = Command::new(&self.program);
        command
            .args(["run", "--listen", "none", "--poll-ceiling", "5s", "--name", name])
            .args(["--retry-pause", RETRY_PAUSE])
            .arg("--data-dir")
            .arg(folder.join("data"))
            .env("KUBECONFIG", &kubeconfig)
            .env("http_proxy", self.proxy.as_str())
            .env("NO_COLOR", "1");
        let log = self.log(name);
        let process = self.keeper.start(name, command, &log)?;
        self.running.insert(name.to_owned(), process);
        Ok(())
    }

    /// Kills one where it stands.
    ///
    /// # Errors
    /// When there is none of this name, or it does not end.
    pub fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        self.note_memory();
        let mut process = self
            .running
            .remove(name)
            .with_context(|| format!("{name} does not run"))?;
        process.wait_or_kill(std::time::Duration::ZERO)?;
        Ok(())
    }

    /// Which of them holds the Lease.
    #[must_use]
    pub fn of_holder(&self, holder: &str) -> Option<String> {
        let name = self
            .running
            .keys()
            .find(|name| holder.starts_with(&format!("{name}_")));
        name.cloned()
    }

    /// Fails when one has ended by itself.
    ///
    /// # Errors
    /// With its last words.
    pub fn all_run(&mut self) -> anyhow::Result<()> {
        self.note_memory();
        for process in self.running.values_mut() {
            if let Some(status) = process.ended()? {
                anyhow::bail!("{} ended with {status}:\n{}", process.name(), process.tail(20));
            }
        }
        Ok(())
    }

    fn note_memory(&mut self) {
        for (name, process) in &self.running {
            if let Some(Memory { peak_bytes, .. }) = process.memory() {
                let peak = self.peaks.entry(name.clone()).or_default();
                *peak = (*peak).max(peak_bytes);
            }
        }
    }

    /// The most memory that each held.
    #[must_use]
    pub fn peaks(&self) -> &BTreeMap<String, u64> {
        &self.peaks
    }

    /// The last lines of each, those that were killed included.
    #[must_use]
    pub fn tails(&self, lines: usize) -> String {
        let names = self.peaks.keys();
        names.map(|name| tail(name, &self.log(name), lines)).collect()
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }
}
