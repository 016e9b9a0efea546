//! Deletion: grace, finalizers, preconditions, owners, namespaces.

use std::time::Duration;

use drydock_integration::apiserver::{ApiServer, ServerConfig};
use serde_json::{Value, json};

use super::{Caller, config_map, eventually, node, running, server_and_caller};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn preconditions_are_kept_and_the_answer_says_what_went() {
    let (server, caller) = server_and_caller().await;
    let made = caller.post(MAPS, config_map("a", "1")).await.ok();
    let path = format!("{MAPS}/a");
    let uid = made["metadata"]["uid"].as_str().unwrap();
    let other = caller
        .delete(&path, json!({"preconditions": {"uid": "other"}}))
        .await;
    assert!(
        other
            .fails(409, "Conflict")
            .contains("the UID in the precondition (other) does not match the UID in record")
    );
    caller
        .delete(&path, json!({"preconditions": {"resourceVersion": "1"}}))
        .await
        .fails(409, "Conflict");
    caller.delete(&path, json!({"dryRun": ["All"]})).await.ok();
    assert!(server.get("", "configmaps", "default", "a").is_some());
    let gone = caller
        .delete(&path, json!({"preconditions": {"uid": uid}}))
        .await
        .ok();
    assert_eq!(
        (&gone["status"], &gone["details"]["uid"]),
        (&json!("Success"), &json!(uid))
    );
    caller.delete(&path, json!({})).await.fails(404, "NotFound");
}

#[tokio::test]
async fn a_pod_on_a_node_stays_until_its_kubelet_lets_go() {
    let (server, caller) = server_and_caller().await;
    server.put(running("p", "n1")).unwrap();
    let path = format!("{PODS}/p");
    let marked = caller.delete(&path, json!({})).await.ok();
    assert_eq!(marked["kind"], "Pod");
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(marked["metadata"]["generation"], 2);
    let version = server.version();
    caller.delete(&path, json!({})).await.ok();
    assert_eq!(server.version(), version, "a second delete changes nothing");
    let shorter = caller.delete(&path, json!({"gracePeriodSeconds": 5})).await.ok();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    caller
        .merge(&path, json!({"metadata": {"deletionTimestamp": null}}))
        .await
        .ok();
    assert!(server.get("", "pods", "default", "p").unwrap()["metadata"]["deletionTimestamp"].is_string());
    caller.delete(&path, json!({"gracePeriodSeconds": 0})).await.ok();
    assert!(server.get("", "pods", "default", "p").is_none());
    for (name, node, phase) in [("unscheduled", "", "Pending"), ("finished", "n1", "Succeeded")] {
        let mut pod = running(name, node);
        pod["status"]["phase"] = json!(phase);
        server.put(pod).unwrap();
        caller.delete(&format!("{PODS}/{name}"), json!({})).await.ok();
        assert!(server.get("", "pods", "default", name).is_none(), "{name}");
    }
}

