//! One plan: what is done first, and what is left for a later plan. Never does anything itself.

use std::collections::BTreeMap;

use drydock_api::PolicyStatus;
use jiff::Timestamp;

use crate::{
    action::Action,
    fence::fence,
    phase::Phase,
    reason::{Note, Reason},
    world::World,
};

/// What may happen now, and why the rest does not.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// To be done in this order; the first that fails throws the rest away.
    pub actions: Vec<Action>,
    /// Every Node that a policy selects or that is in dock, by name.
    pub nodes: BTreeMap<String, NodeAssessment>,
    /// Every policy, by name.
    pub policies: BTreeMap<String, PolicyAssessment>,
    /// What holds everything (stale watches, terms).
    pub notes: Vec<Note>,
    /// When to plan again even if nothing is seen by then.
    pub wake_at: Option<Timestamp>,
}

/// What is known of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeAssessment {
    /// Where it is in its life.
    pub phase: Phase,
    /// The policies that select it.
    pub policies: Vec<String>,
    /// What it waits for, the most telling first.
    pub notes: Vec<Note>,
    /// When something about it changes even if nothing is seen by then.
    pub wake_at: Option<Timestamp>,
}

/// What is known of one policy.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PolicyAssessment {
    /// What holds the whole policy.
    pub notes: Vec<Note>,
    /// The status that describes it now (also when it is not worth a write).
    pub status: PolicyStatus,
}

/// Plans what may be done on one snapshot of the world.
///
/// Planned from the same world twice, it says the same. It never plans more than that one snapshot allows:
/// what depends on another action's success comes in a later plan.
#[must_use]
pub fn plan(world: &World) -> Plan {
    let first = fence(world);
    if !first.is_empty() {
        let reason = match first.first() {
            Some(Action::StepDown { .. }) => Reason::Superseded,
            Some(Action::RebuildDock { .. }) => Reason::Rebuilding,
            _ => Reason::Fencing,
        };
        return Plan {
            actions: first,
            notes: vec![reason.into()],
            ..Plan::default()
        };
    }
    Plan::default()
}
