//! The three patches, and the versions and UIDs that they name.

use serde_json::{Value, json};

use super::talk::{Talk, pod, running};

pub async fn merge(t: Talk) {
    t.map("a").await;
    let a = t.core("configmaps/a");
    let body = json!({"data": {"key": null, "other": "1"}, "metadata": {"labels": {"l": "x"}, "annotations": {"n": null}}});
    t.parts(
        "set and remove",
        &t.merge(&a, body).await,
        &["/data", "/metadata/labels", "/metadata/annotations"],
    );
    t.expect(
        "of none",
        404,
        t.merge(&t.core("configmaps/none"), json!({})).await,
    );
    for (step, body) in [
        ("the name", json!({"metadata": {"name": "b"}})),
        (
            "the UID",
            json!({"metadata": {"uid": "11111111-1111-1111-1111-111111111111"}}),
        ),
        ("the kind", json!({"kind": "Secret"})),
        ("the namespace", json!({"metadata": {"namespace": "b"}})),
        (
            "the time of creation",
            json!({"metadata": {"creationTimestamp": "2020-01-01T00:00:00Z"}}),
        ),
        ("a wrong type", json!({"data": {"key": 5}})),
        ("a list", json!([1])),
        ("nothing", json!({})),
        ("a wrong label", json!({"metadata": {"labels": {"a": "b c"}}})),
        ("all labels away", json!({"metadata": {"labels": null}})),
    ] {
        t.parts(step, &t.merge(&a, body).await, &["/metadata/labels"]);
    }
    t.told(
        "no JSON",
        t.raw("PATCH", &a, "application/merge-patch+json", "{").await,
    );
    t.told(
        "another media type",
        t.raw("PATCH", &a, "application/json", "{}").await,
    );
}

pub async fn json(t: Talk) {
    t.map("a").await;
    let a = t.core("configmaps/a");
    for (step, ops) in [
        ("add", json!([{"op": "add", "path": "/data/more", "value": "2"}])),
        (
            "test and replace",
            json!([{"op": "test", "path": "/data/key", "value": "1"}, {"op": "replace", "path": "/data/key", "value": "7"}]),
        ),
        (
            "a test that fails",
            json!([{"op": "test", "path": "/data/key", "value": "1"}, {"op": "remove", "path": "/data/key"}]),
        ),
        (
            "a test of what is not there",
            json!([{"op": "test", "path": "/data/none", "value": "1"}]),
        ),
        (
            "remove what is not there",
            json!([{"op": "remove", "path": "/data/none"}]),
        ),
        (
            "add below nothing",
            json!([{"op": "add", "path": "/metadata/labels/x", "value": "1"}]),
        ),
        (
            "escaped",
            json!([{"op": "add", "path": "/metadata/annotations", "value": {}}, {"op": "add", "path": "/metadata/annotations/a~1b", "value": "1"}]),
        ),
        (
            "move",
            json!([{"op": "move", "from": "/data/more", "path": "/data/moved"}]),
        ),
        ("no such operation", json!([{"op": "melt", "path": "/data"}])),
        ("no list", json!({"op": "remove", "path": "/data"})),
        ("remove", json!([{"op": "remove", "path": "/data/moved"}])),
        (
            "replace what is not there",
            json!([{"op": "replace", "path": "/data/none", "value": "1"}]),
        ),
    ] {
        t.parts(
            step,
            &t.json_patch(&a, ops).await,
            &["/data", "/metadata/annotations"],
        );
    }
}

