//! NodeUpgrade: one per node, owned by the Node. Its spec is written by the coordinator alone, its
//! status by that node's agent alone. The phase that people see is computed from both.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::SpanText;

/// What the coordinator wants of one node.
#[derive(CustomResource, KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "drydock.dev",
    version = "v1alpha1",
    kind = "NodeUpgrade",
    plural = "nodeupgrades",
    shortname = "nup",
    status = "NodeUpgradeStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn = r#"{"name":"Running","type":"string","jsonPath":".status.runningVersion"}"#,
    printcolumn = r#"{"name":"Wanted","type":"string","jsonPath":".spec.wish.version"}"#,
    printcolumn = r#"{"name":"Step","type":"string","jsonPath":".spec.dock.step"}"#,
    printcolumn = r#"{"name":"Agent","type":"string","jsonPath":".status.agentState"}"#,
    printcolumn = r#"{"name":"Guard","type":"string","jsonPath":".status.guard"}"#,
    printcolumn = r#"{"name":"Error","type":"string","jsonPath":".status.lastError.code"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(oldSelf.dock) || !has(self.dock) || self.dock.term >= oldSelf.dock.term")
    .message("spec.dock.term must not fall: a newer leader has taken this attempt over"))]
pub struct NodeUpgradeSpec {
    /// The release this node should come to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wish: Option<Wish>,
    /// Whether the agent may write the wish into the slot that is not running.
    #[serde(default)]
    pub stage: bool,
    /// The attempt that holds a place in dock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dock: Option<Dock>,
    /// Leave to arm and reboot once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Grant>,
    /// The cluster's word on one trial boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The committed release that has to stay Ready for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak: Option<Soak>,
    /// How the last attempts here ended, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub records: Vec<AttemptRecord>,
    /// Attempts that a person forgave: they count no more, and the agent drops them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 128)))]
    pub forgiven: Vec<String>,
    /// Not to be asked before this instant: the agent was silent, or an attempt was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
}

/// Why a node is not to be taken for a while.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// A reason of the planner's.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// Until when.
    #[schemars(with = "String", length(max = 64))]
    pub until: Timestamp,
    /// Attempts that ended without a reboot, one after the other: each makes the pause longer.
    #[serde(default)]
    pub times: i32,
    /// For `AgentSilent`: the status as last seen (its `metadata.resourceVersion` at that time); the
    /// hold ends when the agent has written since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub seen: Option<String>,
}

/// The release a node should come to run.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wish {
    /// The ImageRepository's name; the node's own config must permit it.
    #[schemars(length(max = 253))]
    pub repository: String,
    /// The ImageRepository's URL; the node's own config must have the same for that name.
    #[schemars(length(max = 2048))]
    pub url: String,
    /// `sha256:HEX`.
    #[schemars(length(max = 71))]
    pub digest: String,
    /// The release's version, for people.
    #[schemars(length(max = 128))]
    pub version: String,
    /// The policy allows a version below the running one.
    #[serde(default)]
    pub allow_downgrade: bool,
}

/// An attempt, as the coordinator records it.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dock {
    /// The policy that holds the place.
    #[schemars(length(max = 253))]
    pub policy: String,
    /// The attempt's name, unique for ever.
    #[schemars(length(max = 128))]
    pub attempt: String,
    /// Term of the leader that wrote last.
    pub term: i64,
    /// How far the coordinator has come.
    pub step: DockStep,
    /// Since when it is at this step.
    #[schemars(with = "String", length(max = 64))]
    pub since: Timestamp,
    /// Release digest of the attempt.
    #[schemars(length(max = 71))]
    pub digest: String,
    /// UID of the Node.
    #[schemars(length(max = 64))]
    pub node_uid: String,
    /// The Node's boot ID when the question was asked.
    #[schemars(length(max = 64))]
    pub boot_id: String,
    /// When the cordon was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 64))]
    pub cordoned: Option<Timestamp>,
    /// When the grant was written, and until when it counts as out: kept here also after the grant is
    /// taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 64))]
    pub granted: Option<Timestamp>,
    /// The grant's `notAfter`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 64))]
    pub not_after: Option<Timestamp>,
    /// Why the attempt is being ended (a reason of the planner's), from step `TakingBack` on. Of a node that
    /// was not back at its deadline: `NotBack`, and `OnTrial` from when it came up (`since`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub why: Option<String>,
    /// Copied from the policy when the place was taken: the attempt ends by these whatever happens to it.
    pub deadlines: Deadlines,
}

