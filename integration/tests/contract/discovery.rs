//! Discovery, schemas and the forms of an answer, as kubectl needs them.

use serde_json::{Value, json};

use super::talk::{Answer, Talk, pod, running};

/// The kinds that Drydock and the named kubectl commands speak of.
const KINDS: &[(&str, &[&str])] = &[
    (
        "/api/v1",
        &[
            "nodes",
            "nodes/status",
            "pods",
            "pods/status",
            "pods/eviction",
            "pods/binding",
            "namespaces",
            "configmaps",
            "secrets",
            "events",
        ],
    ),
    (
        "/apis/apps/v1",
        &["deployments", "deployments/status", "replicasets", "daemonsets"],
    ),
    (
        "/apis/policy/v1",
        &["poddisruptionbudgets", "poddisruptionbudgets/status"],
    ),
    ("/apis/coordination.k8s.io/v1", &["leases"]),
    ("/apis/events.k8s.io/v1", &["events"]),
    ("/apis/apiextensions.k8s.io/v1", &["customresourcedefinitions"]),
    ("/apis/storage.k8s.io/v1", &["volumeattachments"]),
    (
        "/apis/drydock.dev/v1alpha1",
        &[
            "nodeupgrades",
            "nodeupgrades/status",
            "releasehalts",
            "upgradepolicies",
            "imagerepositories",
        ],
    ),
    ("/apis/contract.example/v1", &["widgets", "widgets/status"]),
];

pub async fn groups(t: Talk) {
    for (path, plurals) in KINDS {
        let list = t.get(path).await.ok();
        t.note(path, json!([list["kind"], list["groupVersion"]]));
        for plural in *plurals {
            let one = list["resources"]
                .as_array()
                .unwrap()
                .iter()
                .find(|r| r["name"] == *plural);
            let mut one = one.cloned().unwrap_or_default();
            if let Some(map) = one.as_object_mut() {
                // Of the storage, which is not there; and in any order.
                map.remove("storageVersionHash");
                for key in ["verbs", "shortNames", "categories"] {
                    if let Some(list) = map.get_mut(key).and_then(Value::as_array_mut) {
                        list.sort_by_key(Value::to_string);
                    }
                }
            }
            t.note(&format!("{path} {plural}"), one);
        }
    }
    let all = t.get("/apis").await.ok();
    for name in ["apps", "policy", "coordination.k8s.io", "drydock.dev"] {
        let one = all["groups"]
            .as_array()
            .unwrap()
            .iter()
            .find(|g| g["name"] == name);
        t.note(&format!("group {name}"), one.cloned().unwrap_or_default());
        let one = t.get(&format!("/apis/{name}")).await;
        t.note(&format!("group {name} alone"), one.body);
    }
    t.note("/api versions", t.get("/api").await.body["versions"].clone());
    for path in ["/livez", "/readyz", "/healthz"] {
        t.note(path, t.get(path).await.body);
    }
    let version = t.get("/version").await.ok();
    t.note("/version", json!([version["major"], version["minor"]]));
    t.told("no such version", t.get("/apis/apps/v9").await);
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let answer = t
        .send("GET", "/apis", &[("accept", aggregated)], Value::Null)
        .await;
    t.note("aggregated discovery", answer.body["kind"].clone());
}

