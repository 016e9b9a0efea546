//! Whole rollouts: the coordinator as it runs, agents that answer as the protocol says, and an operator.

use std::{path::Path, sync::Arc, time::Duration};

use clap::Parser as _;
use drydock_api::{NodeUpgrade, annotation};
use drydock_coordinator::{LeaseSettings, Settings, SystemClock, kubectl};
use drydock_images::{
    Carries, Guard, Progress, SharedState,
    build::{ArtifactSource, BuildRequest, build},
    keys::{KeygenRequest, generate},
    publish::{Lifetimes, PublishRequest, Signing, publish},
};
use drydock_integration::apiserver::ApiServer;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{agent::Agent, cluster, node, pod, until};

/// What the nodes run at first: no release of the repository.
const OLD: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// A folder with one signed release, 2.0, in the channel `stable`, and the resources that name it.
async fn publish_release(server: &ApiServer, dir: &Path) -> String {
    let keys = KeygenRequest {
        out: dir.join("keys"),
        keys: 1,
        threshold: 1,
        root_lifetime: Lifetimes::default().root,
        now: Timestamp::now(),
    };
    let root = std::fs::read_to_string(generate(keys).await.unwrap().root).unwrap();
    std::fs::write(dir.join("rootfs.img"), vec![7; 100_000]).unwrap();
    let built = build(BuildRequest {
        name: "harbor".parse().unwrap(),
        version: "2.0".parse().unwrap(),
        board: "generic".parse().unwrap(),
        arch: "amd64".parse().unwrap(),
        min_from: None,
        floor: None,
        carries: Carries {
            guard: Some(Guard { protocol: 1 }),
            kubelet: Some("v1.34.2".parse().unwrap()),
            kernel: None,
            state: SharedState::default(),
        },
        artifacts: vec![ArtifactSource {
            name: "rootfs".parse().unwrap(),
            path: dir.join("rootfs.img"),
            verity_root: None,
        }],
        out: dir.join("release"),
        after: Vec::new(),
        level: 1,
        progress: Progress::none(),
    })
    .await
    .unwrap();
    let published = publish(PublishRequest {
        signing: Signing {
            repo: dir.join("repo"),
            keys: dir.join("keys"),
            lifetimes: Lifetimes::default(),
            now: Timestamp::now(),
        },
        release: built.path,
        channel: Some("stable".parse().unwrap()),
        stepping_stone: false,
        progress: Progress::none(),
    })
    .await
    .unwrap();
    server
        .put(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "root", "namespace": "default"},
            "data": {"root.json": root},
        }))
        .unwrap();
    server
        .put(json!({
            "apiVersion": "drydock.dev/v1alpha1", "kind": "ImageRepository", "metadata": {"name": "os"},
            "spec": {
                "url": format!("file://{}", dir.join("repo").display()),
                "root": {"name": "root", "namespace": "default"},
            },
        }))
        .unwrap();
    published.digest.to_string()
}

fn policy() -> Value {
    json!({
        "apiVersion": "drydock.dev/v1alpha1", "kind": "UpgradePolicy", "metadata": {"name": "all"},
        "spec": {
            "repository": "os", "release": {"channel": "stable"},
            "strategy": {"soak": "0s"}, "drain": {"unmanagedPods": "Evict"},
        },
    })
}

/// A replica that dies when it is dropped.
async fn replica(server: &ApiServer, name: &str, dir: &Path) -> AbortOnDropHandle<()> {
    let mut settings = Settings::new(name, "default", dir.join(name));
    settings.lease = LeaseSettings {
        duration: Duration::from_millis(900),
        renew_deadline: Duration::from_millis(600),
        retry: Duration::from_millis(60),
        ..LeaseSettings::default()
    };
    settings.timings.evict_again = Duration::from_millis(100);
    settings.poll_ceiling = Duration::from_millis(500);
    let config = server.config(name).await.unwrap();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let forever = CancellationToken::new();
        drydock_coordinator::run(settings, config, Arc::new(SystemClock), forever)
            .await
            .unwrap();
    }))
}

fn upgrade(server: &ApiServer, name: &str) -> Option<NodeUpgrade> {
    let object = server.get("drydock.dev", "nodeupgrades", "", name)?;
    Some(serde_json::from_value((*object).clone()).unwrap())
}

