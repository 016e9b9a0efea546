//! CRDs and custom resources: defaults, pruning, validation, status, selectable fields.

use serde_json::{Value, json};

use super::talk::{Talk, names};

pub const WIDGETS: &str = "/apis/contract.example/v1/widgets";

/// A CRD with one field of each kind that has a rule.
pub fn crd(plural: &str, kind: &str) -> Value {
    let spec = json!({
        "type": "object", "required": ["release"],
        "properties": {
            "release": {"type": "string", "pattern": "^sha256:[0-9a-f]+$", "maxLength": 20},
            "mode": {"type": "string", "enum": ["Fast", "Slow"], "default": "Slow"},
            "count": {"type": "integer", "minimum": 1, "maximum": 5},
            "ratio": {"type": "number", "exclusiveMinimum": true, "minimum": 0},
            "share": {"x-kubernetes-int-or-string": true},
            "since": {"type": "string", "format": "date-time"},
            "maybe": {"type": "string", "nullable": true},
            "names": {"type": "array", "minItems": 1, "maxItems": 2, "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "steps": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"], "items": {"type": "object", "required": ["type"], "properties": {"type": {"type": "string"}, "at": {"type": "string", "default": "now"}}}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 2},
            "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "nested": {"type": "object", "default": {}, "properties": {"deep": {"type": "integer", "default": 3}}},
            "flag": {"type": "boolean"},
        },
    });
    let status = json!({"type": "object", "properties": {"observedGeneration": {"type": "integer"}, "phase": {"type": "string"}}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.contract.example")},
        "spec": {
            "group": "contract.example", "scope": "Cluster",
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "selectableFields": [{"jsonPath": ".spec.mode"}],
                "additionalPrinterColumns": [
                    {"name": "Mode", "type": "string", "jsonPath": ".spec.mode", "description": "how"},
                    {"name": "Count", "type": "integer", "jsonPath": ".spec.count", "priority": 1},
                    {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {"spec": spec, "status": status}}},
            }],
        },
    })
}

