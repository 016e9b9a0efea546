//! The machine of a simulated node: power, boots, and what a boot starts. A reboot ends every process at
//! once; nothing of the old boot writes anything after it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use drydock_updater::config::LoadedConfig;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::boot::Boot;
use super::catalog::{Behaviour, BuiltImages, Catalog};
use super::disk::{GateKeeper, NodeGate, Saboteur, kernel_type, table_view};
use super::kubelet::{self, KubeletSpec};
use super::power::Power;
use super::process::{Kernel, Kind, Process, Unit};
use crate::cluster::Eye;
use crate::firmware::{self, LoaderKind};
use crate::observer::{Content, Seen, SlotId};

/// How quick a node is.
#[derive(Debug, Clone)]
pub struct NodePace {
    /// From power on to the first process.
    pub boot: Duration,
    /// A system that never reaches userspace is reset by the machine's watchdog after this.
    pub hang: Duration,
    /// From the end of a guard or agent to its next start.
    pub restart: Duration,
    /// From one heartbeat of the kubelet to the next.
    pub heartbeat: Duration,
    /// From binding to readiness of a pod.
    pub pod_start: Duration,
    /// From a deletion to the end of a pod's containers.
    pub pod_stop: Duration,
    /// The updater's own.
    pub updater: drydock_updater::node::Pace,
}

/// A node to be.
#[derive(Clone)]
pub struct NodeSpec {
    /// Its name.
    pub name: String,
    /// Labels that its kubelet registers with.
    pub labels: BTreeMap<String, String>,
    /// Its disk image.
    pub disk: PathBuf,
    /// Its boot loader.
    pub loader: LoaderKind,
    /// The updater's configuration, as it was read.
    pub config: Arc<LoadedConfig>,
    /// How quick it is.
    pub pace: NodePace,
    /// The kubelet's link to the API.
    pub kubelet: Client,
    /// The agent's link to the API.
    pub agent: Client,
    /// Who may kill its processes.
    pub saboteur: Arc<dyn Saboteur>,
}

/// What a node is doing, for whoever looks at the simulation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// It has power, and something was booted.
    pub up: bool,
    /// Boots so far.
    pub boots: u32,
    /// The slot that runs.
    pub slot: Option<SlotId>,
    /// The version in it; none if it is unknown.
    pub version: Option<String>,
    /// This boot's ID.
    pub boot_id: String,
}

/// What can be done to a node from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// The power goes, and comes back after this.
    PowerCut(Duration),
    /// Kill the agent; it is started again as the service manager does.
    KillAgent,
    /// Kill the guard; the same.
    KillGuard,
    /// The system inside called for a reboot.
    Reboot,
}

/// How long the power stays away after a saboteur cut it.
const DARK: Duration = Duration::from_millis(100);

/// A simulated node. It loses its power when this is dropped.
pub struct SimNode {
    name: String,
    orders: mpsc::UnboundedSender<Order>,
    status: watch::Receiver<NodeStatus>,
    stop: CancellationToken,
}

