//! What must hold wherever a writer dies, a node loses its power, a leader sleeps, or objects are lost:
//! every case of the crash sweep, over a good release and over one that boots and is not healthy.
//! `cargo run --bin drydock-sweep` runs them with progress, `-- --case NAME` one again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use drydock_integration::node::Behaviour;
use drydock_integration::sweep::{AT_ONCE, Case, Scenery, folder, run_all, run_one};
use tokio::runtime::Runtime;

/// One sweep at a time: each takes the whole machine.
static ALONE: Mutex<()> = Mutex::new(());
/// What a process that was killed had handed to a thread has ended long before this.
const LAST_THREAD: Duration = Duration::from_secs(60);

fn sweep(second: Behaviour, at_least: usize) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = Runtime::new().unwrap();
    // A runtime that is dropped, as by a panic, waits for its threads without an end.
    let ended = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(every_case(second, at_least))
    }));
    let begun = Instant::now();
    runtime.shutdown_timeout(LAST_THREAD);
    let took = begun.elapsed();
    if let Err(panic) = ended {
        resume_unwind(panic);
    }
    assert!(
        took < LAST_THREAD,
        "all cases ended {took:?} ago, and a thread of one is still at work"
    );
}

async fn every_case(second: Behaviour, at_least: usize) {
    let folder = folder().unwrap();
    let scenery = Scenery::prepare(folder.path(), second).unwrap();
    let baseline = run_one(&scenery, &Case::Baseline).await.unwrap();
    assert!(
        baseline.wrong.is_empty(),
        "without any fault: {:#?}",
        baseline.wrong
    );
    let cases = baseline.baseline.cases();
    assert!(cases.len() >= at_least, "there are only {} cases", cases.len());
    let mut wrong = Vec::new();
    let tally = run_all(&scenery, cases, AT_ONCE, |tally, case, ended| {
        if ended.late {
            println!("too late, to be run again alone: {case}");
        } else if !ended.wrong.is_empty() {
            wrong.push(format!("{case}: {:#?}", ended.wrong));
        }
        if tally.done.is_multiple_of(50) {
            println!("{tally}");
        }
    })
    .await
    .unwrap();
    println!("{tally}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The number of some writes depends on the clock; most cases must have come about.
    assert!(
        tally.reached * 10 >= tally.total * 9,
        "only {} of {} cases came about",
        tally.reached,
        tally.total
    );
}

#[test]
fn a_good_release_arrives_whatever_goes_wrong_at_whichever_write() {
    sweep(Behaviour::Healthy, 300);
}

#[test]
fn a_bad_release_is_gone_back_from_and_halted_whatever_goes_wrong_at_whichever_write() {
    sweep(Behaviour::UnhealthyCheck, 250);
}
