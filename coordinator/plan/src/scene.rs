//! What is computed once for a plan and asked by all of its parts: who selects whom, who is in dock, what
//! each policy wants and when it may. Decides nothing about a node.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use drydock_api::{Dock, DockEntry, DockStep, HaltEvidence, NodeUpgrade, PolicyStatus, UpgradePolicy};
use jiff::Timestamp;

use crate::{
    accept::{self, Accepted},
    expected::{Estimate, estimate, guess},
    node::NodeView,
    reason::{Note, Reason},
    records,
    selector::selects,
    target::{self, Goal},
    windows::{Calendar, past_windows},
    world::World,
};

/// All of a plan's common ground.
pub(crate) struct Scene<'a> {
    pub world: &'a World,
    /// What keeps anything new from starting (S13). Empty: nothing.
    pub stale: Vec<Note>,
    /// Policies by name.
    pub policies: BTreeMap<&'a str, PolicyScene<'a>>,
    /// Per Node: the policies that select it.
    pub selected_by: BTreeMap<&'a str, Vec<&'a str>>,
    /// Per Node in dock: the policy.
    pub in_dock: BTreeMap<&'a str, &'a str>,
    /// Per Node name with a place: the policy and its entry.
    pub entries: BTreeMap<&'a str, (&'a str, &'a DockEntry)>,
    /// Failures by digest.
    pub failures: BTreeMap<String, Vec<HaltEvidence>>,
}

/// One policy.
pub(crate) struct PolicyScene<'a> {
    pub name: &'a str,
    pub object: &'a UpgradePolicy,
    pub status: &'a PolicyStatus,
    /// Selected Nodes, by name.
    pub nodes: Vec<&'a NodeView>,
    pub accepted: Accepted,
    pub goal: Result<Goal, Note>,
    pub estimate: Estimate,
    /// History alone kept it still for three windows, and the guess is used instead.
    pub guessing: bool,
}

impl PolicyScene<'_> {
    /// Its place of this node, if it has one.
    pub(crate) fn entry(&self, node: &str) -> Option<&DockEntry> {
        self.status.dock.iter().find(|entry| entry.node == node)
    }

    /// Its calendar; None where it is not accepted.
    pub(crate) fn calendar(&self) -> Option<&Calendar> {
        self.accepted.calendar.as_ref()
    }
}

impl<'a> Scene<'a> {
    pub(crate) fn new(world: &'a World, no_status: &'a PolicyStatus) -> Self {
        let mut selected_by: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut policies = BTreeMap::new();
        for (name, object) in &world.policies {
            let nodes: Vec<&NodeView> = world
                .nodes
                .values()
                .filter(|node| selects(&object.spec.node_selector, &node.labels))
                .collect();
            for node in &nodes {
                selected_by.entry(&node.name).or_default().push(name);
            }
            policies.insert(name.as_str(), policy_scene(world, name, object, nodes, no_status));
        }
        Self {
            world,
            stale: stale(world),
            in_dock: in_dock(world),
            entries: entries(world),
            failures: records::failures(world),
            policies,
            selected_by,
        }
    }

    /// The one policy that selects the Node.
    pub(crate) fn policy_of(&self, node: &str) -> Option<&PolicyScene<'a>> {
        match self.selected_by.get(node)?.as_slice() {
            [one] => self.policies.get(one),
            _ => None,
        }
    }

    /// Unavailable, counted once (S7): not Ready or unknown, unschedulable, being deleted, or in dock.
    pub(crate) fn unavailable(&self, node: &NodeView) -> bool {
        node_down(node) || self.in_dock.contains_key(node.name.as_str())
    }

    /// Whether nothing is stale.
    pub(crate) fn fresh(&self) -> bool {
        self.stale.is_empty()
    }
}

/// Unavailable by itself, dock apart.
pub(crate) fn node_down(node: &NodeView) -> bool {
    !node.is_ready() || node.unschedulable || node.deleting
}

/// The attempt that a NodeUpgrade holds for this very Node.
pub(crate) fn dock_of<'a>(upgrade: Option<&'a NodeUpgrade>, node: &NodeView) -> Option<&'a Dock> {
    upgrade?
        .spec
        .dock
        .as_ref()
        .filter(|dock| dock.node_uid == node.uid)
}

fn entries(world: &World) -> BTreeMap<&str, (&str, &DockEntry)> {
    let mut all = BTreeMap::new();
    for (name, policy) in &world.policies {
        for entry in policy.status.iter().flat_map(|status| &status.dock) {
            all.entry(entry.node.as_str()).or_insert((name.as_str(), entry));
        }
    }
    all
}

/// Everyone in dock by any sign: a policy's entry, a NodeUpgrade's dock, a Node's mark.
fn in_dock(world: &World) -> BTreeMap<&str, &str> {
    let mut all = BTreeMap::new();
    for node in world.nodes.values() {
        if let Some(mark) = &node.mark {
            let policy = mark.as_ref().map_or("", |mark| mark.policy.as_str());
            all.insert(node.name.as_str(), policy);
        }
        if let Some(dock) = dock_of(world.upgrades.get(&node.name), node) {
            all.insert(node.name.as_str(), dock.policy.as_str());
        }
    }
    for (name, policy) in &world.policies {
        for entry in policy.status.iter().flat_map(|status| &status.dock) {
            if world
                .nodes
                .get(&entry.node)
                .is_some_and(|node| node.uid == entry.uid)
            {
                all.insert(entry.node.as_str(), name.as_str());
            }
        }
    }
    all
}

