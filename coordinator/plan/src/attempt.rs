//! One attempt: from its place in dock to its end. Reads the objects, says the next write. Remembers
//! nothing between two plans.

mod asked;
mod draining;
mod granted;
mod leaving;
mod restored;

use std::time::Duration;

use drydock_api::{
    AttemptClass, AttemptRecord, Dock, DockStep, Hold, NodeUpgrade, NodeUpgradeSpec, NodeUpgradeStatus, Soak,
    Strategy, agent_state,
};
use jiff::Timestamp;

use crate::{
    action::{Action, ObjectRef, SpecChange},
    node::NodeView,
    phase::Phase,
    reason::{Note, Reason},
    records,
    scene::{PolicyScene, Scene, dock_of},
    target,
    windows::{add, fits, open_until},
};

pub(crate) use restored::unrecorded;

/// What is to be done with one node, and what is said of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    pub actions: Vec<Action>,
    pub phase: Phase,
    pub notes: Vec<Note>,
    pub wake_at: Option<Timestamp>,
    /// A change of its policy's status.
    pub place: Option<Place>,
}

/// A change of a place in dock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// The attempt must have its place again.
    Restore { policy: String, attempt: String },
    /// The place ends.
    Free { policy: String, attempt: String },
}

impl Step {
    pub(crate) fn wait(phase: Phase, note: impl Into<Note>) -> Self {
        Self {
            actions: Vec::new(),
            phase,
            notes: vec![note.into()],
            wake_at: None,
            place: None,
        }
    }

    pub(crate) fn act(phase: Phase, note: impl Into<Note>, action: Option<Action>) -> Self {
        Self {
            actions: action.into_iter().collect(),
            ..Self::wait(phase, note)
        }
    }

    pub(crate) fn place(phase: Phase, note: impl Into<Note>, place: Place) -> Self {
        Self {
            place: Some(place),
            ..Self::wait(phase, note)
        }
    }

    pub(crate) fn until(mut self, at: Timestamp) -> Self {
        self.wake_at = Some(self.wake_at.map_or(at, |old| old.min(at)));
        self
    }

    pub(crate) fn and(mut self, notes: impl IntoIterator<Item = Note>) -> Self {
        self.notes.extend(notes);
        self
    }
}

/// All that one attempt is judged by.
pub(crate) struct Case<'s, 'a> {
    pub scene: &'s Scene<'a>,
    pub node: &'a NodeView,
    pub upgrade: &'a NodeUpgrade,
    pub status: NodeUpgradeStatus,
    pub dock: &'a Dock,
}

/// The next step of a node that is in dock by any sign; None where it is not.
pub(crate) fn next(scene: &Scene<'_>, node: &NodeView) -> Option<Step> {
    let world = scene.world;
    let upgrade = world.upgrades.get(&node.name);
    let entry = scene
        .policies
        .values()
        .find_map(|policy| Some((policy, policy.entry(&node.name)?)));
    if let Some(Err(text)) = &node.mark {
        return Some(Step::wait(Phase::Idle, Note::new(Reason::MarkUnreadable, text)));
    }
    let Some(upgrade) = upgrade else {
        return restored::without_upgrade(scene, node, entry);
    };
    if upgrade
        .spec
        .dock
        .as_ref()
        .is_some_and(|dock| dock.node_uid != node.uid)
        || restored::owned_by_another(upgrade, node)
    {
        return Some(Step::wait(Phase::Idle, Reason::NodeMadeAgain));
    }
    let Some(dock) = dock_of(Some(upgrade), node) else {
        return restored::without_dock(scene, node, upgrade, entry);
    };
    let case = Case {
        scene,
        node,
        upgrade,
        status: upgrade.status.clone().unwrap_or_default(),
        dock,
    };
    if let Some((policy, entry)) = entry
        && (entry.attempt != dock.attempt || policy.name != dock.policy)
    {
        let place = Place::Free {
            policy: policy.name.to_owned(),
            attempt: entry.attempt.clone(),
        };
        return Some(Step::place(Phase::Leaving, Reason::Leaving, place));
    }
    if let Some(Ok(mark)) = &node.mark
        && mark.attempt != dock.attempt
        && dock.step != DockStep::Leaving
    {
        // Somebody put old objects back. The mark's attempt is judged when this one is over.
        return Some(match dock.step {
            DockStep::Granted | DockStep::TakingBack => case.judge(entry.is_some()),
            _ => case.leave(Phase::Leaving, Reason::PlaceLost, AttemptClass::NotTried),
        });
    }
    Some(case.judge(entry.is_some()))
}

