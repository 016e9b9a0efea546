//! The required checks of a node: all of them, again and again, until they pass or their time is over.

use std::sync::Arc;

use crate::config::LoadedConfig;
use crate::node::NodeEnv;

/// Runs every required check until all have passed one after the other.
///
/// # Errors
/// `health.deadline` is over; what failed last, in words.
pub async fn run(config: Arc<LoadedConfig>, env: NodeEnv) -> Result<(), String> {
    let settings = &config.settings;
    let deadline = env.outside.since_boot() + settings.health_deadline;
    loop {
        let mut failed = None;
        for check in &settings.checks {
            if let Err(why) = env.outside.run_check(check).await {
                failed = Some(format!("required check `{}` {why}", check.name));
                break;
            }
        }
        match failed {
            None => return Ok(()),
            Some(text) if env.outside.since_boot() >= deadline => {
                return Err(format!("{text} (after {:?})", settings.health_deadline));
            }
            Some(text) => tracing::info!("{text}; it is run again"),
        }
        tokio::time::sleep(env.pace.check_retry).await;
    }
}