/// The release runs, marked good; nothing of the attempt is left on the node or in the policy.
fn is_done(server: &ApiServer, name: &str, digest: &str) -> bool {
    let Some(upgrade) = upgrade(server, name) else {
        return false;
    };
    let running = upgrade
        .status
        .as_ref()
        .and_then(|status| status.running.as_deref())
        == Some(digest);
    let node = server.get("", "nodes", "", name).unwrap();
    let policy = server.get("drydock.dev", "upgradepolicies", "", "all").unwrap();
    let free = policy["status"]["dock"].as_array().is_none_or(Vec::is_empty);
    running
        && upgrade.spec.dock.is_none()
        && node["spec"]["unschedulable"] != json!(true)
        && node["metadata"]["annotations"].get(annotation::DOCK).is_none()
        && free
}

/// What `kubectl drydock` prints.
async fn ask(server: &ApiServer, words: &[&str]) -> anyhow::Result<String> {
    let args = kubectl::Args::parse_from(["kubectl-drydock"].iter().chain(words));
    let mut out = Vec::new();
    kubectl::run(args, server.config("operator").await?, &mut out).await?;
    Ok(String::from_utf8(out)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_goes_from_the_wish_to_committed_and_its_pods_are_gone_before_it_reboots() {
    let (server, dir) = (cluster().await, tempfile::tempdir().unwrap());
    server.put(node("n1")).unwrap();
    server.put(pod("web", "n1")).unwrap();
    let digest = publish_release(&server, dir.path()).await;
    server.put(policy()).unwrap();
    let agent = Agent::start(&server, "n1", OLD).await;
    let _replica = replica(&server, "coordinator-0", dir.path()).await;
    until("the node is done", || is_done(&server, "n1", &digest)).await;
    assert_eq!(agent.reboots.lock().unwrap().len(), 1);
    assert!(server.get("", "pods", "default", "web").is_none());
    let image = server.get("drydock.dev", "imagerepositories", "", "os").unwrap();
    assert_eq!(image["status"]["channels"][0]["version"], "2.0", "{image}");
    let status = ask(&server, &["status"]).await.unwrap();
    assert!(status.contains("2.0") && status.contains("n1"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_that_is_away_is_read_from_its_mirror() {
    let (server, dir) = (cluster().await, tempfile::tempdir().unwrap());
    let digest = publish_release(&server, dir.path()).await;
    let stored = server.get("drydock.dev", "imagerepositories", "", "os").unwrap();
    let mut away = (*stored).clone();
    away["spec"]["mirrors"] = json!([away["spec"]["url"]]);
    // The port of discard, at which nobody listens.
    away["spec"]["url"] = json!("http://127.0.0.1:9/");
    server.put(away).unwrap();
    let _replica = replica(&server, "coordinator-0", dir.path()).await;
    until("the repository is read", || {
        let image = server.get("drydock.dev", "imagerepositories", "", "os").unwrap();
        image["status"]["channels"][0]["digest"] == json!(digest)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_that_blocks_is_named_and_a_person_can_cancel() {
    let (server, dir) = (cluster().await, tempfile::tempdir().unwrap());
    server.put(node("n1")).unwrap();
    server.put(pod("web", "n1")).unwrap();
    server
        .put(json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "web-budget", "namespace": "default"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
        }))
        .unwrap();
    publish_release(&server, dir.path()).await;
    server.put(policy()).unwrap();
    let agent = Agent::start(&server, "n1", OLD).await;
    let _replica = replica(&server, "coordinator-0", dir.path()).await;
    let told = || {
        let events = server.list("", "events", "default");
        events.iter().any(|event| {
            let text = event.to_string();
            text.contains("BudgetBlocks") && text.contains("web-budget")
        })
    };
    until("the budget is named", told).await;
    until("the policy counts the node under what blocks it", || {
        let policy = server.get("drydock.dev", "upgradepolicies", "", "all").unwrap();
        let reasons = policy["status"]["reasons"].to_string();
        reasons.contains("BudgetBlocks") && !reasons.contains("Draining")
    })
    .await;
    let said = ask(&server, &["status"]).await.unwrap();
    let row = said.lines().find(|line| line.starts_with("n1")).unwrap();
    assert!(row.contains("Draining") && row.contains("BudgetBlocks"), "{said}");
    let said = ask(&server, &["explain", "n1"]).await.unwrap();
    assert!(said.contains("In dock: Draining"), "{said}");
    assert!(said.contains("said BudgetBlocks: default/web:"), "{said}");
    ask(&server, &["cancel", "n1"]).await.unwrap();
    until("the node is let go", || {
        let node = server.get("", "nodes", "", "n1").unwrap();
        let order = upgrade(&server, "n1").unwrap();
        node["spec"]["unschedulable"] != json!(true) && order.spec.dock.is_none()
    })
    .await;
    assert!(agent.reboots.lock().unwrap().is_empty());
    assert!(server.get("", "pods", "default", "web").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_does_not_reboot_before_the_volumes_of_its_pods_are_detached() {
    let (server, dir) = (cluster().await, tempfile::tempdir().unwrap());
    let attachment = |name: &str, node: &str| {
        json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": name},
            "spec": {
                "attacher": "csi.example", "nodeName": node,
                "source": {"persistentVolumeName": format!("pv-{name}")},
            },
        })
    };
    server.put(node("n1")).unwrap();
    server.put(pod("db", "n1")).unwrap();
    server.put(attachment("here", "n1")).unwrap();
    server.put(attachment("elsewhere", "n2")).unwrap();
    let digest = publish_release(&server, dir.path()).await;
    let mut waits = policy();
    waits["spec"]["drain"]["waitForVolumeDetach"] = json!(true);
    server.put(waits).unwrap();
    let agent = Agent::start(&server, "n1", OLD).await;
    let _replica = replica(&server, "coordinator-0", dir.path()).await;
    until("the volume is waited for", || {
        let policy = server.get("drydock.dev", "upgradepolicies", "", "all").unwrap();
        policy["status"]["reasons"]
            .to_string()
            .contains("VolumeDetaching")
            && server.get("", "pods", "default", "db").is_none()
    })
    .await;
    let said = ask(&server, &["explain", "n1"]).await.unwrap();
    assert!(said.contains("VolumeDetaching: pv-here\n"), "{said}");
    assert!(agent.reboots.lock().unwrap().is_empty());
    server
        .delete("storage.k8s.io", "volumeattachments", "", "here")
        .unwrap();
    until("the node is done", || is_done(&server, "n1", &digest)).await;
    assert_eq!(agent.reboots.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_killed_in_the_middle_of_a_drain_is_followed_by_another_that_goes_on() {
    let (server, dir) = (cluster().await, tempfile::tempdir().unwrap());
    for name in ["n1", "n2"] {
        server.put(node(name)).unwrap();
        server.put(pod(&format!("web-{name}"), name)).unwrap();
    }
    let budget = |least: i32| {
        json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "web-budget", "namespace": "default"},
            "spec": {"minAvailable": least, "selector": {"matchLabels": {"app": "web"}}},
        })
    };
    server.put(budget(2)).unwrap();
    let digest = publish_release(&server, dir.path()).await;
    server.put(policy()).unwrap();
    let agents = [
        Agent::start(&server, "n1", OLD).await,
        Agent::start(&server, "n2", OLD).await,
    ];
    let first = replica(&server, "coordinator-0", dir.path()).await;
    let draining = || {
        ["n1", "n2"].into_iter().find_map(|name| {
            let dock = upgrade(&server, name)?.spec.dock?;
            dock.cordoned.is_some().then_some(dock.attempt)
        })
    };
    until("one node is being drained", || draining().is_some()).await;
    let attempt = draining().unwrap();
    drop(first);
    let _second = replica(&server, "coordinator-1", dir.path()).await;
    server.put(budget(0)).unwrap();
    until("both nodes are done", || {
        is_done(&server, "n1", &digest) && is_done(&server, "n2", &digest)
    })
    .await;
    let reboots: Vec<String> = agents
        .iter()
        .flat_map(|agent| agent.reboots.lock().unwrap().clone())
        .collect();
    assert_eq!(reboots.len(), 2, "each node once: {reboots:?}");
    assert!(
        reboots.contains(&attempt),
        "the second leader went on with {attempt}: {reboots:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_a_person_halts_goes_nowhere_until_it_is_forgiven() {
    let (server, dir) = (cluster().await, tempfile::tempdir().unwrap());
    server.put(node("n1")).unwrap();
    let digest = publish_release(&server, dir.path()).await;
    let said = ask(&server, &["halt", &digest, "--reason", "we do not like it"])
        .await
        .unwrap();
    assert!(said.contains("Halted"), "{said}");
    server.put(policy()).unwrap();
    let agent = Agent::start(&server, "n1", OLD).await;
    let _replica = replica(&server, "coordinator-0", dir.path()).await;
    until("the policy says that nothing is left to take", || {
        let policy = server.get("drydock.dev", "upgradepolicies", "", "all").unwrap();
        policy["status"]["conditions"].to_string().contains("Halted")
            || policy["status"]["reasons"].to_string().contains("Halted")
    })
    .await;
    assert!(agent.reboots.lock().unwrap().is_empty());
    let said = ask(&server, &["forgive", &digest]).await.unwrap();
    assert!(said.contains("is lifted: we do not like it"), "{said}");
    until("the node is done", || is_done(&server, "n1", &digest)).await;
}