impl<'a> Case<'_, 'a> {
    fn judge(&self, has_place: bool) -> Step {
        let policy_there = self.scene.policies.contains_key(self.dock.policy.as_str());
        if policy_there && !has_place && self.dock.step != DockStep::Leaving {
            if self.dock.step == DockStep::Asked {
                return self.leave(Phase::Leaving, Reason::PlaceLost, AttemptClass::NotTried);
            }
            let place = Place::Restore {
                policy: self.dock.policy.clone(),
                attempt: self.dock.attempt.clone(),
            };
            return Step::place(self.phase_by_agent(), Reason::Rebuilding, place);
        }
        match self.dock.step {
            DockStep::Asked => self.asked(),
            DockStep::Draining => self.draining(),
            DockStep::Granted => self.granted(),
            DockStep::TakingBack => self.taking_back(),
            DockStep::Leaving => self.leaving(has_place),
        }
    }

    fn now(&self) -> Timestamp {
        self.scene.world.now
    }

    /// The policy of the attempt, while it is there and selects the node alone.
    fn policy(&self) -> Option<&PolicyScene<'a>> {
        self.scene.policies.get(self.dock.policy.as_str())
    }

    /// The agent's answer: this object, this generation.
    fn answered(&self) -> bool {
        answered(self.upgrade)
    }

    /// What of the agent's answer does not fit this attempt.
    fn disagrees(&self) -> Option<Note> {
        let status = &self.status;
        let disagree = |text: String| Some(Note::new(Reason::AgentDisagrees, text));
        if let Some(note) = unknown_agent(status) {
            return Some(note);
        }
        if status.boot_id.as_deref() != Some(self.node.boot_id.as_str()) {
            return disagree(format!(
                "agent's boot ID {}, the Node's {}",
                status.boot_id.as_deref().unwrap_or("none"),
                self.node.boot_id
            ));
        }
        if status.staged.as_deref() != Some(self.dock.digest.as_str()) {
            return disagree(format!(
                "staged {}, wanted {}",
                status.staged.as_deref().unwrap_or("nothing"),
                self.dock.digest
            ));
        }
        match status.agent_state.as_deref() {
            Some(agent_state::STAGED) => None,
            Some(agent_state::FAILED) => Some(agent_error(status)),
            other => disagree(format!("agent is {}", other.unwrap_or("mute"))),
        }
    }

    /// A spec write for this attempt.
    fn write(&self, change: SpecChange, edit: impl FnOnce(&mut NodeUpgradeSpec)) -> Option<Action> {
        write_spec(self.upgrade, change, edit)
    }

    fn write_dock(&self, change: SpecChange, edit: impl FnOnce(&mut Dock)) -> Option<Action> {
        self.write(change, |spec| {
            if let Some(dock) = &mut spec.dock {
                edit(dock);
            }
        })
    }

    /// Record, step Leaving, hold or soak: one write (PROTOCOL 13).
    fn leave(&self, phase: Phase, why: impl Into<Note>, class: AttemptClass) -> Step {
        self.leave_with(phase, why, class, None)
    }

    fn leave_with(
        &self,
        phase: Phase,
        why: impl Into<Note>,
        class: AttemptClass,
        code: Option<String>,
    ) -> Step {
        let why = why.into();
        let now = self.now();
        let action = self.write(SpecChange::Leave(why.reason), |spec| {
            let digest = self.digest();
            spec.grant = None;
            spec.verdict = None;
            spec.stage = false;
            spec.hold = hold(self.scene, spec, why.reason, class, now, &self.status);
            if class == AttemptClass::Committed {
                let duration = self.policy().map_or_else(
                    || Strategy::default().soak,
                    |policy| policy.object.spec.strategy.soak,
                );
                spec.soak = Some(Soak {
                    digest: digest.clone(),
                    attempt: self.dock.attempt.clone(),
                    policy: self.dock.policy.clone(),
                    since: now,
                    duration,
                    passed: duration.duration().is_zero(),
                });
            }
            records::push(
                spec,
                AttemptRecord {
                    digest,
                    attempt: self.dock.attempt.clone(),
                    class,
                    code: code.or_else(|| Some(why.reason.name().to_owned())),
                    at: now,
                },
            );
            if let Some(dock) = &mut spec.dock {
                dock.step = DockStep::Leaving;
                dock.since = now;
                dock.why = Some(why.reason.name().to_owned());
            }
        });
        Step::act(phase, why, action)
    }

    /// The attempt's digest; where it was built again without one, what the agent reports.
    fn digest(&self) -> String {
        if self.dock.digest.is_empty()
            && let Some(report) = records::report(self.upgrade, &self.dock.attempt)
        {
            return report.digest.clone();
        }
        self.dock.digest.clone()
    }

    /// Why an attempt must end that has no grant yet. `drained`: only its grant is missing.
    fn abort_reason(&self, drained: bool) -> Option<Note> {
        if self.node.deleting {
            return Some(Reason::NodeDeleting.into());
        }
        if let Some(Ok(drydock_api::Ask::Cancel { attempt } | drydock_api::Ask::Release { attempt })) =
            &self.node.ask
            && *attempt == self.dock.attempt
        {
            return Some(Reason::Canceled.into());
        }
        if self.node.boot_id != self.dock.boot_id {
            return Some(Reason::NodeRebooted.into());
        }
        let policy = match policy_holds(self.scene, self.node, &self.dock.policy) {
            Ok(policy) => policy,
            Err(note) => return Some(note),
        };
        if let Err(note) = release_holds(self.scene, policy, self.upgrade, &self.dock.digest) {
            return Some(note).filter(|note| !may_pass(note.reason));
        }
        let since = self
            .dock
            .cordoned
            .map(|at| crate::windows::between(at, self.now()));
        window_holds(
            self.scene,
            policy,
            &self.dock.digest,
            &self.status,
            since,
            drained,
        )
        .err()
    }

    /// What keeps this attempt waiting though it need not end: stale information, a repository that cannot
    /// be read.
    fn pause_reason(&self) -> Option<Note> {
        if let Some(note) = self.scene.stale.first() {
            return Some(note.clone());
        }
        let policy = self.policy()?;
        release_holds(self.scene, policy, self.upgrade, &self.dock.digest).err()
    }

    fn phase_by_agent(&self) -> Phase {
        match self.status.agent_state.as_deref() {
            Some(agent_state::ARMING) => Phase::Arming,
            Some(agent_state::REBOOTING) => Phase::Rebooting,
            Some(agent_state::CHECKING) => Phase::Checking,
            Some(agent_state::CONFIRMING) => Phase::Confirming,
            Some(agent_state::GOING_BACK) => Phase::GoingBack,
            _ => match self.dock.step {
                DockStep::Asked => Phase::Asked,
                DockStep::Draining => Phase::Draining,
                DockStep::Granted => Phase::Granted,
                DockStep::TakingBack => Phase::TakingBack,
                DockStep::Leaving => Phase::Leaving,
            },
        }
    }
}

