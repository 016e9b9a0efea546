//! What must hold wherever a writer dies, a node loses its power, a leader sleeps, or objects are lost:
//! every case of the crash sweep, over a good release and over one that boots and is not healthy.
//! `cargo run --bin drydock-sweep` runs them with progress, `-- --case NAME` one again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use drydock_integration::node::Behaviour;
use drydock_integration::sweep::{AT_ONCE, Case, Scenery, folder, run_all, run_one};
use tokio::sync::Mutex;

/// One sweep at a time: each takes the whole machine.
static ALONE: Mutex<()> = Mutex::const_new(());

async fn sweep(second: Behaviour, at_least: usize) {
    let _alone = ALONE.lock().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_good_release_arrives_whatever_goes_wrong_at_whichever_write() {
    sweep(Behaviour::Healthy, 300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_release_is_gone_back_from_and_halted_whatever_goes_wrong_at_whichever_write() {
    sweep(Behaviour::UnhealthyCheck, 250).await;
}
