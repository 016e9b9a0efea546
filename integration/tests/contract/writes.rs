//! Creates, replaces, dry runs, and what is wrong with a body.

use serde_json::{Value, json};

use super::talk::{Talk, config_map};

pub async fn creates(t: Talk) {
    let maps = t.core("configmaps");
    let made = t.post(&maps, config_map("a")).await;
    t.note("made", made.ok());
    t.expect("twice", 409, t.post(&maps, config_map("a")).await);
    let with = |pointer: &str, value: Value| {
        let mut map = config_map("b");
        match pointer.rsplit_once('/') {
            Some((parent, key)) => map.pointer_mut(parent).unwrap()[key] = value,
            None => map = value,
        }
        map
    };
    for (step, body) in [
        ("with a version", with("/metadata/resourceVersion", json!("5"))),
        ("of another kind", with("/kind", json!("Secret"))),
        ("of another group", with("/apiVersion", json!("apps/v1"))),
        (
            "in another namespace",
            with("/metadata/namespace", json!("other")),
        ),
        ("without a name", with("/metadata", json!({}))),
        ("with a number for a name", with("/metadata/name", json!(5))),
        (
            "labels of the wrong type",
            with("/metadata/labels", json!({"a": 1})),
        ),
        ("a wrong label", with("/metadata/labels", json!({"a b": "c"}))),
        (
            "a wrong label value",
            with("/metadata/labels", json!({"a": "c d"})),
        ),
        (
            "a wrong annotation",
            with("/metadata/annotations", json!({"/": "c"})),
        ),
        ("a wrong finalizer", with("/metadata/finalizers", json!(["x"]))),
        (
            "a wrong owner",
            with("/metadata/ownerReferences", json!([{"kind": "Pod"}])),
        ),
        ("a wrong key", with("/data", json!({"a b": "c"}))),
        ("data of the wrong type", with("/data", json!([1]))),
        ("no object", json!([])),
        ("a text", json!("x")),
    ] {
        t.told(step, t.post(&maps, body).await);
    }
    let nowhere = t
        .post("/api/v1/namespaces/nowhere/configmaps", config_map("a"))
        .await;
    t.expect("in no namespace", 404, nowhere);
    let mut generated = config_map("x");
    generated["metadata"] = json!({"generateName": "gen-"});
    let made = t.post(&maps, generated).await.ok();
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("gen-"));
    t.note(
        "a generated name",
        json!([name.len(), made["metadata"]["generateName"]]),
    );
    t.told("no JSON", t.raw("POST", &maps, "application/json", "{").await);
    let text = t
        .raw("POST", &maps, "text/plain", &config_map("t").to_string())
        .await;
    t.told("another media type", text);
    t.told(
        "POST to a name",
        t.post(&format!("{maps}/a"), config_map("a")).await,
    );
}

pub async fn names(t: Talk) {
    let maps = t.core("configmaps");
    for name in ["A", "a_b", "-a", "a.b", "a..b", &"x".repeat(254)] {
        let step = if name.len() > 20 { "a long name" } else { name };
        t.told(step, t.post(&maps, config_map(name)).await);
    }
    let namespace = |name: &str| json!({"metadata": {"name": name}});
    t.told(
        "a dot in a namespace",
        t.post("/api/v1/namespaces", namespace("a.b")).await,
    );
    t.told(
        "a node's name",
        t.post("/api/v1/nodes", namespace("Node_1")).await,
    );
    let lease = t.of("coordination.k8s.io/v1", "leases");
    t.told("a lease's name", t.post(&lease, namespace("L")).await);
    let upgrades = "/apis/drydock.dev/v1alpha1/nodeupgrades";
    let upgrade = json!({"apiVersion": "drydock.dev/v1alpha1", "kind": "NodeUpgrade", "metadata": {"name": "N_1"}, "spec": {}});
    t.told("an upgrade's name", t.post(upgrades, upgrade).await);
    let untyped = json!({"metadata": {"name": "n1"}, "spec": {}});
    t.told("an upgrade without a kind", t.post(upgrades, untyped).await);
}

