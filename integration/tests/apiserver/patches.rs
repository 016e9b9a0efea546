//! Patches: the version they name, what they may not do, and what strategic merge replaces.

use serde_json::{Value, json};

use super::{config_map, pod, server_and_caller};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_patch_that_names_a_version_is_held_to_it() {
    let (_server, caller) = server_and_caller().await;
    let old = caller.post(MAPS, config_map("a", "1")).await.version();
    let path = format!("{MAPS}/a");
    caller.merge(&path, json!({"data": {"key": "2"}})).await.ok();
    let body = json!([{"op": "replace", "path": "/metadata/resourceVersion", "value": old.to_string()}]);
    let json_patch = [("content-type", "application/json-patch+json")];
    caller
        .call("PATCH", &path, &json_patch, Some(&body))
        .await
        .fails(409, "Conflict");
    let none = json!([{"op": "remove", "path": "/no/such"}]);
    assert_eq!(
        caller
            .call("PATCH", &path, &json_patch, Some(&none))
            .await
            .fails(422, "Invalid"),
        "the server rejected our request due to an error in our request"
    );
    let many: Vec<Value> = (0..10_001)
        .map(|_| json!({"op": "test", "path": "/kind", "value": "ConfigMap"}))
        .collect();
    assert!(
        caller
            .call("PATCH", &path, &json_patch, Some(&json!(many)))
            .await
            .fails(413, "RequestEntityTooLarge")
            .contains("The allowed maximum operations in a JSON patch is 10000, got 10001")
    );
}

#[tokio::test]
async fn strategic_merge_knows_which_map_is_replaced_and_drops_nulls() {
    let (server, caller) = server_and_caller().await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    server.put(budget).unwrap();
    let path = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/b";
    let selector = json!({"matchLabels": {"tier": "front"}});
    let after = caller
        .strategic(path, json!({"spec": {"selector": selector}}))
        .await
        .ok();
    assert_eq!(
        after["spec"]["selector"], selector,
        "a budget's selector is replaced, not merged"
    );
    let after = caller
        .merge(
            path,
            json!({"spec": {"selector": {"matchLabels": {"app": "web"}}}}),
        )
        .await
        .ok();
    assert_eq!(
        after["spec"]["selector"],
        json!({"matchLabels": {"app": "web", "tier": "front"}}),
        "a JSON merge patch merges it"
    );
    server.put(super::node("n1")).unwrap();
    let taints = json!([{"key": "a", "effect": "NoSchedule"}, {"key": "b", "effect": "NoSchedule"}]);
    let node = "/api/v1/nodes/n1";
    caller
        .strategic(node, json!({"spec": {"taints": taints}}))
        .await
        .ok();
    let after = caller
        .strategic(
            node,
            json!({"spec": {"taints": [taints[1]]}, "metadata": {"annotations": {"x": null, "y": "z"}}}),
        )
        .await
        .ok();
    assert_eq!(
        after["spec"]["taints"],
        json!([taints[1]]),
        "taints have no merge key"
    );
    assert_eq!(after["metadata"]["annotations"], json!({"y": "z"}));
    server.put(pod("p", "n1")).unwrap();
    caller
        .strategic(
            "/api/v1/namespaces/default/pods/p",
            json!({"metadata": {"finalizers": ["example.com/x"]}}),
        )
        .await
        .fails(415, "UnsupportedMediaType");
}
