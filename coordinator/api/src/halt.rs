//! ReleaseHalt: one per bad digest, named `sha256-HEX`. It has a spec only, and no owner.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Says that a release digest must be staged or granted nowhere.
///
/// The coordinator creates it before it does anything else after the failure that halts; people create
/// one to ban a release; only people delete one.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "drydock.dev",
    version = "v1alpha1",
    kind = "ReleaseHalt",
    plural = "releasehalts",
    shortname = "halt",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".spec.version"}"#,
    printcolumn = r#"{"name":"By","type":"string","jsonPath":".spec.by"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".spec.reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    validation = Rule::new("self.metadata.name == self.spec.digest.replace(':', '-')")
        .message("a ReleaseHalt is named after its digest: sha256-HEX")
)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseHaltSpec {
    /// The digest that is halted: `sha256:` and 64 hexadecimal digits.
    #[schemars(regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub digest: String,
    /// The ImageRepository it came from, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub repository: Option<String>,
    /// The release's version, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub version: Option<String>,
    /// Why, in a sentence.
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// What was seen, at most 20 nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub evidence: Vec<HaltEvidence>,
    /// Who: `coordinator`, or a person's name.
    #[schemars(length(max = 253))]
    pub by: String,
    /// When it was decided.
    #[schemars(with = "String", length(max = 64))]
    pub at: Timestamp,
}

/// One node's failure.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HaltEvidence {
    /// The node.
    #[schemars(length(max = 253))]
    pub node: String,
    /// The attempt that failed.
    #[schemars(length(max = 128))]
    pub attempt: String,
    /// The agent's error code.
    #[schemars(length(max = 64))]
    pub code: String,
    /// The trial boot that failed, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub boot_id: Option<String>,
}
