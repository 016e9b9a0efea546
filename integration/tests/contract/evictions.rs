//! Evictions: every answer that a drain meets.

use serde_json::{Value, json};

use super::budgets::{budget, settled, workload};
use super::talk::{Answer, Talk, pod, running};

async fn evict(t: &Talk, pod: &str, options: Value) -> Answer {
    let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": t.ns}, "deleteOptions": options});
    t.post(&t.core(&format!("pods/{pod}/eviction")), body).await
}

pub async fn answers(t: Talk) {
    let node = t.node().await;
    for name in ["a", "b", "c", "d"] {
        t.pod(pod(name, &node), running()).await;
    }
    t.expect("no such pod", 404, evict(&t, "none", json!({})).await);
    let misnamed = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "b"}});
    t.told("another name", t.post(&t.core("pods/a/eviction"), misnamed).await);
    let elsewhere = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a", "namespace": "other"}});
    t.told(
        "another namespace",
        t.post(&t.core("pods/a/eviction"), elsewhere).await,
    );
    let beta = json!({"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": "a"}});
    t.told(
        "another version",
        t.post(&t.core("pods/a/eviction?dryRun=All"), beta).await,
    );
    t.told(
        "no kind",
        t.post(
            &t.core("pods/a/eviction?dryRun=All"),
            json!({"metadata": {"name": "a"}}),
        )
        .await,
    );
    t.expect("a dry run", 201, evict(&t, "a", json!({"dryRun": ["All"]})).await);
    t.expect(
        "a dry run by the query",
        201,
        t.post(
            &t.core("pods/a/eviction?dryRun=All"),
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"}}),
        )
        .await,
    );
    let other = json!({"preconditions": {"uid": "11111111-1111-1111-1111-111111111111"}});
    t.expect("another UID", 409, evict(&t, "a", other).await);
    t.expect(
        "another version of it",
        409,
        evict(&t, "a", json!({"preconditions": {"resourceVersion": "1"}})).await,
    );
    let uid = t.get(&t.core("pods/a")).await.body["metadata"]["uid"].clone();
    t.expect(
        "yes",
        201,
        evict(
            &t,
            "a",
            json!({"gracePeriodSeconds": 7, "preconditions": {"uid": uid}}),
        )
        .await,
    );
    let going = t.get(&t.core("pods/a")).await;
    t.parts(
        "the pod goes",
        &going,
        &[
            "/metadata/deletionTimestamp",
            "/metadata/deletionGracePeriodSeconds",
            "/status/phase",
        ],
    );
    t.note(
        "its conditions",
        super::talk::lean(&going.body["status"]["conditions"]),
    );
    t.expect("once more", 201, evict(&t, "a", json!({})).await);
    t.expect("the default grace period", 201, evict(&t, "b", json!({})).await);
    t.parts(
        "thirty seconds",
        &t.get(&t.core("pods/b")).await,
        &["/metadata/deletionGracePeriodSeconds"],
    );
    t.expect(
        "at once",
        201,
        evict(&t, "c", json!({"gracePeriodSeconds": 0})).await,
    );
    t.told("is it gone", t.get(&t.core("pods/c")).await);
    t.told(
        "below nothing",
        evict(&t, "d", json!({"gracePeriodSeconds": -5})).await,
    );
}

pub async fn budget_of_one(t: Talk) {
    workload(&t, 3).await;
    t.post(&t.pdb(""), budget("web", json!({"minAvailable": 2})))
        .await
        .ok();
    settled(&t, "web", |s| s["disruptionsAllowed"] == 1).await;
    t.expect("allowed", 201, evict(&t, "web-0", json!({})).await);
    let charged = t.get(&t.pdb("/web")).await;
    assert!(
        charged.body["status"]["disruptionsAllowed"] == 0,
        "{}",
        charged.body
    );
    let disrupted = charged.body["status"]["disruptedPods"]
        .as_object()
        .map(|pods| pods.keys().cloned().collect::<Vec<_>>());
    t.note(
        "charged at once, or counted already",
        json!(disrupted.is_none_or(|pods| pods == ["web-0"])),
    );
    settled(&t, "web", |s| s["currentHealthy"] == 2).await;
    let refused = evict(&t, "web-1", json!({})).await;
    assert_eq!(refused.body["details"]["causes"][0]["reason"], "DisruptionBudget");
    t.expect("refused", 429, refused);
    t.expect(
        "a dry run is refused too",
        429,
        evict(&t, "web-1", json!({"dryRun": ["All"]})).await,
    );
    t.expect(
        "at once is refused too",
        429,
        evict(&t, "web-1", json!({"gracePeriodSeconds": 0})).await,
    );
    t.delete(&t.core("pods/web-0"), json!({"gracePeriodSeconds": 0}))
        .await
        .ok();
    t.merge(&t.pdb("/web"), json!({"spec": {"minAvailable": 1}}))
        .await
        .ok();
    settled(&t, "web", |s| s["disruptionsAllowed"] == 1).await;
    // The budget is charged before the precondition is looked at.
    let other = json!({"preconditions": {"uid": "11111111-1111-1111-1111-111111111111"}});
    t.expect("another UID", 409, evict(&t, "web-1", other).await);
    let charged = t.get(&t.pdb("/web")).await;
    t.note(
        "charged for nothing",
        json!([
            charged.body["status"]["disruptionsAllowed"],
            charged.body["status"]["disruptedPods"]
        ]),
    );
    // Until the controller has counted the pod out, the refusal names no numbers.
    settled(&t, "web", |s| s["currentHealthy"] == 1).await;
    t.expect("so the next is refused", 429, evict(&t, "web-2", json!({})).await);
    // A pod that is deleted, not evicted, asks no budget.
    t.expect("deleted", 200, t.delete(&t.core("pods/web-2"), json!({})).await);
}

