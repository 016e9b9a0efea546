//! The updater's two processes on a simulated node, started and started again as systemd would. They
//! are the real ones; only what they touch outside themselves is the simulation's.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use drydock_updater::config::{HealthCheck, LoadedConfig};
use drydock_updater::node::{NodeEnv, Outside, Pace};
use drydock_updater::{agent, guard};
use jiff::Timestamp;
use kube::Client;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::catalog::{Behaviour, BuiltImages};
use super::disk::NodeGate;
use crate::observer::SlotId;

/// What the simulation gives a process in place of kernel and service manager: one boot of one node.
pub struct Kernel {
    slot: SlotId,
    boot_id: String,
    version: String,
    behaviour: Behaviour,
    booted: Instant,
    reboot: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Kernel {
    /// A boot of `release` from `slot`. `reboot` is called when the system calls for a reboot; false: it
    /// cannot be had any more.
    #[must_use]
    pub fn new(
        slot: SlotId,
        boot_id: String,
        release: &BuiltImages,
        reboot: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        let (version, behaviour) = (release.version.clone(), release.behaviour);
        Self {
            slot,
            boot_id,
            version,
            behaviour,
            booted: Instant::now(),
            reboot: Box::new(reboot),
        }
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel")
            .field("slot", &self.slot)
            .field("boot_id", &self.boot_id)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Outside for Kernel {
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    fn since_boot(&self) -> Duration {
        self.booted.elapsed()
    }

    fn boot_id(&self) -> io::Result<String> {
        Ok(self.boot_id.clone())
    }

    fn cmdline(&self) -> io::Result<String> {
        Ok(format!("console=ttyS0 drydock.slot={} ro", self.slot))
    }

    fn image_version(&self) -> Option<String> {
        Some(self.version.clone())
    }

    async fn flush(&self) -> Result<(), String> {
        Ok(())
    }

    async fn reboot(&self) -> Result<(), String> {
        if (self.reboot)() {
            Ok(())
        } else {
            Err("the system is going down, or the simulation is over".to_owned())
        }
    }

    async fn run_check(&self, check: &HealthCheck) -> Result<(), String> {
        match self.behaviour {
            Behaviour::Healthy | Behaviour::KubeletBroken | Behaviour::HangsBeforeUserspace => Ok(()),
            Behaviour::UnhealthyCheck => Err(format!(
                "`{}` ended with exit status: 1: the unit has failed",
                check.command.join(" ")
            )),
        }
    }

    fn notify(&self, _status: &str) {}
}

/// Which of the two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `drydock-updater guard`.
    Guard,
    /// `drydock-updater agent`.
    Agent,
}

/// One run of a process, from start to end.
struct Run {
    gate: Arc<NodeGate>,
}

/// A process that is kept running for one boot.
#[derive(Clone, Default)]
pub struct Process {
    run: Arc<Mutex<Option<Run>>>,
}

impl Process {
    /// Kill -9: it ends where it is and writes nothing more. It will be started again.
    pub fn kill(&self) {
        if let Some(run) = self.run.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            run.gate.cut();
        }
    }

    fn begin(&self, gate: Arc<NodeGate>) -> CancellationToken {
        let killed = gate.killed();
        let run = Run { gate };
        *self.run.lock().unwrap_or_else(PoisonError::into_inner) = Some(run);
        killed
    }
}

/// What a process is started with, each time anew.
pub struct Unit {
    /// Which.
    pub kind: Kind,
    /// The node's configuration, as it was read.
    pub config: Arc<LoadedConfig>,
    /// The agent's link to the API; kube's hidden retries are off.
    pub agent: Client,
    /// The boot it runs in.
    pub kernel: Arc<Kernel>,
    /// How patient it is.
    pub pace: Pace,
    /// From its end to its next start.
    pub restart: Duration,
}

impl Unit {
    /// Keeps it running until the task is dropped.
    pub async fn keep_running<G>(self, process: Process, gate: G)
    where
        G: Fn() -> io::Result<Arc<NodeGate>>,
    {
        loop {
            match gate() {
                Ok(gate) => self.run_once(&process, gate).await,
                Err(error) => tracing::error!(kind = ?self.kind, %error, "a simulated disk cannot be read"),
            }
            tokio::time::sleep(self.restart).await;
        }
    }

    async fn run_once(&self, process: &Process, gate: Arc<NodeGate>) {
        let killed = process.begin(gate.clone());
        let env = NodeEnv {
            outside: self.kernel.clone(),
            gate,
            disk: None,
            pace: self.pace.clone(),
        };
        let cancel = CancellationToken::new();
        let (config, node) = (self.config.clone(), &self.config.settings.node_name);
        let ended = async {
            match self.kind {
                Kind::Guard => guard::run(config, env, cancel)
                    .await
                    .map_err(|error| error.to_string()),
                Kind::Agent => agent::run(config, env, self.agent.clone(), cancel)
                    .await
                    .map_err(|error| error.to_string()),
            }
        };
        tokio::select! {
            () = killed.cancelled() => tracing::debug!(node, kind = ?self.kind, "killed"),
            ended = ended => {
                if let Err(error) = ended {
                    tracing::warn!(node, kind = ?self.kind, error, "the process ended");
                }
            }
        }
    }
}
