//! Whether one more node may be taken now: budgets, topology, control plane, canaries (S7, L2). Never
//! looks at windows or at the node's own readiness to go.

use std::collections::BTreeMap;

use crate::{
    accept::max_unavailable,
    node::NodeView,
    reason::{Note, Reason},
    scene::{PolicyScene, Scene, node_down},
};

/// Places that this plan has already given out: Node to policy.
pub(crate) type Given<'a> = BTreeMap<&'a str, &'a str>;

/// Whether `node` may be taken for `policy`, on what is unavailable now and on what this plan has given.
pub(crate) fn allows(
    scene: &Scene<'_>,
    policy: &PolicyScene<'_>,
    node: &NodeView,
    digest: &str,
    given: &Given<'_>,
) -> Result<(), Note> {
    let out = |other: &NodeView| scene.unavailable(other) || given.contains_key(other.name.as_str());
    budget(policy, node, &out)?;
    topology(scene, policy, node, given, &out)?;
    control_plane(scene, node, &out)?;
    canaries(scene, policy, digest)
}

fn budget(policy: &PolicyScene<'_>, node: &NodeView, out: &impl Fn(&NodeView) -> bool) -> Result<(), Note> {
    let strategy = &policy.object.spec.strategy;
    let max = max_unavailable(&strategy.max_unavailable, policy.nodes.len())
        .map_err(|text| Note::new(Reason::NotAccepted, text))?;
    // A node already down costs nothing more.
    let others = policy
        .nodes
        .iter()
        .filter(|other| other.name != node.name && out(other))
        .count();
    if others < max {
        Ok(())
    } else {
        Err(Note::new(
            Reason::Budget,
            format!("{others} of at most {max} are unavailable"),
        ))
    }
}

/// Nodes may be unavailable in one domain only: by the key of this policy, and by that of every policy
/// that has a node in dock.
fn topology(
    scene: &Scene<'_>,
    policy: &PolicyScene<'_>,
    node: &NodeView,
    given: &Given<'_>,
    out: &impl Fn(&NodeView) -> bool,
) -> Result<(), Note> {
    let docked = scene.in_dock.values().chain(given.values());
    let mut keys: Vec<&str> = docked
        .filter_map(|name| scene.policies.get(*name))
        .chain([policy])
        .filter_map(|policy| policy.object.spec.strategy.topology_key.as_deref())
        .collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let domain = node.labels.get(key);
        let elsewhere = scene
            .world
            .nodes
            .values()
            .find(|other| other.name != node.name && out(other) && other.labels.get(key) != domain);
        if let Some(other) = elsewhere {
            let domain = other.labels.get(key).map_or("none", String::as_str);
            return Err(Note::new(
                Reason::Topology,
                format!("{} is unavailable in {key} {domain}", other.name),
            ));
        }
    }
    Ok(())
}

fn control_plane(scene: &Scene<'_>, node: &NodeView, out: &impl Fn(&NodeView) -> bool) -> Result<(), Note> {
    if !node.is_control_plane() {
        return Ok(());
    }
    let other = scene
        .world
        .nodes
        .values()
        .find(|other| other.name != node.name && other.is_control_plane() && out(other));
    match other {
        Some(other) => Err(Note::new(
            Reason::ControlPlane,
            format!("{} is unavailable", other.name),
        )),
        None => Ok(()),
    }
}

/// Until the canaries have committed and soaked: nodes on trial and failures within the threshold, and no
/// more nodes touched than there are canaries.
fn canaries(scene: &Scene<'_>, policy: &PolicyScene<'_>, digest: &str) -> Result<(), Note> {
    let strategy = &policy.object.spec.strategy;
    let count = |number: i32| usize::try_from(number).unwrap_or(1).max(1);
    let threshold = count(strategy.failure_threshold);
    let wanted = count(strategy.canaries).min(policy.nodes.len());
    let trial = scene.trial(policy, digest);
    if trial.good >= wanted {
        return Ok(());
    }
    let within_threshold = trial.under_way + trial.failed < threshold;
    let within_canaries = trial.under_way + trial.soaking + trial.good < wanted;
    if within_threshold && within_canaries {
        Ok(())
    } else {
        Err(Note::new(
            Reason::CanaryFirst,
            format!(
                "{} of {wanted} have soaked; {} under way, {} soaking, {} failed (threshold {threshold})",
                trial.good, trial.under_way, trial.soaking, trial.failed
            ),
        ))
    }
}

/// The same at the grant, for a node that is itself counted: the statuses may have been lost meanwhile.
pub(crate) fn grant_allowed(scene: &Scene<'_>, policy: &PolicyScene<'_>, digest: &str) -> Result<(), Note> {
    let strategy = &policy.object.spec.strategy;
    let count = |number: i32| usize::try_from(number).unwrap_or(1).max(1);
    let threshold = count(strategy.failure_threshold);
    let wanted = count(strategy.canaries).min(policy.nodes.len());
    let trial = scene.trial(policy, digest);
    if trial.good >= wanted || trial.granted + trial.failed < threshold {
        Ok(())
    } else {
        Err(Note::new(
            Reason::CanaryFirst,
            format!(
                "{} of {wanted} have soaked; {} granted, {} failed (threshold {threshold})",
                trial.good, trial.granted, trial.failed
            ),
        ))
    }
}

/// Two nodes in dock that the limits over all policies keep apart: the one that must give way. Takes no
/// part where nothing is wrong; statuses that were wiped, and two leaders, can bring it about.
pub(crate) fn gives_way(scene: &Scene<'_>, node: &NodeView) -> Option<Note> {
    let others = scene
        .world
        .nodes
        .values()
        .filter(|other| other.name != node.name && scene.in_dock.contains_key(other.name.as_str()));
    for other in others {
        // Who is cordoned already stays; among the others the first by name.
        let first = other.mark.is_some() || node_down(other) || other.name < node.name;
        if first && node.is_control_plane() && other.is_control_plane() {
            return Some(Note::new(
                Reason::ControlPlane,
                format!("{} is in dock", other.name),
            ));
        }
    }
    None
}
