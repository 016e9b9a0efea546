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

/// What is unavailable now and by what this plan has given, counted once for all nodes of a policy that ask.
pub(crate) struct Limits<'s, 'a> {
    scene: &'s Scene<'a>,
    policy: &'s PolicyScene<'a>,
    given: &'s Given<'a>,
    /// Unavailable nodes of the policy.
    out: usize,
    /// By topology key: each domain with an unavailable node.
    domains: BTreeMap<&'s str, Domains<'a>>,
    /// Unavailable control-plane nodes.
    control_plane: Vec<&'a str>,
    /// The canaries' verdict by release.
    canaries: BTreeMap<String, Result<(), Note>>,
}

/// An unavailable node for each value of one label that has any.
type Domains<'a> = BTreeMap<Option<&'a str>, &'a str>;

impl<'s, 'a> Limits<'s, 'a> {
    pub(crate) fn new(scene: &'s Scene<'a>, policy: &'s PolicyScene<'a>, given: &'s Given<'a>) -> Self {
        let out = |node: &NodeView| scene.unavailable(node) || given.contains_key(node.name.as_str());
        // By the key of this policy, and by that of every policy that has a node in dock.
        let docked = scene.in_dock.values().chain(given.values());
        let keys = docked
            .filter_map(|name| scene.policies.get(*name))
            .chain([policy])
            .filter_map(|policy| policy.object.spec.strategy.topology_key.as_deref());
        let mut domains: BTreeMap<&str, Domains<'a>> = keys.map(|key| (key, BTreeMap::new())).collect();
        let mut control_plane = Vec::new();
        for node in scene.world.nodes.values().filter(|node| out(node)) {
            for (key, domains) in &mut domains {
                let domain = node.labels.get(*key).map(String::as_str);
                domains.entry(domain).or_insert(&node.name);
            }
            if node.is_control_plane() {
                control_plane.push(node.name.as_str());
            }
        }
        Self {
            scene,
            policy,
            given,
            out: policy.nodes.iter().filter(|node| out(node)).count(),
            domains,
            control_plane,
            canaries: BTreeMap::new(),
        }
    }

    /// Whether `node` may be taken for this release.
    pub(crate) fn allow(&mut self, node: &NodeView, digest: &str) -> Result<(), Note> {
        let counted = self.scene.unavailable(node) || self.given.contains_key(node.name.as_str());
        self.budget(counted)?;
        self.topology(node)?;
        if node.is_control_plane()
            && let Some(other) = self.control_plane.iter().find(|other| **other != node.name)
        {
            return Err(Note::new(Reason::ControlPlane, format!("{other} is unavailable")));
        }
        let (scene, policy) = (self.scene, self.policy);
        self.canaries
            .entry(digest.to_owned())
            .or_insert_with(|| canaries(scene, policy, digest))
            .clone()
    }

    /// A node already down costs nothing more.
    fn budget(&self, counted: bool) -> Result<(), Note> {
        let strategy = &self.policy.object.spec.strategy;
        let max = max_unavailable(&strategy.max_unavailable, self.policy.nodes.len())
            .map_err(|text| Note::new(Reason::NotAccepted, text))?;
        let others = self.out - usize::from(counted);
        if others < max {
            return Ok(());
        }
        Err(Note::new(
            Reason::Budget,
            format!("{others} of at most {max} are unavailable"),
        ))
    }

    /// Nodes may be unavailable in one domain only.
    fn topology(&self, node: &NodeView) -> Result<(), Note> {
        for (key, domains) in &self.domains {
            let own = node.labels.get(*key).map(String::as_str);
            let elsewhere = domains.iter().find(|(domain, _)| **domain != own);
            if let Some((domain, other)) = elsewhere {
                let domain = domain.unwrap_or("none");
                return Err(Note::new(
                    Reason::Topology,
                    format!("{other} is unavailable in {key} {domain}"),
                ));
            }
        }
        Ok(())
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

/// Whether as many nodes as the policy wants canaries have committed the release and soaked.
pub(crate) fn proven(scene: &Scene<'_>, policy: &PolicyScene<'_>, digest: &str) -> bool {
    let canaries = usize::try_from(policy.object.spec.strategy.canaries).unwrap_or(1);
    scene.trial(policy, digest).good >= canaries.max(1).min(policy.nodes.len())
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
