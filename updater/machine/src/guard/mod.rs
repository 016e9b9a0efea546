//! The guard's machine: counts trial boots, keeps deadlines, decides on marking good and going back.
//!
//! [`step`] is a pure function of journal, what is seen, and an event. It never goes back without another
//! slot that was marked good, never gives an attempt a third trial boot, and never marks a slot good
//! under a grant before the checks of this boot passed and the coordinator confirmed this boot (S4).

mod finish;
mod requests;
mod settle;

use std::time::Duration;

use crate::event::{Effect, Event, Refusal, Step};
use crate::journal::{Attempt, Checks, Class, Deadline, EndState, Journal, Origin, Phase, TrialBoot};
use crate::seen::{Seen, Slot, Timing};

/// Takes one step. What is given back stands in the journal before the effect is performed.
pub fn step(journal: &Journal, seen: &Seen, timing: &Timing, event: Event) -> Step {
    let mut machine = Machine {
        journal: journal.clone(),
        seen,
        timing,
    };
    let done = match event {
        Event::Started => Ok(machine.started()),
        Event::Tick => Ok(machine.settle()),
        Event::Arm(request) => machine.arm(request),
        Event::Disarm { attempt } => machine.disarm(&attempt),
        Event::Reboot { attempt } => machine.reboot(&attempt),
        Event::Verdict(verdict) => machine.verdict(verdict),
        Event::Identified { took } => Ok(machine.identified(took)),
        Event::ChecksPassed => Ok(machine.checks_passed()),
        Event::ChecksFailed { text } => Ok(machine.checks_failed(text)),
        Event::Forgive { attempts } => {
            machine.forgive(&attempts);
            Ok(None)
        }
        Event::MarkGood(request) => machine.mark_good(request),
        Event::EffectDone(effect) => Ok(machine.effect_done(effect)),
        Event::EffectFailed { effect, text } => Ok(machine.effect_failed(effect, &text)),
        Event::TooLate(effect) => Ok(machine.too_late(effect)),
    };
    let (effect, refused) = match done {
        Ok(effect) => (effect, None),
        Err(refusal) => (None, Some(refusal)),
    };
    Step {
        journal: machine.journal,
        effect,
        refused,
    }
}

/// From when on, in time since boot, `effect` must not be performed any more: the end of the grant that it
/// is decided under. To be looked at right before it is performed: to write the journal, and to flush all
/// else before a reboot, takes as long as the disk wants. `None`: it asks no grant.
#[must_use]
pub fn latest(journal: &Journal, boot_id: &str, effect: Effect) -> Option<Duration> {
    let attempt = journal.current.as_ref()?;
    let deadline = attempt.deadline.as_ref()?;
    let granted = matches!(
        (effect, &attempt.phase),
        (Effect::ArmSlot { .. }, Phase::Armed { .. }) | (Effect::Reboot, Phase::Used)
    );
    let this_boot = deadline.boot_id == boot_id;
    granted.then_some(if this_boot { deadline.at } else { Duration::ZERO })
}

/// When the guard's shell has to come back with [`Event::Tick`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextTick {
    Never,
    /// At this time since boot.
    At(Duration),
    /// After a pause of the shell's choice: something is to be tried again.
    Retry,
}

