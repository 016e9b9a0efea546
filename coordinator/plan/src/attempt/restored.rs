//! Attempts that the NodeUpgrade does not hold: a place without a question yet, and what was lost and is
//! built again from mark and report.

use drydock_api::{
    AttemptClass, AttemptRecord, Deadlines, Dock, DockEntry, DockStep, Drain, Health, NodeUpgrade, Outcome,
    outcome,
};
use jiff::Timestamp;

use super::{Place, Step, answered, hold, policy_holds, release_holds, reported, window_holds, write_spec};
use crate::{
    action::{Action, SpecChange},
    node::NodeView,
    phase::Phase,
    reason::{Note, Reason},
    records,
    scene::{PolicyScene, Scene},
    windows::add,
};

type Entry<'s, 'a> = Option<(&'s PolicyScene<'a>, &'s DockEntry)>;

/// The NodeUpgrade belongs to a Node that is no more.
pub(super) fn owned_by_another(upgrade: &NodeUpgrade, node: &NodeView) -> bool {
    upgrade
        .metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.kind == "Node" && owner.uid != node.uid)
}

/// No NodeUpgrade: it is created for who is selected, has a place, or bears a mark.
pub(super) fn without_upgrade(scene: &Scene<'_>, node: &NodeView, entry: Entry<'_, '_>) -> Option<Step> {
    let selected = scene.selected_by.contains_key(node.name.as_str());
    if !selected && node.mark.is_none() && entry.is_none() {
        return None;
    }
    if node.deleting {
        return Some(Step::wait(Phase::Idle, Reason::NodeDeleting));
    }
    let create = Action::CreateNodeUpgrade {
        node: node.name.clone(),
        node_uid: node.uid.clone(),
    };
    let note = if node.mark.is_some() {
        Reason::AnswerAwaited
    } else {
        Reason::NoReport
    };
    Some(Step::act(Phase::Idle, note, Some(create)))
}

/// A NodeUpgrade without dock: a mark names an attempt, or a place does, or the agent reports one; or it
/// is not in dock at all.
pub(super) fn without_dock(
    scene: &Scene<'_>,
    node: &NodeView,
    upgrade: &NodeUpgrade,
    entry: Entry<'_, '_>,
) -> Option<Step> {
    if let Some(Ok(mark)) = &node.mark {
        return Some(from_mark(scene, node, upgrade, &mark.attempt, &mark.policy));
    }
    if let Some((policy, entry)) = entry {
        return Some(placed(scene, policy, node, upgrade, entry));
    }
    let report = active_report(upgrade)?;
    let Some(policy) = scene.policy_of(&node.name) else {
        return Some(Step::wait(
            Phase::Idle,
            Note::new(Reason::AttemptWithoutPolicy, &report.attempt),
        ));
    };
    let place = Place::Restore {
        policy: policy.name.to_owned(),
        attempt: report.attempt.clone(),
    };
    Some(Step::place(Phase::Rebooting, Reason::Rebuilding, place))
}

/// An attempt that the agent reports as under way, and that no record ends.
fn active_report(upgrade: &NodeUpgrade) -> Option<&Outcome> {
    let report = upgrade.status.as_ref()?.attempt.as_ref()?;
    let active = [
        outcome::ARMED,
        outcome::TRYING,
        outcome::GOING_BACK,
        outcome::STUCK,
    ];
    let under_way = active.contains(&report.state.as_str())
        && report.attempt.starts_with('a')
        && reported(upgrade)
        && !records::ended(upgrade, &report.attempt);
    under_way.then_some(report)
}

/// Whether an attempt under way is known by its report alone: such a node is taken by nobody.
pub(crate) fn unrecorded(upgrade: &NodeUpgrade) -> bool {
    active_report(upgrade).is_some()
}

