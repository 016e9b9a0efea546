//! Where an attempt goes by itself: at the guard's start, at a tick, and after every change. What is here
//! can be done again at any time, and does nothing when nothing is due.

use std::time::Duration;

use super::{Machine, orphan, trial_of};
use crate::event::Effect;
use crate::journal::{Attempt, Checks, Class, EndState, MAX_TRIAL_BOOTS, Origin, Phase};
use crate::seen::Slot;

impl Machine<'_> {
    /// The guard's process began: as [`Machine::settle`], and root's own reboot is called again if the
    /// guard was killed before the call. (A grant's is not: the agent asks again, after its own look.)
    pub(super) fn started(&mut self) -> Option<Effect> {
        let settled = self.settle();
        let again = self.journal.current.as_ref().is_some_and(|attempt| {
            attempt.origin == Origin::Root
                && attempt.phase == Phase::Used
                && attempt.armed_in == self.seen.boot_id
        });
        settled.or(again.then_some(Effect::Reboot))
    }

    pub(super) fn settle(&mut self) -> Option<Effect> {
        if let Some(attempt) = self.journal.current.take() {
            return self.settle_attempt(attempt);
        }
        if let Some((target, running)) = orphan(self.seen) {
            return Some(Effect::Disarm {
                target,
                running,
                was_good: false,
            });
        }
        let running = self.seen.running?;
        let slot = self.seen.slot(running);
        if slot.successful || !self.seen.has_way_back_from(running) {
            return None;
        }
        let attempt = self.lost_attempt(running, slot.record.clone());
        self.settle_attempt(attempt)
    }

    /// A trial boot that the journal knows nothing of.
    fn lost_attempt(&self, running: Slot, record: Option<String>) -> Attempt {
        Attempt {
            name: format!("lost-{}", self.seen.boot_id),
            digest: record.unwrap_or_else(|| "unknown".to_owned()),
            origin: Origin::Lost,
            target: running,
            target_was_good: false,
            floor: None,
            armed_in: String::new(),
            deadline: None,
            confirm_wait: self.timing.confirm_wait,
            trials: Vec::new(),
            go_back: false,
            phase: Phase::Trying,
            other: serde_json::Map::new(),
        }
    }

    /// Puts the attempt back (or ends it), further along if something is due.
    pub(super) fn settle_attempt(&mut self, attempt: Attempt) -> Option<Effect> {
        let Some(running) = self.seen.running else {
            self.keep(attempt);
            return None;
        };
        let on_target = running == attempt.target;
        let same_boot = attempt.armed_in == self.seen.boot_id;
        match attempt.phase {
            Phase::Armed { .. } | Phase::Used | Phase::Trying if on_target => self.settle_trial(attempt),
            Phase::Armed { .. } | Phase::Used if same_boot => self.settle_before_reboot(attempt),
            Phase::Armed { .. } | Phase::Used | Phase::Trying => self.judge(attempt),
            Phase::GoingBack { .. } if on_target => self.settle_going_back(attempt, running),
            Phase::GoingBack {
                class,
                ref code,
                ref text,
            }
            | Phase::Stuck {
                class,
                ref code,
                ref text,
                ..
            } if !on_target => {
                let (code, text) = (code.clone(), text.clone());
                self.start_disarming(attempt, class.into(), &code, &text)
            }
            Phase::GoingBack { .. } | Phase::Stuck { .. } => self.settle_stuck(attempt, running),
            Phase::Committed { .. } => self.settle_committed(attempt, on_target),
            Phase::Disarming { .. } if on_target => {
                // The power went before boot control had it, and the loader took the slot all the same.
                let text = "the slot was booted after its attempt was over".to_owned();
                self.start_going_back(attempt, Class::Unconfirmed, "BootedTooLate", &text)
            }
            Phase::Disarming { .. } => self.settle_disarming(attempt, running),
        }
    }

    /// Step 8: the guard, not the agent alone, disarms when the grant is over.
    fn settle_before_reboot(&mut self, attempt: Attempt) -> Option<Effect> {
        let used = attempt.phase == Phase::Used;
        let margin = if used {
            self.timing.shutdown
        } else {
            Duration::ZERO
        };
        let over = attempt
            .deadline
            .as_ref()
            .is_some_and(|deadline| self.is_over(deadline, margin));
        match (over, used) {
            (false, _) => {
                self.keep(attempt);
                None
            }
            (true, false) => {
                let text = "the grant was over before the reboot was called";
                self.start_disarming(attempt, EndState::NotTried, "GrantOver", text)
            }
            (true, true) => {
                let text = "the reboot was called and did not come";
                self.start_disarming(attempt, EndState::NotTried, "RebootDidNotCome", text)
            }
        }
    }

    /// Step 10: a boot of the release that is on trial.
    fn settle_trial(&mut self, mut attempt: Attempt) -> Option<Effect> {
        attempt.phase = Phase::Trying;
        if attempt.go_back {
            let text = "the coordinator said so";
            return self.start_going_back(attempt, Class::Failed, "CoordinatorGoBack", text);
        }
        let Some(trial) = trial_of(&attempt, &self.seen.boot_id).cloned() else {
            if attempt.trials.len() >= MAX_TRIAL_BOOTS {
                let text = "both trial boots ended without an outcome";
                return self.start_going_back(attempt, Class::Unconfirmed, "PowerCut", text);
            }
            attempt.trials.push(self.new_trial());
            self.keep(attempt);
            return self.run_checks();
        };
        let waits_for_word = attempt.origin != Origin::Root;
        match trial.checks {
            Checks::Passed if !waits_for_word || trial.confirmed => {
                attempt.phase = Phase::Committed {
                    boot_id: self.seen.boot_id.clone(),
                };
                return self.settle_attempt(attempt);
            }
            Checks::Failed => {
                let text = "a required check failed";
                return self.start_going_back(attempt, Class::Failed, "HealthCheck", text);
            }
            Checks::Passed | Checks::Due => {}
        }
        let until = trial.started + trial.uncounted + attempt.confirm_wait;
        let in_doubt = self.seen.now < trial.started;
        if waits_for_word && (in_doubt || self.seen.now >= until) {
            let text = "no word from the coordinator within the confirm wait";
            return self.start_going_back(attempt, Class::Unconfirmed, "ConfirmTimeout", text);
        }
        self.keep(attempt);
        if trial.checks == Checks::Due {
            self.run_checks()
        } else {
            None
        }
    }

    fn settle_going_back(&mut self, mut attempt: Attempt, running: Slot) -> Option<Effect> {
        if self.seen.has_way_back_from(running) {
            self.keep(attempt);
            return Some(Effect::GoBack {
                to: running.other(),
                running,
            });
        }
        let boot = trial_of(&attempt, &self.seen.boot_id)
            .cloned()
            .unwrap_or_else(|| self.new_trial());
        if let Phase::GoingBack { class, code, text } = attempt.phase {
            attempt.phase = Phase::Stuck {
                class,
                code,
                text,
                boot,
            };
        }
        self.settle_attempt(attempt)
    }

    /// No other slot is known to boot: stays, and still takes a confirm.
    fn settle_stuck(&mut self, mut attempt: Attempt, running: Slot) -> Option<Effect> {
        let way_back = self.seen.has_way_back_from(running);
        let fresh = self.new_trial();
        let Phase::Stuck {
            class,
            code,
            text,
            boot,
        } = &mut attempt.phase
        else {
            self.keep(attempt);
            return None;
        };
        if way_back {
            let (class, code, text) = (*class, code.clone(), text.clone());
            return self.start_going_back(attempt, class, &code, &text);
        }
        if boot.boot_id != self.seen.boot_id {
            *boot = fresh;
        }
        let good = boot.checks == Checks::Passed && (boot.confirmed || attempt.origin == Origin::Root);
        let due = boot.checks == Checks::Due;
        if good {
            attempt.phase = Phase::Committed {
                boot_id: self.seen.boot_id.clone(),
            };
            return self.settle_attempt(attempt);
        }
        self.keep(attempt);
        if due { self.run_checks() } else { None }
    }

    /// Step 11: Committed is void if its boot ends before the partition table holds it.
    fn settle_committed(&mut self, mut attempt: Attempt, on_target: bool) -> Option<Effect> {
        let Phase::Committed { boot_id } = &attempt.phase else {
            self.keep(attempt);
            return None;
        };
        let this_boot = *boot_id == self.seen.boot_id;
        let held = self.seen.slot(attempt.target).successful;
        if this_boot && on_target {
            let slot = attempt.target;
            self.keep(attempt);
            return Some(Effect::MarkGood { slot });
        }
        if held {
            self.end_committed(attempt);
            return self.settle();
        }
        if attempt.trials.is_empty() {
            // Root's mark-good of a slot that was not on trial.
            let text = "the boot ended before the partition table held it";
            self.end(attempt, EndState::NotTried, "PowerCut", text);
            return self.settle();
        }
        attempt.phase = Phase::Trying;
        self.settle_attempt(attempt)
    }

    fn settle_disarming(&mut self, attempt: Attempt, running: Slot) -> Option<Effect> {
        let Phase::Disarming {
            state,
            code,
            text,
            in_table,
            hold_until,
        } = &attempt.phase
        else {
            self.keep(attempt);
            return None;
        };
        if !*in_table {
            let was_good = attempt.target_was_good && *state != EndState::Failed;
            let effect = Effect::Disarm {
                target: attempt.target,
                running,
                was_good,
            };
            self.keep(attempt);
            return Some(effect);
        }
        let held = hold_until
            .as_ref()
            .is_some_and(|hold| !self.is_over(hold, Duration::ZERO));
        if held {
            self.keep(attempt);
            return None;
        }
        let (state, code, text) = (*state, code.clone(), text.clone());
        self.end(attempt, state, &code, &text);
        None
    }
}