/// The agent has read this very object in this generation.
pub(crate) fn answered(upgrade: &NodeUpgrade) -> bool {
    upgrade.status.as_ref().is_some_and(|status| {
        status.observed_uid == upgrade.metadata.uid
            && status.observed_uid.is_some()
            && status.observed_generation.is_some()
            && status.observed_generation == upgrade.metadata.generation
    })
}

/// The agent has reported on this object at all.
pub(crate) fn reported(upgrade: &NodeUpgrade) -> bool {
    upgrade
        .status
        .as_ref()
        .is_some_and(|status| status.observed_uid.is_some() && status.observed_uid == upgrade.metadata.uid)
}

/// A protocol or a state that this build does not know: hands off.
pub(crate) fn unknown_agent(status: &NodeUpgradeStatus) -> Option<Note> {
    let known = [
        agent_state::IDLE,
        agent_state::STAGING,
        agent_state::STAGED,
        agent_state::ARMING,
        agent_state::REBOOTING,
        agent_state::CHECKING,
        agent_state::CONFIRMING,
        agent_state::GOING_BACK,
        agent_state::FAILED,
    ];
    match (status.protocol, status.agent_state.as_deref()) {
        (Some(protocol), _) if protocol != drydock_api::PROTOCOL => {
            Some(Note::new(Reason::AgentUnknown, format!("protocol {protocol}")))
        }
        (_, Some(state)) if !known.contains(&state) => {
            Some(Note::new(Reason::AgentUnknown, format!("agent state {state}")))
        }
        _ => None,
    }
}

