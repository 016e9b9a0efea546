//! The guard's hands: boot control, the reboot call, the checks. Each effect can be performed twice.

use std::sync::Arc;

use drydock_machine::{ArmRequest, Effect, Event, Slot, latest};

use super::kernel::unguarded_kernel;
use super::{Guard, GuardError, Message, checks};
use crate::disk::{BootControl, BootError, Disarmed, GptBootControl, SlotName};
use crate::node::Until;
use crate::stage::{Hashing, StageError, identify_running};

/// The machine's word for a slot.
#[must_use]
pub fn machine_slot(slot: SlotName) -> Slot {
    match slot {
        SlotName::A => Slot::A,
        SlotName::B => Slot::B,
    }
}

/// The disk's word for a slot.
#[must_use]
pub fn boot_slot(slot: Slot) -> SlotName {
    match slot {
        Slot::A => SlotName::A,
        Slot::B => SlotName::B,
    }
}

impl Guard {
    /// Performs it, and says what came of it.
    pub(super) async fn perform(&mut self, effect: Effect) -> Result<Event, GuardError> {
        let latest = latest(&self.journal, &self.node().boot_id, effect);
        let outside = self.env.outside.clone();
        let too_late = move || latest.is_some_and(|end| outside.since_boot() >= end);
        let done = match effect {
            Effect::RunChecks => {
                self.checks_running = true;
                let run = checks::run(self.config.clone(), self.env.clone());
                let to_loop = self.to_loop.clone();
                self.parts.spawn(async move {
                    let outcome = run.await;
                    // The loop is gone only when the guard is.
                    let _stopped = to_loop.send(Message::Checked(outcome)).await;
                });
                Ok(())
            }
            Effect::Reboot if self.cancel.is_cancelled() => Err("the guard is stopping".to_owned()),
            Effect::Reboot => match self.env.outside.flush().await {
                Ok(()) if too_late() => return Ok(Event::TooLate(effect)),
                Ok(()) => self.env.outside.reboot().await,
                Err(text) => Err(text),
            },
            Effect::ArmSlot { .. }
            | Effect::Disarm { .. }
            | Effect::MarkGood { .. }
            | Effect::GoBack { .. } => {
                let (control, held) = (&self.node().control, self.lock.clone());
                let gate = Until::new(control.device().gate(), too_late.clone(), "the grant is over");
                let control = control.behind(Arc::new(gate));
                let done = tokio::task::spawn_blocking(move || {
                    let _held = held;
                    change(&control, effect)
                });
                match done.await? {
                    Err(error) if too_late() => {
                        tracing::warn!(%error, "boot control");
                        return Ok(Event::TooLate(effect));
                    }
                    done => done.map_err(|error| error.to_string()),
                }
            }
        };
        Ok(match done {
            Ok(()) => Event::EffectDone(effect),
            Err(text) => Event::EffectFailed { effect, text },
        })
    }

    /// Runs the required checks before a request is followed (`mark-good`).
    pub(super) fn check_for(
        &mut self,
        request: drydock_machine::Request,
        answer: tokio::sync::oneshot::Sender<drydock_machine::Reply>,
    ) {
        let run = checks::run(self.config.clone(), self.env.clone());
        let to_loop = self.to_loop.clone();
        self.parts.spawn(async move {
            let outcome = run.await;
            let _stopped = to_loop.send(Message::CheckedFor(request, answer, outcome)).await;
        });
    }

    /// Proves what the running slot holds; the confirm wait of a trial boot does not count that time.
    pub(super) fn start_identifying(&mut self) {
        let Ok(running) = self.node().running else { return };
        let on_trial = self.on_trial();
        let hashing = if on_trial { Hashing::Now } else { Hashing::Idle };
        self.hashing_since = on_trial.then(|| self.env.outside.since_boot());
        let (view, cancel, to_loop) = (self.view.clone(), self.cancel.clone(), self.to_loop.clone());
        self.parts.spawn(async move {
            let proven = tokio::task::spawn_blocking(move || {
                let node = view.node();
                identify_running(
                    &node.control,
                    view.records(),
                    running,
                    &node.cmdline,
                    hashing,
                    &cancel,
                )
            });
            let proven = proven
                .await
                .unwrap_or_else(|error| Err(StageError::Stopped(error.to_string())));
            let _stopped = to_loop.send(Message::Identified(Box::new(proven))).await;
        });
    }

    /// Takes what was hashed since the last look off the confirm wait.
    pub(super) async fn count_hashing(&mut self) -> Result<(), GuardError> {
        let now = self.env.outside.since_boot();
        if let Some(since) = self.hashing_since.replace(now) {
            let took = now.saturating_sub(since);
            self.happen(Event::Identified { took }).await?;
        } else {
            self.hashing_since = None;
        }
        Ok(())
    }

    /// Why this release must not be armed here, where the loader counts no tries.
    pub(super) async fn kernel_is_unguarded(&self, arm: &ArmRequest) -> Result<Option<String>, GuardError> {
        let settings = &self.config.settings;
        let Ok(running) = self.node().running else {
            return Ok(None);
        };
        if settings.loader.counts_tries() || settings.unguarded_kernel {
            return Ok(None);
        }
        let (view, target) = (self.view.clone(), boot_slot(arm.target));
        let judged = tokio::task::spawn_blocking(move || {
            unguarded_kernel(view.record(running).as_ref(), view.record(target).as_ref())
        });
        Ok(judged.await?)
    }
}

/// One change of boot control. Blocks.
pub(crate) fn change(control: &GptBootControl, effect: Effect) -> Result<(), BootError> {
    match effect {
        Effect::ArmSlot { target, running } => control.arm(boot_slot(target), boot_slot(running)),
        Effect::Disarm {
            target,
            running,
            was_good,
        } => {
            let becomes = if was_good {
                Disarmed::WayBack
            } else {
                Disarmed::Unbootable
            };
            control.disarm(boot_slot(target), boot_slot(running), becomes)
        }
        Effect::MarkGood { slot } => control.mark_good(boot_slot(slot)),
        Effect::GoBack { to, running } => control.go_back(boot_slot(to), boot_slot(running)),
        Effect::Reboot | Effect::RunChecks => Ok(()),
    }
}
