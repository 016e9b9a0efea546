//! What a plan asks the shell to do. An action holds all it needs to be carried out, and the precondition
//! under which it may be; the shell decides nothing. Every write carries the resourceVersion it was planned
//! from: a 409 throws the whole plan away. There is at most one write per object in a plan.

use drydock_api::{DockEntry, DockMark, NodeUpgradeSpec, PolicyStatus, ReleaseHaltSpec};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{node::NodeView, reason::Reason};

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// A higher term than this leader's own was read: write nothing any more, give the Lease up, run for
    /// it again.
    StepDown {
        /// The term that was read.
        seen: i64,
    },
    /// Give the Lease up (to a Ready replica elsewhere): this leader's own Node is next.
    GiveUpLease,
    /// Replace the policy's status (`/status`, PUT with this resourceVersion).
    WritePolicyStatus {
        /// Which.
        policy: ObjectRef,
        /// The whole new status.
        status: Box<PolicyStatus>,
        /// What changes.
        change: StatusChange,
    },
    /// List Nodes and NodeUpgrades from the server (quorum reads, after the policy of this
    /// resourceVersion was read), compute `rebuild::rebuilt_status` from them, and replace the policy's
    /// status with this resourceVersion.
    RebuildDock {
        /// Which.
        policy: ObjectRef,
    },
    /// Create an empty NodeUpgrade of the Node's name, owned by the Node. Already there: fine.
    CreateNodeUpgrade {
        /// The Node's name.
        node: String,
        /// The Node's UID, for the owner reference.
        node_uid: String,
    },
    /// Replace a NodeUpgrade's spec (PUT with this resourceVersion and UID).
    WriteSpec {
        /// Which.
        upgrade: ObjectRef,
        /// The whole new spec.
        spec: Box<NodeUpgradeSpec>,
        /// What changes.
        change: SpecChange,
    },
    /// One merge patch of the Node with this resourceVersion and UID: annotation `drydock.dev/term`.
    FenceNode {
        /// Which.
        node: ObjectRef,
        /// The term.
        term: i64,
    },
    /// One merge patch of the Node with this resourceVersion and UID: `spec.unschedulable: true`,
    /// annotations `drydock.dev/dock` and `drydock.dev/term`.
    CordonNode {
        /// Which.
        node: ObjectRef,
        /// The mark.
        mark: DockMark,
        /// The term.
        term: i64,
    },
    /// One merge patch of the Node with this resourceVersion and UID: annotations `drydock.dev/dock` and
    /// `drydock.dev/term` taken away and, unless `keep`, `spec.unschedulable: null`.
    UncordonNode {
        /// Which.
        node: ObjectRef,
        /// The attempt whose mark it bore.
        attempt: String,
        /// The Node was unschedulable when it was taken: it stays so.
        keep: Keep,
    },
    /// Evict these pods (`eviction` subresource, UID precondition), all of one Node. An eviction carries no
    /// resourceVersion, so a leader that slept is not stopped by a 409 here: only while the Lease is held
    /// by the local clock, and the plan is at most a few seconds old. Their answers come back as [`crate::pod::Answer`]s in the next world.
    EvictPods {
        /// The Node's name.
        node: String,
        /// The attempt.
        attempt: String,
        /// The pods.
        pods: Vec<PodRef>,
    },
    /// List the Node's pods from the server, and put them into the next world.
    ListPods {
        /// The Node's name.
        node: String,
        /// The attempt.
        attempt: String,
    },
    /// Create the ReleaseHalt named after its digest. Already there: fine. Must have succeeded before
    /// anything after it in the plan is done.
    CreateHalt {
        /// Its spec.
        halt: Box<ReleaseHaltSpec>,
    },
    /// One merge patch of the Node with this resourceVersion and UID: annotation `drydock.dev/ask` taken
    /// away (what it asked is in the spec, or cannot be done).
    ClearAsk {
        /// Which.
        node: ObjectRef,
        /// Its value.
        ask: String,
    },
    /// Tell people (a Kubernetes Event on the Node or policy).
    Event {
        /// On what.
        on: EventTarget,
        /// The event's reason.
        reason: Reason,
        /// The event's note.
        text: String,
    },
}

/// An object and the version of it that the plan was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRef {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRef {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
}

/// Whether an uncordon leaves the Node unschedulable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The mark alone is taken away.
    Unschedulable,
    /// The Node becomes schedulable.
    Nothing,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventTarget {
    /// A Node, by name.
    Node(String),
    /// An UpgradePolicy, by name.
    Policy(String),
}

/// What a status write changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusChange {
    /// The term of a new leader.
    Fence,
    /// A node gets a place in dock.
    Take(DockEntry),
    /// An attempt that was lost sight of gets its place again, above the budget if need be.
    Restore(DockEntry),
    /// A place ends.
    Free(DockEntry),
    /// What people read, and nothing else.
    Report,
}

/// What a spec write changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpecChange {
    /// The term of a new leader.
    Fence,
    /// The wish, or whether it may be staged.
    Wish,
    /// The question to the agent.
    Ask,
    /// The drain begins (or a restored attempt's cordon is noted).
    Drain,
    /// The grant.
    Grant,
    /// The grant is removed; its answer is waited for.
    TakeBack(Reason),
    /// The node was not back at its deadline, or came up after it.
    Late(Reason),
    /// The verdict.
    Verdict,
    /// The outcome is recorded; the node is let go.
    Leave(Reason),
    /// The attempt is over and its place freed: `dock` is removed.
    End,
    /// The attempt is built again from mark and report.
    Rebuild,
    /// The soak was passed, failed or is without object.
    Soak,
    /// A person's forgiveness.
    Forgive,
}

impl ObjectRef {
    /// The reference of an object as it was read; None where the server has not yet named it.
    #[must_use]
    pub fn of(meta: &ObjectMeta) -> Option<Self> {
        Some(Self {
            name: meta.name.clone()?,
            uid: meta.uid.clone()?,
            resource_version: meta.resource_version.clone()?,
        })
    }

    /// The reference of a Node.
    #[must_use]
    pub fn of_node(node: &NodeView) -> Self {
        Self {
            name: node.name.clone(),
            uid: node.uid.clone(),
            resource_version: node.resource_version.clone(),
        }
    }
}
