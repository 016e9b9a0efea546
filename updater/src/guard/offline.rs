//! Root's commands where no guard runs: the same machine, on the journal under its lock. Blocks. Never
//! reboots and never runs checks: who calls it has run them. Arming an upgrade needs a running guard.

use std::collections::VecDeque;

use drydock_machine::{Effect, Event, GuardStatus, Journal, Refusal, Request, Seen, Timing, step};

use super::effects::{boot_slot, change, machine_slot};
use super::kernel::unguarded_kernel;
use super::{JOURNAL_FILE, NodeView};
use crate::config::Settings;
use crate::disk::BootError;
use crate::node::{NodeEnv, NodeError};
use crate::state::{LockName, StateError, Store};

/// Why a command could not be followed.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error("the slots cannot be read: {0}")]
    Slots(String),
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("{0}")]
    Kernel(String),
    #[error("this needs a running guard; start it with `systemctl start drydock-guard.service`")]
    NeedsGuard,
}

/// How the node stands, read without any lock. `running_digest`: what the running slot was proven to hold.
///
/// # Errors
/// See [`OfflineError`].
pub fn look(
    view: &NodeView,
    settings: &Settings,
    env: &NodeEnv,
    running_digest: Option<String>,
) -> Result<GuardStatus, OfflineError> {
    let store = Store::<Journal>::new(&view.node().state, JOURNAL_FILE);
    let (journal, lost) = store.peek()?.split();
    let seen = see(view, settings, env, running_digest)?;
    let problems = lost.map(|lost| lost.to_string()).into_iter().collect();
    Ok(GuardStatus::new(&journal.unwrap_or_default(), &seen, problems))
}

/// Follows one request.
///
/// # Errors
/// See [`OfflineError`]; the journal's lock is held by a guard, say.
pub fn follow(
    view: &NodeView,
    settings: &Settings,
    env: &NodeEnv,
    request: Request,
) -> Result<GuardStatus, OfflineError> {
    let event = match request {
        Request::Rollback(arm) => {
            let (target, running) = (boot_slot(arm.target), boot_slot(arm.target.other()));
            if !settings.loader.counts_tries()
                && !settings.unguarded_kernel
                && let Some(text) =
                    unguarded_kernel(view.record(running).as_ref(), view.record(target).as_ref())
            {
                return Err(OfflineError::Kernel(text));
            }
            Event::Arm(arm)
        }
        Request::Disarm { attempt } => Event::Disarm { attempt },
        Request::MarkGood(good) => Event::MarkGood(good),
        Request::Forgive { attempts } => Event::Forgive { attempts },
        Request::Status | Request::Arm(_) | Request::Reboot { .. } | Request::Verdict(_) => {
            return Err(OfflineError::NeedsGuard);
        }
    };
    let store = Store::<Journal>::new(&view.node().state, JOURNAL_FILE);
    let lock = view.node().state.try_lock(LockName::Journal)?;
    let mut journal = store.load(&lock)?.split().0.unwrap_or_default();
    let timing = Timing {
        shutdown: env.pace.shutdown,
        confirm_wait: settings.confirm_wait,
    };
    let mut events = VecDeque::from([event]);
    while let Some(event) = events.pop_front() {
        let seen = see(view, settings, env, None)?;
        let next = step(&journal, &seen, &timing, event);
        if next.journal != journal {
            store.save(&lock, &next.journal)?;
            journal = next.journal;
        }
        if let Some(refusal) = next.refused {
            return Err(refusal.into());
        }
        match next.effect {
            None | Some(Effect::RunChecks | Effect::Reboot) => {}
            Some(effect) => {
                change(&view.node().control, effect)?;
                events.push_back(Event::EffectDone(effect));
            }
        }
    }
    let seen = see(view, settings, env, None)?;
    Ok(GuardStatus::new(&journal, &seen, Vec::new()))
}

fn see(
    view: &NodeView,
    settings: &Settings,
    env: &NodeEnv,
    running_digest: Option<String>,
) -> Result<Seen, OfflineError> {
    let bits = view.bits().map_err(OfflineError::Slots)?;
    let node = view.node();
    Ok(Seen {
        boot_id: node.boot_id.clone(),
        running: node.running.as_ref().ok().map(|slot| machine_slot(*slot)),
        running_digest,
        a: bits.a,
        b: bits.b,
        next: bits.next,
        loader_counts: settings.loader.counts_tries(),
        checks_running: false,
        now: env.outside.since_boot(),
    })
}
