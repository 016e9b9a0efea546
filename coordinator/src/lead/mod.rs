//! Who leads: one replica at a time, by a Lease, in terms that only rise.
//!
//! A Lease does not stop a leader that slept. So leading is three things: the Lease, judged by this
//! machine's monotonic clock from when a change was seen (as client-go does); a [`Gate`] that every
//! write passes and that falls shut by the same clock; and a term, which the planner has written into
//! everything in dock before it plans anything else, so that a leader of the past meets conflicts.

mod lease;

pub use lease::{Elector, LeaseError, LeaseSettings, Lost, Tenure};

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Whether this replica may write as leader, asked before each write.
#[derive(Debug, Clone)]
pub struct Gate {
    open_until: Arc<Mutex<Instant>>,
}

/// This replica is not, or may no more be, the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this replica does not lead any more: the Lease was not renewed in time")]
pub struct GateShut;

impl Gate {
    /// A gate that is open for so long from `since`, if it is not extended.
    #[must_use]
    pub fn open(since: Instant, length: Duration) -> Self {
        Self {
            open_until: Arc::new(Mutex::new(since + length)),
        }
    }

    /// Moves the end on, never back.
    pub fn extend(&self, since: Instant, length: Duration) {
        let mut until = self.open_until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = (*until).max(since + length);
    }

    /// Shuts it for good (an extension by a renewal under way would be of no use: the term is over).
    pub fn shut(&self) {
        *self.open_until.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// The instant at which it falls shut.
    #[must_use]
    pub fn open_until(&self) -> Instant {
        *self.open_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes, or says that this replica does not lead.
    ///
    /// # Errors
    /// [`GateShut`] from the instant on at which another replica might have taken over.
    pub fn pass(&self) -> Result<(), GateShut> {
        if Instant::now() < self.open_until() {
            Ok(())
        } else {
            Err(GateShut)
        }
    }
}
