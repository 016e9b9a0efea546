//! Deletion: preconditions, finalizers, grace periods, owners and what they leave.

use serde_json::{Value, json};

use super::talk::{Talk, config_map, pod, running};

pub async fn preconditions(t: Talk) {
    let made = t.map("a").await;
    let a = t.core("configmaps/a");
    let other = "11111111-1111-1111-1111-111111111111";
    t.expect(
        "another UID",
        409,
        t.delete(&a, json!({"preconditions": {"uid": other}})).await,
    );
    t.expect(
        "another version",
        409,
        t.delete(&a, json!({"preconditions": {"resourceVersion": "1"}}))
            .await,
    );
    t.told(
        "an unknown option",
        t.delete(&a, json!({"mistake": 1, "dryRun": ["All"]})).await,
    );
    t.told(
        "an unknown propagation",
        t.delete(&a, json!({"propagationPolicy": "Sideways"})).await,
    );
    t.told(
        "two propagations",
        t.delete(
            &a,
            json!({"propagationPolicy": "Orphan", "orphanDependents": true}),
        )
        .await,
    );
    t.told("no options", t.raw("DELETE", &a, "application/json", "[").await);
    let uid = made["metadata"]["uid"].clone();
    let gone = t.delete(&a, json!({"preconditions": {"uid": uid}})).await;
    t.note("the answer", gone.ok());
    t.expect("once more", 404, t.delete(&a, json!({})).await);
    t.map("q").await;
    let by_query = t
        .raw(
            "DELETE",
            &t.core("configmaps/q?propagationPolicy=Background&gracePeriodSeconds=0"),
            "application/json",
            "",
        )
        .await;
    t.expect("options in the query", 200, by_query);
    let lease = json!({"metadata": {"name": "l"}, "spec": {}});
    t.post(&t.of("coordination.k8s.io/v1", "leases"), lease)
        .await
        .ok();
    let gone = t
        .delete(&t.of("coordination.k8s.io/v1", "leases/l"), json!({}))
        .await;
    t.note("a lease's answer", gone.ok());
    let node = t.node().await;
    let gone = t.delete(&format!("/api/v1/nodes/{node}"), json!({})).await;
    t.note("a node's answer", gone.ok());
    t.post(super::custom::WIDGETS, super::custom::widget(&t.ns))
        .await
        .ok();
    let gone = t
        .delete(&format!("{}/{}", super::custom::WIDGETS, t.ns), json!({}))
        .await;
    t.note("a widget's answer", gone.ok());
}

/// An owner and its dependent, in the namespace.
async fn family(t: &Talk, stem: &str, blocks: Value) -> (String, String) {
    let owner = t.map(&format!("{stem}-owner")).await;
    let mut child = config_map(&format!("{stem}-child"));
    child["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": blocks,
    }]);
    t.post(&t.core("configmaps"), child).await.ok();
    (
        t.core(&format!("configmaps/{stem}-owner")),
        t.core(&format!("configmaps/{stem}-child")),
    )
}

pub async fn propagation(t: Talk) {
    let (owner, child) = family(&t, "default", json!(null)).await;
    t.expect("the default", 200, t.delete(&owner, json!({})).await);
    t.until_gone(&child).await;
    let (owner, child) = family(&t, "background", json!(true)).await;
    t.expect(
        "background",
        200,
        t.delete(&owner, json!({"propagationPolicy": "Background"})).await,
    );
    t.until_gone(&child).await;
    // Whose owner is not there, or is another of that name, goes too.
    let mut lost = config_map("lost");
    lost["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": "11111111-1111-1111-1111-111111111111"}]);
    t.post(&t.core("configmaps"), lost).await.ok();
    t.until_gone(&t.core("configmaps/lost")).await;
    // With one of two owners left, it stays and loses the other.
    let (first, second) = (t.map("first").await, t.map("second").await);
    let reference = |o: &Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": o["metadata"]["name"], "uid": o["metadata"]["uid"]});
    let mut shared = config_map("shared");
    shared["metadata"]["ownerReferences"] = json!([reference(&first), reference(&second)]);
    t.post(&t.core("configmaps"), shared).await.ok();
    t.delete(&t.core("configmaps/first"), json!({})).await.ok();
    let shared = t.core("configmaps/shared");
    let left = t.until("it loses one owner", &shared, |a| {
        a.body["metadata"]["ownerReferences"]
            .as_array()
            .is_some_and(|o| o.len() == 1)
    });
    t.parts(
        "one owner left",
        &left.await,
        &["/metadata/ownerReferences/0/name"],
    );
}

pub async fn orphans(t: Talk) {
    let (owner, child) = family(&t, "orphan", json!(true)).await;
    t.parts(
        "orphan",
        &t.delete(&owner, json!({"propagationPolicy": "Orphan"})).await,
        &["/kind", "/metadata/finalizers"],
    );
    t.until_gone(&owner).await;
    t.parts(
        "the child stays",
        &t.get(&child).await,
        &["/metadata/ownerReferences"],
    );
}

