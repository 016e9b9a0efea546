//! UpgradePolicy: which nodes take which release, when, how many at a time, and what may be done to
//! their pods.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::{
    apis::meta::v1::{Condition, LabelSelector},
    util::intstr::IntOrString,
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::SpanText;

/// What an operator decides about a group of nodes.
#[derive(CustomResource, JsonSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "drydock.dev",
    version = "v1alpha1",
    kind = "UpgradePolicy",
    plural = "upgradepolicies",
    shortname = "upol",
    status = "PolicyStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Target","type":"string","jsonPath":".status.target.version"}"#,
    printcolumn = r#"{"name":"Updated","type":"string","jsonPath":".status.progress"}"#,
    printcolumn = r#"{"name":"In dock","type":"string","jsonPath":".status.dock[*].node"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type=='Accepted')].status"}"#,
    printcolumn = r#"{"name":"Progressing","type":"string","jsonPath":".status.conditions[?(@.type=='Progressing')].reason"}"#,
    printcolumn = r#"{"name":"Next window","type":"string","priority":1,"jsonPath":".status.nextWindow.start"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct UpgradePolicySpec {
    /// The nodes; an empty selector selects every node. A node that two policies select is taken by
    /// neither.
    #[serde(default)]
    pub node_selector: LabelSelector,
    /// The ImageRepository.
    #[schemars(length(min = 1, max = 253))]
    pub repository: String,
    /// Which of its releases.
    pub release: ReleaseChoice,
    /// When nodes may be disrupted. None: at any time that no freeze covers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub windows: Vec<Window>,
    /// When they may not, whatever the windows say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub freezes: Vec<Freeze>,
    /// How many at a time, and how carefully.
    #[serde(default)]
    pub strategy: Strategy,
    /// What may be done to the pods of a node.
    #[serde(default)]
    pub drain: Drain,
    /// How long the new system may take to prove itself.
    #[serde(default)]
    pub health: Health,
    /// What an attempt takes until there is history (5 attempts).
    #[serde(default)]
    pub expected: Expected,
    /// A drained node is granted its reboot even when the window has closed meanwhile.
    #[serde(default)]
    pub finish_after_window: bool,
    /// Releases below the running one are allowed (the node's own config must allow it, too).
    #[serde(default)]
    pub allow_downgrade: bool,
    /// A release whose kubelet is outside the version skew with the API server is allowed.
    #[serde(default)]
    pub allow_version_skew: bool,
    /// A release is allowed that writes shared state which the release it would go back to cannot read.
    #[serde(default)]
    pub allow_state_loss: bool,
    /// Nothing new starts.
    #[serde(default)]
    pub paused: bool,
}

/// Exactly one of channel, digest and version.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.channel), has(self.digest), has(self.version)].filter(x, x).size() == 1")
    .message("name exactly one of channel, digest and version"))]
pub struct ReleaseChoice {
    /// The newest release of a channel that is neither withdrawn nor halted, by its stepping stones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub channel: Option<String>,
    /// This very release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
    /// The release of this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub version: Option<String>,
    /// How long a release must have been published (in the channel) before any node takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_age: Option<SpanText>,
}

/// When something recurs: RFC 5545, in a time zone.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recurrence {
    /// First start, local time without zone: `2026-11-02T22:00:00`.
    #[schemars(regex(pattern = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?$"))]
    pub start: String,
    /// IANA time zone: `Europe/Berlin`, `UTC`.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: String,
    /// From each start; at least a minute. The start belongs to the window, the end does not.
    pub duration: SpanText,
    /// `FREQ=DAILY;BYDAY=...`; DAILY, WEEKLY, MONTHLY and YEARLY. None: it happens once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub rrule: Option<String>,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// When nodes may be disrupted.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub name: Option<String>,
    /// When.
    #[serde(flatten)]
    pub when: Recurrence,
}

/// When nodes may not be disrupted.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Freeze {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub name: Option<String>,
    /// When.
    #[serde(flatten)]
    pub when: Recurrence,
    /// What it keeps out.
    #[serde(default)]
    pub scope: FreezeScope,
}

/// What a freeze keeps out.
#[derive(JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FreezeScope {
    /// Every upgrade.
    #[default]
    NoUpgrades,
    /// Upgrades that change the first or second number of the version.
    NoMinorUpgrades,
    /// Every upgrade whose advisory names no CVE.
    OnlySecurity,
}

/// How many at a time, and how carefully.
#[derive(JsonSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Strategy {
    /// Nodes of this policy that may be unavailable at once: a number, or a percentage (rounded down,
    /// at least 1 unless it is 0).
    pub max_unavailable: IntOrString,
    /// Nodes are unavailable in one value of this label at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 317))]
    pub topology_key: Option<String>,
    /// Until this many nodes have committed and soaked, nodes on trial and failures together stay
    /// within `failureThreshold`.
    #[schemars(range(min = 1, max = 1000))]
    pub canaries: i32,
    /// How long a committed node must stay Ready before it counts as good.
    pub soak: SpanText,
    /// This many failed nodes halt the release.
    #[schemars(range(min = 1, max = 1000))]
    pub failure_threshold: i32,
}

impl Default for Strategy {
    fn default() -> Self {
        Self {
            max_unavailable: IntOrString::Int(1),
            topology_key: None,
            canaries: 1,
            soak: SpanText::from_secs(300),
            failure_threshold: 1,
        }
    }
}

