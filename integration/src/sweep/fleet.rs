//! Many cases, several at a time, each in a folder of its own.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::case::Case;
use super::course::{Ended, Scenery, run};

/// How far a sweep has come.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// All cases.
    pub total: usize,
    /// Those that have ended.
    pub done: usize,
    /// Those in which what was to go wrong did.
    pub reached: usize,
    /// Those that ended as none may.
    pub wrong: usize,
    /// Since the start.
    pub took: Duration,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            total,
            done,
            reached,
            wrong,
            took,
        } = self;
        write!(
            f,
            "{done} of {total} cases, {reached} reached, {wrong} wrong, {:.0?}",
            took
        )
    }
}

/// Runs one case in a temporary folder.
///
/// # Errors
/// If the simulation itself cannot run.
pub async fn run_one(scenery: &Scenery, case: &Case) -> anyhow::Result<Ended> {
    let folder = tempfile::tempdir().context("making a temporary folder")?;
    run(folder.path(), scenery, case).await
}

/// Runs all of them, `at_once` at a time, and tells of each that ends.
///
/// # Errors
/// If a case panics. A case whose simulation cannot run counts as wrong.
pub async fn run_all(
    scenery: &Scenery,
    cases: Vec<Case>,
    at_once: usize,
    mut tell: impl FnMut(&Tally, &Case, &Ended),
) -> anyhow::Result<Tally> {
    let begun = Instant::now();
    let mut tally = Tally {
        total: cases.len(),
        ..Tally::default()
    };
    let room = Arc::new(Semaphore::new(at_once.max(1)));
    let mut running = JoinSet::new();
    for case in cases {
        let (room, scenery) = (room.clone(), scenery.clone());
        running.spawn(async move {
            let _place = room.acquire_owned().await;
            let ended = run_one(&scenery, &case).await;
            (case, ended.unwrap_or_else(|error| Ended::broken(&error)))
        });
    }
    while let Some(ended) = running.join_next().await {
        let (case, ended) = ended.context("a case panicked")?;
        tally.done += 1;
        tally.reached += usize::from(ended.reached);
        tally.wrong += usize::from(!ended.wrong.is_empty());
        tally.took = begun.elapsed();
        tell(&tally, &case, &ended);
    }
    Ok(tally)
}
