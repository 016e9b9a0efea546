//! Agent and guard of one node against the embedded API server; the test is the coordinator.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod node;

use std::sync::atomic::Ordering;
use std::time::Duration;

use drydock_api::{NodeUpgrade, NodeUpgradeStatus};
use drydock_integration::apiserver::{ApiServer, ServerConfig};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use node::{NAME, Node};
use serde_json::{Value, json};

const ATTEMPT: &str = "a1-100-0";

struct Cluster {
    server: ApiServer,
    api: Api<NodeUpgrade>,
    node_uid: String,
}

impl Cluster {
    async fn new() -> Self {
        let server = ApiServer::start(ServerConfig::default()).await.unwrap();
        for crd in drydock_api::crds() {
            server.put(serde_json::to_value(crd).unwrap()).unwrap();
        }
        server
            .put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME}}))
            .unwrap();
        let client = server.client("coordinator").await.unwrap();
        let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
        let node_uid = nodes.get(NAME).await.unwrap().metadata.uid.unwrap();
        Self {
            server,
            api: Api::all(client),
            node_uid,
        }
    }

    async fn agent_client(&self) -> kube::Client {
        self.server.client(&format!("system:node:{NAME}")).await.unwrap()
    }

    async fn create(&self) {
        let owner = json!({
            "apiVersion": "v1", "kind": "Node", "name": NAME, "uid": self.node_uid,
        });
        let object = json!({
            "apiVersion": "drydock.dev/v1alpha1", "kind": "NodeUpgrade",
            "metadata": {"name": NAME, "ownerReferences": [owner]},
            "spec": {},
        });
        let object: NodeUpgrade = serde_json::from_value(object).unwrap();
        self.api.create(&PostParams::default(), &object).await.unwrap();
    }

    async fn spec(&self, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.api
            .patch(NAME, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    /// The status, once it is as wanted and answers the newest spec.
    async fn until(&self, what: &str, wanted: impl Fn(&NodeUpgradeStatus) -> bool) -> NodeUpgradeStatus {
        let mut last = None;
        for _ in 0..1_500 {
            let object = self.api.get(NAME).await.unwrap();
            let status = object.status.clone().unwrap_or_default();
            let answered = status.observed_generation == object.metadata.generation
                && status.observed_uid == object.metadata.uid;
            if answered && wanted(&status) {
                return status;
            }
            last = Some(status);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it never came to `{what}`: {last:#?}");
    }

    async fn wish(&self, node: &Node) {
        self.spec(json!({
            "stage": true,
            "wish": {"repository": "stable", "url": node.url, "digest": node.new, "version": "1.2"},
        }))
        .await;
    }

    fn dock(&self, node: &Node, step: &str) -> Value {
        json!({
            "policy": "p", "attempt": ATTEMPT, "term": 1, "step": step, "since": jiff::Timestamp::now(),
            "digest": node.new, "nodeUid": self.node_uid, "bootId": node.boot_id(),
            "deadlines": {"drain": "10m", "health": "30m", "confirmWait": "10m"},
        })
    }

    async fn grant(&self, node: &Node, lasts: Duration) {
        self.spec(json!({
            "stage": false,
            "dock": self.dock(node, "Granted"),
            "grant": {
                "attempt": ATTEMPT, "nodeUid": self.node_uid, "bootId": node.boot_id(), "digest": node.new,
                "notAfter": jiff::Timestamp::now() + lasts, "confirmWait": "10m",
            },
        }))
        .await;
    }

    async fn verdict(&self, node: &Node, decision: &str) {
        self.spec(json!({"verdict": {
            "attempt": ATTEMPT, "bootId": node.boot_id(), "digest": node.new, "decision": decision,
        }}))
        .await;
    }
}

fn attempt_is(status: &NodeUpgradeStatus, state: &str) -> bool {
    status
        .attempt
        .as_ref()
        .is_some_and(|attempt| attempt.state == state)
}

async fn until_rebooted(node: &Node, reboots: u64) {
    while node.kernel.reboots.load(Ordering::SeqCst) < reboots {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A node whose wish is staged and whose agent has answered the question.
async fn staged() -> (Cluster, Node) {
    let (cluster, mut node) = (Cluster::new().await, Node::new().await);
    node.start(cluster.agent_client().await);
    cluster.create().await;
    let first = cluster
        .until("the first report", |status| {
            status.running == Some(node.old.clone())
        })
        .await;
    assert_eq!(
        (first.guard.as_deref(), first.running_good),
        (Some("full"), Some(true))
    );
    cluster.wish(&node).await;
    let staged = cluster.until("staged", |status| status.staged.is_some()).await;
    assert_eq!(staged.staged, Some(node.new.clone()));
    assert_eq!(staged.timestamp_version, Some(2));
    cluster
        .spec(json!({"stage": false, "dock": cluster.dock(&node, "Asked")}))
        .await;
    let answer = cluster
        .until("the answer", |status| {
            status.agent_state.as_deref() == Some("Staged")
        })
        .await;
    assert_eq!(answer.boot_id, Some(node.boot_id()));
    (cluster, node)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_granted_release_is_armed_tried_confirmed_and_reported() {
    let (cluster, mut node) = staged().await;
    cluster.grant(&node, Duration::from_secs(300)).await;
    until_rebooted(&node, 1).await;
    let old_boot = node.boot_id();
    node.reboot().await;
    node.start(cluster.agent_client().await);
    let confirming = |status: &NodeUpgradeStatus| status.agent_state.as_deref() == Some("Confirming");
    let trial = cluster.until("on trial", |status| {
        confirming(status) && status.running.as_ref() == Some(&node.new)
    });
    let trial = trial.await;
    assert!(attempt_is(&trial, "Trying") && trial.boot_id == Some(node.boot_id()));
    assert_eq!(trial.running_good, Some(false));

    cluster
        .spec(json!({"verdict": {
            "attempt": ATTEMPT, "bootId": old_boot, "digest": node.new, "decision": "confirm",
        }}))
        .await;
    let still = cluster.until("ignored", confirming).await;
    assert_eq!(still.running_good, Some(false), "a word for another boot is none");
    cluster.verdict(&node, "confirm").await;
    let done = cluster
        .until("committed", |status| attempt_is(status, "Committed"))
        .await;
    assert_eq!(
        (done.running_good, done.staged),
        (Some(true), Some(node.old.clone()))
    );
    assert_eq!(node.kernel.reboots.load(Ordering::SeqCst), 1);
    node.stop().await;
}

fn runs(status: &NodeUpgradeStatus, digest: &str) -> bool {
    status.running.as_deref() == Some(digest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_go_back_it_goes_and_the_failure_outlives_the_journal_until_it_is_forgiven() {
    let (cluster, mut node) = staged().await;
    cluster.grant(&node, Duration::from_secs(300)).await;
    until_rebooted(&node, 1).await;
    node.reboot().await;
    node.start(cluster.agent_client().await);
    cluster
        .until("on trial", |status| attempt_is(status, "Trying"))
        .await;
    cluster.verdict(&node, "goBack").await;
    until_rebooted(&node, 2).await;
    node.reboot().await;
    node.start(cluster.agent_client().await);
    // What runs is `unknown` until its slot was hashed.
    let old = node.old.clone();
    let back = |status: &NodeUpgradeStatus| attempt_is(status, "Failed") && runs(status, &old);
    let failed = cluster.until("back", back).await;
    assert_eq!(failed.failed[0].digest, node.new);

    node.stop().await;
    std::fs::remove_file(node.journal()).unwrap();
    node.start(cluster.agent_client().await);
    cluster
        .spec(json!({"dock": null, "grant": null, "verdict": null, "stage": true}))
        .await;
    let kept = cluster
        .until("without a journal", |status| status.attempt.is_none())
        .await;
    assert_eq!(kept.failed[0].digest, node.new);
    cluster.spec(json!({"forgiven": [ATTEMPT]})).await;
    let forgiven = cluster.until("forgiven", |status| status.failed.is_empty()).await;
    assert_eq!(forgiven.last_error, None);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_does_not_hold_arms_nothing() {
    let (cluster, mut node) = staged().await;
    let before = node.writes.writes().len();
    cluster
        .server
        .set_clock_offset(jiff::SignedDuration::from_secs(3_600));
    cluster.grant(&node, Duration::from_secs(300)).await;
    let over = cluster
        .until("over by the server's clock", |status| status.last_error.is_some())
        .await;
    assert_eq!(over.last_error.unwrap().code, "GrantOver");
    assert_eq!(node.writes.writes().len(), before, "nothing was written anywhere");
    assert_eq!(node.kernel.reboots.load(Ordering::SeqCst), 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_reads_back_differently_is_not_armed_and_is_staged_anew() {
    let (cluster, mut node) = staged().await;
    node.spoil_slot_b();
    cluster.grant(&node, Duration::from_secs(300)).await;
    let refused = cluster
        .until("the read-back", |status| status.staged.is_none())
        .await;
    assert_eq!(refused.last_error.unwrap().code, "ReadBackDiffers");
    cluster
        .spec(json!({"grant": null, "dock": null, "stage": true}))
        .await;
    cluster
        .until("staged anew", |status| status.staged == Some(node.new.clone()))
        .await;
    assert_eq!(node.kernel.reboots.load(Ordering::SeqCst), 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_status_and_an_object_made_again_are_written_anew() {
    let (cluster, mut node) = staged().await;
    let empty = Patch::Merge(json!({"status": null}));
    cluster
        .api
        .patch_status(NAME, &PatchParams::default(), &empty)
        .await
        .unwrap();
    cluster
        .until("written again", |status| status.staged == Some(node.new.clone()))
        .await;
    cluster.api.delete(NAME, &DeleteParams::default()).await.unwrap();
    cluster.create().await;
    cluster
        .until("the new object", |status| status.staged == Some(node.new.clone()))
        .await;
    node.stop().await;
}
