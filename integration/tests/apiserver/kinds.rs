//! Every kind that is served, with every verb: the rows "kinds", "verbs" and "versions" of the table
//! "Served" in `docs/embedded-api.md`.

use serde_json::{Value, json};

use super::{Caller, custom, server_and_caller};

/// What a PUT without a version does to a kind.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Unconditional {
    Taken,
    Refused,
}
use Unconditional::{Refused, Taken};

fn workload(kind: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "x"},
        "spec": {
            "selector": {"matchLabels": {"app": "x"}},
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    })
}

fn crontabs() -> Value {
    let mut crd = custom::crd();
    crd["metadata"]["name"] = json!("crontabs.drydock.dev");
    crd["spec"]["names"] = json!({"plural": "crontabs", "singular": "crontab", "kind": "CronTab"});
    crd
}

/// The collection, an object for it, and what a PUT without a version does.
fn kinds() -> Vec<(&'static str, Value, Unconditional)> {
    let in_core = |kind: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}});
    let mut pod = super::pod("x", "");
    pod["metadata"]["name"] = json!("x");
    let mut secret = in_core("Secret");
    secret["data"] = json!({"k": "dg=="});
    let mut event = in_core("Event");
    event["involvedObject"] = json!({"namespace": "default"});
    event["reason"] = json!("Tried");
    let new_event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "x2"}, "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "drydock.dev/c", "reportingInstance": "c", "action": "Try", "reason": "Tried", "type": "Normal",
        "regarding": {"namespace": "default"},
    });
    vec![
        ("/api/v1/nodes", in_core("Node"), Taken),
        ("/api/v1/namespaces/default/pods", pod, Taken),
        ("/api/v1/namespaces", in_core("Namespace"), Taken),
        (
            "/api/v1/namespaces/default/configmaps",
            in_core("ConfigMap"),
            Taken,
        ),
        ("/api/v1/namespaces/default/secrets", secret, Taken),
        ("/api/v1/namespaces/default/events", event, Taken),
        (
            "/apis/events.k8s.io/v1/namespaces/default/events",
            new_event,
            Taken,
        ),
        (
            "/apis/coordination.k8s.io/v1/namespaces/default/leases",
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "x"}, "spec": {"holderIdentity": "h"}}),
            Refused,
        ),
        (
            "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
            json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "x"}, "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "x"}}}}),
            Refused,
        ),
        (
            "/apis/apps/v1/namespaces/default/deployments",
            workload("Deployment"),
            Taken,
        ),
        (
            "/apis/apps/v1/namespaces/default/replicasets",
            workload("ReplicaSet"),
            Taken,
        ),
        (
            "/apis/apps/v1/namespaces/default/daemonsets",
            workload("DaemonSet"),
            Taken,
        ),
        (
            "/apis/storage.k8s.io/v1/volumeattachments",
            json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": "x"}, "spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "v"}}}),
            Refused,
        ),
        (
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            crontabs(),
            Refused,
        ),
        (
            "/apis/drydock.dev/v1alpha1/nodeupgrades",
            custom::upgrade("x"),
            Refused,
        ),
    ]
}

async fn dry(caller: &Caller, method: &str, path: &str, media: &str, body: &Value) {
    let path = format!("{path}?dryRun=All");
    let answer = caller
        .call(method, &path, &[("content-type", media)], Some(body))
        .await;
    assert!(
        (200..300).contains(&answer.code),
        "{method} {path}: {}",
        answer.body
    );
}

#[tokio::test]
async fn every_kind_takes_every_verb_and_a_dry_run_of_it_changes_nothing() {
    let (server, caller) = server_and_caller().await;
    server.put(custom::crd()).unwrap();
    for (collection, object, unconditional) in kinds() {
        let start = server.version();
        let name = object["metadata"]["name"].as_str().unwrap();
        let path = format!("{collection}/{name}");
        let json_type = "application/json";
        dry(&caller, "POST", collection, json_type, &object).await;
        assert_eq!(server.version(), start, "{collection}");
        caller.get(&path).await.fails(404, "NotFound");

        let mut watch = caller
            .watch(&format!("{collection}?watch=1&resourceVersion={start}"))
            .await;
        let made = caller.post(collection, object.clone()).await;
        assert_eq!(made.code, 201, "{collection}: {}", made.body);
        assert_eq!(watch.next_named().await, ("ADDED".into(), name.into()));
        let read = caller.get(&path).await.ok();
        assert_eq!(read["kind"], object["kind"]);
        assert_eq!(read["apiVersion"], object["apiVersion"]);
        let list = caller
            .get(&format!("{collection}?fieldSelector=metadata.name%3D{name}"))
            .await
            .ok();
        assert_eq!(
            list["kind"],
            json!(format!("{}List", object["kind"].as_str().unwrap()))
        );
        assert_eq!(list["items"].as_array().unwrap().len(), 1, "{collection}");

        let label = |value: &str| json!({"metadata": {"labels": {"tried": value}}});
        let merge_type = "application/merge-patch+json";
        let read = caller.get(&path).await.ok();
        dry(&caller, "PATCH", &path, merge_type, &label("dry")).await;
        let mut replaced = read.clone();
        replaced["metadata"]["labels"] = json!({"tried": "put"});
        dry(&caller, "PUT", &path, json_type, &replaced).await;
        // With a body the query of a delete is not read: the body says it.
        dry(&caller, "DELETE", &path, json_type, &json!({"dryRun": ["All"]})).await;
        assert_eq!(caller.get(&path).await.ok(), read, "{collection}: dry runs");

        caller.merge(&path, label("patched")).await.ok();
        caller.put(&path, replaced.clone()).await.fails(409, "Conflict");
        let meta = replaced["metadata"].as_object_mut().unwrap();
        meta.remove("resourceVersion");
        let answer = caller.put(&path, replaced).await;
        match unconditional {
            Taken => assert_eq!(answer.ok()["metadata"]["labels"]["tried"], "put", "{collection}"),
            Refused => drop(answer.fails(422, "Invalid").to_owned()),
        }
        caller.merge(&path, label("last")).await.ok();
        let all = format!("{collection}?labelSelector=tried%3Dlast");
        let many = caller.delete(&all, json!({"gracePeriodSeconds": 0})).await;
        if collection == "/api/v1/namespaces" {
            many.fails(405, "MethodNotAllowed"); // one by one, or not at all
            caller.delete(&path, json!({})).await.ok();
        } else {
            many.ok();
        }
        super::eventually(&server, collection, || {
            let entries = server.audit().entries();
            let gone = entries
                .iter()
                .any(|e| e.version > start && e.name == name && e.after.is_none());
            gone.then_some(())
        })
        .await;
        caller.get(&path).await.fails(404, "NotFound");
    }
}

#[tokio::test]
async fn a_body_may_be_yaml() {
    let (server, caller) = server_and_caller().await;
    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: from-yaml\ndata:\n  key: 'yes'\n";
    let request = http::Request::post("/api/v1/namespaces/default/configmaps")
        .header("content-type", "application/yaml")
        .body(kube::client::Body::from(body.as_bytes().to_vec()))
        .unwrap();
    let answer = caller.0.send(request).await.unwrap();
    let code = answer.status();
    let said = answer.into_body().collect_bytes().await.unwrap();
    assert_eq!(code, 201, "{}", String::from_utf8_lossy(&said));
    assert_eq!(
        server.get("", "configmaps", "default", "from-yaml").unwrap()["data"]["key"],
        "yes"
    );
}
