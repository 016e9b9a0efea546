//! PUT and PATCH of what is gone, was made again, or belongs to somebody else: the UID decides.

use serde_json::{Value, json};

use super::{config_map, server_and_caller};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn lease(name: &str) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {"holderIdentity": "one"}})
}

#[tokio::test]
async fn a_deleted_lease_is_not_made_again_by_who_still_holds_the_old_one() {
    let (server, caller) = server_and_caller().await;
    let held = caller.post(LEASES, lease("l")).await.ok();
    let path = format!("{LEASES}/l");
    server
        .delete("coordination.k8s.io", "leases", "default", "l")
        .unwrap();
    let uid = held["metadata"]["uid"].as_str().unwrap();
    for dry_run in ["", "?dryRun=All"] {
        let refused = caller.put(&format!("{path}{dry_run}"), held.clone()).await;
        let words = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: ");
        let message = refused.fails(409, "Conflict");
        assert!(message.ends_with(&words), "{message}");
        assert!(message.starts_with("Operation cannot be fulfilled on leases.coordination.k8s.io \"l\": "));
    }
    assert!(
        server
            .get("coordination.k8s.io", "leases", "default", "l")
            .is_none()
    );

    // Without a UID it is a new Lease, whatever version it names.
    let mut new = held.clone();
    new["metadata"].as_object_mut().unwrap().remove("uid");
    let made = caller.put(&path, new).await;
    assert_eq!(made.code, 201);
    let made = made.ok();
    assert_ne!(made["metadata"]["uid"], held["metadata"]["uid"]);

    // Now another object has the name: the old holder is refused all the same.
    let refused = caller.put(&path, held.clone()).await;
    let words = format!(
        "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
        made["metadata"]["uid"].as_str().unwrap()
    );
    assert!(refused.fails(409, "Conflict").ends_with(&words));
    caller
        .merge(
            &format!("{LEASES}/none"),
            json!({"spec": {"holderIdentity": "x"}}),
        )
        .await
        .fails(404, "NotFound");
}

#[tokio::test]
async fn a_put_is_read_before_it_is_asked_what_is_there() {
    let (server, caller) = server_and_caller().await;
    // The name in the body and on the URL must agree, also where a PUT may create.
    let message = caller.put(&format!("{LEASES}/a"), lease("b")).await;
    assert!(
        message
            .fails(400, "BadRequest")
            .contains("does not match the name on the URL (a)")
    );
    assert!(server.list("coordination.k8s.io", "leases", "").is_empty());
    caller
        .put(&format!("{MAPS}/none"), config_map("other", "1"))
        .await
        .fails(400, "BadRequest");
    // Of the other kinds a PUT makes nothing, with a UID or without.
    let mut map = config_map("none", "1");
    caller
        .put(&format!("{MAPS}/none"), map.clone())
        .await
        .fails(404, "NotFound");
    map["metadata"]["uid"] = json!("11111111-1111-1111-1111-111111111111");
    caller
        .put(&format!("{MAPS}/none"), map)
        .await
        .fails(404, "NotFound");
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "default"}, "reason": "R"});
    assert_eq!(
        caller
            .put("/api/v1/namespaces/default/events/e", event)
            .await
            .code,
        201,
        "a PUT makes an Event"
    );
}

#[tokio::test]
async fn a_patch_may_not_change_the_uid_and_a_put_with_another_is_about_another_object() {
    let (_server, caller) = server_and_caller().await;
    caller.post(MAPS, config_map("a", "1")).await.ok();
    let path = format!("{MAPS}/a");
    let other = "11111111-1111-1111-1111-111111111111";
    let patched = caller.merge(&path, json!({"metadata": {"uid": other}})).await;
    assert!(patched.fails(422, "Invalid").contains(&format!(
        "metadata.uid: Invalid value: \"{other}\": field is immutable"
    )));
    let mut put = config_map("a", "2");
    put["metadata"]["uid"] = json!(other);
    caller.put(&path, put).await.fails(409, "Conflict");
}
