//! CRDs and custom resources: schema, defaults, pruning, status, generation, versions.

use drydock_integration::apiserver::ApiServer;
use serde_json::{Value, json};

use super::{eventually, server, server_and_caller};

const UPGRADES: &str = "/apis/drydock.dev/v1alpha1/nodeupgrades";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A CRD in the shape of a NodeUpgrade with one field of each kind that has a rule.
pub fn crd() -> Value {
    let dock = json!({
        "type": "object",
        "properties": {"term": {"type": "integer", "minimum": 0}, "policy": {"type": "string"}},
        "x-kubernetes-validations": [{"rule": "!has(oldSelf.term) || !has(self.term) || self.term >= oldSelf.term", "message": "term must not fall"}],
    });
    let spec = json!({
        "type": "object",
        "required": ["release"],
        "properties": {
            "release": {"type": "string", "pattern": "^sha256:[0-9a-f]+$", "maxLength": 20},
            "mode": {"type": "string", "enum": ["Fast", "Slow"], "default": "Slow"},
            "count": {"type": "integer", "minimum": 1, "maximum": 5},
            "share": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "since": {"type": "string", "format": "date-time"},
            "maybe": {"type": "string", "nullable": true},
            "names": {"type": "array", "maxItems": 2, "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 2},
            "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "dock": dock,
        },
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "nodeupgrades.drydock.dev"},
        "spec": {
            "group": "drydock.dev", "scope": "Cluster",
            "names": {"plural": "nodeupgrades", "singular": "nodeupgrade", "kind": "NodeUpgrade", "shortNames": ["nu"]},
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "selectableFields": [{"jsonPath": ".spec.mode"}],
                "additionalPrinterColumns": [
                    {"name": "Mode", "type": "string", "jsonPath": ".spec.mode"},
                    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {
                    "spec": spec,
                    "status": {"type": "object", "properties": {
                        "observedGeneration": {"type": "integer"},
                        "conditions": {"type": "array", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
                    }},
                }}},
            }],
        },
    })
}

pub fn upgrade(name: &str) -> Value {
    json!({"apiVersion": "drydock.dev/v1alpha1", "kind": "NodeUpgrade", "metadata": {"name": name}, "spec": {"release": "sha256:aa"}})
}

pub async fn with_crd() -> (ApiServer, super::Caller) {
    let (server, caller) = server_and_caller().await;
    server.put(crd()).unwrap();
    (server, caller)
}

