//! Step Leaving: uncordon, then the place, then the dock, one write each (PROTOCOL 13).

use super::{Case, Place, Step};
use crate::{
    action::{Action, Keep, ObjectRef, SpecChange},
    phase::Phase,
    reason::{Note, Reason},
};

impl Case<'_, '_> {
    pub(super) fn leaving(&self, has_place: bool) -> Step {
        let text = self.dock.why.clone().unwrap_or_default();
        let note = Note::new(Reason::Leaving, text);
        let phase = if self.dock.why.as_deref() == Some(Reason::Committed.name()) {
            Phase::Committed
        } else {
            Phase::Leaving
        };
        if let Some(mark) = self.node.mark_of(&self.dock.attempt) {
            let uncordon = Action::UncordonNode {
                node: ObjectRef::of_node(self.node),
                attempt: self.dock.attempt.clone(),
                keep: if mark.kept {
                    Keep::Unschedulable
                } else {
                    Keep::Nothing
                },
            };
            return Step::act(phase, note, Some(uncordon));
        }
        if has_place {
            let place = Place::Free {
                policy: self.dock.policy.clone(),
                attempt: self.dock.attempt.clone(),
            };
            return Step::place(phase, note, place);
        }
        let end = self.write(SpecChange::End, |spec| {
            spec.dock = None;
            spec.grant = None;
            spec.verdict = None;
        });
        Step::act(phase, note, end)
    }
}