pub(crate) fn agent_error(status: &NodeUpgradeStatus) -> Note {
    let text = status
        .last_error
        .as_ref()
        .map(|error| format!("{}: {}", error.code, error.text))
        .unwrap_or_default();
    Note::new(Reason::AgentError, text)
}

/// A spec write, from the object as it was read.
pub(crate) fn write_spec(
    upgrade: &NodeUpgrade,
    change: SpecChange,
    edit: impl FnOnce(&mut NodeUpgradeSpec),
) -> Option<Action> {
    let mut spec = upgrade.spec.clone();
    edit(&mut spec);
    Some(Action::WriteSpec {
        upgrade: ObjectRef::of(&upgrade.metadata)?,
        spec: Box::new(spec),
        change,
    })
}

/// The policy still stands, selects the node alone, and lets things start.
pub(crate) fn policy_holds<'s, 'a>(
    scene: &'s Scene<'a>,
    node: &NodeView,
    policy: &str,
) -> Result<&'s PolicyScene<'a>, Note> {
    let Some(found) = scene.policies.get(policy) else {
        return Err(Note::new(Reason::PolicyGone, policy));
    };
    match scene
        .selected_by
        .get(node.name.as_str())
        .map_or(&[][..], Vec::as_slice)
    {
        [one] if *one == policy => {}
        [] | [_] => return Err(Note::new(Reason::NotSelected, policy)),
        many => return Err(Note::new(Reason::TwoPolicies, many.join(", "))),
    }
    if !found.accepted.yes() {
        return Err(Note::new(Reason::NotAccepted, found.accepted.wrong.join("; ")));
    }
    if found.object.spec.paused {
        return Err(Reason::Paused.into());
    }
    Ok(found)
}

/// The release is still what this node is to take next, and nothing bars it (S6).
pub(crate) fn release_holds(
    scene: &Scene<'_>,
    policy: &PolicyScene<'_>,
    upgrade: &NodeUpgrade,
    digest: &str,
) -> Result<(), Note> {
    if scene.world.halts.contains_key(digest) {
        return Err(Note::new(Reason::Halted, digest));
    }
    if records::failed_here(upgrade, digest) {
        return Err(Note::new(Reason::FailedHere, digest));
    }
    let goal = policy.goal.as_ref().map_err(Clone::clone)?;
    let status = upgrade.status.clone().unwrap_or_default();
    let hop = target::next_hop(scene.world, &policy.object.spec, goal, &status)?;
    if hop == digest {
        Ok(())
    } else {
        Err(Note::new(Reason::WishChanged, hop))
    }
}

