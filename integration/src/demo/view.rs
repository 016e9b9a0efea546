//! What the demo shows: read from the same objects that `kubectl` would show, and from nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use drydock_api::{NodeUpgrade, NodeUpgradeStatus, PolicyStatus, ReleaseHalt, UpgradePolicy};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::insight::Insight;
use crate::cluster::{POLICY, SHOP, SimCluster};

/// What a look is made of: objects as an API server has them.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// Names of the nodes, in the order in which they are shown.
    pub names: Vec<String>,
    /// Nodes.
    pub nodes: Vec<Arc<Value>>,
    /// NodeUpgrades.
    pub upgrades: Vec<Arc<Value>>,
    /// The UpgradePolicy.
    pub policy: Option<Arc<Value>>,
    /// ReleaseHalts.
    pub halts: Vec<Arc<Value>>,
    /// Pods of all namespaces.
    pub pods: Vec<Arc<Value>>,
    /// Deployments of the apps.
    pub deployments: Vec<Arc<Value>>,
    /// Their budgets.
    pub budgets: Vec<Arc<Value>>,
    /// The replica that leads.
    pub leader: Option<String>,
}

impl Objects {
    fn of(cluster: &SimCluster) -> Self {
        let api = &cluster.api;
        Self {
            names: cluster.node_names(),
            nodes: api.list("", "nodes", ""),
            upgrades: api.list("drydock.dev", "nodeupgrades", ""),
            policy: api.get("drydock.dev", "upgradepolicies", "", POLICY),
            halts: api.list("drydock.dev", "releasehalts", ""),
            pods: api.list("", "pods", ""),
            deployments: api.list("apps", "deployments", SHOP),
            budgets: api.list("policy", "poddisruptionbudgets", SHOP),
            leader: cluster.leader(),
        }
    }
}

/// One look at the cluster.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The nodes, in their order.
    pub nodes: Vec<NodeRow>,
    /// The policy's status.
    pub policy: PolicyStatus,
    /// The coordinator that leads, if any, and its term.
    pub leader: Option<String>,
    /// What was halted.
    pub halts: Vec<ReleaseHalt>,
    /// For each app: pods that are ready, pods there should be, and how many the budget wants.
    pub apps: Vec<AppRow>,
}

/// One node.
#[derive(Debug, Clone, Default)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Where it is in its upgrade.
    pub phase: String,
    /// Why it waits; empty if it does not.
    pub why: String,
    /// The Node is Ready.
    pub ready: bool,
    /// The Node is cordoned.
    pub cordoned: bool,
    /// It has a place in dock.
    pub docked: bool,
    /// Its committed release still soaks.
    pub soaking: bool,
    /// What its agent reports.
    pub status: NodeUpgradeStatus,
    /// Pods on it that a drain has to move.
    pub pods: usize,
    /// Of these, those that are on their way out.
    pub leaving: usize,
}

impl NodeRow {
    /// It runs this release, marked good.
    #[must_use]
    pub fn runs(&self, digest: &str) -> bool {
        self.ready && self.status.running.as_deref() == Some(digest) && self.status.running_good == Some(true)
    }

    /// It is nobody's business now.
    #[must_use]
    pub fn at_rest(&self) -> bool {
        self.ready && !self.cordoned && !self.docked && !self.soaking
    }

    /// Pods are on their way out of it.
    #[must_use]
    pub fn drains(&self) -> bool {
        self.cordoned && self.docked && self.leaving > 0
    }
}

/// One app.
#[derive(Debug, Clone, Default)]
pub struct AppRow {
    /// Its name.
    pub name: String,
    /// Pods that are ready.
    pub ready: i64,
    /// Pods there should be.
    pub wanted: i64,
    /// Pods that its budget wants ready; none if it has no budget.
    pub budget: Option<i64>,
}

impl Snapshot {
    /// The node of this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeRow> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// Every pod of every app is ready, and there are apps.
    #[must_use]
    pub fn all_pods_ready(&self) -> bool {
        let is_whole = |app: &AppRow| app.wanted > 0 && app.ready == app.wanted;
        !self.apps.is_empty() && self.apps.iter().all(is_whole)
    }

    /// The same, with the particulars of each reason that the planner knows.
    #[must_use]
    pub fn told(mut self, insight: &Insight) -> Self {
        for node in &mut self.nodes {
            node.why = insight.why(&node.name, &node.why);
        }
        self
    }