/// How far the coordinator has come with an attempt.
#[derive(JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DockStep {
    /// The agent was asked and must answer.
    Asked,
    /// The Node is cordoned, its pods are being evicted.
    Draining,
    /// The grant is out: the node may arm and reboot, is on trial, or has come back.
    Granted,
    /// The grant was removed; its answer or its time is waited for.
    TakingBack,
    /// The outcome is recorded; the Node is uncordoned, then the place ends.
    Leaving,
}

/// Deadlines of an attempt.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deadlines {
    /// From the cordon to the last pod's end.
    pub drain: SpanText,
    /// From the grant to Committed.
    pub health: SpanText,
    /// For the guard, in each trial boot.
    pub confirm_wait: SpanText,
}

/// Leave to arm and reboot once.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// The attempt. It has one grant.
    #[schemars(length(max = 128))]
    pub attempt: String,
    /// UID of the Node it is for.
    #[schemars(length(max = 64))]
    pub node_uid: String,
    /// The boot that may end.
    #[schemars(length(max = 64))]
    pub boot_id: String,
    /// The release that may be armed.
    #[schemars(length(max = 71))]
    pub digest: String,
    /// By the API server's clock; at most 10 minutes after it was written.
    #[schemars(with = "String", length(max = 64))]
    pub not_after: Timestamp,
    /// Counted by the guard from its start in each trial boot.
    pub confirm_wait: SpanText,
}

/// The cluster's word on one trial boot.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The attempt.
    #[schemars(length(max = 128))]
    pub attempt: String,
    /// The trial boot it is about; for any other it is ignored (`goBack` stands for the whole attempt).
    #[schemars(length(max = 64))]
    pub boot_id: String,
    /// The release that was seen running.
    #[schemars(length(max = 71))]
    pub digest: String,
    /// What the guard is to do.
    pub decision: Decision,
}

/// What the guard is to do.
#[derive(JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    /// Mark the slot good.
    #[serde(rename = "confirm")]
    Confirm,
    /// Go back to the other slot.
    #[serde(rename = "goBack")]
    GoBack,
}

/// A committed release that has to stay Ready for a while.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Soak {
    /// The release.
    #[schemars(length(max = 71))]
    pub digest: String,
    /// The attempt that brought it.
    #[schemars(length(max = 128))]
    pub attempt: String,
    /// The policy that watches it.
    #[schemars(length(max = 253))]
    pub policy: String,
    /// Since when.
    #[schemars(with = "String", length(max = 64))]
    pub since: Timestamp,
    /// How long, copied from the policy.
    pub duration: SpanText,
    /// It is over, and was passed.
    #[serde(default)]
    pub passed: bool,
}

/// How an attempt ended.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptRecord {
    /// The release.
    #[schemars(length(max = 71))]
    pub digest: String,
    /// The attempt.
    #[schemars(length(max = 128))]
    pub attempt: String,
    /// Its class.
    pub class: AttemptClass,
    /// The agent's code, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub code: Option<String>,
    /// When it was written.
    #[schemars(with = "String", length(max = 64))]
    pub at: Timestamp,
}

/// How an attempt ended.
#[derive(JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AttemptClass {
    /// The node runs the release, marked good.
    Committed,
    /// It counts towards the threshold and bars the digest.
    Failed,
    /// The guard started but left no outcome, or heard no word from the cluster, and it counts against
    /// the node: a second one is Failed.
    Unconfirmed,
    /// The same where the coordinator had no API server, or no other Node was Ready: it costs nothing.
    Excused,
    /// It ended before any trial boot.
    NotTried,
    /// A person let the node go as it was.
    Released,
}

/// What the agent of one node reports.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeUpgradeStatus {
    /// `metadata.generation` that the agent has read and acted on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `metadata.uid` of the object that the agent has read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub observed_uid: Option<String>,
    /// What the agent is doing: one of [`agent_state`].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub agent_state: Option<String>,
    /// The kernel's boot ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub boot_id: Option<String>,
    /// Digest of the running release, or `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71))]
    pub running: Option<String>,
    /// Version of the running release; a hint where `running` is `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub running_version: Option<String>,
    /// The running slot is marked good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_good: Option<bool>,
    /// Digest that lies verified in the other slot (or in the armed or running one during an attempt).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71))]
    pub staged: Option<String>,
    /// Both slots.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub slots: Vec<SlotReport>,
    /// Of the staging under way, or the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The last error, until what failed succeeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,
    /// The attempt that the guard is in, or the last that it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Outcome>,
    /// Digests that failed here and were not forgiven.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub failed: Vec<FailedDigest>,
    /// Version of the trusted TUF root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_version: Option<i64>,
    /// Highest timestamp version seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp_version: Option<i64>,
    /// `full`, `userspace only` or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub guard: Option<String>,
    /// Protocol number that the agent speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<i64>,
}

