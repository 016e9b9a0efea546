//! One attempt: from its place in dock to its end. Reads the objects, says the next write. Remembers
//! nothing between two plans.

mod asked;
mod draining;
mod granted;
mod holds;
mod late;
mod leaving;
mod restored;

use drydock_api::{
    AttemptClass, AttemptRecord, Dock, DockStep, NodeUpgrade, NodeUpgradeSpec, NodeUpgradeStatus, Soak,
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
};

pub(crate) use holds::{policy_holds, window_holds};
pub(crate) use restored::unrecorded;

use holds::{hold, may_pass, release_holds};

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
        .entries
        .get(node.name.as_str())
        .and_then(|(policy, entry)| Some((scene.policies.get(policy)?, *entry)));
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

    /// By the agent's last word, as far as nothing newer is known: an agent that calls the reboot has seldom
    /// the time to say so.
    fn phase_by_agent(&self) -> Phase {
        match self.status.agent_state.as_deref() {
            Some(agent_state::ARMING) if self.rebooted() || self.went_down() => Phase::Rebooting,
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