pub async fn replaces(t: Talk) {
    let maps = t.core("configmaps");
    let path = format!("{maps}/a");
    let first = t.post(&maps, config_map("a")).await.ok();
    let same = t.put(&path, first.clone()).await;
    assert_eq!(
        same.version(),
        first["metadata"]["resourceVersion"],
        "nothing changed"
    );
    let mut second = first.clone();
    second["data"]["key"] = json!("2");
    t.parts(
        "changed",
        &t.put(&path, second.clone()).await,
        &["/data", "/metadata/name"],
    );
    second["data"]["key"] = json!("3");
    t.expect("of an old version", 409, t.put(&path, second.clone()).await);
    second["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("resourceVersion");
    t.expect("of no version", 200, t.put(&path, second.clone()).await);
    let other = "11111111-1111-1111-1111-111111111111";
    second["metadata"]["uid"] = json!(other);
    t.expect("of another UID", 409, t.put(&path, second.clone()).await);
    t.expect("of another name", 400, t.put(&path, config_map("b")).await);
    t.expect(
        "of none",
        404,
        t.put(&format!("{maps}/none"), config_map("none")).await,
    );
    let mut ghost = config_map("none");
    ghost["metadata"]["uid"] = json!(other);
    t.expect(
        "of none, with a UID",
        404,
        t.put(&format!("{maps}/none"), ghost).await,
    );
    let mut bad = config_map("a");
    bad["metadata"]["resourceVersion"] = json!("abc");
    t.told("of a version that is none", t.put(&path, bad).await);
    let mut nameless = config_map("a");
    nameless["metadata"] = json!({});
    t.told("without a name", t.put(&path, nameless).await);
    let mut immutable = config_map("fixed");
    immutable["immutable"] = json!(true);
    t.post(&maps, immutable.clone()).await.ok();
    immutable["data"]["key"] = json!("2");
    t.told(
        "of what may not change",
        t.put(&format!("{maps}/fixed"), immutable).await,
    );
}

pub async fn dry_runs(t: Talk) {
    let maps = t.core("configmaps");
    let dry = |path: &str| format!("{path}?dryRun=All");
    let a = format!("{maps}/a");
    t.expect("create", 201, t.post(&dry(&maps), config_map("a")).await);
    t.expect("it is not there", 404, t.get(&a).await);
    let made = t.map("a").await;
    t.parts(
        "merge",
        &t.merge(&dry(&a), json!({"data": {"key": "9"}})).await,
        &["/data"],
    );
    let mut changed = config_map("a");
    changed["data"]["key"] = json!("9");
    t.parts("replace", &t.put(&dry(&a), changed).await, &["/data"]);
    t.expect("delete", 200, t.delete(&dry(&a), Value::Null).await);
    t.expect(
        "delete, said in the body",
        200,
        t.delete(&a, json!({"dryRun": ["All"]})).await,
    );
    assert_eq!(t.get(&a).await.ok(), made, "nothing of that happened");
    t.expect("create twice", 409, t.post(&dry(&maps), config_map("a")).await);
    // With a body the query of a delete is not read.
    t.expect("a delete with a body", 200, t.delete(&dry(&a), json!({})).await);
    t.expect("it has gone", 404, t.get(&a).await);
    t.told(
        "of another kind",
        t.post(&format!("{maps}?dryRun=Some"), config_map("b")).await,
    );
}

pub async fn field_validation(t: Talk) {
    let maps = t.core("configmaps");
    let mut odd = config_map("a");
    odd["mistake"] = json!(1);
    odd["metadata"]["wrong"] = json!("x");
    for how in ["Strict", "Warn", "Ignore", "Sometimes"] {
        let path = format!("{maps}?dryRun=All&fieldValidation={how}");
        t.told(&format!("config map, {how}"), t.post(&path, odd.clone()).await);
    }
    t.told(
        "config map, unsaid",
        t.post(&format!("{maps}?dryRun=All"), odd.clone()).await,
    );
    t.map("m").await;
    let strict = format!("{maps}/m?fieldValidation=Strict");
    t.told("a merge patch", t.merge(&strict, json!({"mistake": 1})).await);
    t.told(
        "a strategic patch",
        t.strategic(&strict, json!({"mistake": 1})).await,
    );
    let policy = json!({
        "apiVersion": "drydock.dev/v1alpha1", "kind": "UpgradePolicy", "metadata": {"name": "p"},
        "spec": {"repository": "harbor", "release": {"channel": "stable"}, "widnows": []}, "more": 1,
    });
    let policies = "/apis/drydock.dev/v1alpha1/upgradepolicies";
    for how in ["Strict", "Warn", "Ignore"] {
        let path = format!("{policies}?dryRun=All&fieldValidation={how}");
        t.told(&format!("policy, {how}"), t.post(&path, policy.clone()).await);
    }
    let mut nested = policy.clone();
    nested["metadata"]["wrong"] = json!(1);
    nested["spec"].as_object_mut().unwrap().remove("widnows");
    let path = format!("{policies}?dryRun=All&fieldValidation=Strict");
    t.told("policy, metadata", t.post(&path, nested).await);
    let twice = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"t"},"data":{"a":"1","a":"2"}}"#;
    let path = format!("{maps}?dryRun=All&fieldValidation=Strict");
    t.told(
        "a field twice",
        t.raw("POST", &path, "application/json", twice).await,
    );
}

pub async fn deletes_collection(t: Talk) {
    let maps = t.core("configmaps");
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut map = config_map(name);
        map["metadata"]["labels"] = json!({"l": label});
        t.post(&maps, map).await.ok();
    }
    let gone = t.delete(&format!("{maps}?labelSelector=l%3Dx"), json!({})).await;
    t.parts("some", &gone, &["/kind", "/items/0/metadata/name"]);
    let left = t.get(&maps).await.ok();
    t.note("left", super::talk::names(&left));
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    t.told(
        "all nodes of a label",
        t.delete("/api/v1/nodes?labelSelector=none%3Dnone", json!({}))
            .await,
    );
    let all = t
        .delete("/api/v1/namespaces?labelSelector=none%3Dnone", json!({}))
        .await;
    t.expect("namespaces of a label", 405, all);
    t.told(
        "pods by node",
        t.delete(&t.core("pods?fieldSelector=spec.nodeName%3Dnone"), json!({}))
            .await,
    );
}
