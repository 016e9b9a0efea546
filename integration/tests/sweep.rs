//! What must hold wherever a writer dies: every sixth case of the crash sweep over a good release.
//! `cargo run --bin drydock-sweep` runs all of them, `-- --case NAME` one again, `-- --bad` those over a
//! release that is not healthy.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use drydock_integration::node::Behaviour;
use drydock_integration::sweep::{Case, Scenery, run_all, run_one};

/// A node that is on its way back needs a CPU in time; more at once would only wait for each other.
const AT_ONCE: usize = 4;

async fn sweep(second: Behaviour, every: usize) {
    let folder = tempfile::tempdir().unwrap();
    let scenery = Scenery::prepare(folder.path(), second).unwrap();
    let baseline = run_one(&scenery, &Case::Baseline).await.unwrap();
    assert!(
        baseline.wrong.is_empty(),
        "without any fault: {:#?}",
        baseline.wrong
    );
    let cases: Vec<Case> = baseline.baseline.cases().into_iter().step_by(every).collect();
    assert!(cases.len() > 30, "there are only {} cases", cases.len());
    let mut wrong = Vec::new();
    let tally = run_all(&scenery, cases, AT_ONCE, |tally, case, ended| {
        if !ended.wrong.is_empty() {
            wrong.push(format!("{case}: {:#?}", ended.wrong));
        }
        if tally.done % 50 == 0 {
            println!("{tally}");
        }
    })
    .await
    .unwrap();
    println!("{tally}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The number of some writes depends on the clock; most cases must have come about.
    assert!(
        tally.reached * 10 >= tally.total * 8,
        "only {} of {} cases came about",
        tally.reached,
        tally.total
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_release_arrives_whoever_dies_at_whichever_write() {
    sweep(Behaviour::Healthy, 6).await;
}
