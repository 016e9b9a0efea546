//! Step Draining: pods are evicted; when all are gone, the grant. Nothing is remembered but the cordon's
//! time: the pods and the clock say all.

use drydock_api::{AttemptClass, DockStep, DrainMode, Grant, OnDrainTimeout};
use jiff::Timestamp;

use super::{Case, Step, window_holds};
use crate::{
    action::{Action, SpecChange},
    budget,
    drain::{self, DrainState},
    phase::Phase,
    reason::{Note, Reason},
    scene::PolicyScene,
    volumes::{self, Attached},
    windows::{add, between},
};

/// How a drain stands.
enum Drained {
    /// Pods are left; what is done about them.
    Not(Step),
    /// The pods were never listed.
    List,
    /// All are gone by a list that is not fresh enough for the grant.
    ListAgain(Vec<Note>),
    /// All are gone that must go, or the policy goes on without.
    Yes(Vec<Note>),
    /// The drain ends here.
    Stop(Note),
}

impl Case<'_, '_> {
    pub(super) fn draining(&self) -> Step {
        let Some(mark) = self.node.mark_of(&self.dock.attempt) else {
            return self.leave(Phase::Leaving, Reason::HumanUncordon, AttemptClass::NotTried);
        };
        if !self.node.unschedulable {
            return self.leave(Phase::Leaving, Reason::HumanUncordon, AttemptClass::NotTried);
        }
        // Whether it is drained decides whether the window still matters.
        let over = add(self.since_cordon(), self.dock.deadlines.drain.duration());
        if let Some(note) = self.abort_reason(true) {
            return self.leave(Phase::Leaving, note, AttemptClass::NotTried);
        }
        let Some(policy) = self.policy() else {
            return self.leave(Phase::Leaving, Reason::PolicyGone, AttemptClass::NotTried);
        };
        let kept = mark
            .kept
            .then(|| Note::new(Reason::Draining, "it was unschedulable before"));
        let step = match self.drained(policy, over) {
            Drained::Stop(note) => self.leave(Phase::Leaving, note, AttemptClass::NotTried),
            Drained::Yes(notes) => self.grant(policy, over, notes),
            Drained::ListAgain(notes) => match self.grant_holds(policy, over) {
                Ok(_) => Step::act(Phase::Draining, Reason::ListingPods, Some(self.list())).until(over),
                // Nobody needs the list before that is over.
                Err(step) => step.and(notes),
            },
            Drained::List => Step::act(Phase::Draining, Reason::ListingPods, Some(self.list())).until(over),
            Drained::Not(step) => self.not_drained(policy, step),
        };
        step.and(kept)
    }

    fn since_cordon(&self) -> Timestamp {
        self.dock.cordoned.unwrap_or(self.dock.since)
    }

    /// Evictions go on in an open window only, whatever a drained node may do.
    fn not_drained(&self, policy: &PolicyScene<'_>, mut step: Step) -> Step {
        let since = Some(between(self.since_cordon(), self.now()));
        match window_holds(self.scene, policy, &self.dock.digest, &self.status, since, false) {
            Err(note) => self.leave(Phase::Leaving, note, AttemptClass::NotTried),
            Ok(end) => {
                if let Some(note) = self.pause_reason() {
                    step.actions.clear();
                    step.notes.insert(0, note);
                }
                if let Some(end) = end {
                    step = step.until(end);
                }
                step
            }
        }
    }

    fn drained(&self, policy: &PolicyScene<'_>, over: Timestamp) -> Drained {
        let drain = &policy.object.spec.drain;
        if drain.mode == DrainMode::None {
            return Drained::Yes(Vec::new());
        }
        let world = self.scene.world;
        let now = world.now;
        let late = now >= over;
        let force = drain.on_timeout == OnDrainTimeout::Force;
        let Some(view) = world.drains.get(&self.node.name) else {
            return if late && !force {
                Drained::Stop(Reason::DrainTimeout.into())
            } else {
                Drained::List
            };
        };
        let state = drain::state(
            view,
            drain,
            self.dock.cordoned,
            self.own_node(),
            &world.timings,
            now,
        );
        let fresh = view
            .listed
            .is_some_and(|at| between(at, now) <= world.timings.fresh_list && at >= self.since_cordon());
        if !state.refused.is_empty() {
            return Drained::Stop(Note::new(Reason::PodRefused, drain::names(&state.refused)));
        }
        if state.remaining > 0 {
            let left = format!("pods left: {}", state.remaining);
            return match (late, force) {
                (false, _) => Drained::Not(self.evict(state, over)),
                (true, false) => Drained::Stop(timeout(&state.notes)),
                (true, true) => Drained::Yes(vec![Note::new(Reason::DrainForced, left)]),
            };
        }
        let attached = volumes::attached(
            view,
            drain,
            self.dock.cordoned,
            self.own_node(),
            &world.timings,
            now,
        );
        match (attached, late) {
            (None, _) if fresh => Drained::Yes(state.notes),
            (None, _) => Drained::ListAgain(state.notes),
            (Some(attached), false) => Drained::Not(self.detach(attached, state, fresh, over)),
            (Some(attached), true) if force => {
                Drained::Yes(vec![Note::new(Reason::DrainForced, attached.note.to_string())])
            }
            (Some(attached), true) => Drained::Stop(timeout(&[attached.note])),
        }
    }

