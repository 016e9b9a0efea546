//! The custom resources of Drydock (group `drydock.dev`, version `v1alpha1`): wire types only.
//!
//! What is here travels between people, coordinator and agents through the API server. Nothing here
//! decides anything, reads a clock or talks to a server. Who may write which field is said in
//! `docs/PROTOCOL.md`. Values that an agent writes are bounded strings, not enums: a newer agent must
//! never be mute, and who reads an unknown value keeps its hands off.

pub mod annotation;
mod halt;
mod node_upgrade;
mod policy;
mod repository;
mod span;

pub use annotation::{Ask, DockMark};
pub use halt::{HaltEvidence, ReleaseHalt, ReleaseHaltSpec};
pub use node_upgrade::{
    AttemptClass, AttemptRecord, Deadlines, Decision, Dock, DockStep, FailedDigest, Grant, Hold, LastError,
    NodeUpgrade, NodeUpgradeSpec, NodeUpgradeStatus, Outcome, Progress, SlotReport, Soak, Verdict, Wish,
    agent_state, outcome,
};
pub use policy::{
    Count, DockEntry, Drain, DrainMode, EmptyDir, Expected, Freeze, FreezeScope, Health, OnDrainTimeout,
    PolicyStatus, Recurrence, ReleaseChoice, Span, Strategy, Target, Took, UnmanagedPods, UpgradePolicy,
    UpgradePolicySpec, Window,
};
pub use repository::{ChannelStatus, ImageRepository, ImageRepositorySpec, ImageRepositoryStatus, RootRef};
pub use span::{SpanText, SpanTextError};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

/// The API group of every resource here.
pub const GROUP: &str = "drydock.dev";

/// The protocol number this build speaks, written by agents into `status.protocol`.
pub const PROTOCOL: i64 = 1;

/// Every CustomResourceDefinition of Drydock, in the order in which they are to be applied.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        ImageRepository::crd(),
        UpgradePolicy::crd(),
        NodeUpgrade::crd(),
        ReleaseHalt::crd(),
    ]
}

#[cfg(test)]
mod tests;
