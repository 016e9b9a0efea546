//! After the reboot and past the deadline: the node keeps its cordon and its place, and is named. One that
//! comes up late is judged as one in time.

use drydock_api::{Decision, outcome};
use jiff::Timestamp;

use super::{Case, Step};
use crate::{
    action::SpecChange,
    phase::Phase,
    reason::{Note, Reason},
    windows::add,
};

impl Case<'_, '_> {
    /// If it is up on trial it is told to go back, at once where it was up at the deadline.
    pub(super) fn past_deadline(&self, deadline: Timestamp) -> Step {
        let up = self.status.boot_id.as_deref().is_some_and(|boot| {
            !boot.is_empty() && boot != self.dock.boot_id && self.report_is(&[outcome::TRYING])
        });
        let judged = self
            .upgrade
            .spec
            .verdict
            .as_ref()
            .is_some_and(|verdict| verdict.attempt == self.dock.attempt);
        if up && !judged {
            return self.late_trial(deadline);
        }
        let phase = self.late_phase();
        let reason = match phase {
            Phase::Undecided if self.report_is(&[outcome::STUCK]) => Reason::NoWayBack,
            Phase::Undecided => Reason::Undecided,
            _ if !up => return self.not_back(deadline),
            _ => Reason::NotBack,
        };
        Step::wait(phase, Note::new(reason, format!("since {deadline}")))
    }

    /// Named, and noted in the spec once: whoever leads when it comes up must know that it was not there
    /// at its deadline.
    pub(super) fn not_back(&self, since: Timestamp) -> Step {
        let note = Note::new(Reason::NotBack, format!("since {since}"));
        match self.why() {
            Some(Reason::NotBack | Reason::OnTrial | Reason::Released) => Step::wait(Phase::NotBack, note),
            _ => {
                let action = self.write_dock(SpecChange::Late(Reason::NotBack), |dock| {
                    dock.why = Some(Reason::NotBack.name().to_owned());
                });
                Step::act(Phase::NotBack, note, action)
            }
        }
    }

    /// Up on trial and not yet Ready: who was not back at the deadline has the time to become it.
    fn late_trial(&self, deadline: Timestamp) -> Step {
        let came_up = match self.why() {
            Some(Reason::NotBack) => {
                let now = self.now();
                let action = self.write_dock(SpecChange::Late(Reason::OnTrial), |dock| {
                    dock.why = Some(Reason::OnTrial.name().to_owned());
                    dock.since = now;
                });
                return Step::act(self.late_phase(), Reason::OnTrial, action);
            }
            Some(Reason::OnTrial) => Some(self.dock.since),
            _ => None,
        };
        let ready = self.node.ready_since.filter(|since| *since > deadline);
        let patience = came_up
            .max(ready)
            .map_or(deadline, |since| add(since, self.scene.world.timings.late_grace));
        if self.now() < patience {
            return Step::wait(
                self.late_phase(),
                Note::new(Reason::OnTrial, format!("until {patience}")),
            )
            .until(patience);
        }
        let action = self.verdict(Decision::GoBack, self.digest());
        Step::act(Phase::GoingBack, Reason::GoingBack, action)
    }

    pub(super) fn late_phase(&self) -> Phase {
        if self.node.is_ready() && self.same_new_boot() {
            Phase::Undecided
        } else {
            Phase::NotBack
        }
    }
}