/// A mark without dock (the NodeUpgrade was lost, or its dock): a grant counts as out until the agent has
/// answered, or its longest life and a margin are over.
fn from_mark(scene: &Scene<'_>, node: &NodeView, upgrade: &NodeUpgrade, attempt: &str, policy: &str) -> Step {
    let world = scene.world;
    if records::ended(upgrade, attempt) {
        return rebuild(scene, node, upgrade, attempt, policy, DockStep::Leaving);
    }
    let report = records::report(upgrade, attempt).filter(|_| reported(upgrade));
    if let Some(report) = report {
        let step = match report.state.as_str() {
            outcome::ARMED => DockStep::TakingBack,
            _ => DockStep::Granted,
        };
        return rebuild(scene, node, upgrade, attempt, policy, step);
    }
    if answered(upgrade) {
        // It knows nothing of the attempt: there was no grant, or it was never armed.
        let mut step = rebuild(scene, node, upgrade, attempt, policy, DockStep::Leaving);
        step.notes = vec![Reason::NotTried.into()];
        return step;
    }
    let created = upgrade
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(world.now, |time| time.0);
    let over = add(add(created, world.timings.grant), world.timings.margin);
    if world.now >= over {
        return rebuild(scene, node, upgrade, attempt, policy, DockStep::TakingBack);
    }
    Step::wait(
        Phase::TakingBack,
        Note::new(Reason::AnswerAwaited, format!("until {over}")),
    )
    .until(over)
}

/// Writes a dock for an attempt that was lost.
fn rebuild(
    scene: &Scene<'_>,
    node: &NodeView,
    upgrade: &NodeUpgrade,
    attempt: &str,
    policy: &str,
    step: DockStep,
) -> Step {
    let world = scene.world;
    let now = world.now;
    let report = records::report(upgrade, attempt);
    let digest = report.map(|report| report.digest.clone()).unwrap_or_default();
    let wish = upgrade.spec.wish.as_ref().map(|wish| wish.digest.clone());
    let marked = node.mark_of(attempt).is_some();
    let change = if step == DockStep::Leaving {
        SpecChange::Leave(Reason::NotTried)
    } else {
        SpecChange::Rebuild
    };
    let action = write_spec(upgrade, change, |spec| {
        spec.stage = false;
        spec.grant = None;
        spec.verdict = None;
        if step == DockStep::Leaving && !records::ended(upgrade, attempt) {
            let record = AttemptRecord {
                digest: wish.unwrap_or_else(|| digest.clone()),
                attempt: attempt.to_owned(),
                class: AttemptClass::NotTried,
                code: Some(Reason::GrantLost.name().to_owned()),
                at: now,
            };
            let status = upgrade.status.clone().unwrap_or_default();
            spec.hold = hold(
                scene,
                spec,
                Reason::GrantLost,
                AttemptClass::NotTried,
                now,
                &status,
            );
            records::push(spec, record);
        }
        spec.dock = Some(Dock {
            policy: policy.to_owned(),
            attempt: attempt.to_owned(),
            term: world.term,
            step,
            since: now,
            digest,
            node_uid: node.uid.clone(),
            // The boot that was granted is not known any more: any boot may be the trial.
            boot_id: String::new(),
            cordoned: marked.then_some(now),
            granted: Some(now),
            not_after: Some(add(now, world.timings.grant)),
            why: (step != DockStep::Granted).then(|| Reason::GrantLost.name().to_owned()),
            deadlines: deadlines(scene.policies.get(policy)),
        });
    });
    Step::act(Phase::Rebooting, Reason::Rebuilding, action)
}

fn deadlines(policy: Option<&PolicyScene<'_>>) -> Deadlines {
    let (drain, health) = policy.map_or_else(
        || (Drain::default(), Health::default()),
        |policy| {
            (
                policy.object.spec.drain.clone(),
                policy.object.spec.health.clone(),
            )
        },
    );
    Deadlines {
        drain: drain.timeout,
        health: health.deadline,
        confirm_wait: health.confirm_wait,
    }
}