    /// The pods are gone, and what they used is not.
    fn detach(&self, attached: Attached, state: DrainState, fresh: bool, over: Timestamp) -> Step {
        let list = (attached.unread && !fresh).then(|| self.list());
        let until = Note::new(Reason::Draining, format!("no pod is left, until {over}"));
        Step::act(Phase::Draining, attached.note, list)
            .and([until])
            .and(state.notes)
            .until(over)
    }

    fn list(&self) -> Action {
        Action::ListPods {
            node: self.node.name.clone(),
            attempt: self.dock.attempt.clone(),
        }
    }

    /// What blocks stands before how many are left: nobody asks why something happens.
    fn evict(&self, state: DrainState, over: Timestamp) -> Step {
        let evict = (!state.evict.is_empty()).then(|| Action::EvictPods {
            node: self.node.name.clone(),
            attempt: self.dock.attempt.clone(),
            pods: state.evict,
        });
        let note = Note::new(
            Reason::Draining,
            format!("pods left: {}, until {over}", state.remaining),
        );
        let mut step = Step::act(Phase::Draining, note, evict)
            .and(state.notes)
            .until(over);
        drain::tell(&mut step.notes);
        if let Some(at) = state.wake_at {
            step = step.until(at);
        }
        step
    }

    /// PROTOCOL 7: the grant, or why not yet.
    fn grant(&self, policy: &PolicyScene<'_>, over: Timestamp, notes: Vec<Note>) -> Step {
        let now = self.now();
        let end = match self.grant_holds(policy, over) {
            Ok(end) => end,
            Err(step) => return step.and(notes),
        };
        let mut not_after = add(now, self.scene.world.timings.grant);
        if let Some(end) = end {
            not_after = not_after.min(end);
        }
        let action = self.write(SpecChange::Grant, |spec| {
            spec.stage = false;
            spec.verdict = None;
            spec.grant = Some(Grant {
                attempt: self.dock.attempt.clone(),
                node_uid: self.node.uid.clone(),
                boot_id: self.dock.boot_id.clone(),
                digest: self.dock.digest.clone(),
                not_after,
                confirm_wait: self.dock.deadlines.confirm_wait,
            });
            if let Some(dock) = &mut spec.dock {
                dock.step = DockStep::Granted;
                dock.since = now;
                dock.granted = Some(now);
                dock.not_after = Some(not_after);
            }
        });
        let forced = notes.iter().any(|note| note.reason == Reason::DrainForced);
        let drained = (!forced).then(|| Note::from(Reason::Drained));
        Step {
            notes: drained.into_iter().chain(notes).collect(),
            ..Step::act(Phase::Drained, Reason::Drained, action)
        }
    }

    /// What keeps the grant of a drained node back; else until when it may be used.
    fn grant_holds(&self, policy: &PolicyScene<'_>, over: Timestamp) -> Result<Option<Timestamp>, Box<Step>> {
        let now = self.now();
        let since = Some(between(self.since_cordon(), now));
        let end = match window_holds(self.scene, policy, &self.dock.digest, &self.status, since, true) {
            Ok(end) => end,
            Err(note) => return Err(Box::new(self.leave(Phase::Leaving, note, AttemptClass::NotTried))),
        };
        let waits = self
            .pause_reason()
            .or_else(|| (!self.answered()).then(|| Note::from(Reason::AgentSilent)))
            .or_else(|| self.disagrees())
            .or_else(|| budget::grant_allowed(self.scene, policy, &self.dock.digest).err());
        if let Some(note) = waits {
            // The agent gets the question's time after our last write, even at the drain's very end.
            let limit = over.max(add(self.dock.since, self.scene.world.timings.question));
            if now >= limit {
                return Err(Box::new(self.leave(Phase::Leaving, note, AttemptClass::NotTried)));
            }
            return Err(Box::new(Step::wait(Phase::Drained, note).until(limit)));
        }
        Ok(end)
    }
}

fn timeout(notes: &[Note]) -> Note {
    let why: Vec<String> = notes.iter().map(ToString::to_string).collect();
    Note::new(Reason::DrainTimeout, drain::names(&why))
}
