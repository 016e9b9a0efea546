//! Which node a policy takes next, if any: at most one per plan.

use std::collections::BTreeMap;

use drydock_api::{AttemptClass, DockEntry};
use jiff::Timestamp;

use crate::{
    attempt::{policy_holds, unrecorded, window_holds},
    budget::{Given, Limits},
    idle::Idle,
    node::NodeView,
    reason::{Note, Reason},
    scene::{PolicyScene, Scene, node_down},
};

/// What holds a whole policy now, whichever node it is about.
pub(crate) fn held(scene: &Scene<'_>, policy: &PolicyScene<'_>) -> Vec<Note> {
    let mut notes = Vec::new();
    if !policy.accepted.yes() {
        notes.push(Note::new(Reason::NotAccepted, policy.accepted.wrong.join("; ")));
    }
    if policy.object.spec.paused {
        notes.push(Reason::Paused.into());
    }
    if let Err(note) = &policy.goal {
        notes.push(note.clone());
    }
    notes.extend(scene.stale.iter().cloned());
    notes
}

/// The node that the policy takes, and a note for each ready one that it does not take.
pub(crate) fn choose<'a>(
    scene: &Scene<'a>,
    policy: &PolicyScene<'a>,
    idles: &BTreeMap<&'a str, Idle>,
    given: &Given<'a>,
    others_pending: bool,
) -> (Option<DockEntry>, Vec<(&'a str, Note)>) {
    let mut ready: Vec<(&'a NodeView, &str)> = policy
        .nodes
        .iter()
        .filter_map(|node| Some((*node, idles.get(node.name.as_str())?.ready.as_deref()?)))
        .collect();
    ready.sort_by_key(|(node, _)| order(scene, node));
    let mut taken = None;
    let mut notes = Vec::new();
    let mut asking = Asking {
        limits: Limits::new(scene, policy, given),
        windows: BTreeMap::new(),
        others_pending,
    };
    for (node, digest) in ready {
        let verdict = if taken.is_some() {
            Err(Reason::Next.into())
        } else {
            asking.may_take(scene, policy, node, digest)
        };
        match verdict {
            Ok(()) => {
                taken = Some(DockEntry {
                    node: node.name.clone(),
                    uid: node.uid.clone(),
                    attempt: attempt_name(scene, policy),
                    since: scene.world.now,
                });
            }
            Err(note) => notes.push((node.name.as_str(), note)),
        }
    }
    (taken, notes)
}

/// `a{term}-{resourceVersion}-{i}`: one place is taken by replacing just that version, so `i` is 0.
fn attempt_name(scene: &Scene<'_>, policy: &PolicyScene<'_>) -> String {
    let version = policy
        .object
        .metadata
        .resource_version
        .as_deref()
        .unwrap_or_default();
    format!("a{}-{version}-0", scene.world.term)
}

/// The coordinator's own node last; then who is down already; then who waited longest; then by name.
fn order(scene: &Scene<'_>, node: &NodeView) -> (bool, bool, bool, Timestamp, String) {
    let own = scene.world.me.node.as_deref() == Some(node.name.as_str());
    let upgrade = scene.world.upgrades.get(&node.name);
    let last = upgrade
        .and_then(|upgrade| upgrade.spec.records.iter().map(|record| record.at).max())
        .unwrap_or(Timestamp::MIN);
    let ended_early = upgrade
        .and_then(|upgrade| upgrade.spec.records.last())
        .is_some_and(|record| record.class == AttemptClass::NotTried);
    // A node whose agent was silent is no longer first, however long it is down.
    (
        own,
        ended_early || !node_down(node),
        ended_early,
        last,
        node.name.clone(),
    )
}

/// What is asked for many nodes and answered once.
struct Asking<'s, 'a> {
    limits: Limits<'s, 'a>,
    /// The window's verdict, by release and what the node runs.
    windows: BTreeMap<(String, Option<String>), Result<(), Note>>,
    others_pending: bool,
}

impl Asking<'_, '_> {
    fn may_take(
        &mut self,
        scene: &Scene<'_>,
        policy: &PolicyScene<'_>,
        node: &NodeView,
        digest: &str,
    ) -> Result<(), Note> {
        policy_holds(scene, node, policy.name)?;
        if let Some(note) = scene.stale.first() {
            return Err(note.clone());
        }
        let upgrade = scene.world.upgrades.get(&node.name);
        if scene.in_dock.contains_key(node.name.as_str()) || upgrade.is_some_and(unrecorded) {
            return Err(Reason::Asked.into());
        }
        if let Some(status) = upgrade.and_then(|upgrade| upgrade.status.as_ref()) {
            self.windows
                .entry((digest.to_owned(), status.running.clone()))
                .or_insert_with(|| window_holds(scene, policy, digest, status, None, false).map(drop))
                .clone()?;
        }
        if policy.guessing && !policy.status.dock.is_empty() {
            return Err(Reason::GuessInsteadOfHistory.into());
        }
        if scene.world.me.node.as_deref() == Some(node.name.as_str()) && self.others_pending {
            return Err(Reason::OwnNodeLast.into());
        }
        self.limits.allow(node, digest)
    }
}
