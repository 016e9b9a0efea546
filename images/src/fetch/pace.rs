//! How fast a transfer must go on. Not how long it may take: a large file over a thin line is well,
//! silence and a trickle are not. The time that this machine's own bandwidth limit takes is nobody's
//! fault and counts for nothing here.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::Timeouts;
use super::error::Ended;

/// Instead of a time that the clock cannot express.
const FAR: Duration = Duration::from_secs(365 * 86_400);

/// The clock of one transfer, through all of its tries.
#[derive(Debug)]
pub(super) struct Pace {
    idle: Duration,
    window: Duration,
    least_bytes_per_second: u64,
    window_ends: Instant,
    in_window_bytes: u64,
    total: Duration,
    gives_up: Instant,
}

impl Pace {
    /// Of a transfer that begins at `now`, and is given up after `total` and what it earns by receiving.
    pub fn begin(timeouts: &Timeouts, total: Duration, now: Instant) -> Self {
        Self {
            idle: timeouts.idle,
            window: timeouts.window,
            least_bytes_per_second: timeouts.least_bytes_per_second.max(1),
            window_ends: after(now, timeouts.window),
            in_window_bytes: 0,
            total,
            gives_up: after(now, total),
        }
    }

    /// A new try begins with a new window.
    pub fn begin_try(&mut self, now: Instant) {
        self.window_ends = after(now, self.window);
        self.in_window_bytes = 0;
    }

    /// Bytes came in: they count for the rate, and each earns the time that the least rate gives it.
    pub fn received(&mut self, bytes: u64) {
        self.in_window_bytes = self.in_window_bytes.saturating_add(bytes);
        let micros = u128::from(bytes) * 1_000_000 / u128::from(self.least_bytes_per_second);
        let earned = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        self.gives_up = after(self.gives_up, earned);
    }

    /// The own limit held the transfer back for so long.
    pub fn held_back(&mut self, by: Duration) {
        self.window_ends = after(self.window_ends, by);
        self.gives_up = after(self.gives_up, by);
    }

    /// Does one step of a try, as long as the pace allows.
    pub async fn within<T>(&mut self, step: impl Future<Output = T>) -> Result<T, Ended> {
        let mut step = pin!(step);
        let silent_at = after(Instant::now(), self.idle);
        loop {
            let until = silent_at.min(self.window_ends).min(self.gives_up);
            if let Ok(done) = timeout_at(until, step.as_mut()).await {
                return Ok(done);
            }
            if until == self.gives_up {
                return Err(Ended::OutOfTime);
            }
            if until == silent_at {
                return Err(Ended::MayPass(format!("nothing came for {:?}", self.idle)));
            }
            if u128::from(self.in_window_bytes) * 1_000_000 < self.least_in_window() {
                return Err(Ended::MayPass(format!(
                    "less than {} bytes a second came over {:?}",
                    self.least_bytes_per_second, self.window
                )));
            }
            self.window_ends = after(self.window_ends, self.window);
            self.in_window_bytes = 0;
        }
    }

    /// In millionths of a byte.
    const fn least_in_window(&self) -> u128 {
        self.least_bytes_per_second as u128 * self.window.as_micros()
    }

    /// Waits between two tries.
    pub async fn pause(&self, pause: Duration) -> Result<(), Ended> {
        if after(Instant::now(), pause) >= self.gives_up {
            return Err(Ended::OutOfTime);
        }
        sleep(pause).await;
        Ok(())
    }

    /// What was given for all tries together, before anything was received.
    pub const fn total(&self) -> Duration {
        self.total
    }
}

fn after(at: Instant, by: Duration) -> Instant {
    at.checked_add(by).unwrap_or_else(|| at + FAR)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn timeouts() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(20),
            window: Duration::from_secs(60),
            least_bytes_per_second: 1024,
        }
    }

    /// Receives `bytes` every second until it ends; how long that took.
    async fn drip(pace: &mut Pace, bytes: u64, seconds: u64) -> Result<(), (u64, Ended)> {
        for second in 0..seconds {
            let tick = sleep(Duration::from_secs(1));
            pace.within(tick).await.map_err(|ended| (second, ended))?;
            pace.received(bytes);
        }
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn a_thin_line_may_take_hours_and_a_trickle_ends_with_its_window() {
        let mut pace = Pace::begin(&timeouts(), Duration::from_secs(300), Instant::now());
        drip(&mut pace, 1100, 4 * 3600).await.unwrap();
        let mut pace = Pace::begin(&timeouts(), Duration::from_secs(300), Instant::now());
        let (second, ended) = drip(&mut pace, 900, 4 * 3600).await.unwrap_err();
        assert!(matches!(ended, Ended::MayPass(_)), "{ended:?}");
        assert_eq!(second, 60);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_try_and_tries_that_earn_nothing_end_together() {
        let begun = Instant::now();
        let mut pace = Pace::begin(&timeouts(), Duration::from_secs(50), begun);
        let silent = std::future::pending::<()>;
        let ended = pace.within(silent()).await.unwrap_err();
        assert!(matches!(&ended, Ended::MayPass(detail) if detail.contains("nothing")));
        assert_eq!(begun.elapsed(), Duration::from_secs(20));
        pace.begin_try(Instant::now());
        pace.pause(Duration::from_secs(15)).await.unwrap();
        assert!(matches!(
            pace.within(silent()).await.unwrap_err(),
            Ended::OutOfTime
        ));
        assert_eq!(begun.elapsed(), Duration::from_secs(50));
        assert!(matches!(
            pace.pause(Duration::from_millis(1)).await,
            Err(Ended::OutOfTime)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_own_limit_takes_counts_for_nothing() {
        let mut pace = Pace::begin(&timeouts(), Duration::from_secs(300), Instant::now());
        for _ in 0..1000 {
            pace.within(async {}).await.unwrap();
            pace.received(10);
            sleep(Duration::from_secs(100)).await;
            pace.held_back(Duration::from_secs(100));
        }
    }
}