impl SimNode {
    /// Turns a node on.
    #[must_use]
    pub fn power_on(spec: NodeSpec, eye: Arc<Eye>, catalog: Arc<Catalog>) -> Self {
        let (orders, inbox) = mpsc::unbounded_channel();
        let (report, status) = watch::channel(NodeStatus::default());
        let stop = CancellationToken::new();
        let name = spec.name.clone();
        let hull = Hull {
            spec,
            eye,
            catalog,
            report,
            reboots: orders.clone(),
            stop: stop.clone(),
        };
        tokio::spawn(hull.live(inbox));
        Self {
            name,
            orders,
            status,
            stop,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is doing.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        self.status.borrow().clone()
    }

    /// Takes its power away, and gives it back after `off_for`.
    pub fn power_cut(&self, off_for: Duration) {
        // A node that has lost its power for good takes no orders.
        let _gone = self.orders.send(Order::PowerCut(off_for));
    }

    /// Kills the agent.
    pub fn kill_agent(&self) {
        let _gone = self.orders.send(Order::KillAgent);
    }

    /// Kills the guard.
    pub fn kill_guard(&self) {
        let _gone = self.orders.send(Order::KillGuard);
    }
}

impl Drop for SimNode {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The running node, owned by its task.
struct Hull {
    spec: NodeSpec,
    eye: Arc<Eye>,
    catalog: Arc<Catalog>,
    report: watch::Sender<NodeStatus>,
    reboots: mpsc::UnboundedSender<Order>,
    stop: CancellationToken,
}

impl Hull {
    async fn live(self, mut inbox: mpsc::UnboundedReceiver<Order>) {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(self.spec.pace.boot) => {}
            }
            let mut boot = match self.boot().await {
                Ok(Some(boot)) => boot,
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(node = self.spec.name, %error, "the simulated node cannot boot");
                    return;
                }
            };
            let hangs = boot.guard.is_none();
            let off_for = tokio::select! {
                () = self.stop.cancelled() => { boot.stop(); return }
                () = tokio::time::sleep(self.spec.pace.hang), if hangs => Duration::ZERO,
                off_for = self.serve(&mut inbox, &boot) => off_for,
                () = boot.darkness() => DARK,
            };
            if let Err(error) = boot.end().await {
                tracing::error!(node = self.spec.name, %error, "what a power cut left cannot be written");
                return;
            }
            self.report.send_modify(|status| {
                status.up = false;
            });
            tokio::time::sleep(off_for).await;
            // Orders to the boot that ended do not reach the next.
            while inbox.try_recv().is_ok() {}
        }
    }

    /// Follows orders until the boot is over; answers how long the power stays away.
    async fn serve(&self, inbox: &mut mpsc::UnboundedReceiver<Order>, boot: &Boot) -> Duration {
        while let Some(order) = inbox.recv().await {
            match order {
                Order::PowerCut(off_for) => return off_for,
                Order::KillAgent => boot.agent.iter().for_each(Process::kill),
                Order::KillGuard => boot.guard.iter().for_each(Process::kill),
                Order::Reboot => {
                    if boot.kubelet.is_some() {
                        let goodbye = kubelet::say_goodbye(&self.spec.kubelet, &self.spec.name);
                        let _best_effort = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
                    }
                    return Duration::ZERO;
                }
            }
        }
        Duration::ZERO
    }

    /// The loader chooses, the system starts. None: nothing boots, for ever.
    async fn boot(&self) -> io::Result<Option<Boot>> {
        let (disk, loader) = (self.spec.disk.clone(), self.spec.loader);
        let catalog = self.catalog.clone();
        let looked = tokio::task::spawn_blocking(move || -> io::Result<_> {
            let kind = match kernel_type(&disk) {
                Ok(kind) => kind,
                Err(error) => return Ok(Err(error.to_string())),
            };
            let booted = match firmware::boot(&disk, loader, kind) {
                Ok(booted) => booted,
                Err(error) => return Ok(Err(error.to_string())),
            };
            let slot = if booted.entry.label == "KERN-A" {
                SlotId::A
            } else {
                SlotId::B
            };
            Ok(Ok((
                slot,
                catalog.identify(&disk, slot)?,
                table_view(&disk, loader),
            )))
        });
        let (slot, release, table) = match looked.await.map_err(io::Error::other)?? {
            Ok((slot, release, Some(table))) => (slot, release, table),
            Ok((_, _, None)) => return self.dead("its partition table cannot be read"),
            Err(why) => return self.dead(&why),
        };
        let boot_id = uuid::Uuid::new_v4().to_string();
        let content = match &release {
            Some(release) => Content::Release(release.digest.clone()),
            None => Content::Unknown,
        };
        let node = self.spec.name.clone();
        self.eye.note(Seen::Booted {
            node,
            boot_id: boot_id.clone(),
            slot,
            content,
            table,
        });
        self.report.send_modify(|status| {
            *status = NodeStatus {
                up: true,
                boots: status.boots + 1,
                slot: Some(slot),
                version: release.as_ref().map(|release| release.version.clone()),
                boot_id: boot_id.clone(),
            };
        });
        self.start(slot, release.as_deref(), boot_id).map(Some)
    }

    fn dead(&self, why: &str) -> io::Result<Option<Boot>> {
        self.eye.note(Seen::Dead {
            node: self.spec.name.clone(),
            why: why.to_owned(),
        });
        Ok(None)
    }

    fn start(&self, slot: SlotId, release: Option<&BuiltImages>, boot_id: String) -> io::Result<Boot> {
        let mut boot = Boot::default();
        // Garbage does not reach userspace either.
        let behaviour = release.map_or(Behaviour::HangsBeforeUserspace, |release| release.behaviour);
        let (guard_runs, kubelet_runs) = match behaviour {
            Behaviour::Healthy | Behaviour::UnhealthyCheck => (true, true),
            Behaviour::KubeletBroken => (true, false),
            Behaviour::HangsBeforeUserspace => (false, false),
        };
        let (Some(release), true) = (release, guard_runs) else {
            return Ok(boot);
        };
        make_fresh(&self.spec.config.settings.run_dir)?;
        let (reboots, eye, node) = (self.reboots.clone(), self.eye.clone(), self.spec.name.clone());
        let over = boot.over.clone();
        // Seen when it is called, however long the order waits for its turn.
        let reboot = move || {
            if over.is_cancelled() {
                return false;
            }
            eye.note(Seen::Rebooting { node: node.clone() });
            reboots.send(Order::Reboot).is_ok()
        };
        let kernel = Arc::new(Kernel::new(slot, boot_id.clone(), release, reboot));
        if self.spec.saboteur.may_cut_power(&self.spec.name) {
            let state = &self.spec.config.settings.state_dir;
            boot.power = Some(Arc::new(Power::on(&self.spec.disk, state)?));
        }
        boot.guard = Some(self.unit(&mut boot, Kind::Guard, slot, &kernel));
        boot.agent = Some(self.unit(&mut boot, Kind::Agent, slot, &kernel));
        if kubelet_runs {
            let stop = CancellationToken::new();
            boot.tasks.spawn(kubelet::run(
                self.spec.kubelet.clone(),
                self.kubelet(release, boot_id),
                stop.clone(),
            ));
            boot.kubelet = Some(stop);
        }
        Ok(boot)
    }

    fn unit(&self, boot: &mut Boot, kind: Kind, slot: SlotId, kernel: &Arc<Kernel>) -> Process {
        let (spec, eye, catalog) = (self.spec.clone(), self.eye.clone(), self.catalog.clone());
        let power = boot.power.clone();
        let gate = move || {
            let keeper = GateKeeper {
                node: spec.name.clone(),
                kind,
                saboteur: spec.saboteur.clone(),
                power: power.clone(),
            };
            NodeGate::new(
                keeper,
                &spec.disk,
                spec.loader,
                slot,
                eye.clone(),
                catalog.clone(),
            )
            .map(Arc::new)
        };
        let unit = Unit {
            kind,
            config: self.spec.config.clone(),
            agent: self.spec.agent.clone(),
            kernel: kernel.clone(),
            pace: self.spec.pace.updater.clone(),
            restart: self.spec.pace.restart,
        };
        let process = Process::default();
        boot.tasks.spawn(unit.keep_running(process.clone(), gate));
        process
    }

    fn kubelet(&self, release: &BuiltImages, boot_id: String) -> KubeletSpec {
        let NodePace {
            heartbeat,
            pod_start,
            pod_stop,
            ..
        } = self.spec.pace;
        KubeletSpec {
            node: self.spec.name.clone(),
            labels: self.spec.labels.clone(),
            boot_id,
            os_image: format!("{} {}", crate::cluster::OS_NAME, release.version),
            version: format!("v{}", release.kubelet),
            heartbeat,
            pod_start,
            pod_stop,
        }
    }
}

/// `/run` is a file system in memory: nothing in it survives a boot.
fn make_fresh(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::create_dir_all(folder)
}
