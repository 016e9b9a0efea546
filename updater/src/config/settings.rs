//! The configuration after every check: what the rest of the updater works with.

use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use drydock_images::{Arch, Board, Version};
use serde::Deserialize;
use url::Url;

use crate::disk::{Loader, SlotName, SlotSelectors};

/// How this node is kept up to date. Every path is absolute, every bound holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The Node's name in the cluster; the host name where none is configured.
    pub node_name: String,
    pub board: Board,
    pub arch: Arch,
    /// The only disk that is ever written.
    pub disk: PathBuf,
    pub loader: Loader,
    pub slot_a: SlotSelectors,
    pub slot_b: SlotSelectors,
    pub running: RunningFrom,
    /// On the state partition; survives both slots.
    pub state_dir: PathBuf,
    /// For the guard's socket; gone after a boot.
    pub run_dir: PathBuf,
    pub repositories: Vec<RepositorySettings>,
    /// Releases below this are refused, whatever the node marked good before.
    pub floor: Option<Version>,
    /// May a release below the running one (and at or above every floor) be staged?
    pub allow_downgrade: bool,
    /// May a release with another kernel be armed where the loader does not count tries?
    pub unguarded_kernel: bool,
    /// Ranges of a repository that are fetched at the same time.
    pub fetches_at_once: usize,
    /// What all fetches from a repository together may receive. `None`: no limit.
    pub max_bytes_per_second: Option<NonZeroU64>,
    /// All of them must pass in a trial boot.
    pub checks: Vec<HealthCheck>,
    /// How long a trial boot waits for the cluster's verdict, where the grant does not say.
    pub confirm_wait: Duration,
    /// How long the required checks may take to pass.
    pub health_deadline: Duration,
    /// `None`: a node without a cluster.
    pub kubernetes: Option<KubernetesAccess>,
}

impl Settings {
    #[must_use]
    pub fn slot(&self, name: SlotName) -> &SlotSelectors {
        match name {
            SlotName::A => &self.slot_a,
            SlotName::B => &self.slot_b,
        }
    }

    /// The guard's socket.
    #[must_use]
    pub fn guard_socket(&self) -> PathBuf {
        self.run_dir.join("guard.sock")
    }

    #[must_use]
    pub fn repository(&self, name: &str) -> Option<&RepositorySettings> {
        self.repositories
            .iter()
            .find(|repository| repository.name == name)
    }
}

/// How the running slot is found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunningFrom {
    /// By `drydock.slot=` or a partition of a slot on the kernel's command line.
    #[default]
    Cmdline,
    /// By the content of this file, a command line too: for simulation and unusual loaders.
    File(PathBuf),
}

/// One repository that this node may take releases from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositorySettings {
    /// 1 to 63 of a-z 0-9 . _ -; the name of its trust store's folder.
    pub name: String,
    pub url: Url,
    /// Other places with the same files; none of them is the URL.
    pub mirrors: Vec<Url>,
    /// The first root of trust, in this node's own image.
    pub root: PathBuf,
    /// Further certificate authorities for https, in PEM.
    pub ca_certificates: Option<PathBuf>,
}

/// One required check: passed when the command ends with 0 in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub name: String,
    /// Program and arguments; no shell in between.
    pub command: Vec<String>,
    pub timeout: Duration,
}

/// How the agent reaches its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KubernetesAccess {
    Kubeconfig(PathBuf),
    InCluster,
}

/// A length of time as people write it: `90s`, `15min`, `1h 30m`. Longer than nothing, at most a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

const LONGEST_SPAN: Duration = Duration::from_secs(24 * 60 * 60);

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no length of time between 0 and 24h; write `90s` or `15min`");
        let signed: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
        let span = Duration::try_from(signed).map_err(|_| wrong())?;
        if span.is_zero() || span > LONGEST_SPAN {
            Err(wrong())
        } else {
            Ok(Self(span))
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}
