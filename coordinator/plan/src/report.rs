//! What people read in a policy's status: conditions, counts, progress, windows, forecast. No safety rule
//! needs any of it.

use std::{collections::BTreeMap, time::Duration};

use drydock_api::{Count, DockEntry, PolicyStatus, Span, Target, Took, UpgradePolicySpec};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::{
    accept::max_unavailable,
    phase::Phase,
    planner::NodeAssessment,
    reason::{Note, Reason},
    scene::{PolicyScene, Scene},
    windows::{Kind, add, between},
};

/// Names per count, attempts remembered, and how far a forecast must move to be worth a write.
const NAMES: usize = 20;
const TOOK: usize = 50;
const FORECAST_MOVES: Duration = Duration::from_secs(600);

/// The status that describes the policy now. Dock, term and history stay as they are.
pub(crate) fn status(
    scene: &Scene<'_>,
    policy: &PolicyScene<'_>,
    held: &[Note],
    nodes: &BTreeMap<String, NodeAssessment>,
) -> PolicyStatus {
    let mine: Vec<(&str, &NodeAssessment)> = policy
        .nodes
        .iter()
        .filter_map(|node| Some((node.name.as_str(), nodes.get(&node.name)?)))
        .collect();
    let updated = policy
        .nodes
        .iter()
        .filter(|node| is_updated(scene, policy, &node.name))
        .count();
    let waiting = waiting(&mine);
    let calendar = policy.calendar();
    let mut status = policy.status.clone();
    status.observed_generation = policy.object.metadata.generation;
    status.term = Some(scene.world.term);
    status.target = target(policy);
    // Against a target that nobody knows nothing can be counted.
    status.progress =
        (status.target.is_some() || !unreadable(policy)).then(|| format!("{updated}/{}", policy.nodes.len()));
    status.phases = counts(mine.iter().map(|(name, node)| (node.phase.name(), *name)));
    status.next_window = calendar.and_then(|calendar| calendar.next_window(scene.world.now));
    status.conditions = conditions(scene, policy, held, &mine, waiting);
    if unread(scene, policy) && knew(policy.status) {
        keep(policy.status, &mut status);
        return status;
    }
    status.reasons = counts(
        mine.iter()
            .filter_map(|(name, node)| Some((node.notes.first()?.reason, *name)))
            .filter(|(reason, _)| *reason != Reason::UpToDate)
            .map(|(reason, name)| (reason.name(), name)),
    );
    status.forecast_end = forecast(scene, policy, waiting);
    status
}

/// The target is not known because the repository cannot be read, for now.
fn unreadable(policy: &PolicyScene<'_>) -> bool {
    let reason = policy.goal.as_ref().err().map(|note| note.reason);
    matches!(reason, Some(Reason::RepositoryNotRead | Reason::MetadataExpired))
}

/// This leader has not looked into the repository yet. That lasts until its first try has ended; from then
/// on the status says that the repository is not read.
fn unread(scene: &Scene<'_>, policy: &PolicyScene<'_>) -> bool {
    let repository = scene.world.repositories.get(&policy.object.spec.repository);
    repository.is_some_and(|repository| !repository.looked())
}

/// Whoever wrote this status had read the repository.
fn knew(status: &PolicyStatus) -> bool {
    let mut conditions = status.conditions.iter();
    conditions.any(|old| old.type_ == "Progressing" && old.reason != Reason::RepositoryNotRead.name())
}

/// What follows from the repository stays as the last leader left it.
fn keep(old: &PolicyStatus, status: &mut PolicyStatus) {
    if status.target.is_none() {
        status.progress.clone_from(&old.progress);
    }
    for condition in &mut status.conditions {
        let same = |old: &&Condition| old.type_ == condition.type_ && old.type_ != "Accepted";
        if let Some(old) = old.conditions.iter().find(same) {
            condition.clone_from(old);
        }
    }
}

/// What the release choice means now; while the repository cannot be read, what it meant before.
fn target(policy: &PolicyScene<'_>) -> Option<Target> {
    match &policy.goal {
        Ok(goal) => Some(Target {
            digest: goal.digest.clone(),
            version: goal.version.to_string(),
        }),
        Err(_) if unreadable(policy) => policy.status.target.clone(),
        Err(_) => None,
    }
}

fn is_updated(scene: &Scene<'_>, policy: &PolicyScene<'_>, node: &str) -> bool {
    let Some(target) = target(policy) else {
        return false;
    };
    let running = scene
        .world
        .upgrades
        .get(node)
        .and_then(|upgrade| upgrade.status.as_ref())
        .is_some_and(|status| {
            status.running.as_deref() == Some(target.digest.as_str()) && status.running_good == Some(true)
        });
    running && !scene.in_dock.contains_key(node)
}

