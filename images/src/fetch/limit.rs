//! The bandwidth limit of a node: one token bucket for all transfers of a fetcher. What came in is
//! paid for before more is read, so the sender is slowed down by TCP and nothing is thrown away.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How much may come at once after a time of rest, as a time at full rate.
const BURST: Duration = Duration::from_millis(250);

/// A token bucket that may be overdrawn by one piece, told by the time at which its debt is paid.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    bytes_per_second: NonZeroU64,
    paid_at: Instant,
}

impl Bucket {
    /// Takes `bytes` out at `now`; says when the taker may go on.
    fn take(&mut self, bytes: u64, now: Instant) -> Instant {
        let oldest = now.checked_sub(BURST).unwrap_or(now);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.get());
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid_at = self.paid_at.max(oldest) + cost;
        self.paid_at
    }
}

/// The bucket that all transfers of a fetcher share.
#[derive(Debug)]
pub(super) struct Limit {
    bucket: Mutex<Bucket>,
}

impl Limit {
    pub fn new(bytes_per_second: NonZeroU64, now: Instant) -> Self {
        let bucket = Bucket {
            bytes_per_second,
            paid_at: now,
        };
        Self {
            bucket: Mutex::new(bucket),
        }
    }

    /// Pays for `bytes` that came in; gives the time that this took.
    pub async fn pay(&self, bytes: u64) -> Duration {
        let now = Instant::now();
        let go_on = self
            .bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(bytes, now);
        if go_on <= now {
            return Duration::ZERO;
        }
        sleep_until(go_on).await;
        now.elapsed()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn limit(bytes_per_second: u64) -> Arc<Limit> {
        let rate = NonZeroU64::new(bytes_per_second).unwrap();
        Arc::new(Limit::new(rate, Instant::now()))
    }

    #[tokio::test(start_paused = true)]
    async fn all_transfers_together_keep_to_the_rate() {
        let limit = limit(1_000_000);
        let begun = Instant::now();
        let mut transfers = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let limit = Arc::clone(&limit);
            transfers.spawn(async move {
                for _ in 0..250 {
                    limit.pay(10_000).await;
                }
            });
        }
        transfers.join_all().await;
        let took = begun.elapsed().as_secs_f64();
        assert!((9.7..=10.1).contains(&took), "10 MB at 1 MB/s took {took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn rest_saves_up_no_more_than_the_burst() {
        let limit = limit(1_000);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(limit.pay(250).await, Duration::ZERO);
        let waited = limit.pay(1_000).await;
        assert!(waited >= Duration::from_millis(999), "{waited:?}");
    }
}