pub async fn strategic(t: Talk) {
    let node = t.node().await;
    let path = format!("/api/v1/nodes/{node}");
    let taint = |key: &str| json!({"key": key, "effect": "NoSchedule"});
    let spec = ["/spec", "/metadata/annotations", "/metadata/labels"];
    t.parts(
        "cordon",
        &t.strategic(&path, json!({"spec": {"unschedulable": true}})).await,
        &spec,
    );
    t.parts(
        "uncordon",
        &t.strategic(&path, json!({"spec": {"unschedulable": null}})).await,
        &spec,
    );
    let two = json!({"spec": {"taints": [taint("a"), taint("b")]}});
    t.parts("taints", &t.strategic(&path, two).await, &spec);
    let one = json!({"spec": {"taints": [taint("b")]}, "metadata": {"annotations": {"x": null, "y": "z"}}});
    t.parts("taints are replaced", &t.strategic(&path, one).await, &spec);
    let conditions = json!({"status": {"conditions": [{"type": "Odd", "status": "True"}]}});
    let merged = t.strategic(&format!("{path}/status"), conditions).await;
    t.parts("conditions by type", &merged, &["/status/conditions"]);
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    t.post(&t.pdb(""), budget).await.ok();
    let other = json!({"spec": {"selector": {"matchLabels": {"tier": "front"}}}});
    t.parts(
        "a budget's selector is replaced",
        &t.strategic(&t.pdb("/b"), other).await,
        &["/spec"],
    );
    t.pod(pod("p", &node), running()).await;
    let p = t.core("pods/p");
    let finalizers = json!({"metadata": {"finalizers": ["example.com/x"]}});
    t.parts(
        "finalizers",
        &t.strategic(&p, finalizers).await,
        &["/metadata/finalizers"],
    );
    t.merge(&p, json!({"metadata": {"finalizers": null}})).await.ok();
    let directive = json!({"metadata": {"annotations": {"$patch": "replace", "k": "v"}}});
    t.parts(
        "a directive",
        &t.strategic(&path, directive).await,
        &["/metadata/annotations"],
    );
    let widget = super::custom::widget(&t.ns);
    t.post(super::custom::WIDGETS, widget).await.ok();
    let refused = t
        .strategic(
            &format!("{}/{}", super::custom::WIDGETS, t.ns),
            json!({"spec": {"count": 2}}),
        )
        .await;
    t.note(
        "of a custom resource",
        json!([refused.code, refused.body["reason"]]),
    );
    let apply =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"k": "v"}});
    let path = t.core("configmaps/applied?fieldManager=contract");
    let applied = t
        .raw("PATCH", &path, "application/apply-patch+yaml", &apply.to_string())
        .await;
    t.note("server-side apply", json!([applied.code, applied.body["reason"]]));
}

/// Every patch that names a version or a UID is held to it.
pub async fn conflicts(t: Talk) {
    let old = t.map("a").await;
    let a = t.core("configmaps/a");
    t.merge(&a, json!({"data": {"key": "2"}})).await.ok();
    let version = &old["metadata"]["resourceVersion"];
    let named = |version: &Value| json!({"metadata": {"resourceVersion": version}, "data": {"key": "3"}});
    t.expect("merge", 409, t.merge(&a, named(version)).await);
    t.expect("strategic", 409, t.strategic(&a, named(version)).await);
    let ops = json!([{"op": "replace", "path": "/metadata/resourceVersion", "value": version}, {"op": "replace", "path": "/data/key", "value": "3"}]);
    t.expect("json", 409, t.json_patch(&a, ops).await);
    let now = t.get(&a).await;
    t.expect("the newest", 200, t.merge(&a, named(&json!(now.version()))).await);
    let uid = |uid: &Value| json!({"metadata": {"uid": uid}, "data": {"key": "4"}});
    t.expect("its UID", 200, t.merge(&a, uid(&old["metadata"]["uid"])).await);
    t.told("a version that is none", t.merge(&a, named(&json!("abc"))).await);
    let upgrade = super::custom::widget(&t.ns);
    let old = t.post(super::custom::WIDGETS, upgrade).await;
    let path = format!("{}/{}", super::custom::WIDGETS, t.ns);
    t.merge(&path, json!({"spec": {"count": 2}})).await.ok();
    let patch = json!({"metadata": {"resourceVersion": old.version()}, "spec": {"count": 3}});
    t.expect("of a custom resource", 409, t.merge(&path, patch.clone()).await);
    t.expect(
        "of its status",
        409,
        t.merge(&format!("{path}/status"), patch).await,
    );
    let mut put = old.body.clone();
    put["spec"]["count"] = json!(4);
    t.expect("a replace of it", 409, t.put(&path, put.clone()).await);
    put["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    t.told("a replace of it without a version", t.put(&path, put).await);
}