pub async fn two_budgets(t: Talk) {
    workload(&t, 2).await;
    for name in ["one", "two"] {
        t.post(&t.pdb(""), budget(name, json!({"maxUnavailable": 1})))
            .await
            .ok();
        settled(&t, name, |_| true).await;
    }
    t.expect("two budgets", 500, evict(&t, "web-0", json!({})).await);
}

pub async fn passing_by(t: Talk) {
    let node = t.node().await;
    t.post(&t.pdb(""), budget("web", json!({"maxUnavailable": 0})))
        .await
        .ok();
    for (name, phase) in [
        ("done", "Succeeded"),
        ("failed", "Failed"),
        ("waits", "Pending"),
        ("runs", "Running"),
        ("goes", "Running"),
    ] {
        let mut status = running();
        status["phase"] = json!(phase);
        t.pod(pod(name, &node), status).await;
    }
    t.until("the budget sees its pods", &t.pdb("/web"), |a| {
        a.body["status"]["observedGeneration"] == 1
    })
    .await;
    t.delete(&t.core("pods/goes"), json!({})).await.ok();
    for name in ["done", "failed", "waits", "goes"] {
        t.expect(name, 201, evict(&t, name, json!({})).await);
        let pod = t.get(&t.core(&format!("pods/{name}"))).await;
        t.note(
            &format!("{name}, then"),
            json!([pod.code, pod.body["metadata"]["deletionGracePeriodSeconds"]]),
        );
    }
    let refused = evict(&t, "runs", json!({})).await;
    t.note(
        "runs",
        json!([
            refused.code,
            refused.body["reason"],
            refused.body["details"]["causes"][0]["reason"]
        ]),
    );
}

pub async fn unhealthy(t: Talk) {
    workload(&t, 3).await;
    let broken = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    for pod in ["web-0", "web-1"] {
        t.merge(&t.core(&format!("pods/{pod}/status")), broken.clone())
            .await
            .ok();
    }
    t.post(&t.pdb(""), budget("web", json!({"minAvailable": 2})))
        .await
        .ok();
    settled(&t, "web", |s| s["currentHealthy"] == 1).await;
    t.expect("too few are healthy", 429, evict(&t, "web-0", json!({})).await);
    t.merge(
        &t.pdb("/web"),
        json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}}),
    )
    .await
    .ok();
    settled(&t, "web", |_| true).await;
    t.expect("always", 201, evict(&t, "web-0", json!({})).await);
    t.merge(
        &t.pdb("/web"),
        json!({"spec": {"unhealthyPodEvictionPolicy": null, "minAvailable": 1}}),
    )
    .await
    .ok();
    settled(&t, "web", |s| s["desiredHealthy"] == 1).await;
    t.expect(
        "enough others are healthy",
        201,
        evict(&t, "web-1", json!({})).await,
    );
    t.expect("the healthy one", 429, evict(&t, "web-2", json!({})).await);
}

pub async fn terminating_namespace(t: Talk) {
    let node = t.node().await;
    t.pod(pod("stays", &node), running()).await;
    let mut held = pod("held", &node);
    held["metadata"]["finalizers"] = json!(["contract.example/f"]);
    t.pod(held, running()).await;
    let namespace = format!("/api/v1/namespaces/{}", t.ns);
    t.expect("delete the namespace", 200, t.delete(&namespace, json!({})).await);
    t.until("it goes", &namespace, |a| {
        a.body["status"]["phase"] == "Terminating"
    })
    .await;
    let create = t
        .post(&t.core("configmaps"), super::talk::config_map("late"))
        .await;
    t.expect("a create", 403, create);
    t.told("an eviction", evict(&t, "held", json!({})).await);
    t.told(
        "a dry run of one",
        evict(&t, "held", json!({"dryRun": ["All"]})).await,
    );
    t.parts(
        "a patch",
        &t.merge(&t.core("pods/held"), json!({"metadata": {"labels": {"l": "x"}}}))
            .await,
        &["/metadata/labels/l"],
    );
    t.merge(&t.core("pods/held"), json!({"metadata": {"finalizers": null}}))
        .await
        .ok();
    for pod in ["held", "stays"] {
        t.delete(&t.core(&format!("pods/{pod}")), json!({"gracePeriodSeconds": 0}))
            .await;
    }
    t.until_gone(&namespace).await;
}
