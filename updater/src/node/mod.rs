//! What a node's processes touch outside themselves: clocks, the kernel, reboot, health checks, the disk.
//! All of it comes in a [`NodeEnv`], so that many nodes live in one process of a simulation. Decides
//! nothing, and there are no globals.

mod gate;
mod pace;
mod real;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::config::{HealthCheck, RunningFrom, Settings};
use crate::disk::gate::{OpenGate, WriteGate};
use crate::disk::{Access, Device, DiskError, GptBootControl, RawDisk, RunningError, SlotName, running_slot};
use crate::state::{StateDir, StateError};

pub use gate::Until;
pub use pace::Pace;
pub use real::RealNode;

/// The bound on `/proc/cmdline` and on a file in its place, in bytes.
pub const MAX_CMDLINE_BYTES: u64 = 64 * 1024;

/// The world of one node. [`RealNode`] is the real one.
#[async_trait]
pub trait Outside: Send + Sync + fmt::Debug {
    /// The wall clock; never used for a deadline.
    fn wall(&self) -> Timestamp;

    /// Since boot, suspended time included (CLOCK_BOOTTIME).
    fn since_boot(&self) -> Duration;

    /// The kernel's boot ID.
    ///
    /// # Errors
    /// I/O errors.
    fn boot_id(&self) -> io::Result<String>;

    /// The kernel's command line.
    ///
    /// # Errors
    /// I/O errors.
    fn cmdline(&self) -> io::Result<String>;

    /// `IMAGE_VERSION` of os-release: a hint, where the running release is not proven.
    fn image_version(&self) -> Option<String>;

    /// Flushes all file systems, as a reboot wants it. Takes as long as they have to write.
    ///
    /// # Errors
    /// Why that could not be done, in words.
    async fn flush(&self) -> Result<(), String>;

    /// Calls for a reboot, after a flush; returns once the call was taken, or not at all.
    ///
    /// # Errors
    /// The call was refused, in words.
    async fn reboot(&self) -> Result<(), String>;

    /// Runs one required check within its own timeout.
    ///
    /// # Errors
    /// Why it did not pass, in words.
    async fn run_check(&self, check: &HealthCheck) -> Result<(), String>;

    /// Tells the service manager how the process stands (`READY=1` and a status line).
    fn notify(&self, status: &str);
}

/// What the processes of one node work with. Cheap to clone.
#[derive(Clone)]
pub struct NodeEnv {
    pub outside: Arc<dyn Outside>,
    /// Every write to disk and state passes it.
    pub gate: Arc<dyn WriteGate>,
    /// In place of the configured disk: for simulation.
    pub disk: Option<Arc<dyn RawDisk>>,
    pub pace: Pace,
}

impl fmt::Debug for NodeEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeEnv")
            .field("outside", &self.outside)
            .field("pace", &self.pace)
            .finish_non_exhaustive()
    }
}

/// What keeps a process from seeing its node.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("cannot read the boot ID from /proc/sys/kernel/random/boot_id: {0}; is /proc mounted?")]
    BootId(#[source] io::Error),
    #[error("cannot read the kernel's command line from {from}: {source}")]
    Cmdline {
        from: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot open the disk {path}: {source}; check `disk.path` in the configuration, and run as root")]
    OpenDisk {
        path: String,
        #[source]
        source: io::Error,
    },
}

/// The node's disk, state folder and boot, opened.
#[derive(Debug, Clone)]
pub struct OpenNode {
    pub control: GptBootControl,
    pub state: StateDir,
    pub boot_id: String,
    pub cmdline: String,
    /// Which slot runs, or why that cannot be told.
    pub running: Result<SlotName, RunningError>,
}

impl NodeEnv {
    /// This machine.
    #[must_use]
    pub fn real() -> Self {
        Self {
            outside: Arc::new(RealNode),
            gate: Arc::new(OpenGate),
            disk: None,
            pace: Pace::default(),
        }
    }

    /// The same, but nothing is written any more once `cancel` is cancelled: also work that was handed to
    /// another thread stops at its next write.
    #[must_use]
    pub fn until(&self, cancel: &CancellationToken) -> Self {
        let cancel = cancel.clone();
        let is_over = move || cancel.is_cancelled();
        let gate = Arc::new(Until::new(self.gate.clone(), is_over, "the process is stopping"));
        Self { gate, ..self.clone() }
    }

    /// Opens disk and state and looks which slot runs. Blocks.
    ///
    /// # Errors
    /// See [`NodeError`]. That the running slot cannot be told is none.
    pub fn open(&self, settings: &Settings) -> Result<OpenNode, NodeError> {
        let device = match &self.disk {
            Some(raw) => Device::new(&settings.disk, raw.clone(), self.gate.clone()),
            None => Device::open(&settings.disk, Access::ReadWrite, self.gate.clone()).map_err(|source| {
                NodeError::OpenDisk {
                    path: settings.disk.display().to_string(),
                    source,
                }
            })?,
        };
        let control = GptBootControl::new(
            device,
            settings.loader,
            settings.slot_a.clone(),
            settings.slot_b.clone(),
        );
        let state = StateDir::open(&settings.state_dir, self.gate.clone())?;
        let boot_id = self.outside.boot_id().map_err(NodeError::BootId)?;
        let cmdline = self.cmdline(settings)?;
        let (_, slots) = control.read()?;
        let running = running_slot(&cmdline, &slots);
        Ok(OpenNode {
            control,
            state,
            boot_id,
            cmdline,
            running,
        })
    }

    fn cmdline(&self, settings: &Settings) -> Result<String, NodeError> {
        let (from, read) = match &settings.running {
            RunningFrom::Cmdline => ("/proc/cmdline".to_owned(), self.outside.cmdline()),
            RunningFrom::File(path) => (
                path.display().to_string(),
                real::read_bounded(path, MAX_CMDLINE_BYTES),
            ),
        };
        read.map_err(|source| NodeError::Cmdline { from, source })
    }
}
