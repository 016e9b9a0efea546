//! The table "Not served" of `docs/embedded-api.md`, row by row: a clear refusal, never a guess.

use serde_json::{Value, json};

use super::{Answer, Caller, config_map, custom, pod, server_and_caller};

const NODE: &str = "/api/v1/nodes/n1";
const POD: &str = "/api/v1/namespaces/default/pods/p";
const UPGRADE: &str = "/apis/drydock.dev/v1alpha1/nodeupgrades/n1";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

struct Refusal {
    method: &'static str,
    path: String,
    media: &'static str,
    body: Value,
    code: u16,
    words: &'static str,
}

fn refusal(method: &'static str, path: impl Into<String>, code: u16, words: &'static str) -> Refusal {
    Refusal {
        method,
        path: path.into(),
        media: "application/json",
        body: json!({}),
        code,
        words,
    }
}

fn patch(path: &str, media: &'static str, body: Value, words: &'static str) -> Refusal {
    Refusal {
        media,
        body,
        ..refusal("PATCH", path, 415, words)
    }
}

/// Server-side apply, what strategic merge does not do here, and bodies that are not text.
fn media_types() -> Vec<Refusal> {
    let apply = "application/apply-patch+yaml";
    let merge_key = "which has merge keys";
    let mut rows = vec![
        patch(
            "/api/v1/nodes/n1?fieldManager=x",
            apply,
            json!({"kind": "Node"}),
            "server-side apply is not served",
        ),
        patch(
            NODE,
            STRATEGIC,
            json!({"status": {"conditions": [{"type": "Ready"}]}}),
            merge_key,
        ),
        patch(
            POD,
            STRATEGIC,
            json!({"spec": {"containers": [{"name": "c"}]}}),
            merge_key,
        ),
        patch(
            NODE,
            STRATEGIC,
            json!({"metadata": {"$patch": "replace"}}),
            "directive metadata.$patch",
        ),
        patch(
            NODE,
            STRATEGIC,
            json!({"metadata": {"$retainKeys": ["name"]}}),
            "directive metadata.$retainKeys",
        ),
        patch(
            NODE,
            STRATEGIC,
            json!({"metadata": {"$setElementOrder/finalizers": []}}),
            "directive",
        ),
        patch(
            NODE,
            STRATEGIC,
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x"]}}),
            "directive",
        ),
        patch(
            UPGRADE,
            STRATEGIC,
            json!({"spec": {"count": 2}}),
            "strategic merge patch is not served",
        ),
        patch(
            NODE,
            "application/apply-patch+cbor",
            json!({}),
            "is not served by the embedded API",
        ),
        patch(NODE, "text/plain", json!({}), "is not served by the embedded API"),
    ];
    for (method, path) in [
        ("POST", "/api/v1/namespaces/default/configmaps"),
        ("PUT", NODE),
        ("DELETE", NODE),
    ] {
        rows.push(Refusal {
            media: PROTOBUF,
            ..refusal(method, path, 415, "unknown format")
        });
    }
    rows
}

fn subresources() -> Vec<Refusal> {
    let words = "is not served by the embedded API, see docs/embedded-api.md";
    let mut rows = Vec::new();
    for sub in [
        "log",
        "attach",
        "exec",
        "portforward",
        "proxy",
        "resize",
        "ephemeralcontainers",
    ] {
        rows.push(refusal("GET", format!("{POD}/{sub}"), 501, words));
    }
    for sub in ["exec", "attach", "portforward"] {
        rows.push(refusal("POST", format!("{POD}/{sub}"), 501, words));
    }
    rows.push(refusal(
        "GET",
        "/api/v1/namespaces/default/pods/p/proxy/some/path",
        501,
        words,
    ));
    rows.push(refusal("GET", "/api/v1/nodes/n1/proxy/metrics", 501, words));
    rows.push(refusal(
        "GET",
        "/apis/apps/v1/namespaces/default/deployments/web/scale",
        501,
        words,
    ));
    rows.push(refusal("PUT", "/api/v1/namespaces/default/finalize", 501, words));
    rows
}