/// A place and no dock: the question comes next, unless the attempt is already over, was under way before
/// its NodeUpgrade was lost, or must not go on.
fn placed(
    scene: &Scene<'_>,
    policy: &PolicyScene<'_>,
    node: &NodeView,
    upgrade: &NodeUpgrade,
    entry: &DockEntry,
) -> Step {
    let world = scene.world;
    let now = world.now;
    if records::ended(upgrade, &entry.attempt) {
        let place = Place::Free {
            policy: policy.name.to_owned(),
            attempt: entry.attempt.clone(),
        };
        return Step::place(Phase::Leaving, Reason::Leaving, place);
    }
    if let Some(report) = records::report(upgrade, &entry.attempt).filter(|_| reported(upgrade)) {
        let step = match report.state.as_str() {
            outcome::ARMED => DockStep::TakingBack,
            _ => DockStep::Granted,
        };
        return rebuild(scene, node, upgrade, &entry.attempt, policy.name, step);
    }
    if !reported(upgrade) {
        return unreported(scene, upgrade, entry);
    }
    if let Some(drydock_api::Ask::Cancel { attempt } | drydock_api::Ask::Release { attempt }) =
        node.ask.as_ref().and_then(|ask| ask.as_ref().ok())
        && *attempt == entry.attempt
    {
        return unasked(scene, upgrade, entry, Reason::Canceled.into());
    }
    match question(scene, policy, node, upgrade, entry) {
        Ok(action) => Step::act(Phase::Asked, Reason::Asked, action),
        Err(note) if scene.fresh() || now >= add(entry.since, world.timings.grant) => {
            unasked(scene, upgrade, entry, note)
        }
        Err(note) => Step::wait(Phase::Asked, note).until(add(entry.since, world.timings.grant)),
    }
}

/// A place, and an agent that has not reported on this object: as silent as one that does not answer.
fn unreported(scene: &Scene<'_>, upgrade: &NodeUpgrade, entry: &DockEntry) -> Step {
    let world = scene.world;
    let now = world.now;
    let created = upgrade
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(entry.since, |time| time.0);
    // The NodeUpgrade may have been lost after a grant: its longest life counts then.
    let lost = created > entry.since;
    let over = if lost {
        add(add(created, world.timings.grant), world.timings.margin)
    } else {
        add(entry.since, world.timings.question)
    };
    if now < over {
        return Step::wait(
            Phase::Asked,
            Note::new(Reason::AnswerAwaited, format!("until {over}")),
        )
        .until(over);
    }
    unasked(scene, upgrade, entry, Reason::AgentSilent.into())
}

/// A place that ends before the question was put: the record comes first, and with it the end of the queue.
fn unasked(scene: &Scene<'_>, upgrade: &NodeUpgrade, entry: &DockEntry, why: Note) -> Step {
    let now = scene.world.now;
    let status = upgrade.status.clone().unwrap_or_default();
    let wish = upgrade.spec.wish.as_ref().map(|wish| wish.digest.clone());
    let action = write_spec(upgrade, SpecChange::Leave(why.reason), |spec| {
        spec.hold = hold(scene, spec, why.reason, AttemptClass::NotTried, now, &status);
        records::push(
            spec,
            AttemptRecord {
                digest: wish.unwrap_or_default(),
                attempt: entry.attempt.clone(),
                class: AttemptClass::NotTried,
                code: Some(why.reason.name().to_owned()),
                at: now,
            },
        );
    });
    Step::act(Phase::Leaving, why, action)
}

/// PROTOCOL 4.
fn question(
    scene: &Scene<'_>,
    policy: &PolicyScene<'_>,
    node: &NodeView,
    upgrade: &NodeUpgrade,
    entry: &DockEntry,
) -> Result<Option<Action>, Note> {
    let world = scene.world;
    if node.deleting {
        return Err(Reason::NodeDeleting.into());
    }
    if let Some(note) = scene.stale.first() {
        return Err(note.clone());
    }
    policy_holds(scene, node, policy.name)?;
    let status = upgrade.status.clone().unwrap_or_default();
    let wish = upgrade
        .spec
        .wish
        .as_ref()
        .ok_or_else(|| Note::from(Reason::WishChanged))?;
    release_holds(scene, policy, upgrade, &wish.digest)?;
    window_holds(scene, policy, &wish.digest, &status, None, false)?;
    let now: Timestamp = world.now;
    Ok(write_spec(upgrade, SpecChange::Ask, |spec| {
        spec.dock = Some(Dock {
            policy: policy.name.to_owned(),
            attempt: entry.attempt.clone(),
            term: world.term,
            step: DockStep::Asked,
            since: now,
            digest: wish.digest.clone(),
            node_uid: node.uid.clone(),
            boot_id: node.boot_id.clone(),
            cordoned: None,
            granted: None,
            not_after: None,
            why: None,
            deadlines: deadlines(Some(policy)),
        });
        spec.grant = None;
        spec.verdict = None;
    }))
}
