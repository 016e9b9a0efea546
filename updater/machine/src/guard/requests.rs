//! What the agent and root ask of the guard, and when it refuses.

use std::time::Duration;

use super::{Asked, Machine};
use crate::event::{ArmRequest, Effect, GoodRequest, Refusal, Verdict, Word};
use crate::journal::{Attempt, Checks, Deadline, EndState, Origin, Phase, TrialBoot};
use crate::seen::Slot;

impl Machine<'_> {
    /// Step 8. Asked again for the attempt that is armed, it is armed again and keeps the earlier end.
    pub(super) fn arm(&mut self, request: ArmRequest) -> Asked {
        let running = self.check_arm(&request)?;
        let target = request.target;
        let effect = Effect::ArmSlot { target, running };
        let deadline = self.end_of(&request).map(|at| Deadline {
            boot_id: self.seen.boot_id.clone(),
            at,
        });
        if let Some(current) = &mut self.journal.current {
            current.deadline = match (current.deadline.take(), deadline) {
                (Some(old), Some(new)) if new.at < old.at => Some(new),
                (Some(old), _) => Some(old),
                (None, new) => new,
            };
            return Ok(Some(effect));
        }
        self.journal.current = Some(Attempt {
            name: request.attempt,
            digest: request.digest,
            origin: request.origin,
            target,
            target_was_good: self.seen.slot(target).successful,
            floor: request.floor,
            armed_in: self.seen.boot_id.clone(),
            deadline,
            confirm_wait: request.confirm_wait,
            trials: Vec::new(),
            go_back: false,
            phase: Phase::Armed { in_table: false },
            other: serde_json::Map::new(),
        });
        Ok(Some(effect))
    }

    /// When the grant ends, in time since boot. An agent whose clock is ahead of the guard's gains nothing.
    fn end_of(&self, request: &ArmRequest) -> Option<Duration> {
        let counted_at = request.counted_at.unwrap_or(self.seen.now).min(self.seen.now);
        Some(counted_at + request.remaining?)
    }

    fn check_arm(&self, request: &ArmRequest) -> Result<Slot, Refusal> {
        let running = self.seen.running.ok_or(Refusal::RunningUnknown)?;
        if request.target == running {
            return Err(Refusal::TargetIsRunning(running));
        }
        if request.origin == Origin::Lost {
            return Err(Refusal::NoSuchAttempt(request.attempt.clone()));
        }
        if self.journal.is_spent(&request.attempt) {
            return Err(Refusal::AttemptSpent(request.attempt.clone()));
        }
        if let Some(current) = &self.journal.current {
            let again = current.name == request.attempt
                && current.digest == request.digest
                && current.target == request.target
                && current.armed_in == self.seen.boot_id;
            if !again {
                return Err(Refusal::Busy(current.name.clone()));
            }
        }
        if !self.seen.slot(running).successful {
            return Err(Refusal::RunningNotGood(running));
        }
        if self.journal.has_failed(&request.digest) {
            return Err(Refusal::FailedHere(request.digest.clone()));
        }
        let record = self.seen.slot(request.target).record.as_deref();
        if record != Some(request.digest.as_str()) {
            return Err(Refusal::OtherContent {
                slot: request.target,
                wanted: request.digest.clone(),
                found: record.unwrap_or("nothing that is known").to_owned(),
            });
        }
        let over = match request.origin {
            Origin::Cluster => self.end_of(request).is_none_or(|end| end <= self.seen.now),
            Origin::Root | Origin::Lost => false,
        };
        if over {
            Err(Refusal::GrantOver(request.attempt.clone()))
        } else {
            Ok(running)
        }
    }

    pub(super) fn disarm(&mut self, name: &str) -> Asked {
        if self.seen.running.is_none() {
            return Err(Refusal::RunningUnknown);
        }
        match self.journal.current.take() {
            Some(attempt) if attempt.name == name => match attempt.phase {
                Phase::Armed { .. } | Phase::Used if Some(attempt.target) != self.seen.running => {
                    let text = "disarmed before the reboot";
                    Ok(self.start_disarming(attempt, EndState::NotTried, "Disarmed", text))
                }
                Phase::Disarming { .. } => Ok(self.settle_attempt(attempt)),
                Phase::Armed { .. }
                | Phase::Used
                | Phase::Trying
                | Phase::GoingBack { .. }
                | Phase::Committed { .. }
                | Phase::Stuck { .. } => {
                    self.keep(attempt);
                    Err(Refusal::NoSuchAttempt(name.to_owned()))
                }
            },
            Some(attempt) => {
                let busy = attempt.name.clone();
                self.keep(attempt);
                Err(Refusal::Busy(busy))
            }
            None if self.journal.is_spent(name) => Ok(None),
            None => Err(Refusal::NoSuchAttempt(name.to_owned())),
        }
    }

    /// Step 9: `used` stands in the journal before the call.
    pub(super) fn reboot(&mut self, name: &str) -> Asked {
        let running = self.seen.running.ok_or(Refusal::RunningUnknown)?;
        let attempt = match self.journal.current.take() {
            Some(attempt) if attempt.name == name => attempt,
            other => {
                self.journal.current = other;
                return Err(Refusal::NoSuchAttempt(name.to_owned()));
            }
        };
        let before = matches!(attempt.phase, Phase::Armed { .. } | Phase::Used);
        if !before || running == attempt.target || attempt.armed_in != self.seen.boot_id {
            self.keep(attempt);
            return Err(Refusal::AttemptSpent(name.to_owned()));
        }
        let over = attempt
            .deadline
            .as_ref()
            .is_some_and(|end| self.is_over(end, Duration::ZERO));
        if over {
            // The tick that is due disarms; here is only the answer.
            self.keep(attempt);
            return Err(Refusal::GrantOver(name.to_owned()));
        }
        if self.seen.next != Some(attempt.target) {
            self.keep(attempt);
            return Err(Refusal::NotArmed(name.to_owned()));
        }
        self.keep(Attempt {
            phase: Phase::Used,
            ..attempt
        });
        Ok(Some(Effect::Reboot))
    }

    /// Step 11. A confirm counts for this attempt, this boot and this digest; goBack for the whole attempt.
    pub(super) fn verdict(&mut self, verdict: Verdict) -> Asked {
        let Some(mut attempt) = self.journal.current.take() else {
            return Err(Refusal::NoSuchAttempt(verdict.attempt));
        };
        let checked = self.check_verdict(&mut attempt, &verdict);
        if let Err(refusal) = checked {
            self.keep(attempt);
            return Err(refusal);
        }
        match verdict.word {
            Word::GoBack => Ok(self.told_to_go_back(attempt)),
            Word::Confirm => self.confirmed(attempt),
        }
    }

    fn check_verdict(&self, attempt: &mut Attempt, verdict: &Verdict) -> Result<(), Refusal> {
        let this_boot = verdict.boot_id == self.seen.boot_id;
        if attempt.origin == Origin::Lost && attempt.name != verdict.attempt {
            let proven = self.seen.running_digest.as_deref() == Some(verdict.digest.as_str());
            if this_boot && proven && !self.journal.is_spent(&verdict.attempt) {
                attempt.name.clone_from(&verdict.attempt);
                attempt.digest.clone_from(&verdict.digest);
                attempt.origin = Origin::Cluster;
            }
        }
        if attempt.name != verdict.attempt {
            return Err(Refusal::NoSuchAttempt(verdict.attempt.clone()));
        }
        if attempt.digest != verdict.digest {
            return Err(Refusal::OtherRelease {
                verdict: verdict.digest.clone(),
                this: attempt.digest.clone(),
            });
        }
        if verdict.word == Word::Confirm && !this_boot {
            return Err(Refusal::OtherBoot {
                verdict: verdict.boot_id.clone(),
                this: self.seen.boot_id.clone(),
            });
        }
        Ok(())
    }

    fn told_to_go_back(&mut self, mut attempt: Attempt) -> Option<Effect> {
        match attempt.phase {
            Phase::Armed { .. } | Phase::Used if Some(attempt.target) != self.seen.running => {
                attempt.go_back = true;
                if attempt.armed_in != self.seen.boot_id {
                    return self.settle_attempt(attempt);
                }
                let text = "the coordinator said goBack before the reboot";
                self.start_disarming(attempt, EndState::NotTried, "CoordinatorGoBack", text)
            }
            Phase::Armed { .. } | Phase::Used | Phase::Trying => {
                attempt.go_back = true;
                self.settle_attempt(attempt)
            }
            // Decided already, and written down.
            Phase::GoingBack { .. }
            | Phase::Committed { .. }
            | Phase::Disarming { .. }
            | Phase::Stuck { .. } => self.settle_attempt(attempt),
        }
    }

    fn confirmed(&mut self, mut attempt: Attempt) -> Asked {
        let name = attempt.name.clone();
        let boot_id = &self.seen.boot_id;
        let boot: Option<&mut TrialBoot> = match &mut attempt.phase {
            _ if Some(attempt.target) != self.seen.running || attempt.go_back => None,
            Phase::Trying => attempt.trials.iter_mut().find(|trial| trial.boot_id == *boot_id),
            Phase::Stuck { boot, .. } if boot.boot_id == *boot_id => {
                // What failed is looked at again: a person may have mended it.
                if boot.checks == Checks::Failed {
                    boot.checks = Checks::Due;
                }
                Some(boot)
            }
            Phase::Armed { .. }
            | Phase::Used
            | Phase::GoingBack { .. }
            | Phase::Committed { .. }
            | Phase::Disarming { .. }
            | Phase::Stuck { .. } => None,
        };
        match boot {
            Some(boot) => {
                boot.confirmed = true;
                Ok(self.settle_attempt(attempt))
            }
            None => {
                self.keep(attempt);
                Err(Refusal::NotOnTrial(name))
            }
        }
    }

    /// The agent drops what a person forgave; the names stay taken.
    pub(super) fn forgive(&mut self, attempts: &[String]) {
        self.journal
            .failed
            .retain(|failed| !attempts.contains(&failed.attempt));
        for ended in &mut self.journal.ended {
            ended.forgiven |= attempts.contains(&ended.attempt);
        }
    }

    /// Root's own word, after the local checks: for the slot that runs, on trial or not.
    pub(super) fn mark_good(&mut self, request: GoodRequest) -> Asked {
        let running = self.seen.running.ok_or(Refusal::RunningUnknown)?;
        let phase = Phase::Committed {
            boot_id: self.seen.boot_id.clone(),
        };
        let attempt = match self.journal.current.take() {
            None if self.journal.is_spent(&request.attempt) => {
                return Err(Refusal::AttemptSpent(request.attempt));
            }
            None => Attempt {
                name: request.attempt,
                digest: request.digest,
                origin: Origin::Root,
                target: running,
                target_was_good: self.seen.slot(running).successful,
                floor: request.floor,
                armed_in: self.seen.boot_id.clone(),
                deadline: None,
                confirm_wait: self.timing.confirm_wait,
                trials: Vec::new(),
                go_back: false,
                phase,
                other: serde_json::Map::new(),
            },
            Some(attempt) => {
                let waits = match attempt.phase {
                    Phase::Trying | Phase::Stuck { .. } | Phase::Committed { .. } => true,
                    Phase::Armed { .. } | Phase::Used | Phase::GoingBack { .. } | Phase::Disarming { .. } => {
                        false
                    }
                };
                if !waits || attempt.target != running {
                    let name = attempt.name.clone();
                    self.keep(attempt);
                    return Err(Refusal::Busy(name));
                }
                let floor = request.floor.or(attempt.floor);
                Attempt {
                    origin: Origin::Root,
                    floor,
                    phase,
                    ..attempt
                }
            }
        };
        Ok(self.settle_attempt(attempt))
    }
}
