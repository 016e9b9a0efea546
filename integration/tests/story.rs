//! The demo's story in small, with the observer as the judge: a good release reaches every node though
//! the leader dies in the middle of a drain, a bad one reaches none.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use drydock_integration::demo::{Screen, Snapshot, Story, StoryImages, Verdict, judge};

/// Shown to nobody; what is said stands in the test's output if it fails.
struct Unseen;

impl Screen for Unseen {
    fn act(&mut self, title: &str, _text: &str) {
        println!("== {title}");
    }

    fn say(&mut self, line: &str) {
        println!("{line}");
    }

    fn alarm(&mut self, line: &str) {
        println!("!! {line}");
    }

    fn show(&mut self, _now: &Snapshot) {}

    fn close(&mut self) {}
}

async fn told(nodes: usize) {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    std::fs::create_dir(&images).unwrap();
    let images = StoryImages::from_host(&images, 6 << 20).unwrap();
    let mut story = Story::begin(folder.path(), images, nodes, &mut Unseen)
        .await
        .unwrap();
    story.good_release(&mut Unseen).await.unwrap();
    let halted_before = story.look().halts.len();
    story.bad_release(&mut Unseen).await.unwrap();

    let end = story.look();
    assert_eq!((halted_before, end.halts.len()), (0, 1));
    assert_eq!(end.halts[0].spec.version.as_deref(), Some("2.1.0"));
    assert_eq!(end.halts[0].spec.evidence.len(), 1, "only the canary was touched");
    let boots: Vec<u32> = story
        .cluster
        .nodes
        .iter()
        .map(|node| node.status().boots)
        .collect();
    // First boot, 2.0.0, and on one node 2.1.0 and back.
    assert_eq!(boots.iter().sum::<u32>() as usize, 2 * nodes + 2, "{boots:?}");
    let report = story.cluster.eye.finish(&[]);
    assert_eq!(report.untested(), [], "never put to the test");
    assert_eq!(report.findings(), Vec::<&_>::new());
    assert_eq!(judge(&report), Verdict::AllHeld);
    story.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_release_reaches_three_nodes_and_a_bad_one_is_halted_by_the_first() {
    told(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_one_node_upgrades_itself_and_goes_back_by_itself() {
    told(1).await;
}
