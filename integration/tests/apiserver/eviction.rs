//! Evictions and the budgets they ask.

use drydock_integration::apiserver::ApiServer;
use serde_json::{Value, json};

use super::{Caller, eventually, running, server_and_caller};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn budget(name: &str, spec: Value) -> Value {
    let mut pdb = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name, "namespace": "default"}, "spec": spec});
    pdb["spec"]["selector"] = json!({"matchLabels": {"app": "web"}});
    pdb
}

async fn evict(caller: &Caller, pod: &str, options: Value) -> super::Answer {
    let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "default"}, "deleteOptions": options});
    caller.post(&format!("{PODS}/{pod}/eviction"), body).await
}

async fn budget_status(server: &ApiServer, name: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(server, "the budget's status", || {
        let pdb = server.get("policy", "poddisruptionbudgets", "default", name)?;
        let current = pdb["status"]["observedGeneration"] == pdb["metadata"]["generation"];
        Some(pdb["status"].clone()).filter(|s| current && is_wanted(s))
    })
    .await
}

/// A ReplicaSet of a Deployment of this many replicas, and its ready pods.
fn workload(server: &ApiServer, replicas: usize) {
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec =
        json!({"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    let owner = |o: &Value| json!([{"apiVersion": o["apiVersion"], "kind": o["kind"], "name": o["metadata"]["name"], "uid": o["metadata"]["uid"], "controller": true}]);
    let deployment = server
        .put(
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}),
        )
        .unwrap();
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web-1", "ownerReferences": owner(&deployment)}, "spec": spec});
    let set = server.put(set).unwrap();
    for i in 0..replicas {
        let mut pod = running(&format!("web-{i}"), "n1");
        pod["metadata"]["ownerReferences"] = owner(&set);
        server.put(pod).unwrap();
    }
}

#[tokio::test]
async fn a_budgets_status_follows_pods_and_the_scale_behind_them() {
    let (server, caller) = server_and_caller().await;
    workload(&server, 4);
    for (name, spec, desired, allowed) in [
        ("number", json!({"minAvailable": 3}), 3, 1),
        ("percent", json!({"minAvailable": "60%"}), 3, 1),
        ("most", json!({"maxUnavailable": 1}), 3, 1),
        ("most-percent", json!({"maxUnavailable": "30%"}), 2, 2),
        ("none", json!({"maxUnavailable": 0}), 4, 0),
    ] {
        server.put(budget(name, spec)).unwrap();
        let status = budget_status(&server, name, |s| s["currentHealthy"] == 4).await;
        assert_eq!(
            (
                &status["expectedPods"],
                &status["desiredHealthy"],
                &status["disruptionsAllowed"]
            ),
            (&json!(4), &json!(desired), &json!(allowed)),
            "{name}"
        );
        let condition = &status["conditions"][0];
        assert_eq!(
            condition["reason"],
            if allowed > 0 {
                "SufficientPods"
            } else {
                "InsufficientPods"
            }
        );
    }
    let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    caller
        .merge(&format!("{PODS}/web-0/status"), not_ready)
        .await
        .ok();
    let status = budget_status(&server, "most", |s| s["currentHealthy"] == 3).await;
    assert_eq!(status["disruptionsAllowed"], 0);
    caller
        .merge(
            "/apis/apps/v1/namespaces/default/deployments/web",
            json!({"spec": {"replicas": 2}}),
        )
        .await
        .ok();
    let status = budget_status(&server, "most", |s| s["expectedPods"] == 2).await;
    assert_eq!(
        (&status["desiredHealthy"], &status["disruptionsAllowed"]),
        (&json!(1), &json!(2))
    );
}