    /// Looks at the cluster.
    #[must_use]
    pub fn take(cluster: &SimCluster) -> Self {
        Self::of(&Objects::of(cluster))
    }

    /// What these objects show.
    #[must_use]
    pub fn of(objects: &Objects) -> Self {
        let policy: Option<UpgradePolicy> = typed(objects.policy.as_ref());
        let policy = policy.and_then(|policy| policy.status).unwrap_or_default();
        let upgrades: BTreeMap<String, NodeUpgrade> = objects
            .upgrades
            .iter()
            .filter_map(|object| typed::<NodeUpgrade>(Some(object)))
            .filter_map(|upgrade| Some((upgrade.metadata.name.clone()?, upgrade)))
            .collect();
        let nodes = objects.names.iter().map(|name| {
            let object = named(&objects.nodes, name);
            let moving: Vec<_> = objects
                .pods
                .iter()
                .filter(|pod| pod["spec"]["nodeName"] == name.as_str())
                .filter(|pod| pod["metadata"]["ownerReferences"][0]["kind"] != "DaemonSet")
                .collect();
            let leaving = moving
                .iter()
                .filter(|pod| pod["metadata"]["deletionTimestamp"].is_string());
            let (pods, leaving) = (moving.len(), leaving.count());
            let row = row(name, object, upgrades.get(name), &policy);
            NodeRow { pods, leaving, ..row }
        });
        Self {
            nodes: nodes.collect(),
            policy,
            leader: objects.leader.clone(),
            halts: objects
                .halts
                .iter()
                .filter_map(|object| typed(Some(object)))
                .collect(),
            apps: apps(objects),
        }
    }
}

fn named<'a>(objects: &'a [Arc<Value>], name: &str) -> Option<&'a Value> {
    let mut found = objects.iter().filter(|object| object["metadata"]["name"] == name);
    found.next().map(Arc::as_ref)
}

fn typed<T: DeserializeOwned>(object: Option<&Arc<Value>>) -> Option<T> {
    serde_json::from_value(Value::clone(object?)).ok()
}

fn row(name: &str, node: Option<&Value>, upgrade: Option<&NodeUpgrade>, policy: &PolicyStatus) -> NodeRow {
    let conditions = node
        .and_then(|node| node.pointer("/status/conditions"))
        .and_then(Value::as_array);
    let mut ready = conditions
        .into_iter()
        .flatten()
        .filter(|condition| condition["type"] == "Ready");
    let spec = upgrade.map(|upgrade| upgrade.spec.clone()).unwrap_or_default();
    let named = |counts: &[drydock_api::Count]| {
        let count = counts
            .iter()
            .find(|count| count.names.iter().any(|one| one == name));
        count.map(|count| count.name.clone()).unwrap_or_default()
    };
    NodeRow {
        name: name.to_owned(),
        phase: named(&policy.phases),
        why: named(&policy.reasons),
        ready: ready.any(|condition| condition["status"] == "True"),
        cordoned: node.is_some_and(|node| node["spec"]["unschedulable"] == true),
        docked: spec.dock.is_some() || policy.dock.iter().any(|entry| entry.node == name),
        soaking: spec.soak.is_some_and(|soak| !soak.passed),
        status: upgrade
            .and_then(|upgrade| upgrade.status.clone())
            .unwrap_or_default(),
        pods: 0,
        leaving: 0,
    }
}

fn apps(objects: &Objects) -> Vec<AppRow> {
    let rows = objects.deployments.iter().map(|deployment| {
        let name = deployment["metadata"]["name"].as_str().unwrap_or_default();
        let budget = named(&objects.budgets, name);
        AppRow {
            name: name.to_owned(),
            ready: deployment["status"]["readyReplicas"].as_i64().unwrap_or_default(),
            wanted: deployment["spec"]["replicas"].as_i64().unwrap_or_default(),
            budget: budget.and_then(|budget| budget["spec"]["minAvailable"].as_i64()),
        }
    });
    rows.collect()
}

/// Bytes as people read them.
#[must_use]
pub fn bytes(count: i64) -> String {
    if count <= 0 {
        return "-".to_owned();
    }
    let count = count as f64;
    let mib = count / f64::from(1 << 20);
    if mib >= 0.1 {
        format!("{mib:.1} MiB")
    } else {
        format!("{:.1} KiB", count / 1024.0)
    }
}

/// The first digits of a digest.
#[must_use]
pub fn short(digest: &str) -> String {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.chars().take(12).collect()
}

/// A clock time in UTC.
#[must_use]
pub fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%S").to_string()
}
