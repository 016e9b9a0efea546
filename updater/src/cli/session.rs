//! What the commands share: the opened node, and every way in which a command can fail.

use std::path::PathBuf;
use std::sync::Arc;

use drydock_images::{Digest, TrustError};

use crate::agent::AgentError;
use crate::config::{ConfigError, LoadedConfig, Settings};
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
            Self::Refused(_) => "Refused",
            Self::Failed { word, .. } => word,
        }
    }

    /// As `docs/updater.md` lists them.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::UnknownFields(_)
            | Self::Refused(_)
            | Self::Stage(StageError::Refused(_) | StageError::Boot(_))
            | Self::Ask(AskError::Refused { .. })
            | Self::Offline(OfflineError::Refused(_) | OfflineError::Kernel(_) | OfflineError::Boot(_)) => 3,
            Self::Ask(AskError::Away { .. }) | Self::Offline(OfflineError::NeedsGuard) => 4,
            Self::NoConfig(_)
            | Self::Config(_)
            | Self::Node(_)
            | Self::State(_)
            | Self::Stage(_)
            | Self::Trust(_)
            | Self::Guard(_)
            | Self::Agent(_)
            | Self::Offline(_)
            | Self::Thread(_)
            | Self::Kube(_)
            | Self::Failed { .. } => 1,
        }
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

    pub fn settings(&self) -> &Settings {
        &self.config.settings
    }

    /// The running slot, or why that cannot be told.
    pub fn running(&self) -> Result<crate::disk::SlotName, CliError> {
        self.view
            .node()
            .running
            .clone()
            .map_err(|error| CliError::Failed {
                word: "RunningUnknown",
                text: error.to_string(),
            })
    }
}

/// A digest as people read it: enough to tell releases apart.
pub(super) fn short(digest: &str) -> String {
    digest.parse::<Digest>().map_or_else(
        |_| digest.to_owned(),
        |digest| format!("sha256:{}…", digest.short()),
    )
}