#[tokio::test]
async fn the_budget_says_no_in_the_servers_words_and_yes_once() {
    let (server, caller) = server_and_caller().await;
    workload(&server, 3);
    server.put(budget("web", json!({"minAvailable": 2}))).unwrap();
    budget_status(&server, "web", |s| s["disruptionsAllowed"] == 1).await;
    let dry = evict(&caller, "web-0", json!({"dryRun": ["All"]})).await;
    assert_eq!(dry.code, 201);
    let uid = server.get("", "pods", "default", "web-0").unwrap()["metadata"]["uid"].clone();
    let wrong = evict(&caller, "web-0", json!({"preconditions": {"uid": "other"}})).await;
    assert!(
        wrong
            .fails(409, "Conflict")
            .contains("the UID in the precondition (other)")
    );
    // As on the real server, the budget had been charged before the precondition failed.
    budget_status(&server, "web", |s| s["disruptedPods"]["web-0"].is_string()).await;
    let blocked = evict(&caller, "web-1", json!({})).await;
    let message = blocked.fails(429, "TooManyRequests");
    assert_eq!(
        message,
        "Cannot evict pod as it would violate the pod's disruption budget."
    );
    let cause = &blocked.body["details"]["causes"][0];
    assert_eq!(cause["reason"], "DisruptionBudget");
    assert_eq!(
        cause["message"],
        "The disruption budget web needs 2 healthy pods and has 2 currently"
    );
    assert!(!blocked.headers.contains_key("retry-after"));
    caller
        .delete(
            &format!("{PODS}/web-0"),
            json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}),
        )
        .await
        .ok();
    server.put(running("web-0", "n2")).unwrap();
    budget_status(&server, "web", |s| {
        s["disruptionsAllowed"] == 1 && s["disruptedPods"].is_null()
    })
    .await;
    let ok = evict(&caller, "web-1", json!({"gracePeriodSeconds": 7})).await;
    assert_eq!((ok.code, &ok.body["status"]), (201, &json!("Success")));
    let pod = server.get("", "pods", "default", "web-1").unwrap();
    assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 7);
    let target = pod["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["type"] == "DisruptionTarget")
        .unwrap();
    assert_eq!(
        (&target["status"], &target["reason"]),
        (&json!("True"), &json!("EvictionByEvictionAPI"))
    );
}

#[tokio::test]
async fn pods_that_serve_nobody_pass_the_budget_by() {
    let (server, caller) = server_and_caller().await;
    workload(&server, 1);
    server.put(budget("web", json!({"maxUnavailable": 0}))).unwrap();
    for (name, phase) in [("done", "Succeeded"), ("failed", "Failed"), ("waits", "Pending")] {
        let mut pod = running(name, "n1");
        pod["status"] = json!({"phase": phase});
        server.put(pod).unwrap();
        assert_eq!(evict(&caller, name, json!({})).await.code, 201, "{name}");
    }
    caller.delete(&format!("{PODS}/web-0"), json!({})).await.ok();
    assert_eq!(
        evict(&caller, "web-0", json!({})).await.code,
        201,
        "already deleting"
    );
    evict(&caller, "nobody", json!({})).await.fails(404, "NotFound");
}

#[tokio::test]
async fn unhealthy_pods_go_as_the_policy_says() {
    let (server, caller) = server_and_caller().await;
    workload(&server, 3);
    let break_pod = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    caller
        .merge(&format!("{PODS}/web-0/status"), break_pod.clone())
        .await
        .ok();
    caller
        .merge(&format!("{PODS}/web-1/status"), break_pod)
        .await
        .ok();
    server.put(budget("web", json!({"minAvailable": 2}))).unwrap();
    budget_status(&server, "web", |s| s["currentHealthy"] == 1).await;
    evict(&caller, "web-0", json!({}))
        .await
        .fails(429, "TooManyRequests");
    let path = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/web";
    caller
        .merge(
            path,
            json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}}),
        )
        .await
        .ok();
    budget_status(&server, "web", |_| true).await;
    assert_eq!(evict(&caller, "web-0", json!({})).await.code, 201);
    let allow_if_healthy = json!({"spec": {"unhealthyPodEvictionPolicy": null, "minAvailable": 1}});
    caller.merge(path, allow_if_healthy).await.ok();
    budget_status(&server, "web", |s| s["desiredHealthy"] == 1).await;
    assert_eq!(
        evict(&caller, "web-1", json!({})).await.code,
        201,
        "enough others are healthy"
    );
}

#[tokio::test]
async fn two_budgets_over_one_pod_never_heal() {
    let (server, caller) = server_and_caller().await;
    workload(&server, 2);
    server.put(budget("one", json!({"maxUnavailable": 1}))).unwrap();
    server.put(budget("two", json!({"maxUnavailable": 1}))).unwrap();
    let refused = evict(&caller, "web-0", json!({})).await;
    assert_eq!(refused.code, 500);
    assert_eq!(
        refused.message(),
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
    );
}

#[tokio::test]
async fn an_empty_selector_means_every_pod_and_none_means_no_pod() {
    let (server, caller) = server_and_caller().await;
    workload(&server, 1);
    let mut all = budget("all", json!({"maxUnavailable": 0}));
    all["spec"]["selector"] = json!({});
    server.put(all).unwrap();
    let mut none = budget("none", json!({"maxUnavailable": 0}));
    none["spec"].as_object_mut().unwrap().remove("selector");
    server.put(none).unwrap();
    budget_status(&server, "all", |s| s["expectedPods"] == 1).await;
    evict(&caller, "web-0", json!({}))
        .await
        .fails(429, "TooManyRequests");
    server
        .delete("policy", "poddisruptionbudgets", "default", "all")
        .unwrap();
    assert_eq!(evict(&caller, "web-0", json!({})).await.code, 201);
}
