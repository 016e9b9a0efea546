//! Many cases, several at a time, each in a folder of its own; those whose time was over once more, alone.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::case::Case;
use super::course::{Ended, run};
use super::scenery::Scenery;

/// Enough for some dozen runs at a time.
const LEAST_ROOM_BYTES: u128 = 1 << 30;

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
    /// Those whose time was over while others ran, and that were run once more alone.
    pub again: usize,
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
            again,
            took,
        } = self;
        write!(f, "{done} of {total} cases, {reached} reached, {wrong} wrong, ")?;
        if *again > 0 {
            write!(f, "{again} too late at first and run again alone, ")?;
        }
        write!(f, "{took:.0?}")
    }
}

/// Three waits of a case are bounded by two minutes each: one that is still under way after this hangs.
const HANGS_AFTER: Duration = Duration::from_secs(600);

/// Where the runs lie: in memory, where there is such a place with room. They flush often.
fn place() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let roomy = nix::sys::statvfs::statvfs(memory).is_ok_and(|fs| {
        u128::from(fs.blocks_available()) * u128::from(fs.fragment_size()) > LEAST_ROOM_BYTES
    });
    if roomy {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    }
}

/// A temporary folder for one run, or for what several have in common.
///
/// # Errors
/// If there is no room.
pub fn folder() -> anyhow::Result<tempfile::TempDir> {
    let place = place();
    tempfile::tempdir_in(&place).with_context(|| format!("making a temporary folder in {}", place.display()))
}

/// Runs one case in a temporary folder.
///
/// # Errors
/// If the simulation itself cannot run. One that hangs is a finding.
pub async fn run_one(scenery: &Scenery, case: &Case) -> anyhow::Result<Ended> {
    let folder = folder()?;
    let running = run(folder.path(), scenery, case);
    match tokio::time::timeout(HANGS_AFTER, running).await {
        Ok(ended) => ended,
        Err(_) => Ok(Ended::cut_short(format!(
            "it hangs: still under way after {HANGS_AFTER:?}"
        ))),
    }
}

/// Runs all of them, `at_once` at a time, and tells of each that ends. One that was too late is told of
/// twice: then, and when it has been run again alone, which is what counts.
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
    let mut late = Vec::new();
    while let Some(ended) = running.join_next().await {
        let (case, ended) = ended.context("a case panicked")?;
        tally.took = begun.elapsed();
        if ended.late && at_once.min(tally.total) > 1 {
            tally.again += 1;
            tell(&tally, &case, &ended);
            late.push(case);
        } else {
            tally.count(&ended);
            tell(&tally, &case, &ended);
        }
    }
    for case in late {
        let ended = run_one(scenery, &case).await;
        let mut ended = ended.unwrap_or_else(|error| Ended::broken(&error));
        ended.late = false;
        tally.took = begun.elapsed();
        tally.count(&ended);
        tell(&tally, &case, &ended);
    }
    Ok(tally)
}

impl Tally {
    fn count(&mut self, ended: &Ended) {
        self.done += 1;
        self.reached += usize::from(ended.reached);
        self.wrong += usize::from(!ended.wrong.is_empty());
    }
}