#[tokio::test]
async fn a_crd_is_established_and_served_at_once_and_its_objects_go_with_it() {
    let (server, caller) = server_and_caller().await;
    caller.get(UPGRADES).await.fails(404, "NotFound");
    let made = caller.post(CRDS, crd()).await.ok();
    assert!(
        made["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|c| c["type"] == "Established" && c["status"] == "True")
    );
    assert_eq!(made["spec"]["names"]["listKind"], "NodeUpgradeList");
    assert_eq!(caller.get(UPGRADES).await.ok()["kind"], "NodeUpgradeList");
    let listed = caller.get("/apis/drydock.dev/v1alpha1").await.ok();
    assert_eq!(listed["resources"][0]["shortNames"], json!(["nu"]));
    assert_eq!(listed["resources"][1]["name"], "nodeupgrades/status");
    let page = caller.get("/openapi/v3/apis/drydock.dev/v1alpha1").await.ok();
    let properties = &page["components"]["schemas"]["dev.drydock.v1alpha1.NodeUpgrade"]["properties"];
    assert_eq!(properties["spec"]["properties"]["count"]["maximum"], 5);
    caller.post(UPGRADES, upgrade("n1")).await.ok();
    let going = caller
        .delete(&format!("{CRDS}/nodeupgrades.drydock.dev"), json!({}))
        .await;
    going.ok();
    eventually(&server, "the CRD goes", || {
        server
            .get(
                "apiextensions.k8s.io",
                "customresourcedefinitions",
                "",
                "nodeupgrades.drydock.dev",
            )
            .is_none()
            .then_some(())
    })
    .await;
    assert!(server.list("drydock.dev", "nodeupgrades", "").is_empty());
    caller.get(UPGRADES).await.fails(404, "NotFound");
}

type Edit = &'static dyn Fn(&mut Value);

#[tokio::test]
async fn what_is_not_structural_is_no_crd() {
    let (_server, caller) = server_and_caller().await;
    let cases: [(&str, Edit, &str); 4] = [
        (
            "name",
            &|c| c["metadata"]["name"] = json!("other"),
            "must be spec.names.plural+\".\"+spec.group",
        ),
        (
            "scope",
            &|c| c["spec"]["scope"] = json!("Here"),
            "spec.scope: Unsupported value: \"Here\"",
        ),
        (
            "storage",
            &|c| c["spec"]["versions"][0]["storage"] = json!(false),
            "must have exactly one version marked as storage version",
        ),
        (
            "type",
            &|c| {
                drop(
                    c["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
                        .as_object_mut()
                        .unwrap()
                        .remove("type"),
                )
            },
            "must not be empty for specified object fields",
        ),
    ];
    for (what, edit, words) in cases {
        let mut broken = crd();
        edit(&mut broken);
        let answer = caller.post(CRDS, broken).await;
        let message = answer.fails(422, "Invalid");
        assert!(message.contains(words), "{what}: {message}");
    }
}

#[tokio::test]
async fn the_schema_defaults_prunes_and_refuses_in_the_servers_words() {
    let (_server, caller) = with_crd().await;
    let mut made = upgrade("n1");
    made["spec"]["unknown"] = json!(1);
    made["spec"]["open"] = json!({"anything": {"goes": 1}});
    made["spec"]["maybe"] = Value::Null;
    made["spec"]["count"] = Value::Null;
    let answer = caller.post(UPGRADES, made.clone()).await;
    assert_eq!(
        answer.headers["warning"],
        "299 - \"unknown field \\\"spec.unknown\\\"\""
    );
    let spec = answer.ok()["spec"].clone();
    assert_eq!(
        spec,
        json!({"release": "sha256:aa", "mode": "Slow", "maybe": null, "open": {"anything": {"goes": 1}}})
    );
    made["metadata"]["name"] = json!("n2");
    let strict = caller
        .post(&format!("{UPGRADES}?fieldValidation=Strict"), made)
        .await;
    assert_eq!(
        strict.fails(400, "BadRequest"),
        "NodeUpgrade in version \"v1alpha1\" cannot be handled as a NodeUpgrade: strict decoding error: unknown field \"spec.unknown\""
    );
    for (patch, kind, words) in [
        (
            json!({"release": null}),
            "FieldValueRequired",
            "spec.release: Required value",
        ),
        (
            json!({"release": "sha256:zz"}),
            "FieldValueInvalid",
            "spec.release: Invalid value: \"sha256:zz\": spec.release in body should match '^sha256:[0-9a-f]+$'",
        ),
        (
            json!({"release": "sha256:aaaaaaaaaaaaaaaaaa"}),
            "FieldValueTooLong",
            "spec.release: Too long: may not be more than 20 bytes",
        ),
        (
            json!({"mode": "Odd"}),
            "FieldValueNotSupported",
            "spec.mode: Unsupported value: \"Odd\": supported values: \"Fast\", \"Slow\"",
        ),
        (
            json!({"count": 0}),
            "FieldValueInvalid",
            "spec.count: Invalid value: 0: spec.count in body should be greater than or equal to 1",
        ),
        (
            json!({"count": "3"}),
            "FieldValueTypeInvalid",
            "spec.count: Invalid value: \"string\": spec.count in body must be of type integer: \"string\"",
        ),
        (
            json!({"share": true}),
            "FieldValueTypeInvalid",
            "spec.share in body must be of type integer,string",
        ),
        (
            json!({"since": "yesterday"}),
            "FieldValueTypeInvalid",
            "spec.since in body must be of type date-time: \"yesterday\"",
        ),
        (
            json!({"names": ["a", "b", "c"]}),
            "FieldValueTooMany",
            "spec.names: Too many: 3: must have at most 2 items",
        ),
        (
            json!({"names": ["a", "a"]}),
            "FieldValueDuplicate",
            "spec.names[1]: Duplicate value: \"a\"",
        ),
        (
            json!({"labels": {"a": 1}}),
            "FieldValueTypeInvalid",
            "spec.labels.a in body must be of type string",
        ),
    ] {
        let answer = caller
            .merge(&format!("{UPGRADES}/n1"), json!({"spec": patch}))
            .await;
        let message = answer.fails(422, "Invalid");
        assert!(
            message.starts_with("NodeUpgrade.drydock.dev \"n1\" is invalid: "),
            "{message}"
        );
        assert!(message.contains(words), "{message}");
        assert_eq!(
            answer.body["details"]["causes"][0]["reason"], kind,
            "{}",
            answer.body
        );
    }
    for fine in [
        json!({"share": 3}),
        json!({"share": "30%"}),
        json!({"since": "2026-01-01T00:00:00.000001Z"}),
        json!({"mode": null}),
    ] {
        caller
            .merge(&format!("{UPGRADES}/n1"), json!({"spec": fine}))
            .await
            .ok();
    }
}

#[tokio::test]
async fn generation_counts_the_spec_and_status_has_its_own_door() {
    let (_server, caller) = with_crd().await;
    let mut made = upgrade("n1");
    made["status"] = json!({"observedGeneration": 9});
    let made = caller.post(UPGRADES, made).await.ok();
    assert_eq!(
        (&made["metadata"]["generation"], made.get("status")),
        (&json!(1), None)
    );
    let path = format!("{UPGRADES}/n1");
    let both = json!({"spec": {"count": 2}, "status": {"observedGeneration": 7}, "metadata": {"labels": {"a": "b"}}});
    let main = caller.merge(&path, both.clone()).await.ok();
    assert_eq!(
        (&main["metadata"]["generation"], main.get("status")),
        (&json!(2), None)
    );
    let labelled = caller
        .merge(
            &path,
            json!({"metadata": {"labels": {"a": "c"}, "generation": 50}}),
        )
        .await
        .ok();
    assert_eq!(labelled["metadata"]["generation"], 2);
    let mut both = both;
    both["spec"]["count"] = json!(4);
    let status = caller.merge(&format!("{path}/status"), both).await.ok();
    assert_eq!(status["status"]["observedGeneration"], 7);
    assert_eq!(
        (&status["spec"]["count"], &status["metadata"]["labels"]["a"]),
        (&json!(2), &json!("c"))
    );
    assert_eq!(status["metadata"]["generation"], 2);
    let mut stale = status.clone();
    stale["metadata"]["resourceVersion"] = json!("1");
    caller
        .put(&format!("{path}/status"), stale)
        .await
        .fails(409, "Conflict");
    let wrong = caller
        .merge(
            &format!("{path}/status"),
            json!({"status": {"observedGeneration": "x"}}),
        )
        .await;
    wrong.fails(422, "Invalid");
    let mut blind = status;
    blind["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("resourceVersion");
    assert!(
        caller
            .put(&path, blind)
            .await
            .fails(422, "Invalid")
            .contains("must be specified for an update")
    );
    caller
        .strategic(&path, json!({"spec": {"count": 3}}))
        .await
        .fails(415, "UnsupportedMediaType");
}

#[tokio::test]
async fn the_term_of_a_dock_never_falls() {
    let (_server, caller) = with_crd().await;
    let path = format!("{UPGRADES}/n1");
    caller.post(UPGRADES, upgrade("n1")).await.ok();
    caller
        .merge(&path, json!({"spec": {"dock": {"term": 5, "policy": "p"}}}))
        .await
        .ok();
    let refused = caller.merge(&path, json!({"spec": {"dock": {"term": 4}}})).await;
    assert!(
        refused.fails(422, "Invalid").contains("term must not fall"),
        "{}",
        refused.body
    );
    assert_eq!(refused.body["details"]["causes"][0]["field"], "spec.dock");
    caller
        .merge(&path, json!({"spec": {"dock": {"term": 5}}}))
        .await
        .ok();
    caller.merge(&path, json!({"spec": {"dock": null}})).await.ok();
    caller
        .merge(&path, json!({"spec": {"dock": {"term": 1}}}))
        .await
        .ok();
}

#[tokio::test]
async fn columns_and_selectable_fields_come_from_the_crd() {
    let (_server, caller) = with_crd().await;
    caller.post(UPGRADES, upgrade("n1")).await.ok();
    caller.merge(&format!("{UPGRADES}/n1/status"), json!({"status": {"conditions": [{"type": "Other", "status": "x"}, {"type": "Ready", "status": "True"}]}})).await.ok();
    let table = caller
        .get_as(UPGRADES, "application/json;as=Table;v=v1;g=meta.k8s.io")
        .await
        .ok();
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells[..3], [json!("n1"), json!("Slow"), json!("True")]);
    assert!(cells[3].as_str().unwrap().ends_with('s'));
    for (selector, count) in [
        ("spec.mode=Slow", 1),
        ("spec.mode=Fast", 0),
        ("spec.mode!=Fast", 1),
    ] {
        let found = caller
            .get(&format!("{UPGRADES}?fieldSelector={selector}"))
            .await
            .ok();
        assert_eq!(found["items"].as_array().unwrap().len(), count, "{selector}");
    }
    caller
        .get(&format!("{UPGRADES}?fieldSelector=spec.count=1"))
        .await
        .fails(400, "BadRequest");
}

#[tokio::test]
async fn drydocks_own_crds_are_taken() {
    let server = server().await;
    for crd in drydock_api::crds() {
        let stored = server.put(serde_json::to_value(crd).unwrap()).unwrap();
        assert_eq!(stored["status"]["conditions"][1]["status"], "True");
    }
}