/// Nodes that are still to take a release and are not stuck.
fn waiting(mine: &[(&str, &NodeAssessment)]) -> usize {
    mine.iter().filter(|(_, node)| node.pending).count()
}

fn counts<'a>(pairs: impl Iterator<Item = (&'static str, &'a str)>) -> Vec<Count> {
    let mut by_name: BTreeMap<&str, (i64, Vec<String>)> = BTreeMap::new();
    for (name, node) in pairs {
        let (count, names) = by_name.entry(name).or_default();
        *count += 1;
        if names.len() < NAMES {
            names.push(node.to_owned());
        }
    }
    by_name
        .into_iter()
        .map(|(name, (nodes, names))| Count {
            name: name.to_owned(),
            nodes,
            names,
        })
        .collect()
}

/// When the last node is expected to be done: rounds of as many nodes as may be unavailable, laid into
/// the windows ahead. None: nothing is left, it cannot be said, or not within the calendar.
fn forecast(scene: &Scene<'_>, policy: &PolicyScene<'_>, waiting: usize) -> Option<Timestamp> {
    if waiting == 0 || policy.object.spec.paused || policy.goal.is_err() {
        return None;
    }
    let strategy = &policy.object.spec.strategy;
    let at_once = max_unavailable(&strategy.max_unavailable, policy.nodes.len()).ok()?;
    let mut rounds = u32::try_from(waiting.div_ceil(at_once.max(1))).ok()?;
    if at_once == 0 {
        return None;
    }
    let need = policy.estimate.drain + policy.estimate.reboot;
    let fit = policy.estimate.need();
    if need.is_zero() {
        return None;
    }
    let calendar = policy.calendar()?;
    let kind = Kind {
        minor: false,
        security: true,
    };
    for span in calendar.open(kind) {
        let start = span.start.max(scene.world.now);
        let length = between(start, span.end);
        if length < fit {
            continue;
        }
        let fitting = (length - fit).as_secs() / need.as_secs().max(1) + 1;
        let here = u32::try_from(fitting).unwrap_or(u32::MAX).min(rounds);
        rounds -= here;
        if rounds == 0 {
            return Some(add(start, need.saturating_mul(here)));
        }
    }
    None
}

fn conditions(
    scene: &Scene<'_>,
    policy: &PolicyScene<'_>,
    held: &[Note],
    mine: &[(&str, &NodeAssessment)],
    waiting: usize,
) -> Vec<Condition> {
    let accepted = if policy.accepted.yes() {
        (
            "Accepted",
            true,
            "Accepted".to_owned(),
            "the policy can work as it is written".to_owned(),
        )
    } else {
        (
            "Accepted",
            false,
            Reason::NotAccepted.name().to_owned(),
            policy.accepted.wrong.join("; "),
        )
    };
    let halted = halted(scene, policy);
    let halted = match halted {
        Some(digest) => (
            "Halted",
            true,
            Reason::Halted.name().to_owned(),
            format!("a ReleaseHalt stands against {digest}"),
        ),
        None => (
            "Halted",
            false,
            "NoHalt".to_owned(),
            "no halt stands against what its nodes should run".to_owned(),
        ),
    };
    let progressing = if !policy.status.dock.is_empty() {
        (
            "Progressing",
            true,
            "InDock".to_owned(),
            "nodes are in dock; see status.dock".to_owned(),
        )
    } else if let Some(note) = held.first() {
        (
            "Progressing",
            false,
            note.reason.name().to_owned(),
            note.reason.explain().to_owned(),
        )
    } else if let Some(reason) = first_reason(mine) {
        (
            "Progressing",
            waiting > 0,
            reason.name().to_owned(),
            reason.explain().to_owned(),
        )
    } else {
        (
            "Progressing",
            false,
            Reason::UpToDate.name().to_owned(),
            "every node runs what it should".to_owned(),
        )
    };
    [accepted, progressing, halted]
        .into_iter()
        .map(|(type_, yes, reason, message)| condition(scene, policy, type_, yes, reason, &message))
        .collect()
}

