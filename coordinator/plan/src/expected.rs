//! What an attempt is expected to take: from what this policy's nodes took before, or a configured guess.

use std::time::Duration;

use drydock_api::{Took, UpgradePolicySpec};
use jiff::Timestamp;

use crate::windows::sub;

/// How many attempts history needs, how many it looks at, and how old they may be.
const LEAST: usize = 5;
const MOST: usize = 50;
const DAYS: u64 = 60;

/// What an attempt is expected to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Estimate {
    /// From the cordon to the last pod's end.
    pub drain: Duration,
    /// From the grant to Committed.
    pub reboot: Duration,
    /// What the way back takes on top.
    pub way_back: Duration,
    /// It comes from history.
    pub history: bool,
}

impl Estimate {
    /// The whole, the way back included.
    pub(crate) fn need(&self) -> Duration {
        self.drain + self.reboot + self.way_back
    }

    /// What is left `since` the cordon.
    pub(crate) fn left(&self, since_cordon: Duration) -> Duration {
        self.drain.saturating_sub(since_cordon) + self.reboot + self.way_back
    }
}

/// What the policy's configured guess says, never above its own deadlines.
pub(crate) fn guess(spec: &UpgradePolicySpec) -> Estimate {
    bounded(
        spec,
        Estimate {
            drain: spec.expected.drain.duration(),
            reboot: spec.expected.reboot.duration(),
            way_back: spec.expected.way_back.duration(),
            history: false,
        },
    )
}

/// p95 of the last 50 attempts of 60 days, from 5 on; before that the configured guess.
pub(crate) fn estimate(spec: &UpgradePolicySpec, took: &[Took], now: Timestamp) -> Estimate {
    let oldest = sub(now, Duration::from_secs(DAYS * 86_400));
    let recent: Vec<&Took> = took
        .iter()
        .rev()
        .filter(|took| took.at >= oldest)
        .take(MOST)
        .collect();
    if recent.len() < LEAST {
        return guess(spec);
    }
    let drain = p95(recent.iter().map(|took| took.drain_secs));
    let reboot = p95(recent.iter().map(|took| took.reboot_secs));
    bounded(
        spec,
        Estimate {
            drain,
            reboot,
            way_back: spec.expected.way_back.duration(),
            history: true,
        },
    )
}

fn p95(seconds: impl Iterator<Item = i64>) -> Duration {
    let mut sorted: Vec<u64> = seconds.map(|s| u64::try_from(s).unwrap_or(0)).collect();
    sorted.sort_unstable();
    let rank = (sorted.len() * 95).div_ceil(100).max(1) - 1;
    Duration::from_secs(sorted.get(rank).copied().unwrap_or(0))
}

/// Never above the sum of the policy's own deadlines: what is above is taken off the way back first, for
/// the deadlines bound the other two by themselves.
fn bounded(spec: &UpgradePolicySpec, estimate: Estimate) -> Estimate {
    let (drain_limit, health) = (spec.drain.timeout.duration(), spec.health.deadline.duration());
    let drain = estimate.drain.min(drain_limit);
    let reboot = estimate.reboot.min(health);
    let left = (drain_limit + health).saturating_sub(drain + reboot);
    Estimate {
        drain,
        reboot,
        way_back: estimate.way_back.min(left),
        history: estimate.history,
    }
}
