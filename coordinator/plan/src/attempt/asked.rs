//! Step Asked: the agent must answer, then the Node is cordoned.

use drydock_api::{AttemptClass, DockMark, DockStep};

use super::{Case, Step};
use crate::{
    action::{Action, ObjectRef, SpecChange},
    budget, drain,
    phase::Phase,
    reason::{Note, Reason},
    windows::add,
};

impl Case<'_, '_> {
    pub(super) fn asked(&self) -> Step {
        let now = self.now();
        if let Some(note) = self.abort_reason(false) {
            return self.leave(Phase::Leaving, note, AttemptClass::NotTried);
        }
        if let Some(mark) = self.node.mark_of(&self.dock.attempt) {
            return self.cordoned(mark);
        }
        if let Some(note) = budget::gives_way(self.scene, self.node) {
            return self.leave(Phase::Leaving, note, AttemptClass::NotTried);
        }
        let over = add(self.dock.since, self.scene.world.timings.question);
        if !self.answered() {
            if now >= over && self.scene.fresh() {
                return self.leave(Phase::Leaving, Reason::AgentSilent, AttemptClass::NotTried);
            }
            return Step::wait(Phase::Asked, Reason::Asked).until(over);
        }
        if let Some(note) = self.disagrees() {
            if now >= over {
                return self.leave(Phase::Leaving, note, AttemptClass::NotTried);
            }
            return Step::wait(Phase::Asked, note).until(over);
        }
        if let Some(note) = self.pause_reason() {
            // Waits as long as a drain may take, so that it cannot wait for ever.
            let limit = add(self.dock.since, self.dock.deadlines.drain.duration());
            if now >= limit {
                return self.leave(Phase::Leaving, note, AttemptClass::NotTried);
            }
            return Step::wait(Phase::Asked, note).until(limit);
        }
        if let Some(refused) = self.refused() {
            return self.leave(Phase::Leaving, refused, AttemptClass::NotTried);
        }
        if self.own_node() && self.scene.world.me.other_replica {
            return Step::act(Phase::Asked, Reason::OwnNodeLast, Some(Action::GiveUpLease));
        }
        let cordon = Action::CordonNode {
            node: ObjectRef::of_node(self.node),
            mark: DockMark {
                attempt: self.dock.attempt.clone(),
                policy: self.dock.policy.clone(),
                kept: self.node.unschedulable,
            },
            term: self.scene.world.term,
        };
        Step::act(Phase::Asked, Reason::Asked, Some(cordon))
    }

    /// Between the cordon and its note in the spec.
    fn cordoned(&self, mark: &DockMark) -> Step {
        if !self.node.unschedulable {
            return self.leave(Phase::Leaving, Reason::HumanUncordon, AttemptClass::NotTried);
        }
        let now = self.now();
        let action = self.write_dock(SpecChange::Drain, |dock| {
            dock.step = DockStep::Draining;
            dock.since = now;
            dock.cordoned = Some(now);
        });
        let text = if mark.kept {
            "it was unschedulable before"
        } else {
            ""
        };
        Step::act(Phase::Cordoned, Note::new(Reason::Draining, text), action)
    }

    /// The coordinator runs on this node.
    pub(super) fn own_node(&self) -> bool {
        self.scene.world.me.node.as_deref() == Some(self.node.name.as_str())
    }

    /// Pods that the policy does not let go, if its pods are known.
    fn refused(&self) -> Option<Note> {
        let policy = &self.policy()?.object.spec.drain;
        if policy.mode == drydock_api::DrainMode::None {
            return None;
        }
        let view = self.scene.world.drains.get(&self.node.name)?;
        let world = self.scene.world;
        let state = drain::state(view, policy, None, self.own_node(), &world.timings, world.now);
        (!state.refused.is_empty()).then(|| Note::new(Reason::PodRefused, drain::names(&state.refused)))
    }
}
