//! Lists: pages, selectors, versions, and the forms that kubectl asks for.

use serde_json::{Value, json};

use super::{config_map, node, pod, running, server_and_caller};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .map(|o| o["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn pages_of_one_list_show_one_version_whatever_happens_meanwhile() {
    let (server, caller) = server_and_caller().await;
    for i in 0..5 {
        server.put(config_map(&format!("m{i}"), "old")).unwrap();
    }
    let first = caller.get(&format!("{MAPS}?limit=2")).await.ok();
    assert_eq!(names(&first), ["m0", "m1"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    assert_eq!(first["kind"], "ConfigMapList");
    server.delete("", "configmaps", "default", "m3").unwrap();
    server.put(config_map("m2", "new")).unwrap();
    server.put(config_map("m2b", "new")).unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = caller
        .get(&format!("{MAPS}?limit=10&continue={token}"))
        .await
        .ok();
    assert_eq!(names(&rest), ["m2", "m3", "m4"]);
    assert_eq!(rest["items"][0]["data"]["key"], "old");
    assert_eq!(
        rest["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    assert_eq!(rest["metadata"].get("continue"), None);
    let exact = format!(
        "{MAPS}?resourceVersion={}&resourceVersionMatch=Exact",
        first["metadata"]["resourceVersion"].as_str().unwrap()
    );
    assert_eq!(
        names(&caller.get(&exact).await.ok()),
        ["m0", "m1", "m2", "m3", "m4"]
    );

    server.compact();
    let gone = caller.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert!(
        gone.fails(410, "Expired")
            .starts_with("The provided continue parameter is too old")
    );
    caller.get(&exact).await.fails(410, "Expired");
    let on = gone.body["metadata"]["continue"].as_str().unwrap();
    assert_eq!(
        names(&caller.get(&format!("{MAPS}?continue={on}")).await.ok()),
        ["m2", "m2b", "m4"]
    );
}

#[tokio::test]
async fn what_a_list_may_not_ask_for_is_refused() {
    let (server, caller) = server_and_caller().await;
    let ahead = server.version() + 1000;
    let too_new = caller.get(&format!("{MAPS}?resourceVersion={ahead}")).await;
    too_new.fails(504, "Timeout");
    assert_eq!(
        too_new.body["details"]["causes"][0]["reason"],
        "ResourceVersionTooLarge"
    );
    caller
        .get(&format!("{MAPS}?resourceVersionMatch=Exact"))
        .await
        .fails(422, "Invalid");
    caller
        .get(&format!("{MAPS}?resourceVersion=0&resourceVersionMatch=Exact"))
        .await
        .fails(422, "Invalid");
    caller
        .get(&format!("{MAPS}?continue=zz"))
        .await
        .fails(400, "BadRequest");
    caller
        .get(&format!("{MAPS}?labelSelector=a+b"))
        .await
        .fails(400, "BadRequest");
    assert_eq!(caller.get(&format!("{MAPS}?resourceVersion=0")).await.code, 200);
}

#[tokio::test]
async fn selectors_mean_what_kubectl_means_by_them() {
    let (server, caller) = server_and_caller().await;
    for (name, labels) in [
        ("a", json!({"pool": "x", "n": "5"})),
        ("b", json!({"pool": "y"})),
        ("c", json!({"n": "10", "example.com/k": ""})),
    ] {
        let mut node = node(name);
        node["metadata"]["labels"] = labels;
        server.put(node).unwrap();
    }
    for (selector, expected) in [
        ("pool=x", "a"),
        ("pool==x,n=5", "a"),
        ("pool!=x", "b c"),
        ("pool in (x, y)", "a b"),
        ("pool notin (x)", "b c"),
        ("pool", "a b"),
        ("!pool", "c"),
        ("n>5", "c"),
        ("n<10", "a"),
        ("example.com/k=", "c"),
        ("", "a b c"),
    ] {
        let query: String = url::form_urlencoded::byte_serialize(selector.as_bytes()).collect();
        let found = caller
            .get(&format!("/api/v1/nodes?labelSelector={query}"))
            .await
            .ok();
        assert_eq!(names(&found).join(" "), expected, "{selector}");
    }
    server.put(pod("p1", "a")).unwrap();
    server.put(running("p2", "b")).unwrap();
    for (selector, expected) in [
        ("spec.nodeName=a", "p1"),
        ("spec.nodeName!=a", "p2"),
        ("status.phase=Running", "p2"),
        ("status.phase!=Running,metadata.namespace=default", "p1"),
        ("metadata.name=p2", "p2"),
    ] {
        let found = caller
            .get(&format!("/api/v1/pods?fieldSelector={selector}"))
            .await
            .ok();
        assert_eq!(names(&found).join(" "), expected, "{selector}");
    }
}

#[tokio::test]
async fn tables_and_metadata_come_when_asked_for() {
    let (server, caller) = server_and_caller().await;
    let mut ready = node("n1");
    ready["spec"]["unschedulable"] = json!(true);
    ready["metadata"]["labels"] = json!({"node-role.kubernetes.io/worker": ""});
    ready["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.36.0"}});
    // Only the version matters here, but the type wants all of them.
    for key in [
        "architecture",
        "bootID",
        "containerRuntimeVersion",
        "kernelVersion",
        "kubeProxyVersion",
        "machineID",
        "operatingSystem",
        "osImage",
        "systemUUID",
    ] {
        ready["status"]["nodeInfo"][key] = json!("");
    }
    server.put(ready).unwrap();
    let table = caller
        .get_as(
            "/api/v1/nodes",
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
        )
        .await
        .ok();
    assert_eq!(table["kind"], "Table");
    let headings: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(headings[..5], ["Name", "Status", "Roles", "Age", "Version"]);
    let cells = &table["rows"][0]["cells"];
    assert_eq!(
        (&cells[1], &cells[2], &cells[4]),
        (
            &json!("Ready,SchedulingDisabled"),
            &json!("worker"),
            &json!("v1.36.0")
        )
    );
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = caller
        .get_as(
            "/api/v1/nodes",
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
        )
        .await
        .ok();
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert_eq!(
        partial["items"][0]
            .as_object()
            .unwrap()
            .keys()
            .collect::<Vec<_>>(),
        ["apiVersion", "kind", "metadata"]
    );
    let fallback = caller
        .get_as(
            "/api/v1/nodes",
            "application/vnd.kubernetes.protobuf, application/json",
        )
        .await;
    assert_eq!(fallback.headers["content-type"], "application/json");
    caller
        .get_as("/api/v1/nodes", "text/html")
        .await
        .fails(406, "NotAcceptable");
}

#[tokio::test]
async fn discovery_and_openapi_say_what_is_served() {
    let (_server, caller) = server_and_caller().await;
    let groups = caller.get("/apis").await.ok();
    let listed: Vec<&str> = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| g["name"].as_str().unwrap())
        .collect();
    for group in [
        "apps",
        "policy",
        "coordination.k8s.io",
        "events.k8s.io",
        "storage.k8s.io",
        "apiextensions.k8s.io",
    ] {
        assert!(listed.contains(&group), "{group}");
        assert_eq!(
            caller.get(&format!("/apis/{group}")).await.ok()["preferredVersion"]["version"],
            "v1"
        );
    }
    let core = caller.get("/api/v1").await.ok();
    let eviction = core["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["name"] == "pods/eviction")
        .unwrap();
    assert_eq!(
        (&eviction["group"], &eviction["version"], &eviction["kind"]),
        (&json!("policy"), &json!("v1"), &json!("Eviction"))
    );
    let index = caller.get("/openapi/v3").await.ok();
    let page = caller
        .get(
            index["paths"]["apis/apps/v1"]["serverRelativeURL"]
                .as_str()
                .unwrap(),
        )
        .await
        .ok();
    let patch = &page["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    assert!(
        patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .any(|p| p["name"] == "fieldValidation")
    );
    caller.get("/apis/none.example").await.fails(404, "NotFound");
    caller.get("/openapi/v2").await.fails(404, "NotFound");
}