/// Reasons that may pass by themselves, so that an attempt waits for that instead of ending.
fn may_pass(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::RepositoryNotRead | Reason::MetadataExpired | Reason::ServerVersionUnknown
    )
}

/// S8: a window is open, no freeze covers the time, and what is left fits. `since_cordon` None: all of it
/// must fit. `drained`: a policy may let it finish after the window (never in a freeze).
pub(crate) fn window_holds(
    scene: &Scene<'_>,
    policy: &PolicyScene<'_>,
    digest: &str,
    status: &NodeUpgradeStatus,
    since_cordon: Option<Duration>,
    drained: bool,
) -> Result<Option<Timestamp>, Note> {
    let now = scene.world.now;
    let Some(calendar) = policy.calendar() else {
        return Err(Reason::NotAccepted.into());
    };
    let spec = &policy.object.spec;
    let kind = target::kind(scene.world, &spec.repository, digest, status);
    let finishing = spec.finish_after_window && drained;
    let open = calendar.open(kind);
    let Some(end) = open_until(&open, now) else {
        if calendar.in_window(now) {
            return Err(Reason::Frozen.into());
        }
        if finishing && !calendar.frozen(kind, now) {
            return Ok(None);
        }
        let next = crate::windows::next_start(&open, now, policy.estimate.need());
        let text = next.map_or("none comes".to_owned(), |at| format!("next at {at}"));
        return Err(Note::new(Reason::WindowClosed, text));
    };
    let finishing = finishing || (spec.finish_after_window && since_cordon.is_some());
    let need = since_cordon.map_or(policy.estimate.need(), |since| policy.estimate.left(since));
    if finishing {
        return Ok(None);
    }
    if fits(&open, now, need) {
        return Ok(Some(end));
    }
    Err(Note::new(
        Reason::WindowTooShort,
        format!(
            "it closes at {end}, {} are needed{}",
            crate::accept::text(need),
            if policy.estimate.history {
                " by what attempts took before"
            } else {
                ""
            }
        ),
    ))
}

/// The pause after an attempt, by how it ended.
pub(crate) fn hold(
    scene: &Scene<'_>,
    spec: &NodeUpgradeSpec,
    why: Reason,
    class: AttemptClass,
    now: Timestamp,
    status: &NodeUpgradeStatus,
) -> Option<Hold> {
    let timings = &scene.world.timings;
    let times = spec.hold.as_ref().map_or(0, |hold| hold.times);
    let held = |until: Timestamp, times: i32, seen: Option<String>| {
        Some(Hold {
            reason: why.name().to_owned(),
            until,
            times,
            seen,
        })
    };
    match class {
        AttemptClass::Committed | AttemptClass::Failed => return None,
        AttemptClass::Unconfirmed | AttemptClass::Excused | AttemptClass::Released => {
            return held(add(now, timings.pause_base), 0, None);
        }
        AttemptClass::NotTried => {}
    }
    match why {
        Reason::AgentSilent => {
            let seen = status
                .observed_generation
                .map(|generation| generation.to_string());
            held(add(now, timings.silent_hold), times, seen)
        }
        // Not the node's doing: the end of the queue, and no pause.
        Reason::WindowClosed
        | Reason::WindowTooShort
        | Reason::Frozen
        | Reason::Paused
        | Reason::NotAccepted
        | Reason::PolicyGone
        | Reason::NotSelected
        | Reason::TwoPolicies
        | Reason::WishChanged
        | Reason::Halted
        | Reason::Withdrawn => held(now, times, None),
        _ => {
            let factor = 1u32 << times.clamp(0, 16);
            let pause = timings.pause_base.saturating_mul(factor).min(timings.pause_cap);
            held(add(now, pause), times.saturating_add(1), None)
        }
    }
}
