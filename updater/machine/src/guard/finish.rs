//! How attempts end: the class of a return, what became of effects, and what is written down of it.

use std::time::Duration;

use super::Machine;
use crate::event::Effect;
use crate::journal::{Attempt, Checks, Class, CommittedRelease, EndState, Ended, Origin, Phase, TrialBoot};

impl Machine<'_> {
    /// Step 12: back on the old release. The class, by what the journal holds and what the loader left of
    /// the tries.
    pub(super) fn judge(&mut self, attempt: Attempt) -> Option<Effect> {
        let slot = self.seen.slot(attempt.target);
        // Before the table was seen to hold the arming, a spent slot and a never armed one differ only
        // where the loader leaves the priority of a spent one as it was.
        let was_armed = match attempt.phase {
            Phase::Armed { in_table } => in_table || (slot.priority > 0 && !slot.successful),
            _ => true,
        };
        let counted = self.seen.loader_counts && was_armed && !slot.successful;
        let (state, code, text) = if attempt.go_back {
            (EndState::Failed, "CoordinatorGoBack", "the coordinator said so")
        } else if !attempt.trials.is_empty() {
            (
                EndState::Unconfirmed,
                "PowerCut",
                "a trial boot ended without an outcome",
            )
        } else if counted && slot.tries == 0 {
            (
                EndState::Failed,
                "NeverStarted",
                "the guard started in none of the trial boots",
            )
        } else if counted && slot.tries == 1 {
            (
                EndState::Unconfirmed,
                "PowerCut",
                "one trial boot ended before the guard started",
            )
        } else {
            (
                EndState::NotTried,
                "LedNowhere",
                "the reboot led back to the old release without a trial boot",
            )
        };
        self.start_disarming(attempt, state, code, text)
    }

    pub(super) fn effect_done(&mut self, effect: Effect) -> Option<Effect> {
        let mut attempt = self.journal.current.take()?;
        match (effect, &mut attempt.phase) {
            (Effect::ArmSlot { .. }, Phase::Armed { in_table }) => {
                *in_table = true;
                self.keep(attempt);
                None
            }
            (Effect::Disarm { .. }, Phase::Disarming { in_table, .. }) => {
                *in_table = true;
                self.settle_attempt(attempt)
            }
            (Effect::MarkGood { .. }, Phase::Committed { .. })
                if self.seen.slot(attempt.target).successful =>
            {
                self.end_committed(attempt);
                None
            }
            (Effect::GoBack { .. }, Phase::GoingBack { .. }) => {
                self.keep(attempt);
                Some(Effect::Reboot)
            }
            // Nothing follows, or the attempt went on while the effect was performed.
            (
                Effect::ArmSlot { .. }
                | Effect::Disarm { .. }
                | Effect::MarkGood { .. }
                | Effect::GoBack { .. }
                | Effect::Reboot
                | Effect::RunChecks,
                _,
            ) => {
                self.keep(attempt);
                None
            }
        }
    }

    pub(super) fn effect_failed(&mut self, effect: Effect, text: &str) -> Option<Effect> {
        self.not_performed(effect, ["ArmFailed", "RebootFailed"], text)
    }

    pub(super) fn too_late(&mut self, effect: Effect) -> Option<Effect> {
        let text = "the grant was over before it could be followed";
        self.not_performed(effect, ["GrantOver"; 2], text)
    }

    /// `codes`: of an arming, and of a reboot.
    fn not_performed(&mut self, effect: Effect, [arm, reboot]: [&str; 2], text: &str) -> Option<Effect> {
        let attempt = self.journal.current.take()?;
        match (effect, &attempt.phase) {
            (Effect::ArmSlot { .. }, Phase::Armed { .. }) => {
                self.start_disarming(attempt, EndState::NotTried, arm, text)
            }
            (Effect::Reboot, Phase::Used) => {
                // The call was refused or not made, so none is on its way.
                let mut attempt = attempt;
                attempt.phase = Phase::Armed { in_table: true };
                self.start_disarming(attempt, EndState::NotTried, reboot, text)
            }
            // Tried again at the next tick; where there is no way back, that tick finds it.
            (
                Effect::ArmSlot { .. }
                | Effect::Disarm { .. }
                | Effect::MarkGood { .. }
                | Effect::GoBack { .. }
                | Effect::Reboot
                | Effect::RunChecks,
                _,
            ) => {
                self.keep(attempt);
                None
            }
        }
    }

    pub(super) fn identified(&mut self, took: Duration) -> Option<Effect> {
        if let Some(trial) = self.trial_now() {
            trial.uncounted += took;
        }
        self.settle()
    }

    pub(super) fn checks_passed(&mut self) -> Option<Effect> {
        if let Some(trial) = self.trial_now() {
            trial.checks = Checks::Passed;
        }
        self.settle()
    }

    pub(super) fn checks_failed(&mut self, text: String) -> Option<Effect> {
        if let Some(trial) = self.trial_now() {
            trial.checks = Checks::Failed;
        }
        let trying = self
            .journal
            .current
            .take_if(|attempt| attempt.phase == Phase::Trying);
        match trying {
            Some(attempt) => self.start_going_back(attempt, Class::Failed, "HealthCheck", &text),
            None => self.settle(),
        }
    }

    /// The record of this boot, if it is one of the attempt on trial and nothing is decided yet.
    fn trial_now(&mut self) -> Option<&mut TrialBoot> {
        let boot_id = &self.seen.boot_id;
        let attempt = self.journal.current.as_mut()?;
        if Some(attempt.target) != self.seen.running {
            return None;
        }
        match &mut attempt.phase {
            Phase::Stuck { boot, .. } if boot.boot_id == *boot_id => Some(boot),
            Phase::Trying => attempt.trials.iter_mut().find(|trial| trial.boot_id == *boot_id),
            Phase::Armed { .. }
            | Phase::Used
            | Phase::GoingBack { .. }
            | Phase::Committed { .. }
            | Phase::Disarming { .. }
            | Phase::Stuck { .. } => None,
        }
    }

    pub(super) fn end_committed(&mut self, attempt: Attempt) {
        let boot_id = match &attempt.phase {
            Phase::Committed { boot_id } => boot_id.clone(),
            _ => self.seen.boot_id.clone(),
        };
        if let Some(floor) = &attempt.floor {
            self.journal.floor = Some(floor.clone());
        }
        self.journal.committed = Some(CommittedRelease {
            digest: attempt.digest.clone(),
            attempt: attempt.name.clone(),
            boot_id: boot_id.clone(),
        });
        self.journal.note_end(Ended {
            attempt: attempt.name,
            digest: attempt.digest,
            state: EndState::Committed,
            boot_id: Some(boot_id),
            code: (attempt.origin == Origin::Root).then(|| "Root".to_owned()),
            text: None,
            forgiven: false,
        });
    }

    pub(super) fn end(&mut self, attempt: Attempt, state: EndState, code: &str, text: &str) {
        self.journal.note_end(Ended {
            boot_id: attempt.trials.last().map(|trial| trial.boot_id.clone()),
            attempt: attempt.name,
            digest: attempt.digest,
            state,
            code: Some(code.to_owned()),
            text: Some(text.chars().take(400).collect()),
            forgiven: false,
        });
    }
}
