//! A coordinator replica in this process: the real one, with shorter lengths of time, in a thread and a
//! runtime of its own. It can be frozen as a paused virtual machine is: none of its tasks goes on, no
//! timer runs out, nothing is read from or written to its connections, and its clocks go on. Dropping it
//! kills it where it stands.
//!
//! What is not frozen: work that it had handed to another thread (a plan under way, the file operations
//! of its trust store). Such work writes nothing to the API.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use drydock_coordinator::clock::SystemClock;
use drydock_coordinator::lead::LeaseSettings;
use drydock_coordinator::settings::Settings;
use drydock_images::StoreWatch;
use drydock_plan::Timings;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::objects::SYSTEM;

/// How quick the coordinators are.
#[derive(Debug, Clone)]
pub struct ReplicaPace {
    /// How the leader is elected.
    pub lease: Duration,
    /// The planner's lengths of time.
    pub timings: Timings,
    /// A plan is made at least this often.
    pub poll: Duration,
    /// The repository is read this often.
    pub refresh: Duration,
}

/// A running replica.
pub struct Replica {
    kill: CancellationToken,
    freezer: Freezer,
}

impl Replica {
    /// Starts a replica that writes as the user of `config`.
    ///
    /// # Errors
    /// If it can have no thread; a replica that cannot work says so in the log.
    pub fn start(
        name: &str,
        config: kube::Config,
        data_dir: PathBuf,
        store_watch: Arc<dyn StoreWatch>,
        pace: &ReplicaPace,
    ) -> anyhow::Result<Self> {
        let mut settings = Settings::new(name, SYSTEM, data_dir);
        settings.lease = LeaseSettings {
            duration: pace.lease,
            renew_deadline: pace.lease * 2 / 3,
            retry: pace.lease / 8,
            ..LeaseSettings::default()
        };
        settings.timings = pace.timings;
        settings.poll_ceiling = pace.poll;
        settings.store_watch = store_watch;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("making the runtime of a coordinator")?;
        let replica = Self {
            kill: CancellationToken::new(),
            freezer: Freezer::default(),
        };
        let (kill, freezer) = (replica.kill.clone(), replica.freezer.clone());
        let life = async move {
            let stop = CancellationToken::new();
            tokio::select! {
                biased;
                () = kill.cancelled() => {}
                () = freezer.freeze_when_asked() => {}
                ended = drydock_coordinator::run(settings, config, Arc::new(SystemClock), stop) => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a coordinator ended");
                    }
                }
            }
        };
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                runtime.block_on(life);
                runtime.shutdown_background();
            })
            .context("starting the thread of a coordinator")?;
        Ok(replica)
    }

    /// What freezes it.
    #[must_use]
    pub fn freezer(&self) -> Freezer {
        self.freezer.clone()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill.cancel();
        self.freezer.thaw();
    }
}

/// Freezes one replica, and thaws it. Clones are the same.
#[derive(Clone, Default)]
pub struct Freezer(Arc<Ice>);

#[derive(Default)]
struct Ice {
    asked: Notify,
    state: Mutex<Cold>,
    thawed: Condvar,
}

#[derive(Default)]
struct Cold {
    wanted: bool,
    frozen: bool,
}

impl Freezer {
    fn lock(&self) -> MutexGuard<'_, Cold> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It freezes as soon as the task that it is running now gives way.
    pub fn freeze(&self) {
        self.lock().wanted = true;
        self.0.asked.notify_one();
    }

    /// Whether it stands still.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.lock().frozen
    }

    /// It goes on where it stood.
    pub fn thaw(&self) {
        self.lock().wanted = false;
        self.0.thawed.notify_all();
    }

    /// Within the replica's runtime: blocks its only thread, and with it everything in it.
    async fn freeze_when_asked(&self) {
        loop {
            self.0.asked.notified().await;
            let mut cold = self.lock();
            cold.frozen = cold.wanted;
            while cold.wanted {
                cold = self.0.thawed.wait(cold).unwrap_or_else(PoisonError::into_inner);
            }
            cold.frozen = false;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Instant;

    use super::*;

    fn until(so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !so() {
            assert!(begun.elapsed() < Duration::from_secs(30), "it never came");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn frozen_no_task_and_no_timer_goes_on_until_it_thaws() {
        let freezer = Freezer::default();
        let ticks = Arc::new(AtomicU64::new(0));
        let (inside, count) = (freezer.clone(), ticks.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap();
            runtime.block_on(async {
                tokio::spawn(async move { inside.freeze_when_asked().await });
                while count.fetch_add(1, Ordering::SeqCst) < 50 {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            });
        });
        until(|| ticks.load(Ordering::SeqCst) > 2);
        freezer.freeze();
        until(|| freezer.is_frozen());
        let stood = ticks.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(ticks.load(Ordering::SeqCst), stood, "it went on");
        freezer.thaw();
        thread.join().unwrap();
        assert!(ticks.load(Ordering::SeqCst) > stood);
    }
}