#[tokio::test]
async fn a_grace_cap_removes_pods_without_a_kubelet() {
    let config = ServerConfig {
        pod_grace_cap: Some(Duration::from_millis(10)),
        ..ServerConfig::default()
    };
    let server = ApiServer::start(config).await.unwrap();
    let caller = Caller::new(&server, "tester").await;
    server.put(running("p", "n1")).unwrap();
    let answer = caller.delete(&format!("{PODS}/p"), json!({})).await.ok();
    assert!(answer["metadata"]["deletionTimestamp"].is_string());
    eventually(&server, "the pod goes", || {
        server.get("", "pods", "default", "p").is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_finalizer_keeps_an_object_and_its_end_ends_it() {
    let (server, caller) = server_and_caller().await;
    let mut map = config_map("a", "1");
    map["metadata"]["finalizers"] = json!(["example.com/wait"]);
    server.put(map).unwrap();
    let path = format!("{MAPS}/a");
    let marked = caller.delete(&path, json!({})).await.ok();
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let more = caller
        .merge(
            &path,
            json!({"metadata": {"finalizers": ["example.com/wait", "example.com/more"]}}),
        )
        .await;
    assert!(
        more.fails(422, "Invalid")
            .contains("no new finalizers can be added if the object is being deleted")
    );
    caller
        .merge(&path, json!({"metadata": {"finalizers": null}}))
        .await
        .ok();
    assert!(server.get("", "configmaps", "default", "a").is_none());
}

fn owned(name: &str, owners: &[&Value]) -> Value {
    let mut map = config_map(name, "1");
    let references: Vec<Value> = owners
        .iter()
        .map(|o| json!({"apiVersion": o["apiVersion"], "kind": o["kind"], "name": o["metadata"]["name"], "uid": o["metadata"]["uid"], "blockOwnerDeletion": true}))
        .collect();
    map["metadata"]["ownerReferences"] = json!(references);
    map
}

#[tokio::test]
async fn dependents_go_with_the_last_of_their_owners() {
    let (server, caller) = server_and_caller().await;
    let (one, two) = (server.put(node("one")).unwrap(), server.put(node("two")).unwrap());
    server.put(owned("of-one", &[&one])).unwrap();
    server.put(owned("of-both", &[&one, &two])).unwrap();
    caller
        .delete("/api/v1/nodes/one", json!({"propagationPolicy": "Background"}))
        .await
        .ok();
    let map = |name: &str| server.get("", "configmaps", "default", name);
    eventually(&server, "the dependent goes", || {
        map("of-one").is_none().then_some(())
    })
    .await;
    let left = eventually(&server, "the dead owner is taken off", || {
        map("of-both").filter(|m| m["metadata"]["ownerReferences"].as_array().unwrap().len() == 1)
    })
    .await;
    assert_eq!(left["metadata"]["ownerReferences"][0]["name"], "two");
    // One that names an owner of the same name but another UID has no owner.
    let mut again = owned("late", &[&one]);
    again["metadata"]["ownerReferences"][0]["name"] = json!("two");
    server.put(again).unwrap();
    eventually(&server, "the late one goes", || {
        map("late").is_none().then_some(())
    })
    .await;
    server.put(owned("orphan", &[&two])).unwrap();
    caller
        .delete("/api/v1/nodes/two", json!({"propagationPolicy": "Orphan"}))
        .await
        .ok();
    eventually(&server, "the owner goes", || {
        server.get("", "nodes", "", "two").is_none().then_some(())
    })
    .await;
    assert_eq!(map("orphan").unwrap()["metadata"].get("ownerReferences"), None);
    let three = server.put(node("three")).unwrap();
    server.put(owned("first", &[&three])).unwrap();
    let waits = caller
        .delete("/api/v1/nodes/three", json!({"propagationPolicy": "Foreground"}))
        .await
        .ok();
    assert_eq!(waits["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    eventually(&server, "the owner goes", || {
        server.get("", "nodes", "", "three").is_none().then_some(())
    })
    .await;
    assert!(map("first").is_none());
}

#[tokio::test]
async fn a_namespace_takes_its_content_along_and_nothing_new_meanwhile() {
    let (server, caller) = server_and_caller().await;
    server
        .put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}))
        .unwrap();
    let mut kept = config_map("kept", "1");
    kept["metadata"]["namespace"] = json!("team");
    kept["metadata"]["finalizers"] = json!(["example.com/wait"]);
    server.put(kept).unwrap();
    let terminating = caller.delete("/api/v1/namespaces/team", json!({})).await.ok();
    assert_eq!(terminating["status"]["phase"], "Terminating");
    let refused = caller
        .post(
            "/api/v1/namespaces/team/configmaps",
            json!({"metadata": {"name": "new"}}),
        )
        .await;
    assert!(
        refused
            .fails(403, "Forbidden")
            .contains("because it is being terminated")
    );
    assert_eq!(
        refused.body["details"]["causes"][0]["reason"],
        "NamespaceTerminating"
    );
    eventually(&server, "the content is deleted", || {
        server
            .get("", "configmaps", "team", "kept")
            .filter(|m| m["metadata"]["deletionTimestamp"].is_string())
    })
    .await;
    caller
        .merge(
            "/api/v1/namespaces/team/configmaps/kept",
            json!({"metadata": {"finalizers": null}}),
        )
        .await
        .ok();
    eventually(&server, "the namespace goes", || {
        server.get("", "namespaces", "", "team").is_none().then_some(())
    })
    .await;
    caller
        .delete("/api/v1/namespaces/default", json!({}))
        .await
        .fails(403, "Forbidden");
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let (server, caller) = server_and_caller().await;
    for name in ["a", "b"] {
        let mut map = config_map(name, "1");
        map["metadata"]["labels"] = json!({"which": name});
        server.put(map).unwrap();
    }
    let deleted = caller
        .delete(&format!("{MAPS}?labelSelector=which%3Da"), json!({}))
        .await
        .ok();
    assert_eq!(deleted["items"].as_array().unwrap().len(), 1);
    assert!(server.get("", "configmaps", "default", "a").is_none());
    assert!(server.get("", "configmaps", "default", "b").is_some());
}
