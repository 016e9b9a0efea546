//! A coordinator replica in this process: the real one, with shorter lengths of time. Dropping it kills
//! it where it stands.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use drydock_coordinator::clock::SystemClock;
use drydock_coordinator::lead::LeaseSettings;
use drydock_coordinator::settings::Settings;
use drydock_plan::Timings;
use tokio::task::JoinHandle;
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
    task: JoinHandle<()>,
}

impl Replica {
    /// Starts a replica that writes as the user of `config`.
    ///
    /// # Errors
    /// None yet; a replica that cannot work says so in the log and is started again.
    pub fn start(
        name: &str,
        config: kube::Config,
        data_dir: PathBuf,
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
        let name = name.to_owned();
        let task = tokio::spawn(async move {
            let stop = CancellationToken::new();
            if let Err(error) = drydock_coordinator::run(settings, config, Arc::new(SystemClock), stop).await
            {
                tracing::error!(name, %error, "a coordinator ended");
            }
        });
        Ok(Self { task })
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}
