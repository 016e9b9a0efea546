//! ImageRepository: where releases are.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::SpanText;

/// A TUF repository of releases, as the coordinator reads it. Nodes trust their own configuration, not
/// this: they compare its name and URL with what their image permits.
#[derive(CustomResource, JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "drydock.dev",
    version = "v1alpha1",
    kind = "ImageRepository",
    plural = "imagerepositories",
    shortname = "imgrepo",
    status = "ImageRepositoryStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"URL","type":"string","jsonPath":".spec.url"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Latest","type":"string","jsonPath":".status.channels[0].version"}"#,
    printcolumn = r#"{"name":"Expires","type":"string","jsonPath":".status.expires"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ImageRepositorySpec {
    /// Base URL: `https://`, `http://` or `file://`.
    #[schemars(length(max = 2048), regex(pattern = r"^(https?|file)://"))]
    pub url: String,
    /// Base URLs of other places that hold the same files, asked when the one before does not answer or
    /// holds what was not signed. Nodes have mirrors of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        inner(length(max = 2048), regex(pattern = r"^(https?|file)://"))
    )]
    pub mirrors: Vec<String>,
    /// The ConfigMap that holds the root metadata that the coordinator's own checks start from.
    pub root: RootRef,
    /// How often the metadata is read again.
    #[serde(default = "five_minutes")]
    pub refresh_interval: SpanText,
}

fn five_minutes() -> SpanText {
    SpanText::from_secs(300)
}

/// A key of a ConfigMap.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RootRef {
    /// The ConfigMap's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The ConfigMap's namespace.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// The key of the root metadata in it.
    #[serde(default = "root_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn root_key() -> String {
    "root.json".to_owned()
}

/// What the coordinator last read.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageRepositoryStatus {
    /// The generation this was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub conditions: Vec<Condition>,
    /// Each channel's newest release that is not withdrawn.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub channels: Vec<ChannelStatus>,
    /// Version of the trusted root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_version: Option<i64>,
    /// Highest timestamp version seen by coordinator or agents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp_version: Option<i64>,
    /// Highest snapshot version seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_version: Option<i64>,
    /// Highest targets version seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets_version: Option<i64>,
    /// When the first of the metadata's roles expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 64))]
    pub expires: Option<Timestamp>,
    /// The last error, until a later read succeeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub last_error: Option<String>,
}

/// One channel.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChannelStatus {
    /// The channel's name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Digest of its newest release.
    #[schemars(length(max = 71))]
    pub digest: String,
    /// Version of its newest release.
    #[schemars(length(max = 128))]
    pub version: String,
    /// How many releases it lists.
    pub releases: i64,
}