pub fn widget(name: &str) -> Value {
    json!({"apiVersion": "contract.example/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"release": "sha256:aa"}})
}

fn with(name: &str, spec: Value) -> Value {
    let mut widget = widget(name);
    for (key, value) in spec.as_object().unwrap() {
        widget["spec"][key] = value.clone();
    }
    widget
}

pub async fn defaults_and_pruning(t: Talk) {
    let spec = ["/spec", "/metadata/generation", "/status"];
    let dry = format!("{WIDGETS}?dryRun=All");
    for (step, body) in [
        ("defaults", widget("d")),
        (
            "unknown fields",
            with(
                "d",
                json!({"more": 1, "nested": {"odd": 1}, "open": {"kept": {"x": 1}}}),
            ),
        ),
        ("null of a default", with("d", json!({"mode": null}))),
        ("null of a nullable", with("d", json!({"maybe": null}))),
        ("null of another", with("d", json!({"count": null}))),
        ("an empty list", with("d", json!({"labels": {}}))),
        (
            "items' defaults",
            with(
                "d",
                json!({"steps": [{"type": "a"}, {"type": "b", "at": "then"}]}),
            ),
        ),
        ("int or string", with("d", json!({"share": "5%"}))),
    ] {
        t.parts(step, &t.post(&dry, body).await, &spec);
    }
    t.post(WIDGETS, widget(&t.ns)).await.ok();
    let path = format!("{WIDGETS}/{}", t.ns);
    t.parts(
        "a merge patch",
        &t.merge(
            &path,
            json!({"spec": {"nested": null, "more": 1, "mode": "Fast"}}),
        )
        .await,
        &spec,
    );
    t.parts(
        "back to the default",
        &t.merge(&path, json!({"spec": {"mode": null}})).await,
        &spec,
    );
}

pub async fn validation(t: Talk) {
    let dry = format!("{WIDGETS}?dryRun=All");
    for (step, spec) in [
        ("pattern", json!({"release": "md5:aa"})),
        ("length", json!({"release": "sha256:aaaaaaaaaaaaaaaaaaa"})),
        ("enum", json!({"mode": "Medium"})),
        ("minimum", json!({"count": 0})),
        ("maximum", json!({"count": 6})),
        ("exclusive minimum", json!({"ratio": 0})),
        ("a string for a number", json!({"count": "3"})),
        ("a fraction for an integer", json!({"count": 1.5})),
        ("a number for a string", json!({"release": 5})),
        ("a list for an object", json!({"nested": []})),
        ("a text for a flag", json!({"flag": "true"})),
        ("int or string", json!({"share": true})),
        ("date", json!({"since": "yesterday"})),
        ("null in a list", json!({"names": [null]})),
        ("too few items", json!({"names": []})),
        ("too many items", json!({"names": ["a", "b", "c"]})),
        ("a set with the same twice", json!({"names": ["a", "a"]})),
        (
            "a map with the same twice",
            json!({"steps": [{"type": "a"}, {"type": "a"}]}),
        ),
        ("an item without its key", json!({"steps": [{}]})),
        (
            "too many properties",
            json!({"labels": {"a": "1", "b": "2", "c": "3"}}),
        ),
        ("a wrong value in a map", json!({"labels": {"a": 1}})),
        ("three at once", json!({"mode": "Medium", "count": 9, "flag": 1})),
    ] {
        t.told(step, t.post(&dry, with("v", spec)).await);
    }
    let mut none = widget("v");
    none.as_object_mut().unwrap().remove("spec");
    t.told("no spec", t.post(&dry, none).await);
    let mut nothing = widget("v");
    nothing["spec"] = json!({});
    t.told("required", t.post(&dry, nothing).await);
    let mut kind = widget("v");
    kind["kind"] = json!("Gadget");
    t.told("another kind", t.post(&dry, kind).await);
    let mut version = widget("v");
    version["apiVersion"] = json!("contract.example/v2");
    t.told("another version", t.post(&dry, version).await);
    t.post(WIDGETS, widget(&t.ns)).await.ok();
    let path = format!("{WIDGETS}/{}", t.ns);
    t.told("a patch", t.merge(&path, json!({"spec": {"count": 9}})).await);
    t.told(
        "a patch of the status",
        t.merge(&format!("{path}/status"), json!({"status": {"phase": 1}}))
            .await,
    );
}

pub async fn status_and_generation(t: Talk) {
    let mut body = widget(&t.ns);
    body["status"] = json!({"phase": "Lost"});
    let parts = [
        "/metadata/generation",
        "/metadata/labels",
        "/spec/mode",
        "/spec/count",
        "/status",
    ];
    t.parts("made", &t.post(WIDGETS, body).await, &parts);
    let path = format!("{WIDGETS}/{}", t.ns);
    let both = |n: i64| json!({"metadata": {"labels": {"l": "x"}}, "spec": {"count": n}, "status": {"phase": format!("P{n}"), "odd": 1}});
    t.parts(
        "status",
        &t.merge(&format!("{path}/status"), both(2)).await,
        &parts,
    );
    t.parts("main", &t.merge(&path, both(3)).await, &parts);
    t.parts(
        "labels",
        &t.merge(&path, json!({"metadata": {"labels": {"l": "y"}}})).await,
        &parts,
    );
    let mut object = t.get(&path).await.ok();
    object["spec"]["count"] = json!(5);
    object["status"]["phase"] = json!("P5");
    t.parts(
        "replace status",
        &t.put(&format!("{path}/status"), object.clone()).await,
        &parts,
    );
    t.expect("replace with an old version", 409, t.put(&path, object).await);
    let same = t.get(&path).await;
    let again = t.put(&path, same.body.clone()).await;
    assert_eq!(again.version(), same.version());
    t.expect(
        "status of none",
        404,
        t.merge(&format!("{WIDGETS}/none/status"), json!({})).await,
    );
    let finalizer = json!({"metadata": {"finalizers": ["contract.example/f"]}});
    t.parts(
        "finalizer",
        &t.merge(&path, finalizer).await,
        &["/metadata/finalizers", "/metadata/generation"],
    );
    t.parts(
        "delete",
        &t.delete(&path, json!({})).await,
        &[
            "/kind",
            "/metadata/generation",
            "/metadata/finalizers",
            "/metadata/deletionTimestamp",
            "/metadata/deletionGracePeriodSeconds",
        ],
    );
    t.told(
        "a finalizer on what goes",
        t.merge(
            &path,
            json!({"metadata": {"finalizers": ["contract.example/f", "contract.example/g"]}}),
        )
        .await,
    );
    t.parts(
        "spec of what goes",
        &t.merge(&path, json!({"spec": {"count": 1}})).await,
        &["/metadata/generation"],
    );
    t.told(
        "the last finalizer",
        t.merge(&path, json!({"metadata": {"finalizers": null}})).await,
    );
    t.expect("gone", 404, t.get(&path).await);
}

pub async fn selectable_fields(t: Talk) {
    for (name, mode) in [("a", "Fast"), ("b", "Slow")] {
        let mut widget = with(&format!("{}-{name}", t.ns), json!({"mode": mode}));
        widget["metadata"]["labels"] = json!({"case": t.ns});
        t.post(WIDGETS, widget).await.ok();
    }
    for field in [
        "spec.mode=Fast",
        "spec.mode!=Fast",
        "spec.count=1",
        "metadata.name=none",
    ] {
        let query = format!(
            "labelSelector=case%3D{}&fieldSelector={}",
            t.ns,
            field.replace('=', "%3D")
        );
        let answer = t.get(&format!("{WIDGETS}?{query}")).await;
        let mut told = answer.outcome();
        told["names"] = names(&answer.body);
        t.note(field, told);
    }
}

pub async fn establishing(t: Talk) {
    const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let mut body = crd("gadgets", "Gadget");
    body["metadata"]["name"] = json!("gizmos.contract.example");
    t.told("misnamed", t.post(CRDS, body).await);
    let mut body = crd("gadgets", "Gadget");
    body["spec"]["versions"][0]["schema"] = Value::Null;
    let refused = t.post(CRDS, body).await;
    t.note(
        "without a schema",
        json!([refused.code, refused.body["details"]["causes"][0]["field"]]),
    );
    let mut body = crd("gadgets", "Gadget");
    body["spec"]["versions"][0]["storage"] = json!(false);
    let refused = t.post(CRDS, body).await;
    t.note(
        "without a storage version",
        json!([refused.code, refused.body["details"]["causes"][0]["field"]]),
    );
    t.expect("not there", 404, t.get("/apis/contract.example/v1/gadgets").await);
    t.subject.establish(&crd("gadgets", "Gadget")).await;
    let path = format!("{CRDS}/gadgets.contract.example");
    let made = t.get(&path).await;
    let mut conditions: Vec<_> = made.body["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| json!([c["type"], c["status"], c["reason"], c["message"]]))
        .collect();
    conditions.sort_by_key(Value::to_string);
    t.note("conditions", json!(conditions));
    t.parts(
        "status",
        &made,
        &[
            "/status/storedVersions",
            "/status/acceptedNames",
            "/spec/names",
            "/spec/conversion",
            "/metadata/generation",
        ],
    );
    let mut gadget = widget("g");
    gadget["kind"] = json!("Gadget");
    t.expect(
        "an object",
        201,
        t.post("/apis/contract.example/v1/gadgets", gadget).await,
    );
    let put = crd("gadgets", "Gadget");
    t.told("a replace without a version", t.put(&path, put).await);
    t.delete(&path, json!({})).await.ok();
    t.until_gone(&path).await;
    t.until("its path goes", "/apis/contract.example/v1/gadgets", |a| {
        a.code == 404
    })
    .await;
}
