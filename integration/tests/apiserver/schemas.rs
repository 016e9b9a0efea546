//! What CRDs may say beyond the plain types: several versions, embedded resources, maps as lists, and
//! objects that were wrong before the schema was.

use serde_json::{Value, json};

use super::{custom, server_and_caller};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const UPGRADES: &str = "/apis/drydock.dev/v1alpha1/nodeupgrades";

fn with_spec_properties(properties: Value) -> Value {
    let mut crd = custom::crd();
    let spec =
        &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    for (name, property) in properties.as_object().unwrap() {
        spec[name] = property.clone();
    }
    crd
}

#[tokio::test]
async fn two_versions_show_one_object() {
    let (_server, caller) = server_and_caller().await;
    let mut crd = custom::crd();
    let mut beta = crd["spec"]["versions"][0].clone();
    beta["name"] = json!("v1beta1");
    beta["storage"] = json!(false);
    crd["spec"]["versions"].as_array_mut().unwrap().push(beta);
    caller.post(CRDS, crd).await.ok();
    caller.post(UPGRADES, custom::upgrade("n1")).await.ok();
    let other = "/apis/drydock.dev/v1beta1/nodeupgrades/n1";
    let read = caller.get(other).await.ok();
    assert_eq!(read["apiVersion"], "drydock.dev/v1beta1");
    caller.merge(other, json!({"spec": {"count": 2}})).await.ok();
    let read = caller.get(&format!("{UPGRADES}/n1")).await.ok();
    assert_eq!(
        (&read["apiVersion"], &read["spec"]["count"]),
        (&json!("drydock.dev/v1alpha1"), &json!(2))
    );
}

#[tokio::test]
async fn lists_of_type_map_and_embedded_resources_are_held_to_their_rules() {
    let (_server, caller) = server_and_caller().await;
    let crd = with_spec_properties(json!({
        "arms": {
            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}},
        },
        "inner": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}},
    }));
    caller.post(CRDS, crd).await.ok();
    let mut upgrade = custom::upgrade("n1");
    upgrade["spec"]["arms"] = json!([{"name": "a", "n": 1}, {"name": "a", "n": 2}]);
    assert!(
        caller
            .post(UPGRADES, upgrade.clone())
            .await
            .fails(422, "Invalid")
            .contains("spec.arms[1]: Duplicate value: {\"name\":\"a\"}")
    );
    upgrade["spec"]["arms"] = json!([{"name": "a", "n": 1}]);
    upgrade["spec"]["inner"] = json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "x"}, "spec": {"a": "b", "c": "d"}, "more": 1});
    let made = caller
        .post(&format!("{UPGRADES}?fieldValidation=Ignore"), upgrade)
        .await
        .ok();
    assert_eq!(
        made["spec"]["inner"],
        json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "x"}, "spec": {"a": "b"}})
    );
}

#[tokio::test]
async fn what_was_wrong_before_may_stay_but_not_come_new() {
    let (_server, caller) = server_and_caller().await;
    caller.post(CRDS, custom::crd()).await.ok();
    let mut upgrade = custom::upgrade("n1");
    upgrade["spec"]["count"] = json!(5);
    caller.post(UPGRADES, upgrade).await.ok();
    let mut narrower = with_spec_properties(json!({"count": {"type": "integer", "maximum": 3}}));
    narrower["metadata"]["resourceVersion"] =
        caller.get(&format!("{CRDS}/nodeupgrades.drydock.dev")).await.ok()["metadata"]["resourceVersion"]
            .clone();
    caller
        .put(&format!("{CRDS}/nodeupgrades.drydock.dev"), narrower)
        .await
        .ok();
    let path = format!("{UPGRADES}/n1");
    caller.merge(&path, json!({"spec": {"mode": "Fast"}})).await.ok();
    caller
        .merge(&path, json!({"spec": {"count": 4}}))
        .await
        .fails(422, "Invalid");
    caller.merge(&path, json!({"spec": {"count": 3}})).await.ok();
}
