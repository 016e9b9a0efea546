//! The configuration as it stands in its files: everything optional, nothing judged yet. What a field
//! means is said in `docs/updater.example.toml`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use drydock_images::{Arch, Board, Version};
use serde::{Deserialize, Deserializer};
use url::Url;

use crate::disk::{Loader, PartitionSelector, SlotName};

use super::settings::{RunningFrom, Span};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Fragment {
    pub node: NodeFragment,
    pub disk: DiskFragment,
    pub slots: BTreeMap<SlotName, SlotFragment>,
    pub paths: PathsFragment,
    pub repositories: Vec<RepositoryFragment>,
    pub releases: ReleasesFragment,
    pub health: HealthFragment,
    pub kubernetes: Option<KubernetesFragment>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeFragment {
    pub name: Option<String>,
    #[serde(deserialize_with = "parsed")]
    pub board: Option<Board>,
    #[serde(deserialize_with = "parsed")]
    pub arch: Option<Arch>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct DiskFragment {
    pub path: Option<PathBuf>,
    pub loader: Option<Loader>,
    pub running: RunningFrom,
    pub unguarded_kernel: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct SlotFragment {
    pub boot: PartitionSelector,
    pub artifacts: BTreeMap<String, PartitionSelector>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PathsFragment {
    pub state: Option<PathBuf>,
    pub run: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RepositoryFragment {
    pub name: String,
    #[serde(deserialize_with = "url")]
    pub url: Url,
    #[serde(default, deserialize_with = "urls")]
    pub mirrors: Vec<Url>,
    pub root: PathBuf,
    #[serde(default)]
    pub ca_certificates: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ReleasesFragment {
    #[serde(deserialize_with = "parsed")]
    pub floor: Option<Version>,
    pub allow_downgrade: bool,
    pub fetches_at_once: Option<usize>,
    pub max_bytes_per_second: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct HealthFragment {
    pub confirm_wait: Option<Span>,
    pub deadline: Option<Span>,
    pub checks: Vec<CheckFragment>,
}

#[derive(Debug, Deserialize)]
pub(super) struct CheckFragment {
    pub name: String,
    pub command: Vec<String>,
    #[serde(default)]
    pub timeout: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct KubernetesFragment {
    pub kubeconfig: Option<PathBuf>,
    pub in_cluster: bool,
}

/// A bounded word of a release's vocabulary; its own error says what is allowed.
fn parsed<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

fn url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    parse_url(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

fn urls<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Url>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let urls: Result<_, _> = texts.iter().map(|text| parse_url(text)).collect();
    urls.map_err(serde::de::Error::custom)
}

fn parse_url(text: &str) -> Result<Url, String> {
    text.parse().map_err(|e| format!("`{text}` is no URL: {e}"))
}