/// One slot, as the agent sees it.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotReport {
    /// `A` or `B`.
    #[schemars(length(max = 8))]
    pub name: String,
    /// `running`, `staged`, `armed`, `previous`, `empty` or `unbootable`.
    #[schemars(length(max = 32))]
    pub state: String,
    /// The release in it, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71))]
    pub digest: Option<String>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub version: Option<String>,
    /// Loader's priority, 0 to 15.
    pub priority: i32,
    /// Loader's tries left.
    pub tries: i32,
    /// Loader's successful bit.
    pub successful: bool,
}

/// Bytes of a staging.
#[derive(JsonSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Progress {
    /// Bytes of the release's artifacts.
    pub total_bytes: i64,
    /// Of these, written or found right.
    pub done_bytes: i64,
    /// Of these, taken from what the node already had.
    pub reused_bytes: i64,
    /// Bytes that came over the wire.
    pub fetched_bytes: i64,
}

/// An error.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    /// A short word for programs: `Unreachable`, `Tampered`, `ReadBackDiffers`...
    #[schemars(length(max = 64))]
    pub code: String,
    /// A sentence for people: what, where, what to do.
    #[schemars(length(max = 1024))]
    pub text: String,
}

/// An attempt, as the guard journals it.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The attempt.
    #[schemars(length(max = 128))]
    pub attempt: String,
    /// Its release.
    #[schemars(length(max = 71))]
    pub digest: String,
    /// One of [`outcome`].
    #[schemars(length(max = 64))]
    pub state: String,
    /// The boot in which that came about (the trial boot, for those that had one).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub boot_id: Option<String>,
    /// Why, for programs: `HealthCheck`, `CoordinatorGoBack`, `NeverStarted`, `ConfirmTimeout`,
    /// `PowerCut`, `GrantOver`...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub code: Option<String>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub text: Option<String>,
}

/// A digest that failed here.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedDigest {
    /// `sha256:HEX`.
    #[schemars(length(max = 71))]
    pub digest: String,
    /// The attempt in which it failed.
    #[schemars(length(max = 128))]
    pub attempt: String,
    /// Why.
    #[schemars(length(max = 64))]
    pub code: String,
}

/// Values of `status.agentState`. A reader that meets another one keeps its hands off.
pub mod agent_state {
    /// Nothing to do: no wish, or the wish is running.
    pub const IDLE: &str = "Idle";
    /// The other slot is being written.
    pub const STAGING: &str = "Staging";
    /// The wish lies verified in the other slot.
    pub const STAGED: &str = "Staged";
    /// The granted slot is being read back and armed.
    pub const ARMING: &str = "Arming";
    /// The reboot was called.
    pub const REBOOTING: &str = "Rebooting";
    /// A trial boot: local checks run.
    pub const CHECKING: &str = "Checking";
    /// A trial boot: local checks passed, the cluster's word is waited for.
    pub const CONFIRMING: &str = "Confirming";
    /// The guard is going back to the other slot.
    pub const GOING_BACK: &str = "GoingBack";
    /// Something is wrong: see `lastError`.
    pub const FAILED: &str = "Error";
}

/// Values of `status.attempt.state`.
pub mod outcome {
    /// The slot is armed; no reboot yet.
    pub const ARMED: &str = "Armed";
    /// A trial boot is under way.
    pub const TRYING: &str = "Trying";
    /// It was decided to go back.
    pub const GOING_BACK: &str = "GoingBack";
    /// The partition table says that the slot is good.
    pub const COMMITTED: &str = "Committed";
    /// Back on the old release; class Failed.
    pub const FAILED: &str = "Failed";
    /// Back on the old release; class Unconfirmed.
    pub const UNCONFIRMED: &str = "Unconfirmed";
    /// Ended before any trial boot (disarmed, refused, or the reboot led nowhere new).
    pub const NOT_TRIED: &str = "NotTried";
    /// On trial, not committed, and there is no way back: waits for a person or a verdict.
    pub const STUCK: &str = "Stuck";
}
