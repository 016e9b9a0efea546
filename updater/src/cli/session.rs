//! What the commands share: the opened node, and every way in which a command can fail.

use std::path::PathBuf;
use std::sync::Arc;

use drydock_images::{Digest, TrustError};

use crate::agent::AgentError;
use crate::config::{ConfigError, LoadedConfig, Settings};
use crate::disk::{BootControl as _, BootError, DiskError, RunningError};
use crate::guard::offline::OfflineError;
use crate::guard::{AskError, GuardClient, GuardError, NodeView};
use crate::node::{NodeEnv, NodeError};
use crate::stage::StageError;
use crate::state::StateError;

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("there is no configuration at {}", .0.display())]
    NoConfig(PathBuf),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "the configuration has fields that this Drydock does not know: {0}. Correct or remove them; until then \
         only guard and agent run, and they stage nothing"
    )]
    UnknownFields(String),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Offline(#[from] OfflineError),
    #[error("a thread ended early: {0}. This is a defect of Drydock; please report it")]
    Thread(#[from] tokio::task::JoinError),
    #[error("the cluster cannot be reached: {0}; check `kubernetes` in the configuration")]
    Kube(String),
    #[error(transparent)]
    RunningUnknown(#[from] RunningError),
    #[error("{0}")]
    Refused(String),
    #[error("{text}")]
    Failed { word: &'static str, text: String },
}

impl CliError {
    /// A short word for programs.
    #[must_use]
    pub fn word(&self) -> &str {
        match self {
            Self::NoConfig(_) | Self::Config(_) => "Config",
            Self::UnknownFields(_) => "ConfigUnknownFields",
            Self::Node(_) => "Node",
            Self::State(_) => "StatePartition",
            Self::Stage(error) => error.code(),
            Self::Trust(error) => error.code(),
            Self::Guard(_) | Self::Agent(_) | Self::Thread(_) => "Internal",
            Self::Ask(error) => error.code(),
            Self::Offline(OfflineError::Refused(refusal)) => refusal.code(),
            Self::Offline(OfflineError::NeedsGuard) => "NoGuard",
            Self::Offline(OfflineError::Kernel(_)) => "UnguardedKernel",
            Self::Offline(_) => "Disk",
            Self::Kube(_) => "ServerAway",
            Self::RunningUnknown(_) => "RunningUnknown",
            Self::Refused(_) => "Refused",
            Self::Failed { word, .. } => word,
        }
    }

    /// As `docs/updater.md` lists them.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let refused = |refused| if refused { 3 } else { 1 };
        match self {
            Self::UnknownFields(_) | Self::Refused(_) | Self::RunningUnknown(_) => 3,
            Self::Stage(error) => refused(stage_refuses(error)),
            Self::Trust(error) => refused(trust_refuses(error)),
            Self::Node(error) => refused(node_refuses(error)),
            Self::Ask(AskError::Refused { .. }) => 3,
            Self::Ask(AskError::Away { .. }) | Self::Offline(OfflineError::NeedsGuard) => 4,
            Self::Offline(OfflineError::Refused(_) | OfflineError::Kernel(_)) => 3,
            Self::Offline(OfflineError::Boot(error)) => refused(boot_refuses(error)),
            Self::Offline(OfflineError::Node(error)) => refused(node_refuses(error)),
            Self::Offline(OfflineError::State(_) | OfflineError::Slots(_))
            | Self::NoConfig(_)
            | Self::Config(_)
            | Self::State(_)
            | Self::Guard(_)
            | Self::Agent(_)
            | Self::Thread(_)
            | Self::Kube(_)
            | Self::Failed { .. } => 1,
        }
    }
}

/// Is it what was found that is not as it must be (refused), or did something not work (failed)?
fn stage_refuses(error: &StageError) -> bool {
    match error {
        StageError::Refused(_)
        | StageError::ReadsBackDifferently { .. }
        | StageError::OtherPartition { .. } => true,
        StageError::Trust(error) => trust_refuses(error),
        StageError::Boot(error) => boot_refuses(error),
        StageError::Disk(error) => disk_refuses(error),
        StageError::State(_) | StageError::Cancelled | StageError::Stopped(_) => false,
    }
}

fn trust_refuses(error: &TrustError) -> bool {
    match error {
        TrustError::Unsigned { .. }
        | TrustError::UnderThreshold { .. }
        | TrustError::Expired { .. }
        | TrustError::OlderThanSeen { .. }
        | TrustError::Mixed { .. }
        | TrustError::NotListed { .. }
        | TrustError::Withdrawn { .. }
        | TrustError::Tampered { .. }
        | TrustError::Truncated { .. }
        | TrustError::TooLong { .. }
        | TrustError::Malformed { .. }
        | TrustError::NewerFormat { .. } => true,
        TrustError::Unreachable(_)
        | TrustError::Root { .. }
        | TrustError::StoreDamaged { .. }
        | TrustError::Store { .. }
        | TrustError::Configuration { .. } => false,
    }
}

fn node_refuses(error: &NodeError) -> bool {
    match error {
        NodeError::Disk(error) => disk_refuses(error),
        NodeError::State(_)
        | NodeError::BootId(_)
        | NodeError::Cmdline { .. }
        | NodeError::OpenDisk { .. } => false,
    }
}

fn boot_refuses(error: &BootError) -> bool {
    match error {
        BootError::Disk(error) => disk_refuses(error),
        BootError::TargetIsRunning { .. }
        | BootError::RunningNotGood { .. }
        | BootError::WouldNotBoot { .. }
        | BootError::NoWayBack { .. }
        | BootError::ForeignPriority { .. } => true,
    }
}

fn disk_refuses(error: &DiskError) -> bool {
    match error {
        DiskError::BothCopiesBroken { .. }
        | DiskError::NoRoomForCopy { .. }
        | DiskError::ForeignChange { .. }
        | DiskError::PartitionNotFound { .. }
        | DiskError::SlotsDoNotFit { .. }
        | DiskError::TargetIsRunning { .. }
        | DiskError::UnknownArtifact { .. }
        | DiskError::OutsidePartition { .. }
        | DiskError::NodeMismatch { .. } => true,
        DiskError::Io { .. } | DiskError::TableReadsBackDifferently { .. } => false,
    }
}

/// One command's view of its node.
pub(super) struct Session {
    pub config: Arc<LoadedConfig>,
    pub env: NodeEnv,
    pub view: Arc<NodeView>,
    pub guard: GuardClient,
}

impl Session {
    pub async fn open(config: LoadedConfig, env: NodeEnv) -> Result<Self, CliError> {
        let config = Arc::new(config);
        let (opening, settings) = (env.clone(), config.clone());
        let node = tokio::task::spawn_blocking(move || opening.open(&settings.settings)).await??;
        // Marking good runs the required checks first, and they may take their whole time.
        let patience = env.pace.guard_answer + config.settings.health_deadline;
        let guard = GuardClient::new(&config.settings.guard_socket(), patience);
        Ok(Self {
            view: Arc::new(NodeView::new(node)),
            config,
            env,
            guard,
        })
    }

    /// What is wrong with the partition table, though it works.
    pub async fn table_problem(&self) -> Result<Option<String>, CliError> {
        let view = self.view.clone();
        let state = tokio::task::spawn_blocking(move || view.node().control.state()).await?;
        Ok(state.map_err(StageError::from)?.health.problem())
    }

    pub fn settings(&self) -> &Settings {
        &self.config.settings
    }

    /// The running slot, or why that cannot be told.
    pub fn running(&self) -> Result<crate::disk::SlotName, CliError> {
        Ok(self.view.node().running.clone()?)
    }
}

/// A digest as people read it: enough to tell releases apart.
pub(super) fn short(digest: &str) -> String {
    digest.parse::<Digest>().map_or_else(
        |_| digest.to_owned(),
        |digest| format!("sha256:{}…", digest.short()),
    )
}
