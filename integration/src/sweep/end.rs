//! How things stand, read from the API: whether everything is up, and at the end what is not as it should
//! be. It writes nothing.

use drydock_api::{GROUP, NodeUpgrade, annotation};
use serde_json::Value;

use super::course::NODE;
use super::scenery::Scenery;
use crate::cluster::{POLICY, SHOP, SimCluster};

pub(super) fn all_up(cluster: &SimCluster) -> bool {
    let nodes = cluster.node_names().iter().all(|name| {
        let node = cluster.api.get("", "nodes", "", name);
        let conditions = node
            .as_deref()
            .and_then(|node| node.pointer("/status/conditions")?.as_array());
        conditions.is_some_and(|all| {
            all.iter()
                .any(|one| one["type"] == "Ready" && one["status"] == "True")
        })
    });
    let apps = cluster.api.list("apps", "deployments", SHOP);
    let wanted: u64 = apps
        .iter()
        .filter_map(|app| app["spec"]["replicas"].as_u64())
        .sum();
    let pods = cluster.api.list("", "pods", SHOP);
    let running = pods
        .iter()
        .filter(|pod| pod["status"]["phase"] == "Running")
        .count();
    nodes && wanted > 0 && running as u64 >= wanted
}

pub(super) fn upgrade(cluster: &SimCluster, node: &str) -> Option<NodeUpgrade> {
    let object = cluster.api.get(GROUP, "nodeupgrades", "", node)?;
    serde_json::from_value((*object).clone()).ok()
}

pub(super) fn runs(upgrade: &NodeUpgrade, digest: &str) -> bool {
    let status = upgrade.status.clone().unwrap_or_default();
    status.running.as_deref() == Some(digest) && status.running_good == Some(true)
}

/// What does not stand as it should when all is over.
pub(super) fn missing_at_the_end(cluster: &SimCluster, scenery: &Scenery, second: &str) -> Vec<String> {
    let mut missing = Vec::new();
    let mut must = |held: bool, what: &str| {
        if !held {
            missing.push(what.to_owned());
        }
    };
    let first = &cluster.first.digest;
    let wanted = if scenery.good() { second } else { first };
    let now = upgrade(cluster, NODE);
    must(
        now.as_ref().is_some_and(|u| runs(u, wanted)),
        "the node runs what it should, marked good",
    );
    must(
        now.as_ref().is_some_and(|u| u.spec.dock.is_none()),
        "its NodeUpgrade is out of dock",
    );
    must(
        now.as_ref().is_some_and(|u| u.spec.grant.is_none()),
        "no grant is out",
    );
    let soaked = |u: &NodeUpgrade| u.spec.soak.as_ref().is_none_or(|soak| soak.passed);
    must(now.as_ref().is_some_and(soaked), "its soak is over");
    for name in cluster.node_names() {
        let node = cluster.api.get("", "nodes", "", &name);
        let node = node.as_deref().unwrap_or(&Value::Null);
        let marks = &node["metadata"]["annotations"];
        must(
            node["spec"]["unschedulable"].as_bool() != Some(true),
            &format!("{name} is schedulable"),
        );
        must(marks[annotation::DOCK].is_null(), &format!("{name} has no mark"));
    }
    let policy = cluster.api.get(GROUP, "upgradepolicies", "", POLICY);
    let dock = policy
        .as_ref()
        .and_then(|policy| policy.pointer("/status/dock"))
        .and_then(Value::as_array);
    must(dock.is_none_or(Vec::is_empty), "the dock is empty");
    let halted = cluster.api.list(GROUP, "releasehalts", "").len();
    if scenery.good() {
        must(halted == 0, "nothing is halted");
    } else {
        must(halted == 1, "the bad release is halted");
    }
    let other = cluster.nodes.iter().find(|node| node.name() != NODE);
    must(
        other.is_some_and(|node| node.status().boots == 1),
        "the other node was left alone",
    );
    missing
}
