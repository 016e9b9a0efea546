//! What a cluster has to refuse, with real coordinators, agents and guards on simulated nodes: policies that
//! can never work, and the limits of a loader that counts no tries.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use drydock_integration::cluster::{ClusterPlan, POLICY, ReleaseImages, SimCluster};
use drydock_integration::demo::{Screen, Snapshot, Story, StoryImages, Verdict, judge, plan};
use drydock_integration::firmware::LoaderKind;
use drydock_integration::node::{Behaviour, OtherKernels};
use serde_json::{Value, json};

/// What is said stands in the test's output if it fails.
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

async fn begin(folder: &std::path::Path, loaders: &[LoaderKind]) -> Story {
    let images = folder.join("images");
    std::fs::create_dir(&images).unwrap();
    let images = StoryImages::from_host(&images, 4 << 20).unwrap();
    Story::begin_with(folder, images, 1, loaders, &mut Unseen)
        .await
        .unwrap()
}

fn drydock(cluster: &SimCluster, plural: &str, name: &str) -> Value {
    let object = cluster.api.get("drydock.dev", plural, "", name);
    (*object.unwrap()).clone()
}

/// The images of a healthy release, as the story packed them.
fn images(folder: &std::path::Path, version: &str, kubelet: &str) -> ReleaseImages {
    let images = folder.join("images");
    ReleaseImages {
        version: version.to_owned(),
        kubelet: kubelet.to_owned(),
        behaviour: Behaviour::Healthy,
        kernel: images.join(format!("kernel-{version}.img")),
        root: images.join(format!("root-{version}.img")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_way_works_on_a_loader_that_counts_no_tries_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut story = begin(folder.path(), &[LoaderKind::GptPriority]).await;
    let guard = |story: &Story| drydock(&story.cluster, "nodeupgrades", "node-1")["status"]["guard"].clone();
    assert_eq!(guard(&story), "userspace only");
    story.good_release(&mut Unseen).await.unwrap();
    assert_eq!(guard(&story), "userspace only");
    // Its system comes up, so the guard takes the node back, loader or not.
    story.bad_release(&mut Unseen).await.unwrap();
    assert_eq!(story.cluster.nodes[0].status().boots, 4);
    let report = story.cluster.eye.finish(&[]);
    assert_eq!(report.findings(), Vec::<&_>::new());
    assert_eq!(judge(&report), Verdict::AllHeld);
    story.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_can_never_work_is_stored_says_why_and_starts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let story = begin(folder.path(), &[LoaderKind::GptPrio]).await;
    let window = |zone: &str, duration: &str| json!({"start": "2026-11-02T00:00:00", "timeZone": zone, "duration": duration, "rrule": "FREQ=DAILY"});
    let table = [
        (
            window("Europe/Atlantis", "24h"),
            "time zone `Europe/Atlantis` is not known",
        ),
        (window("UTC", "1m"), "no window can fit a node: drain"),
    ];
    let good = drydock(&story.cluster, "upgradepolicies", POLICY);
    // From the second on something is there to be taken.
    for (index, (window, words)) in table.into_iter().enumerate() {
        let mut policy = drydock(&story.cluster, "upgradepolicies", POLICY);
        policy["spec"]["windows"] = json!([window]);
        policy["spec"]["expected"] = json!({"drain": "5m", "reboot": "5m", "wayBack": "5m"});
        story.cluster.put(policy).unwrap();
        let mut condition = Value::Null;
        for _ in 0..600 {
            let policy = drydock(&story.cluster, "upgradepolicies", POLICY);
            let conditions = policy["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            condition = conditions
                .into_iter()
                .find(|it| it["type"] == "Accepted")
                .unwrap_or_default();
            if condition["message"].as_str().unwrap_or_default().contains(words) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&json!("False"), &json!("NotAccepted")),
            "{condition}"
        );
        assert!(
            condition["message"].as_str().unwrap().contains(words),
            "{condition}"
        );
        // Published while the first policy is refused.
        if index == 0 {
            let next = images(folder.path(), "2.0.0", "1.34.2");
            let built = story.cluster.build(&next).await.unwrap();
            story.cluster.workshop.publish(&built).await.unwrap();
        }
        // Time for whoever would start something all the same.
        tokio::time::sleep(Duration::from_secs(4)).await;
        let upgrade = drydock(&story.cluster, "nodeupgrades", "node-1");
        assert!(
            upgrade["spec"]["dock"].is_null() && upgrade["spec"]["grant"].is_null(),
            "{upgrade}"
        );
        assert_eq!(story.cluster.nodes[0].status().boots, 1);
        let node = story.cluster.api.get("", "nodes", "", "node-1").unwrap();
        assert!(node["spec"]["unschedulable"].is_null(), "{node}");
    }
    // And with a policy that can work, the same release is taken.
    let mut policy = drydock(&story.cluster, "upgradepolicies", POLICY);
    policy["spec"] = good["spec"].clone();
    story.cluster.put(policy).unwrap();
    for _ in 0..1_200 {
        if story.cluster.nodes[0].status().boots > 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(story.cluster.nodes[0].status().boots, 2);
    story.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_kernel_is_not_armed_on_such_a_loader_unless_its_owner_accepts_it() {
    let folder = tempfile::tempdir().unwrap();
    let packed = folder.path().join("images");
    std::fs::create_dir(&packed).unwrap();
    StoryImages::from_host(&packed, 4 << 20).unwrap();
    let first = images(folder.path(), "1.0.0", "1.34.1");
    let plan = ClusterPlan {
        loaders: vec![LoaderKind::GptPriority],
        other_kernels: OtherKernels::Refused,
        ..plan(folder.path(), &first, (8 << 20, 8 << 20), 1)
    };
    let cluster = SimCluster::start(plan).await.unwrap();
    cluster.apply_policy().unwrap();
    let next = cluster
        .build(&images(folder.path(), "2.0.0", "1.34.2"))
        .await
        .unwrap();
    cluster.workshop.publish(&next).await.unwrap();
    let mut error = Value::Null;
    for _ in 0..1_200 {
        if let Some(object) = cluster.api.get("drydock.dev", "nodeupgrades", "", "node-1") {
            error = object["status"]["lastError"].clone();
        }
        if error["code"] == "UnguardedKernel" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(error["code"], "UnguardedKernel", "{error}");
    let text = error["text"].as_str().unwrap();
    assert!(text.contains("disk.unguarded_kernel = true"), "{text}");
    // The grant is taken back and the node given back as it was.
    let mut node = Value::Null;
    for _ in 0..1_200 {
        node = (*cluster.api.get("", "nodes", "", "node-1").unwrap()).clone();
        if node["spec"]["unschedulable"].is_null() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(node["spec"]["unschedulable"].is_null(), "{node}");
    assert_eq!(cluster.nodes[0].status().boots, 1);
    let report = cluster.eye.finish(&[]);
    assert_eq!(report.findings(), Vec::<&_>::new());
    cluster.shutdown().await;
}