/// A halted release that this policy's nodes run, were to run, or would run if it were not halted.
fn halted<'s>(scene: &'s Scene<'_>, policy: &'s PolicyScene<'_>) -> Option<&'s str> {
    let spec = &policy.object.spec;
    let on_nodes = policy
        .nodes
        .iter()
        .filter_map(|node| scene.world.upgrades.get(&node.name))
        .flat_map(|upgrade| {
            let wish = upgrade.spec.wish.as_ref().map(|wish| wish.digest.as_str());
            let running = upgrade
                .status
                .as_ref()
                .and_then(|status| status.running.as_deref());
            [wish, running]
        })
        .flatten();
    let channel = scene
        .world
        .repositories
        .get(&spec.repository)
        .zip(spec.release.channel.as_ref())
        .and_then(|(repository, channel)| repository.channels.get(channel))
        .map_or(&[][..], Vec::as_slice);
    // Of the channel, what is newer than the release that is taken in its stead.
    let newer = channel
        .iter()
        .rev()
        .take_while(|release| {
            !policy
                .goal
                .as_ref()
                .is_ok_and(|goal| goal.digest == release.digest)
        })
        .filter(|release| !release.withdrawn)
        .map(|release| release.digest.as_str());
    spec.release
        .digest
        .as_deref()
        .into_iter()
        .chain(newer)
        .chain(on_nodes)
        .find(|digest| scene.world.halts.contains_key(*digest))
}

/// What the first node that is not done waits for.
fn first_reason(mine: &[(&str, &NodeAssessment)]) -> Option<Reason> {
    let open = |node: &NodeAssessment| {
        node.notes
            .first()
            .map(|note| note.reason)
            .filter(|reason| *reason != Reason::UpToDate)
    };
    mine.iter()
        .filter(|(_, node)| node.pending)
        .chain(mine)
        .find_map(|(_, node)| open(node))
}

fn condition(
    scene: &Scene<'_>,
    policy: &PolicyScene<'_>,
    type_: &str,
    yes: bool,
    reason: String,
    message: &str,
) -> Condition {
    let status = if yes { "True" } else { "False" };
    let since = policy
        .status
        .conditions
        .iter()
        .find(|old| old.type_ == type_ && old.status == status)
        .map_or(Time(scene.world.now), |old| old.last_transition_time.clone());
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason,
        message: message.chars().take(1000).collect(),
        last_transition_time: since,
        observed_generation: policy.object.metadata.generation,
    }
}

/// Whether the new status is worth a write: anything but a forecast that moved a little.
pub(crate) fn worth_writing(old: &PolicyStatus, new: &PolicyStatus) -> bool {
    let near = match (old.forecast_end, new.forecast_end) {
        (Some(old), Some(new)) => old.duration_since(new).unsigned_abs() < FORECAST_MOVES,
        (old, new) => old == new,
    };
    let mut settled = new.clone();
    settled.forecast_end = old.forecast_end;
    !near || settled != *old
}

/// Notes what an attempt took, when its place ends: from the dock that is still in the spec and the record.
pub(crate) fn remember(scene: &Scene<'_>, status: &mut PolicyStatus, entry: &DockEntry) {
    let Some(upgrade) = scene.world.upgrades.get(&entry.node) else {
        return;
    };
    let committed = upgrade.spec.records.iter().find(|record| {
        record.attempt == entry.attempt && record.class == drydock_api::AttemptClass::Committed
    });
    let (Some(record), Some(dock)) = (committed, &upgrade.spec.dock) else {
        return;
    };
    // What was built again knows neither its cordon nor its grant.
    let (Some(cordoned), Some(granted), false) = (dock.cordoned, dock.granted, dock.boot_id.is_empty())
    else {
        return;
    };
    let secs = |length: Duration| i64::try_from(length.as_secs()).unwrap_or(i64::MAX);
    status.took.push(Took {
        at: record.at,
        drain_secs: secs(between(cordoned, granted)),
        reboot_secs: secs(between(granted, record.at)),
    });
    let excess = status.took.len().saturating_sub(TOOK);
    status.took.drain(..excess);
}

/// The stretch in which the policy may act next, for wake-ups: edges of windows and freezes.
pub(crate) fn next_edge(policy: &PolicyScene<'_>, now: Timestamp) -> Option<Timestamp> {
    let calendar = policy.calendar()?;
    let edges = |kind: Kind| {
        calendar
            .open(kind)
            .into_iter()
            .flat_map(|Span { start, end }| [start, end])
            .find(|edge| *edge > now && *edge < Timestamp::MAX)
    };
    let kinds = [(false, false), (false, true), (true, false), (true, true)];
    kinds
        .into_iter()
        .filter_map(|(minor, security)| edges(Kind { minor, security }))
        .min()
}

/// Whether a policy's windows say anything at all.
#[must_use]
pub(crate) fn has_calendar(spec: &UpgradePolicySpec) -> bool {
    !spec.windows.is_empty() || !spec.freezes.is_empty()
}

/// Whether a phase keeps a node's place until a person acts.
pub(crate) fn stuck(phase: Phase) -> bool {
    matches!(phase, Phase::NotBack | Phase::Undecided)
}