/// See [`NextTick`]. A function of the journal alone, so that a guard that starts anew goes on counting.
#[must_use]
pub fn next_tick(journal: &Journal, seen: &Seen, timing: &Timing) -> NextTick {
    let Some(attempt) = &journal.current else {
        return if orphan(seen).is_some() {
            NextTick::Retry
        } else {
            NextTick::Never
        };
    };
    let Some(running) = seen.running else {
        return NextTick::Retry;
    };
    match &attempt.phase {
        Phase::Armed { .. } => at_deadline(attempt, seen, Duration::ZERO),
        Phase::Used => at_deadline(attempt, seen, timing.shutdown),
        Phase::Trying if running != attempt.target => NextTick::Retry,
        Phase::Trying => match (attempt.origin, trial_of(attempt, &seen.boot_id)) {
            (Origin::Root, Some(_)) => NextTick::Never,
            (Origin::Cluster | Origin::Lost, Some(trial)) => {
                NextTick::At(trial.started + trial.uncounted + attempt.confirm_wait)
            }
            (_, None) => NextTick::Retry,
        },
        Phase::Disarming {
            in_table: true,
            hold_until: Some(hold),
            ..
        } if hold.boot_id == seen.boot_id => NextTick::At(hold.at),
        Phase::GoingBack { .. } | Phase::Committed { .. } | Phase::Disarming { .. } | Phase::Stuck { .. } => {
            NextTick::Retry
        }
    }
}

fn at_deadline(attempt: &Attempt, seen: &Seen, margin: Duration) -> NextTick {
    match &attempt.deadline {
        Some(deadline) if deadline.boot_id == seen.boot_id => NextTick::At(deadline.at + margin),
        Some(_) => NextTick::Retry,
        None => NextTick::Never,
    }
}

fn trial_of<'a>(attempt: &'a Attempt, boot_id: &str) -> Option<&'a TrialBoot> {
    attempt.trials.iter().find(|trial| trial.boot_id == boot_id)
}

/// A slot that would be booted next though no attempt is under way and it was never marked good.
fn orphan(seen: &Seen) -> Option<(Slot, Slot)> {
    let running = seen.running?;
    let other = running.other();
    let armed = seen.next == Some(other) && !seen.slot(other).successful;
    (armed && seen.slot(running).successful).then_some((other, running))
}

/// One step under way. `journal.current` is taken out while it is worked on, and kept or ended.
struct Machine<'a> {
    journal: Journal,
    seen: &'a Seen,
    timing: &'a Timing,
}

/// What a request comes to.
type Asked = Result<Option<Effect>, Refusal>;

impl Machine<'_> {
    fn keep(&mut self, attempt: Attempt) {
        self.journal.current = Some(attempt);
    }

    /// Has this instant passed? When in doubt (another boot's clock, a clock that ran backwards): yes.
    fn is_over(&self, deadline: &Deadline, margin: Duration) -> bool {
        deadline.boot_id != self.seen.boot_id || self.seen.now >= deadline.at + margin
    }

    fn start_going_back(
        &mut self,
        mut attempt: Attempt,
        class: Class,
        code: &str,
        text: &str,
    ) -> Option<Effect> {
        attempt.phase = Phase::GoingBack {
            class,
            code: code.to_owned(),
            text: text.to_owned(),
        };
        self.settle_attempt(attempt)
    }

    fn start_disarming(
        &mut self,
        mut attempt: Attempt,
        state: EndState,
        code: &str,
        text: &str,
    ) -> Option<Effect> {
        // A reboot that was called may still be on its way: the node is not given back before it could
        // have happened. Root's own attempts hold nobody up.
        let hold_until = match (&attempt.phase, &attempt.deadline) {
            (Phase::Used, Some(deadline)) if deadline.boot_id == self.seen.boot_id => Some(Deadline {
                boot_id: deadline.boot_id.clone(),
                at: deadline.at + self.timing.shutdown,
            }),
            _ => None,
        };
        attempt.phase = Phase::Disarming {
            state,
            code: code.to_owned(),
            text: text.to_owned(),
            in_table: false,
            hold_until,
        };
        self.settle_attempt(attempt)
    }

    fn new_trial(&self) -> TrialBoot {
        TrialBoot {
            boot_id: self.seen.boot_id.clone(),
            started: self.seen.now,
            uncounted: Duration::ZERO,
            checks: Checks::Due,
            confirmed: false,
        }
    }

    fn run_checks(&self) -> Option<Effect> {
        (!self.seen.checks_running).then_some(Effect::RunChecks)
    }
}
