//! How long the processes of a node wait for what. A simulation shortens all of it.

use std::time::Duration;

/// See each field; the defaults are a node's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// The guard tries again what failed (boot control, a reboot call), and looks at its node.
    pub guard_retry: Duration,
    /// A failed required check is run again after this, until `health.deadline` is over.
    pub check_retry: Duration,
    /// A called reboot that has not come after the grant and this is one that never will.
    pub shutdown: Duration,
    /// The agent asks its guard how it stands.
    pub guard_poll: Duration,
    /// A request to the guard is answered within this (marking good apart, which runs the checks).
    pub guard_answer: Duration,
    /// One request to the API server.
    pub api_answer: Duration,
    /// The agent reads its object anew though the watch told nothing.
    pub resync: Duration,
    /// Between two writes of the status that tell progress alone.
    pub status_every: Duration,
    /// First and longest pause after something of the agent's failed.
    pub retry_first: Duration,
    pub retry_longest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            guard_retry: secs(10),
            check_retry: secs(5),
            shutdown: secs(300),
            guard_poll: secs(2),
            guard_answer: secs(30),
            api_answer: secs(10),
            resync: secs(600),
            status_every: secs(1),
            retry_first: secs(2),
            retry_longest: secs(300),
        }
    }
}

impl Pace {
    /// The pause after the `n`th failure in a row, from 1: doubles up to the longest.
    #[must_use]
    pub fn pause(&self, n: u32) -> Duration {
        let doubled = self.retry_first.saturating_mul(1 << n.saturating_sub(1).min(16));
        doubled.min(self.retry_longest)
    }
}
