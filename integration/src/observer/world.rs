//! The API's objects as the trail of writes tells them, and readings of them. It asks no server.

use std::collections::BTreeMap;
use std::sync::Arc;

use drydock_api::{DockMark, NodeUpgrade, UpgradePolicy, annotation};
use serde_json::Value;

use super::ApiWrite;

/// Resources that are remembered.
const KEPT: [&str; 5] = [
    "nodes",
    "pods",
    "poddisruptionbudgets",
    "nodeupgrades",
    "upgradepolicies",
];

/// See the module.
#[derive(Default)]
pub(super) struct World {
    /// By resource, then by namespace and name.
    objects: BTreeMap<String, BTreeMap<(String, String), Arc<Value>>>,
}

impl World {
    pub(super) fn apply(&mut self, write: &ApiWrite) {
        if !KEPT.contains(&write.resource.as_str()) {
            return;
        }
        let collection = self.objects.entry(write.resource.clone()).or_default();
        let key = (write.namespace.clone(), write.name.clone());
        match &write.after {
            Some(object) => collection.insert(key, object.clone()),
            None => collection.remove(&key),
        };
    }

    pub(super) fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.objects
            .get(resource)?
            .get(&(namespace.to_owned(), name.to_owned()))
            .cloned()
    }

    /// All objects of a resource, by name.
    pub(super) fn of(&self, resource: &str) -> Vec<(String, Arc<Value>)> {
        let all = self.objects.get(resource).into_iter().flatten();
        all.map(|((_, name), object)| (name.clone(), object.clone()))
            .collect()
    }

    pub(super) fn upgrade(&self, node: &str) -> Option<NodeUpgrade> {
        serde_json::from_value((*self.object("nodeupgrades", "", node)?).clone()).ok()
    }

    pub(super) fn policy(&self, name: &str) -> Option<UpgradePolicy> {
        serde_json::from_value((*self.object("upgradepolicies", "", name)?).clone()).ok()
    }
}

pub(super) fn text(object: &Value, path: &str) -> String {
    object
        .pointer(path)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

pub(super) fn flag(object: &Value, path: &str) -> bool {
    object.pointer(path).and_then(Value::as_bool).unwrap_or_default()
}

/// The dock mark of a Node, where it has one of Drydock's form.
pub(super) fn mark(node: &Value) -> Option<DockMark> {
    node.pointer("/metadata/annotations")?
        .get(annotation::DOCK)?
        .as_str()?
        .parse()
        .ok()
}

pub(super) fn is_ready(object: &Value) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let mut ready = conditions.into_iter().flatten().filter(|c| c["type"] == "Ready");
    ready.any(|condition| condition["status"] == "True")
}

pub(super) fn is_deleting(object: &Value) -> bool {
    object
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(Value::is_string)
}

/// Whether a label selector (matchLabels and the four operators) selects an object.
pub(super) fn selects(selector: &Value, object: &Value) -> bool {
    let labels = object.pointer("/metadata/labels");
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let mut fits = equal.into_iter().all(|(key, value)| label(key) == value.as_str());
    for rule in selector["matchExpressions"].as_array().into_iter().flatten() {
        let found = label(rule["key"].as_str().unwrap_or_default());
        let listed = rule["values"]
            .as_array()
            .is_some_and(|values| values.iter().any(|v| v.as_str() == found));
        fits &= match rule["operator"].as_str().unwrap_or_default() {
            "In" => found.is_some() && listed,
            "NotIn" => found.is_none() || !listed,
            "Exists" => found.is_some(),
            "DoesNotExist" => found.is_none(),
            _ => false,
        };
    }
    fits
}

/// Pods that a drain has to move: no DaemonSet's, no static ones, none that are finished.
pub(super) fn has_to_move(pod: &Value) -> bool {
    let owners = pod.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let by_daemon_set = owners
        .into_iter()
        .flatten()
        .any(|owner| owner["kind"] == "DaemonSet");
    let is_static = pod
        .pointer("/metadata/annotations/kubernetes.io~1config.mirror")
        .is_some();
    let phase = text(pod, "/status/phase");
    !by_daemon_set && !is_static && phase != "Succeeded" && phase != "Failed"
}