fn stale(world: &World) -> Vec<Note> {
    let mut notes = Vec::new();
    for (watch, last) in &world.api.watches {
        match last {
            Some(last) if world.now.duration_since(*last).unsigned_abs() <= world.timings.stale => {}
            Some(last) => notes.push(Note::new(
                Reason::WatchStale,
                format!("{watch}: last heard at {last}"),
            )),
            None => notes.push(Note::new(Reason::WatchStale, format!("{watch}: not yet in step"))),
        }
    }
    if world.api.watches.is_empty() {
        notes.push(Note::new(Reason::WatchStale, "no watch has begun"));
    }
    match world.api.skew {
        Some(skew) if skew.unsigned_abs() <= world.timings.skew => {}
        Some(skew) => notes.push(Note::new(Reason::ClockSkew, format!("{skew:#}"))),
        None => notes.push(Note::new(Reason::ClockSkew, "not measured yet")),
    }
    notes
}

fn policy_scene<'a>(
    world: &'a World,
    name: &'a str,
    object: &'a UpgradePolicy,
    nodes: Vec<&'a NodeView>,
    no_status: &'a PolicyStatus,
) -> PolicyScene<'a> {
    let status = object.status.as_ref().unwrap_or(no_status);
    let goal = target::goal(world, &object.spec);
    let history = estimate(&object.spec, &status.took, world.now);
    let guessing = history.history && stuck_by_history(world, object, &nodes, &goal, &history);
    PolicyScene {
        name,
        object,
        status,
        nodes,
        accepted: accept::judge(world, &object.spec),
        estimate: if guessing { guess(&object.spec) } else { history },
        goal,
        guessing,
    }
}

/// The last three windows were too short for what history says, long enough for the guess, and nobody
/// ended an attempt since the first of them began.
fn stuck_by_history(
    world: &World,
    object: &UpgradePolicy,
    nodes: &[&NodeView],
    goal: &Result<Goal, Note>,
    history: &Estimate,
) -> bool {
    let Ok(goal) = goal else { return false };
    let past = past_windows(&object.spec, world.now, 100, 3);
    let [first, _, _] = past.as_slice() else {
        return false;
    };
    let (least, most) = (guess(&object.spec).need(), history.need());
    let short = |length: Duration| least <= length && length < most;
    let windows_short = past
        .iter()
        .all(|span| short(crate::windows::between(span.start, span.end)));
    let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let old_enough = |at: Option<Timestamp>| at.is_none_or(|at| at <= first.start);
    let published = world
        .repositories
        .get(&object.spec.repository)
        .and_then(|repository| {
            repository
                .channels
                .values()
                .flatten()
                .filter(|release| release.digest == goal.digest)
                .filter_map(|release| release.published_at)
                .min()
        });
    let tried = nodes
        .iter()
        .filter_map(|node| world.upgrades.get(&node.name))
        .flat_map(|upgrade| &upgrade.spec.records)
        .any(|record| record.at >= first.start && record.class != drydock_api::AttemptClass::NotTried);
    windows_short && old_enough(created) && old_enough(published) && !tried
}

/// Nodes of a policy by what became of one release there: the canaries' arithmetic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Trial {
    /// Committed and soaked.
    pub good: usize,
    /// Committed, soaking.
    pub soaking: usize,
    /// In dock for it, granted or on the way there, not yet committed.
    pub under_way: usize,
    /// Granted and not yet committed.
    pub granted: usize,
    /// Failed.
    pub failed: usize,
}

impl Scene<'_> {
    /// What became of this release on the nodes of this policy.
    pub(crate) fn trial(&self, policy: &PolicyScene<'_>, digest: &str) -> Trial {
        let mut trial = Trial::default();
        let failed: BTreeSet<&str> = self
            .failures
            .get(digest)
            .into_iter()
            .flatten()
            .map(|evidence| evidence.node.as_str())
            .collect();
        for node in &policy.nodes {
            let Some(upgrade) = self.world.upgrades.get(&node.name) else {
                if policy.entry(&node.name).is_some() {
                    trial.under_way += 1;
                }
                continue;
            };
            let spec = &upgrade.spec;
            let dock = dock_of(Some(upgrade), node);
            if failed.contains(node.name.as_str()) {
                trial.failed += 1;
                continue;
            }
            match dock {
                Some(dock) if dock.digest == digest || dock.digest.is_empty() => match dock.step {
                    DockStep::Asked | DockStep::Draining => {
                        trial.under_way += 1;
                        continue;
                    }
                    DockStep::Granted | DockStep::TakingBack => {
                        trial.under_way += 1;
                        trial.granted += 1;
                        continue;
                    }
                    DockStep::Leaving => {}
                },
                None if policy
                    .entry(&node.name)
                    .is_some_and(|entry| !records::ended(upgrade, &entry.attempt)) =>
                {
                    trial.under_way += 1;
                    continue;
                }
                _ => {}
            }
            let soaking = spec
                .soak
                .as_ref()
                .is_some_and(|soak| soak.digest == digest && !soak.passed);
            let recorded = spec
                .records
                .iter()
                .rev()
                .find(|record| record.digest == digest)
                .is_some_and(|record| record.class == drydock_api::AttemptClass::Committed);
            let runs = upgrade.status.as_ref().is_some_and(|status| {
                status.running.as_deref() == Some(digest) && status.running_good == Some(true)
            });
            if soaking {
                trial.soaking += 1;
            } else if recorded || runs {
                trial.good += 1;
            }
        }
        trial
    }
}
