//! What one boot of a simulated node started, and how all of it ends at once.

use std::io;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::power::Power;
use super::process::Process;

/// See the module. A system that never reaches userspace has none of it.
#[derive(Default)]
pub(super) struct Boot {
    pub kubelet: Option<CancellationToken>,
    pub agent: Option<Process>,
    pub guard: Option<Process>,
    /// Where the power may be cut at a write.
    pub power: Option<Arc<Power>>,
    /// Cancelled when it ends: nobody calls for a reboot of a system that is down.
    pub over: CancellationToken,
    pub tasks: JoinSet<()>,
}

impl Boot {
    /// Ends when someone cuts the power at a write; without such a one never.
    pub async fn darkness(&self) {
        match &self.power {
            Some(power) => power.gone().cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Everything ends, and writes nothing more.
    pub fn stop(&mut self) {
        self.over.cancel();
        for process in [&self.agent, &self.guard].into_iter().flatten() {
            process.kill();
        }
        if let Some(kubelet) = &self.kubelet {
            kubelet.cancel();
        }
        self.tasks.abort_all();
    }

    /// The same; and after a power cut, disk and state partition become what is left of them.
    ///
    /// # Errors
    /// If that cannot be written.
    pub async fn end(mut self) -> io::Result<()> {
        self.stop();
        let Some(power) = self.power.take() else {
            return Ok(());
        };
        let settled = tokio::task::spawn_blocking(move || power.settle());
        settled.await.map_err(io::Error::other)?
    }
}