/// Who asks: the real server takes another's name from who may, and judges what that one may do.
pub async fn identities(t: Talk) {
    let as_jane = [("impersonate-user", "jane")];
    let refused = t.send("GET", "/api/v1/nodes", &as_jane, Value::Null).await;
    t.note(
        "as one without rights",
        json!([refused.code, refused.body["reason"]]),
    );
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer = t
        .post("/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
        .await;
    t.note(
        "who am I",
        json!([answer.code, answer.body["status"]["userInfo"]["username"]]),
    );
}

/// What kubectl reads in `/openapi/v3`: which kind a PATCH is for, and that it takes `fieldValidation`.
pub async fn openapi(t: Talk) {
    let of_widgets = "apis/contract.example/v1";
    let index = t.until("the index", "/openapi/v3", |a| {
        a.body["paths"][of_widgets].is_object()
    });
    let index = index.await.ok();
    let of_kind = |body: &Value, kind: &str| {
        let schemas = body["components"]["schemas"].as_object().into_iter().flatten();
        let mut schemas = schemas.map(|(_, schema)| schema);
        let found = schemas.find(|schema| {
            let kinds = schema["x-kubernetes-group-version-kind"].as_array();
            kinds.is_some_and(|kinds| kinds.iter().any(|k| k["kind"] == kind))
        });
        found.cloned()
    };
    for (page, path, kind) in [
        ("api/v1", "/api/v1/nodes/{name}", "Node"),
        (
            "apis/apps/v1",
            "/apis/apps/v1/namespaces/{namespace}/deployments/{name}",
            "Deployment",
        ),
        (
            "apis/drydock.dev/v1alpha1",
            "/apis/drydock.dev/v1alpha1/nodeupgrades/{name}",
            "NodeUpgrade",
        ),
        (
            "apis/contract.example/v1",
            "/apis/contract.example/v1/widgets/{name}",
            "Widget",
        ),
    ] {
        let url = index["paths"][page]["serverRelativeURL"]
            .as_str()
            .unwrap_or_default();
        // What stands behind the question mark changes with the page.
        let url = url.split('?').next().unwrap_or_default();
        let body = t.until("the page has the kind", url, |a| of_kind(&a.body, kind).is_some());
        let body = body.await.ok();
        let patch = &body["paths"][path]["patch"];
        let parameters = patch["parameters"].as_array().into_iter().flatten();
        let takes = parameters.into_iter().any(|p| p["name"] == "fieldValidation");
        t.note(page, json!([patch["x-kubernetes-group-version-kind"], takes]));
        if page.contains("contract.example") {
            let schema = of_kind(&body, kind).unwrap();
            t.note(
                "widget's kinds",
                schema["x-kubernetes-group-version-kind"].clone(),
            );
            t.note(
                "widget's count",
                schema["properties"]["spec"]["properties"]["count"].clone(),
            );
            t.note(
                "widget's mode",
                schema["properties"]["spec"]["properties"]["mode"].clone(),
            );
        }
    }
    t.note("/openapi/v2", json!(t.get("/openapi/v2").await.code));
}

/// The columns, and the cells without those that tell an age.
fn cells(answer: &Answer) -> Value {
    let columns: Vec<_> = answer.body["columnDefinitions"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    let told: Vec<_> = columns
        .iter()
        .map(|c| json!([c["name"], c["type"], c["format"], c["priority"]]))
        .collect();
    let rows = answer.body["rows"].as_array().into_iter().flatten().map(|row| {
        let cells = row["cells"].as_array().unwrap().iter().zip(&columns);
        let cells = cells.map(|(cell, column)| match column["name"].as_str() {
            Some("Age" | "Last Seen" | "First Seen" | "Created At") => json!("-"),
            _ => cell.clone(),
        });
        json!([cells.collect::<Vec<_>>(), row["object"]["kind"]])
    });
    json!({"columns": told, "rows": rows.collect::<Vec<_>>()})
}

pub async fn tables(t: Talk) {
    let node = t.node().await;
    t.pod(pod("p", &node), running()).await;
    t.pod(pod("goes", &node), running()).await;
    t.delete(&t.core("pods/goes"), json!({})).await.ok();
    let mut status = running();
    status["containerStatuses"] = json!([{"name": "c", "ready": false, "restartCount": 2, "image": "i", "imageID": "", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]);
    t.pod(pod("crashes", &node), status).await;
    t.map("m").await;
    t.post(
        &t.pdb(""),
        super::budgets::budget(
            "b",
            json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}),
        ),
    )
    .await
    .ok();
    super::budgets::settled(&t, "b", |_| true).await;
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}});
    t.post(&t.of("coordination.k8s.io/v1", "leases"), lease)
        .await
        .ok();
    t.post(
        &t.core("secrets"),
        json!({"metadata": {"name": "s"}, "type": "Opaque", "stringData": {"a": "b"}}),
    )
    .await
    .ok();
    t.merge(&format!("/api/v1/nodes/{node}"), json!({"metadata": {"labels": {"node-role.kubernetes.io/worker": ""}}, "spec": {"unschedulable": true}})).await.ok();
    let mut widget = super::custom::widget(&t.ns);
    widget["spec"]["count"] = json!(2);
    t.post(super::custom::WIDGETS, widget).await.ok();
    let widget = format!("{}/{}", super::custom::WIDGETS, t.ns);
    t.merge(&format!("{widget}/status"), json!({"status": {"phase": "Up"}}))
        .await
        .ok();
    let upgrade = json!({"apiVersion": "drydock.dev/v1alpha1", "kind": "NodeUpgrade", "metadata": {"name": t.ns}, "spec": {}});
    t.post("/apis/drydock.dev/v1alpha1/nodeupgrades", upgrade)
        .await
        .ok();
    let event = json!({"metadata": {"name": "e"}, "reason": "R", "message": "m", "type": "Normal", "count": 2, "source": {"component": "c"},
        "lastTimestamp": "2026-01-01T00:05:00Z", "firstTimestamp": "2026-01-01T00:00:00Z", "involvedObject": {"kind": "Pod", "name": "p", "namespace": t.ns}});
    t.post(&t.core("events"), event).await.ok();
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    for (step, path) in [
        ("pods", t.core("pods?limit=500")),
        ("a node", format!("/api/v1/nodes/{node}")),
        ("config maps", t.core("configmaps")),
        ("secrets", t.core("secrets")),
        ("budgets", t.pdb("")),
        ("leases", t.of("coordination.k8s.io/v1", "leases")),
        ("a namespace", format!("/api/v1/namespaces/{}", t.ns)),
        ("a widget", widget),
        (
            "an upgrade",
            format!("/apis/drydock.dev/v1alpha1/nodeupgrades/{}", t.ns),
        ),
        (
            "policies",
            "/apis/drydock.dev/v1alpha1/upgradepolicies".to_owned(),
        ),
        ("halts", "/apis/drydock.dev/v1alpha1/releasehalts".to_owned()),
        (
            "repositories",
            "/apis/drydock.dev/v1alpha1/imagerepositories".to_owned(),
        ),
        (
            "a CRD",
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.contract.example".to_owned(),
        ),
        ("deployments", t.of("apps/v1", "deployments")),
        ("replica sets", t.of("apps/v1", "replicasets")),
        ("daemon sets", t.of("apps/v1", "daemonsets")),
        (
            "attachments",
            "/apis/storage.k8s.io/v1/volumeattachments".to_owned(),
        ),
    ] {
        let answer = t.send("GET", &path, &[("accept", accept)], Value::Null).await;
        t.note(step, cells(&answer));
    }
    let path = t.core("events");
    let answer = t.send("GET", &path, &[("accept", accept)], Value::Null).await;
    t.note("events", cells(&answer)["columns"].clone());
}

pub async fn partial(t: Talk) {
    t.map("a").await;
    let one = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let list = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    for (step, path, accept) in [
        ("an object", "configmaps/a", one),
        ("a list", "configmaps", list),
        ("an object as a list", "configmaps/a", list),
        ("nothing we know", "configmaps/a", "text/html"),
        ("yaml", "configmaps/a", "application/yaml"),
    ] {
        let answer = t
            .send("GET", &t.core(path), &[("accept", accept)], Value::Null)
            .await;
        let told = if answer.code == 200 {
            answer.body.clone()
        } else {
            json!(answer.body["reason"])
        };
        t.note(step, json!([answer.code, told]));
    }
}
