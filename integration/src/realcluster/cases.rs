//! Cases that share one control plane and run in turn, so that its end is certain. A case that fails or
//! takes too long keeps no other from running.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use super::ControlPlane;

/// One case: it panics where something does not hold.
pub type Case = fn(Arc<ControlPlane>) -> BoxFuture<'static, ()>;

/// Runs them in their order, each for `patience` at most, and says of each how it went; the names of those
/// that failed. After a failure the ends of all logs are printed.
pub async fn run_in_turn<'a>(
    cluster: &Arc<ControlPlane>,
    cases: impl IntoIterator<Item = &'a (&'static str, Case)>,
    patience: Duration,
) -> Vec<&'static str> {
    let mut failed = Vec::new();
    for (name, case) in cases {
        let started = Instant::now();
        let running = tokio::spawn(tokio::time::timeout(patience, case(cluster.clone())));
        let outcome = match running.await {
            Ok(Ok(())) => "ok",
            Ok(Err(_)) => "FAILED (not done in time)",
            Err(_) => "FAILED",
        };
        println!(
            "case {name} ... {outcome} ({:.1} s)",
            started.elapsed().as_secs_f64()
        );
        if outcome != "ok" {
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        println!("{}", cluster.tails());
    }
    failed
}