fn paths() -> Vec<Refusal> {
    let words = "the server could not find the requested resource";
    [
        "/api/v1/services",
        "/api/v1/namespaces/default/serviceaccounts",
        "/api/v1/namespaces/default/serviceaccounts/default/token",
        "/api/v1/watch/nodes",
        "/api/v1/namespaces/default/bindings",
        "/apis/apps/v1/statefulsets",
        "/apis/batch/v1/jobs",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
        "/apis/authentication.k8s.io/v1/tokenreviews",
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
        "/openapi/v2",
        "/metrics",
        "/logs",
        "/",
    ]
    .into_iter()
    .map(|path| refusal("GET", path, 404, words))
    .collect()
}

async fn send(caller: &Caller, row: &Refusal) -> Answer {
    let headers = [("content-type", row.media)];
    let body = (row.method != "GET").then_some(&row.body);
    caller.call(row.method, &row.path, &headers, body).await
}

#[tokio::test]
async fn everything_that_is_not_served_says_so() {
    let (server, caller) = server_and_caller().await;
    server.put(super::node("n1")).unwrap();
    server.put(pod("p", "n1")).unwrap();
    server.put(custom::crd()).unwrap();
    server.put(custom::upgrade("n1")).unwrap();
    let before = server.version();
    for row in media_types().iter().chain(&subresources()).chain(&paths()) {
        let answer = send(&caller, row).await;
        let what = format!("{} {} {}", row.method, row.path, row.body);
        let reason = match row.code {
            404 => "NotFound",
            415 => "UnsupportedMediaType",
            501 => "NotImplemented",
            other => panic!("{what}: {other} is no refusal of that table"),
        };
        assert_eq!((answer.code, answer.reason()), (row.code, reason), "{what}");
        assert_eq!(answer.body["kind"], "Status", "{what}");
        assert!(
            answer.message().contains(row.words),
            "{what}: {}",
            answer.message()
        );
    }
    assert_eq!(server.version(), before, "nothing was written on the way");
}

/// The rows that are no refusal of a request: what a client sees of them.
#[tokio::test]
async fn what_is_not_there_is_not_pretended() {
    let (server, caller) = server_and_caller().await;
    let mut webhook = custom::crd();
    webhook["spec"]["conversion"] = json!({"strategy": "Webhook"});
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    assert!(
        caller
            .post(crds, webhook)
            .await
            .fails(422, "Invalid")
            .contains("spec.conversion.strategy")
    );
    let mut ruled = custom::crd();
    let rules = json!([{"rule": "self.count > 3"}]);
    ruled["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
        rules.clone();
    let kept = caller.post(crds, ruled).await.ok();
    assert_eq!(
        kept["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"],
        rules
    );
    let mut upgrade = custom::upgrade("n1");
    upgrade["spec"]["count"] = json!(1);
    caller
        .post("/apis/drydock.dev/v1alpha1/nodeupgrades", upgrade)
        .await
        .ok();

    let made = caller
        .post(
            "/api/v1/namespaces/default/configmaps?fieldManager=x",
            config_map("a", "1"),
        )
        .await
        .ok();
    assert_eq!(made["metadata"].get("managedFields"), None);
    let mut unbound = pod("p", "");
    unbound["spec"].as_object_mut().unwrap().remove("nodeName");
    let made = caller.post("/api/v1/namespaces/default/pods", unbound).await.ok();
    assert_eq!(made["spec"].get("tolerations"), None, "no default tolerations");
    assert_eq!(made["spec"].get("nodeName"), None, "nobody schedules it");
    let template =
        json!({"metadata": {"labels": {"app": "s"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "s"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "s"}}, "template": template}});
    server.put(set).unwrap();
    assert_eq!(
        server.list("", "pods", "default").len(),
        1,
        "a ReplicaSet makes no pods"
    );
    // Nobody is refused anything, and nothing speaks HTTP/2.
    let stranger = Caller::new(&server, "anybody").await;
    let request = http::Request::get("/api/v1/secrets").body(kube::client::Body::empty());
    let answer = stranger.0.send(request.unwrap()).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.version()),
        (200, http::Version::HTTP_11)
    );
    // Aggregated discovery is a form of /apis that clients ask for first and fall back from.
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    assert_eq!(
        caller.get_as("/apis", aggregated).await.ok()["kind"],
        "APIGroupList"
    );
}
