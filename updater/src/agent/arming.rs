//! Steps 8 and 9 of the protocol: check on the server, read the slot back, check again, arm; then check
//! once more and reboot. No answer or no match: nothing is done, and what is armed is disarmed.

use std::sync::Arc;
use std::time::Duration;

use drydock_images::TrustError;
use drydock_machine::agent::{Facts, GrantRefusal, Order, check_grant};
use drydock_machine::{ArmRequest, GuardStatus, Origin, Request};
use jiff::Timestamp;

use super::object::{self, ServerError};
use super::{About, Agent, AgentError, METADATA_PATIENCE, Own, is_away, staging};
use crate::disk::SlotName;
use crate::guard::machine_slot;
use crate::stage::{StageError, read_back_async};
use crate::state::{LockName, SlotRecord, StateError, StateLock};

/// Why a grant was not followed.
#[derive(Debug, thiserror::Error)]
enum NotArmed {
    #[error("{0}")]
    Server(#[from] ServerError),
    #[error("the NodeUpgrade is gone, and the grant with it")]
    NoObject,
    #[error("the grant does not hold: {0}")]
    Refused(#[from] GrantRefusal),
    #[error("the slot was read back before arming: {0}")]
    ReadBack(#[source] StageError),
    #[error("the release cannot be armed: {0}")]
    Trust(#[from] TrustError),
    #[error("the metadata could not be looked at within {METADATA_PATIENCE:?}")]
    MetadataLate,
    #[error("the wish is not the granted release, so its repository is not known")]
    NoWish,
    #[error(transparent)]
    Guard(#[from] crate::guard::AskError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("a thread of the agent ended early: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

impl NotArmed {
    fn code(&self) -> &str {
        match self {
            Self::Server(_) => "ServerAway",
            Self::NoObject => "NoObject",
            Self::Refused(refusal) => refusal.code(),
            Self::ReadBack(error) => error.code(),
            Self::Trust(error) => error.code(),
            Self::MetadataLate => "Unreachable",
            Self::NoWish => "NoWish",
            Self::Guard(error) => error.code(),
            Self::State(_) => "StatePartition",
            Self::Thread(_) => "Internal",
        }
    }

    /// May the same grant be followed after a pause?
    fn may_pass(&self) -> bool {
        match self {
            Self::Server(_) | Self::MetadataLate | Self::State(_) | Self::Thread(_) => true,
            Self::Guard(error) => is_away(error) || error.code() == "Busy",
            Self::Trust(error) => error.may_pass(),
            Self::Refused(refusal) => matches!(refusal, GrantRefusal::NoGuard),
            Self::NoObject | Self::ReadBack(_) | Self::NoWish => false,
        }
    }
}

/// A grant that holds.
struct Checked {
    order: Order,
    facts: Facts,
    /// What was left of it at `counted_at`, in time since boot.
    remaining: Duration,
    counted_at: Duration,
}

impl Agent {
    /// True if it is armed.
    pub(super) async fn arm(&mut self, attempt: &str) -> Result<bool, AgentError> {
        match self.try_arm(attempt).await {
            Ok(()) => {
                self.arming_failures.none();
                self.errors.remove(&About::Arming);
                Ok(true)
            }
            Err(error) => {
                self.arming_failures.one_more(&self.env);
                self.note(About::Arming, error.code(), &error);
                if !error.may_pass() {
                    self.arming_failures.none();
                    self.given_up = Some(attempt.to_owned());
                }
                Ok(!error.may_pass())
            }
        }
    }

    async fn try_arm(&mut self, attempt: &str) -> Result<(), NotArmed> {
        let Checked { order, facts, .. } = self.check(attempt).await?;
        let guard = facts.guard.clone().ok_or(GrantRefusal::NoGuard)?;
        let (target, record) = self.target(&guard).await?;
        self.must_be_listed(&order, &record, &guard, target).await?;
        // Held until it is armed, so that nobody stages into the slot in between.
        let state = self.view.node().state.clone();
        let lock = tokio::task::spawn_blocking(move || state.try_lock(LockName::Slot)).await??;
        let lock = Arc::new(lock);
        let control = self.view.node().control.clone();
        let read = read_back_async(control, target, record.clone(), self.cancel.clone()).await;
        if let Err(error) = read {
            self.forget(target, &lock, &error).await?;
            return Err(NotArmed::ReadBack(error));
        }
        let checked = self.check(attempt).await?;
        let grant = checked.order.grant.ok_or(GrantRefusal::NoGrant)?;
        let floor = staging::highest_floor(record.floor.as_ref(), guard.floor.as_ref());
        let request = Request::Arm(ArmRequest {
            attempt: grant.attempt,
            digest: grant.digest,
            origin: Origin::Cluster,
            target: machine_slot(target),
            remaining: Some(checked.remaining),
            counted_at: Some(checked.counted_at),
            confirm_wait: grant.confirm_wait,
            floor: floor.map(|floor| floor.to_string()),
        });
        self.guard.ask(&request).await?;
        drop(lock);
        Ok(())
    }

    /// The object as the server has it now, and what is left of its grant.
    async fn check(&mut self, attempt: &str) -> Result<Checked, NotArmed> {
        // Before the question: the server says its time at some moment after it.
        let counted_at = self.env.outside.since_boot();
        let (object, date): (_, Timestamp) = self.object.read().await?.ok_or(NotArmed::NoObject)?;
        let order = object::order(&object);
        self.own = Own::Present(Box::new(object));
        let facts = self.gather(&order).await.map_err(|error| match error {
            AgentError::Thread(error) => NotArmed::Thread(error),
            AgentError::Node(_) => NotArmed::Refused(GrantRefusal::NoGuard),
        })?;
        let remaining = check_grant(&order, &facts.0, date)?;
        if order.grant.as_ref().is_none_or(|grant| grant.attempt != attempt) {
            return Err(GrantRefusal::NoGrant.into());
        }
        Ok(Checked {
            order,
            facts: facts.0,
            remaining,
            counted_at,
        })
    }

    async fn target(&self, guard: &GuardStatus) -> Result<(SlotName, SlotRecord), NotArmed> {
        let nothing = || {
            NotArmed::Refused(GrantRefusal::OtherRelease {
                grant: "granted".to_owned(),
                staged: "nothing".to_owned(),
                dock: "granted".to_owned(),
            })
        };
        let running = guard.running.ok_or_else(nothing)?;
        let target = crate::guard::boot_slot(running.other());
        let view = self.view.clone();
        let record = tokio::task::spawn_blocking(move || view.record(target)).await?;
        Ok((target, record.ok_or_else(nothing)?))
    }

    /// Arming needs current metadata that still list the release; an ordered roll back does not.
    async fn must_be_listed(
        &mut self,
        order: &Order,
        record: &SlotRecord,
        guard: &GuardStatus,
        target: SlotName,
    ) -> Result<(), NotArmed> {
        if guard
            .slot(machine_slot(target))
            .is_some_and(|slot| slot.successful)
        {
            return Ok(());
        }
        let wish = order
            .wish
            .as_ref()
            .filter(|wish| wish.digest == record.release.to_string());
        let wish = wish.ok_or(NotArmed::NoWish)?;
        let settings = &self.config.settings;
        let known = settings.repository(&wish.repository).ok_or(NotArmed::NoWish)?;
        let now = self.env.outside.wall();
        let loading = staging::load_repository(settings, known, now, &self.env.gate);
        let loaded = tokio::time::timeout(METADATA_PATIENCE, loading).await;
        match (loaded, &self.repository) {
            (Ok(Ok(fresh)), _) => {
                self.versions = Some(fresh.versions());
                self.repository = Some(fresh);
            }
            // What was loaded for staging still counts while it is current.
            (Ok(Err(error)), Some(held)) if error.may_pass() && held.name() == known.name => {}
            (Err(_), Some(held)) if held.name() == known.name => {}
            (Ok(Err(error)), _) => return Err(error.into()),
            (Err(_), _) => return Err(NotArmed::MetadataLate),
        }
        let repository = self.repository.clone().ok_or(NotArmed::MetadataLate)?;
        repository.check_current(now)?;
        if let Some(withdrawal) = repository.withdrawn(&record.release).await? {
            return Err(NotArmed::Trust(TrustError::Withdrawn {
                digest: withdrawal.digest,
                at: withdrawal.at,
                reason: withdrawal.reason,
            }));
        }
        if repository.lists(&record.release) {
            Ok(())
        } else {
            Err(NotArmed::Trust(TrustError::NotListed {
                what: format!("release {}", record.release),
            }))
        }
    }

    /// A slot that reads back differently is staged anew: its record goes.
    async fn forget(
        &self,
        target: SlotName,
        lock: &Arc<StateLock>,
        error: &StageError,
    ) -> Result<(), NotArmed> {
        if !matches!(
            error,
            StageError::ReadsBackDifferently { .. } | StageError::OtherPartition { .. }
        ) {
            return Ok(());
        }
        let (view, lock) = (self.view.clone(), lock.clone());
        tokio::task::spawn_blocking(move || view.records().remove(&lock, target)).await??;
        Ok(())
    }

    /// Step 9. True if something was done.
    pub(super) async fn reboot(&mut self, attempt: &str) -> Result<bool, AgentError> {
        let checked = self.check(attempt).await;
        let asked = match checked {
            Ok(_) => {
                let request = Request::Reboot {
                    attempt: attempt.to_owned(),
                };
                self.guard.ask(&request).await.map(|_| ()).map_err(NotArmed::from)
            }
            Err(error) => Err(error),
        };
        match asked {
            Ok(()) => {
                tracing::info!(attempt, "the reboot was called");
                self.rebooting = Some(attempt.to_owned());
                Ok(true)
            }
            Err(NotArmed::Guard(error)) if is_away(&error) => {
                // Whether it was called is not known; the guard says so when it is back.
                self.note(About::Arming, error.code(), &error);
                Ok(false)
            }
            Err(error) => {
                self.note(About::Arming, error.code(), &error);
                self.given_up = Some(attempt.to_owned());
                Ok(true)
            }
        }
    }
}
