//! What budgets count, and when they have seen it.

use serde_json::{Value, json};

use super::talk::{Answer, Talk, pod, running};

/// A ReplicaSet of this many, and its ready pods: nobody else makes them.
pub async fn workload(t: &Talk, replicas: usize) -> String {
    let node = t.node().await;
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec =
        json!({"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    let set = json!({"metadata": {"name": "web"}, "spec": spec});
    let set = t.post(&t.of("apps/v1", "replicasets"), set).await.ok();
    for i in 0..replicas {
        let mut pod = pod(&format!("web-{i}"), &node);
        pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": set["metadata"]["uid"], "controller": true}]);
        t.pod(pod, running()).await;
    }
    node
}

pub fn budget(name: &str, mut spec: Value) -> Value {
    if spec.get("selector").is_none() {
        spec["selector"] = json!({"matchLabels": {"app": "web"}});
    }
    json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": spec})
}

/// Wait until the budget has seen its newest spec and shows this.
pub async fn settled(t: &Talk, name: &str, is_wanted: impl Fn(&Value) -> bool) -> Answer {
    t.until("the budget's status", &t.pdb(&format!("/{name}")), |a| {
        a.body["status"]["observedGeneration"] == a.body["metadata"]["generation"]
            && is_wanted(&a.body["status"])
    })
    .await
}

pub async fn numbers(t: Talk) {
    workload(&t, 4).await;
    for (name, spec) in [
        ("number", json!({"minAvailable": 3})),
        ("percent", json!({"minAvailable": "60%"})),
        ("all", json!({"minAvailable": "100%"})),
        ("more", json!({"minAvailable": 9})),
        ("most", json!({"maxUnavailable": 1})),
        ("most-percent", json!({"maxUnavailable": "30%"})),
        ("none", json!({"maxUnavailable": 0})),
        ("zero-percent", json!({"maxUnavailable": "0%"})),
    ] {
        t.post(&t.pdb(""), budget(name, spec)).await.ok();
        let status = settled(&t, name, |s| s["currentHealthy"] == 4).await;
        t.note(name, status.body["status"].clone());
    }
}

pub async fn changes(t: Talk) {
    workload(&t, 3).await;
    t.post(&t.pdb(""), budget("b", json!({"maxUnavailable": 1})))
        .await
        .ok();
    settled(&t, "b", |s| s["currentHealthy"] == 3).await;
    let broken = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    t.merge(&t.core("pods/web-0/status"), broken).await.ok();
    let status = settled(&t, "b", |s| s["currentHealthy"] == 2).await;
    t.note("a pod breaks", status.body["status"].clone());
    t.merge(
        &t.of("apps/v1", "replicasets/web"),
        json!({"spec": {"replicas": 2}}),
    )
    .await
    .ok();
    // On the real server nobody looks because of a scale alone: a pod's change makes it look.
    t.delete(&t.core("pods/web-0"), json!({"gracePeriodSeconds": 0}))
        .await
        .ok();
    let status = settled(&t, "b", |s| s["expectedPods"] == 2).await;
    t.note("it is scaled down", status.body["status"].clone());
    t.merge(&t.pdb("/b"), json!({"spec": {"maxUnavailable": "50%"}}))
        .await
        .ok();
    let status = settled(&t, "b", |s| s["disruptionsAllowed"] == 1).await;
    t.note("another spec", status.body["status"].clone());
    t.merge(&t.pdb("/b"), json!({"spec": {"maxUnavailable": 0}}))
        .await
        .ok();
    let status = settled(&t, "b", |s| s["disruptionsAllowed"] == 0).await;
    t.note("none may go", status.body["status"].clone());
}

pub async fn selectors(t: Talk) {
    let node = t.node().await;
    for (name, phase) in [
        ("a", "Running"),
        ("b", "Running"),
        ("done", "Succeeded"),
        ("waits", "Pending"),
    ] {
        let mut status = running();
        status["phase"] = json!(phase);
        t.pod(pod(name, &node), status).await;
    }
    for (name, selector) in [
        ("every", json!({})),
        (
            "expression",
            json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]}),
        ),
        ("nobody", json!({"matchLabels": {"app": "none"}})),
    ] {
        t.post(
            &t.pdb(""),
            budget(name, json!({"minAvailable": 1, "selector": selector})),
        )
        .await
        .ok();
        let status = settled(&t, name, |_| true).await;
        t.note(name, status.body["status"].clone());
    }
    let mut none = budget("no selector", json!({"minAvailable": 1}));
    none["metadata"]["name"] = json!("no-selector");
    none["spec"].as_object_mut().unwrap().remove("selector");
    t.post(&t.pdb(""), none).await.ok();
    let status = settled(&t, "no-selector", |_| true).await;
    t.note("no selector", status.body["status"].clone());
    // Pods that nobody controls: a number can be counted, a share of nobody knows what cannot.
    t.post(&t.pdb(""), budget("share", json!({"minAvailable": "50%"})))
        .await
        .ok();
    let status = t
        .until("a condition", &t.pdb("/share"), |a| {
            a.body["status"]["conditions"].is_array()
        })
        .await;
    t.note("a share of unmanaged pods", status.body["status"].clone());
}