pub async fn foreground(t: Talk) {
    let (owner, child) = family(&t, "fore", json!(true)).await;
    t.merge(
        &child,
        json!({"metadata": {"finalizers": ["contract.example/f"]}}),
    )
    .await
    .ok();
    let answer = t.delete(&owner, json!({"propagationPolicy": "Foreground"})).await;
    t.parts(
        "foreground",
        &answer,
        &["/kind", "/metadata/finalizers", "/metadata/deletionTimestamp"],
    );
    t.until("the child goes", &child, |a| {
        a.body["metadata"]["deletionTimestamp"].is_string()
    })
    .await;
    t.parts("the owner waits", &t.get(&owner).await, &["/metadata/finalizers"]);
    t.merge(&child, json!({"metadata": {"finalizers": null}}))
        .await
        .ok();
    t.until_gone(&child).await;
    t.until_gone(&owner).await;
}

pub async fn finalizers(t: Talk) {
    let mut map = config_map("a");
    map["metadata"]["finalizers"] = json!(["contract.example/a", "contract.example/b"]);
    t.post(&t.core("configmaps"), map).await.ok();
    let a = t.core("configmaps/a");
    let meta = [
        "/kind",
        "/metadata/finalizers",
        "/metadata/deletionTimestamp",
        "/metadata/deletionGracePeriodSeconds",
    ];
    t.parts("delete", &t.delete(&a, json!({})).await, &meta);
    t.parts("once more", &t.delete(&a, json!({})).await, &meta);
    t.told(
        "one more finalizer",
        t.merge(
            &a,
            json!({"metadata": {"finalizers": ["contract.example/a", "contract.example/c"]}}),
        )
        .await,
    );
    t.parts(
        "one less",
        &t.merge(&a, json!({"metadata": {"finalizers": ["contract.example/a"]}}))
            .await,
        &meta,
    );
    t.parts(
        "it changes still",
        &t.merge(&a, json!({"data": {"key": "2"}})).await,
        &["/data"],
    );
    t.expect(
        "made again",
        409,
        t.post(&t.core("configmaps"), config_map("a")).await,
    );
    t.parts(
        "the last",
        &t.merge(&a, json!({"metadata": {"finalizers": []}})).await,
        &meta,
    );
    t.expect("gone", 404, t.get(&a).await);
}

pub async fn pods_grace(t: Talk) {
    let node = t.node().await;
    for name in ["a", "b", "done"] {
        let status = if name == "done" {
            json!({"phase": "Succeeded"})
        } else {
            running()
        };
        t.pod(pod(name, &node), status).await;
    }
    let mut unbound = pod("u", "");
    unbound["spec"] = json!({"containers": [{"name": "c", "image": "i"}], "schedulerName": "nobody"});
    t.post(&t.core("pods"), unbound).await.ok();
    let meta = [
        "/kind",
        "/metadata/deletionTimestamp",
        "/metadata/deletionGracePeriodSeconds",
        "/metadata/generation",
    ];
    t.parts("delete", &t.delete(&t.core("pods/a"), json!({})).await, &meta);
    t.parts(
        "shorter",
        &t.delete(&t.core("pods/a"), json!({"gracePeriodSeconds": 5}))
            .await,
        &meta,
    );
    t.parts(
        "longer again",
        &t.delete(&t.core("pods/a"), json!({"gracePeriodSeconds": 50}))
            .await,
        &meta,
    );
    t.parts(
        "the kubelet's delete",
        &t.delete(&t.core("pods/a"), json!({"gracePeriodSeconds": 0}))
            .await,
        &meta[1..],
    );
    t.expect("gone", 404, t.get(&t.core("pods/a")).await);
    t.parts(
        "one second",
        &t.delete(&t.core("pods/b"), json!({"gracePeriodSeconds": 1}))
            .await,
        &meta,
    );
    t.expect("still there", 200, t.get(&t.core("pods/b")).await);
    t.parts(
        "a finished pod",
        &t.delete(&t.core("pods/done"), json!({})).await,
        &meta[..3],
    );
    t.told("and then", t.get(&t.core("pods/done")).await);
    t.parts(
        "a pod on no node",
        &t.delete(&t.core("pods/u"), json!({})).await,
        &meta[..3],
    );
    t.told("and after that", t.get(&t.core("pods/u")).await);
    t.told(
        "below nothing",
        t.delete(&t.core("pods/b"), json!({"gracePeriodSeconds": -1}))
            .await,
    );
}

pub async fn namespaces(t: Talk) {
    let name = format!("{}-more", t.ns);
    let made = t
        .post("/api/v1/namespaces", json!({"metadata": {"name": name}}))
        .await;
    t.note("made", made.ok());
    let path = format!("/api/v1/namespaces/{name}");
    let mut map = config_map("a");
    map["metadata"]["finalizers"] = json!(["contract.example/f"]);
    t.post(&format!("{path}/configmaps"), map).await.ok();
    let answer = t.delete(&path, json!({})).await;
    t.parts("delete", &answer, &["/kind", "/status/phase", "/spec"]);
    t.parts(
        "a create in it",
        &t.post(&format!("{path}/configmaps"), config_map("b")).await,
        &["/details/causes"],
    );
    t.until("its content goes", &format!("{path}/configmaps/a"), |a| {
        a.body["metadata"]["deletionTimestamp"].is_string()
    })
    .await;
    t.parts("it waits", &t.get(&path).await, &["/status/phase"]);
    t.merge(
        &format!("{path}/configmaps/a"),
        json!({"metadata": {"finalizers": null}}),
    )
    .await
    .ok();
    t.until_gone(&path).await;
    t.told(
        "default may not go",
        t.delete("/api/v1/namespaces/default", json!({"dryRun": ["All"]}))
            .await,
    );
}