/// What may be done to the pods of a node.
#[derive(JsonSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Drain {
    /// Whether pods are evicted.
    pub mode: DrainMode,
    /// From the first eviction.
    pub timeout: SpanText,
    /// What happens then.
    pub on_timeout: OnDrainTimeout,
    /// Pods that one of these selects stay.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub skip_pod_selectors: Vec<LabelSelector>,
    /// Pods with emptyDir volumes.
    pub empty_dir: EmptyDir,
    /// Pods that no controller will make again.
    pub unmanaged_pods: UnmanagedPods,
    /// When the pods are gone, wait until no volume (VolumeAttachment) that they used is attached to the
    /// node any more, up to `timeout`. What pods use that stay is not waited for.
    pub wait_for_volume_detach: bool,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            mode: DrainMode::Evict,
            timeout: SpanText::from_secs(1800),
            on_timeout: OnDrainTimeout::Abort,
            skip_pod_selectors: Vec::new(),
            empty_dir: EmptyDir::Refuse,
            unmanaged_pods: UnmanagedPods::Refuse,
            wait_for_volume_detach: false,
        }
    }
}

/// Whether pods are evicted.
#[derive(JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DrainMode {
    /// Through the eviction API, with PodDisruptionBudgets.
    #[default]
    Evict,
    /// The pods go down with the node: for nodes whose pods have nowhere to go.
    None,
}

/// What happens when the drain's time is over.
#[derive(JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnDrainTimeout {
    /// The node is uncordoned and goes to the end of the queue.
    #[default]
    Abort,
    /// The node reboots with the pods that are left. PodDisruptionBudgets are then not kept.
    Force,
}

/// Pods with emptyDir volumes.
#[derive(JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EmptyDir {
    /// Their data is deleted with the pod.
    Delete,
    /// The node is not drained while it has one.
    #[default]
    Refuse,
}

/// Pods that no controller will make again.
#[derive(JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnmanagedPods {
    /// They are evicted for good.
    Evict,
    /// The node is not drained while it has one.
    #[default]
    Refuse,
}

/// How long the new system may take to prove itself.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Health {
    /// From the grant: the node must be back Ready, with a new boot ID and the release, in this time.
    pub deadline: SpanText,
    /// From the guard's start in each trial boot: without a word from the cluster it goes back then.
    pub confirm_wait: SpanText,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            deadline: SpanText::from_secs(1800),
            confirm_wait: SpanText::from_secs(900),
        }
    }
}

/// What an attempt takes until there is history.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Expected {
    /// From the cordon to the last pod's end.
    pub drain: SpanText,
    /// From the grant to Committed.
    pub reboot: SpanText,
    /// What the way back takes on top, should it be needed.
    pub way_back: SpanText,
}

impl Default for Expected {
    fn default() -> Self {
        Self {
            drain: SpanText::from_secs(300),
            reboot: SpanText::from_secs(300),
            way_back: SpanText::from_secs(300),
        }
    }
}

/// What the coordinator computed last. No safety rule needs any of it: all of it can be built again.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyStatus {
    /// The generation this was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`, `Progressing`, `Halted`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub conditions: Vec<Condition>,
    /// What the policy's release choice means now; while the repository cannot be read, what it meant before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// Term of the leader that wrote last. None: this status was wiped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub term: Option<i64>,
    /// The nodes that have a place in dock.
    #[schemars(length(max = 5000))]
    pub dock: Vec<DockEntry>,
    /// Nodes that run the target, of all selected, for people: `3/5`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub progress: Option<String>,
    /// How many nodes are in each phase.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub phases: Vec<Count>,
    /// How many nodes wait for each reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub reasons: Vec<Count>,
    /// The window that is open, or the next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_window: Option<Span>,
    /// When the last node is expected to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 64))]
    pub forecast_end: Option<Timestamp>,
    /// What the last attempts took from cordon to Committed, in seconds, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub took: Vec<Took>,
}

/// What one attempt took.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Took {
    /// When it ended.
    #[schemars(with = "String", length(max = 64))]
    pub at: Timestamp,
    /// From the cordon to the grant.
    pub drain_secs: i64,
    /// From the grant to Committed.
    pub reboot_secs: i64,
}

/// A release.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// `sha256:HEX`.
    #[schemars(length(max = 71))]
    pub digest: String,
    /// Its version.
    #[schemars(length(max = 128))]
    pub version: String,
}

/// A node's place in dock.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DockEntry {
    /// The Node's name.
    #[schemars(length(max = 253))]
    pub node: String,
    /// The Node's UID.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// The attempt.
    #[schemars(length(max = 128))]
    pub attempt: String,
    /// Since when.
    #[schemars(with = "String", length(max = 64))]
    pub since: Timestamp,
}

/// A number of nodes, with at most 20 names.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    /// A phase or a reason.
    #[schemars(length(max = 64))]
    pub name: String,
    /// How many.
    pub nodes: i64,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 253)))]
    pub names: Vec<String>,
}

/// A stretch of time: the start belongs to it, the end does not.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    /// First instant.
    #[schemars(with = "String", length(max = 64))]
    pub start: Timestamp,
    /// First instant after it.
    #[schemars(with = "String", length(max = 64))]
    pub end: Timestamp,
}
