//! A whole rollout on the real control plane, with an outage in its middle, and what it used of the
//! rights that the installation gives: all of them, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use drydock_integration::cluster::POLICY;
use drydock_integration::realcluster::{ControlPlane, Identity};
use serde_json::{Value, json};

use crate::fleet::{Agents, Fleet, PATIENCE, at_rest};
use crate::requests::{ask, get, post, until};
use crate::rights::{self, Used};
use crate::tools::{DRYDOCK, SOON, admin, drydock, sink};

pub async fn story(cluster: Arc<ControlPlane>) {
    let begun = cluster.audit().mark().unwrap();
    let names = ["pier-1", "pier-2"];
    let mut fleet = Fleet::prepare(cluster.clone(), &names).await;
    fleet.power_on(Agents::Pods).await;
    fleet.apply_workloads().await;
    for name in ["coordinator-1", "coordinator-2"] {
        fleet.start_replica(name).await;
    }
    fleet.apply_policy().await;
    let first = fleet.first.digest.clone();
    fleet
        .until("every agent reports the first release", |seen| {
            seen.iter().all(|node| at_rest(node, &first))
        })
        .await;
    all_pods_ready(&fleet).await;

    let second = fleet.publish(1).await;
    fleet
        .until("a node drains", |seen| {
            seen.iter()
                .any(|(_, node)| node["spec"]["unschedulable"] == json!(true))
        })
        .await;
    let outage = jiff::Timestamp::now();
    cluster.stop_api_server().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.start_api_server().await.unwrap();
    let back = jiff::Timestamp::now();
    fleet
        .until("every node runs the second release", |seen| {
            seen.iter().all(|node| at_rest(node, &second))
        })
        .await;
    println!(
        "every node runs the second release {:.1} s after the outage",
        jiff::Timestamp::now().duration_since(back).as_secs_f64()
    );
    all_pods_ready(&fleet).await;

    let bad = fleet.publish(2).await;
    let halt = format!("{DRYDOCK}/releasehalts/{}", bad.replace(':', "-"));
    until(PATIENCE, || get(&fleet.admin, &halt), |answer| answer.code == 200).await;
    fleet
        .until("the node is back", |seen| {
            seen.iter().all(|node| at_rest(node, &second))
        })
        .await;
    let boots: Vec<u32> = fleet.nodes.iter().map(|node| node.status().boots).collect();
    assert_eq!(
        boots.iter().sum::<u32>(),
        2 + 2 + 2,
        "one node alone has tried it: {boots:?}"
    );
    forgive(&fleet, &bad, &halt).await;

    let (told, ended) = drydock(&cluster, &Identity::Admin, &["doctor"]).await;
    assert!(ended.is_ok(), "the doctor of a cluster at work: {told}");
    println!("{told}");

    let used = Used::of(&cluster, begun).await;
    let is_settling =
        |at: jiff::Timestamp| at > outage && at.duration_since(back) < jiff::SignedDuration::from_secs(10);
    used.compare(&rights::AGENTS_AS_PODS, is_settling);
    drop(fleet);
    sink(&admin(&cluster).await, &names).await;
}

/// A person forgives a release, by the rights of `drydock-operator`.
async fn forgive(fleet: &Fleet, bad: &str, halt: &str) {
    // Or the canary would try it again at once.
    let policy = format!("{DRYDOCK}/upgradepolicies/{POLICY}");
    let paused = json!({"spec": {"paused": true}});
    ask(&fleet.admin, "PATCH", &policy, Some(&paused)).await.clean();
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "joan"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "drydock-operator"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "joan"}],
    });
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    post(&fleet.admin, bindings, &binding).await.clean();
    let joan = Identity::user("joan", &[]);
    let client = fleet.cluster.client(&joan).await.unwrap();
    until(SOON, || get(&client, &policy), |answer| answer.code == 200).await;
    let (told, ended) = drydock(&fleet.cluster, &joan, &["forgive", bad]).await;
    assert!(ended.is_ok(), "{told} {ended:?}");
    println!("{told}");
    assert_eq!(get(&fleet.admin, halt).await.code, 404);
    for words in [&["status"][..], &["plan"], &["explain"]] {
        let (told, ended) = drydock(&fleet.cluster, &joan, words).await;
        assert!(ended.is_ok(), "{words:?}: {told} {ended:?}");
    }
}

async fn all_pods_ready(fleet: &Fleet) {
    let ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array();
        conditions.is_some_and(|all| {
            all.iter()
                .any(|one| one["type"] == "Ready" && one["status"] == "True")
        })
    };
    let path = "/api/v1/namespaces/shop/pods";
    until(
        PATIENCE,
        || get(&fleet.admin, path),
        |answer| {
            let pods = answer.body["items"].as_array();
            pods.is_some_and(|pods| pods.len() >= 6 && pods.iter().all(ready))
        },
    )
    .await;
}

/// Agents as units: the same, by the kubelet's credential.
pub async fn units(cluster: Arc<ControlPlane>) {
    crate::apply::as_units(&cluster).await;
    let begun = cluster.audit().mark().unwrap();
    let mut fleet = Fleet::prepare(cluster.clone(), &["pier-3"]).await;
    fleet.power_on(Agents::Units).await;
    fleet.start_replica("coordinator-1").await;
    let first = fleet.first.digest.clone();
    fleet
        .until("the agent reports", |seen| {
            seen.iter().all(|node| at_rest(node, &first))
        })
        .await;
    // A watch is in the log when it has begun.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let used = Used::of(&cluster, begun).await;
    used.compare(&rights::AGENTS_AS_UNITS, |_| false);
    drop(fleet);
    sink(&admin(&cluster).await, &["pier-3"]).await;
}
