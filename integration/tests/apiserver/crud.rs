//! Create, replace and patch, and the errors they answer with.

use serde_json::{Value, json};

use super::{Caller, config_map, node, pod, server, server_and_caller};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn every_object_gets_its_system_fields_and_every_change_a_higher_version() {
    let (_server, caller) = server_and_caller().await;
    let made = caller.post(MAPS, config_map("a", "1")).await;
    assert_eq!(made.code, 201);
    let made = made.ok();
    assert!(made["metadata"]["uid"].as_str().unwrap().len() == 36);
    assert!(
        made["metadata"]["creationTimestamp"]
            .as_str()
            .unwrap()
            .ends_with('Z')
    );
    let first: u64 = made["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let changed = caller
        .merge(&format!("{MAPS}/a"), json!({"data": {"key": "2"}}))
        .await;
    assert!(changed.version() > first);
    let read = caller.get(&format!("{MAPS}/a")).await.ok();
    assert_eq!(read["data"]["key"], "2");
    assert_eq!(read["metadata"]["uid"], made["metadata"]["uid"]);
}

#[tokio::test]
async fn a_write_that_changes_nothing_makes_no_version() {
    let (server, caller) = server_and_caller().await;
    let before = caller.post(MAPS, config_map("a", "1")).await.version();
    let path = format!("{MAPS}/a");
    assert_eq!(
        caller.merge(&path, json!({"data": {"key": "1"}})).await.version(),
        before
    );
    assert_eq!(
        caller
            .merge(&path, json!({"metadata": {"annotations": {"gone": null}}}))
            .await
            .version(),
        before
    );
    let same = caller.get(&path).await.ok();
    assert_eq!(caller.put(&path, same).await.version(), before);
    server.put(node("n1")).unwrap();
    let version = caller.get("/api/v1/nodes/n1").await.version();
    let uncordon = caller
        .strategic("/api/v1/nodes/n1", json!({"spec": {"unschedulable": false}}))
        .await;
    assert_eq!(
        uncordon.version(),
        version,
        "false is how the flag's absence is written"
    );
    let entries = server.audit().entries();
    let last = entries.last().unwrap();
    assert!(!last.changed && last.version == version);
}

#[tokio::test]
async fn a_stale_version_is_refused_and_the_current_one_taken() {
    let (_server, caller) = server_and_caller().await;
    let old = caller.post(MAPS, config_map("a", "1")).await.ok();
    let path = format!("{MAPS}/a");
    caller.merge(&path, json!({"data": {"key": "2"}})).await.ok();
    let refused = caller.put(&path, old.clone()).await;
    let message = refused.fails(409, "Conflict");
    assert_eq!(
        message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    assert_eq!(
        refused.body["details"],
        json!({"name": "a", "kind": "configmaps"})
    );
    let version = &old["metadata"]["resourceVersion"];
    let patch = json!({"metadata": {"resourceVersion": version}, "data": {"key": "3"}});
    caller.merge(&path, patch).await.fails(409, "Conflict");
    let mut new = caller.get(&path).await.ok();
    new["data"]["key"] = json!("3");
    caller.put(&path, new.clone()).await.ok();
    // A ConfigMap may be replaced without a version, a Lease may not.
    new["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    new["data"]["key"] = json!("4");
    caller.put(&path, new).await.ok();
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {"holderIdentity": "x"}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    assert_eq!(
        caller.put(&format!("{leases}/l"), lease.clone()).await.code,
        201,
        "a PUT makes a Lease"
    );
    let message = caller.put(&format!("{leases}/l"), lease).await;
    assert!(
        message
            .fails(422, "Invalid")
            .contains("metadata.resourceVersion: Invalid value: 0: must be specified for an update")
    );
}

#[tokio::test]
async fn errors_have_the_shape_that_clients_read() {
    let (_server, caller) = server_and_caller().await;
    let made = config_map("a", "1");
    caller.post(MAPS, made.clone()).await.ok();
    let table: Vec<(&str, String, Value, u16, &str, &str)> = vec![
        (
            "POST",
            MAPS.into(),
            made,
            409,
            "AlreadyExists",
            "configmaps \"a\" already exists",
        ),
        (
            "GET",
            format!("{MAPS}/b"),
            Value::Null,
            404,
            "NotFound",
            "configmaps \"b\" not found",
        ),
        (
            "GET",
            "/api/v1/widgets".into(),
            Value::Null,
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
        (
            "POST",
            "/api/v1/namespaces/none/configmaps".into(),
            json!({"metadata": {"name": "a"}}),
            404,
            "NotFound",
            "namespaces \"none\" not found",
        ),
        (
            "POST",
            MAPS.into(),
            json!({"kind": "Secret", "metadata": {"name": "b"}}),
            400,
            "BadRequest",
            "does not match the expected kind",
        ),
        (
            "POST",
            MAPS.into(),
            json!({"apiVersion": "v2", "metadata": {"name": "b"}}),
            400,
            "BadRequest",
            "the API version in the data (v2) does not match the expected API version (v1)",
        ),
        (
            "POST",
            MAPS.into(),
            json!({"metadata": {"name": "b", "namespace": "other"}}),
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            "POST",
            MAPS.into(),
            json!({"metadata": {"name": "B"}}),
            422,
            "Invalid",
            "metadata.name: Invalid value: \"B\": a lowercase RFC 1123 subdomain must",
        ),
        (
            "POST",
            MAPS.into(),
            json!({"metadata": {"name": "b", "labels": {"k": "no spaces"}}}),
            422,
            "Invalid",
            "metadata.labels: Invalid value: \"no spaces\"",
        ),
        (
            "POST",
            MAPS.into(),
            json!({"metadata": {"name": "b"}, "data": {"k": 1}}),
            400,
            "BadRequest",
            "cannot be handled as a ConfigMap",
        ),
        (
            "PUT",
            format!("{MAPS}/a"),
            json!({"metadata": {"name": "c"}}),
            400,
            "BadRequest",
            "does not match the name on the URL (a)",
        ),
        (
            "GET",
            format!("{MAPS}?fieldSelector=spec.x=1"),
            Value::Null,
            400,
            "BadRequest",
            "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        (
            "GET",
            "/api/v1/namespaces/default/pods/p/log".into(),
            Value::Null,
            501,
            "NotImplemented",
            "pods/log is not served",
        ),
    ];
    for (method, path, body, code, reason, words) in table {
        let answer = caller
            .call(
                method,
                &path,
                &[("content-type", "application/json")],
                Some(&body),
            )
            .await;
        let message = answer.fails(code, reason);
        assert!(message.contains(words), "{method} {path}: {message}");
        assert_eq!(answer.body["kind"], "Status");
        assert_eq!(answer.body["code"], code);
    }
}

#[tokio::test]
async fn only_known_tokens_are_let_in_and_health_needs_none() {
    let server = server().await;
    let mut config = server.config("someone").await.unwrap();
    config.auth_info = kube::config::AuthInfo::default();
    let stranger = Caller(kube::Client::try_from(config).unwrap());
    stranger.get(MAPS).await.fails(401, "Unauthorized");
    for path in ["/healthz", "/livez", "/readyz", "/readyz/ping"] {
        assert_eq!(stranger.get(path).await.ok(), json!("ok"));
    }
    assert!(
        stranger.get("/version").await.ok()["gitVersion"]
            .as_str()
            .unwrap()
            .starts_with("v1.36.")
    );
}

#[tokio::test]
async fn strategic_merge_is_for_maps_and_what_would_be_guessed_is_415() {
    let (server, caller) = server_and_caller().await;
    server.put(node("n1")).unwrap();
    let path = "/api/v1/nodes/n1";
    let cordoned = caller
        .strategic(
            path,
            json!({"spec": {"unschedulable": true}, "metadata": {"annotations": {"a": "b"}}}),
        )
        .await
        .ok();
    assert_eq!(cordoned["spec"]["unschedulable"], true);
    let back = caller
        .strategic(
            path,
            json!({"spec": {"unschedulable": null}, "metadata": {"annotations": {"a": null}}}),
        )
        .await
        .ok();
    assert_eq!(back["spec"].get("unschedulable"), None);
    assert_eq!(
        back["metadata"].get("annotations"),
        None,
        "an empty map is not written"
    );
    for patch in [
        json!({"status": {"conditions": [{"type": "Ready"}]}}),
        json!({"metadata": {"$patch": "replace"}}),
        json!({"$setElementOrder/x": []}),
    ] {
        caller
            .strategic(path, patch)
            .await
            .fails(415, "UnsupportedMediaType");
    }
    let apply = [("content-type", "application/apply-patch+yaml")];
    let answer = caller
        .call(
            "PATCH",
            "/api/v1/nodes/n1?fieldManager=x",
            &apply,
            Some(&node("n1")),
        )
        .await;
    assert!(
        answer
            .fails(415, "UnsupportedMediaType")
            .contains("server-side apply is not served")
    );
    let json_patch = [("content-type", "application/json-patch+json")];
    let test = json!([{"op": "test", "path": "/metadata/name", "value": "n2"}]);
    caller
        .call("PATCH", path, &json_patch, Some(&test))
        .await
        .fails(422, "Invalid");
    let add = json!([{"op": "add", "path": "/metadata/labels/x", "value": "y"}]);
    assert_eq!(
        caller.call("PATCH", path, &json_patch, Some(&add)).await.ok()["metadata"]["labels"]["x"],
        "y"
    );
}

#[tokio::test]
async fn status_is_written_by_its_own_endpoint_alone() {
    let (server, caller) = server_and_caller().await;
    server.put(node("n1")).unwrap();
    caller
        .merge(
            "/api/v1/nodes/n1",
            json!({"status": {"nodeInfo": {"bootID": "x"}}}),
        )
        .await
        .ok();
    assert_eq!(server.get("", "nodes", "", "n1").unwrap()["status"], json!({}));
    let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}, "spec": {"unschedulable": true}, "metadata": {"labels": {"l": "v"}}});
    let after = caller.merge("/api/v1/nodes/n1/status", patch).await.ok();
    assert_eq!(after["status"]["conditions"][0]["status"], "True");
    assert_eq!(after["spec"], json!({}));
    assert_eq!(
        after["metadata"]["labels"]["l"], "v",
        "a Node's labels may be written with its status"
    );
    assert_eq!(
        after["metadata"].get("generation"),
        None,
        "Nodes have no generation"
    );
    let made = caller.post("/api/v1/namespaces/default/pods", {
        let mut pod = pod("p", "");
        pod["status"] = json!({"phase": "Running"});
        pod
    });
    let made = made.await.ok();
    assert_eq!(
        made["status"]["phase"], "Pending",
        "a new pod is pending whatever it says"
    );
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["spec"]["terminationGracePeriodSeconds"], 30);
    let pods = "/api/v1/namespaces/default/pods";
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(
        caller
            .post(&format!("{pods}/p/binding"), binding.clone())
            .await
            .code,
        201
    );
    assert_eq!(
        server.get("", "pods", "default", "p").unwrap()["spec"]["nodeName"],
        "n1"
    );
    caller
        .post(&format!("{pods}/p/binding"), binding)
        .await
        .fails(409, "Conflict");
    caller
        .merge(&format!("{pods}/p"), json!({"spec": {"nodeName": "n2"}}))
        .await
        .fails(422, "Invalid");
}

#[tokio::test]
async fn unknown_fields_are_dropped_named_or_refused_as_asked() {
    let (_server, caller) = server_and_caller().await;
    let map = |name: &str| json!({"metadata": {"name": name}, "data": {"k": "v"}, "extra": {"deep": 1}});
    let strict = caller
        .post(&format!("{MAPS}?fieldValidation=Strict"), map("a"))
        .await;
    assert_eq!(
        strict.fails(400, "BadRequest"),
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"extra\""
    );
    let warned = caller.post(MAPS, map("b")).await;
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"extra\\\"\"");
    assert_eq!(warned.ok().get("extra"), None);
    let ignored = caller
        .post(&format!("{MAPS}?fieldValidation=Ignore"), map("c"))
        .await;
    assert!(!ignored.headers.contains_key("warning"));
    ignored.ok();
    let patched = caller
        .merge(&format!("{MAPS}/c?fieldValidation=Strict"), json!({"other": 1}))
        .await;
    assert!(
        patched
            .fails(422, "Invalid")
            .contains("strict decoding error: unknown field \"other\"")
    );
}

#[tokio::test]
async fn the_date_of_every_answer_is_the_servers_own() {
    let (server, caller) = server_and_caller().await;
    let date = |answer: &super::Answer| {
        let text = answer.headers["date"].to_str().unwrap().to_owned();
        jiff::fmt::rfc2822::parse(&text).unwrap().timestamp()
    };
    let told = date(&caller.get("/healthz").await);
    assert!((told.as_second() - jiff::Timestamp::now().as_second()).abs() < 30);
    server.set_clock_offset(jiff::SignedDuration::from_hours(2));
    for answer in [
        caller.get("/healthz").await,
        caller.get("/api/v1/nodes/none").await,
    ] {
        let ahead = date(&answer).as_second() - jiff::Timestamp::now().as_second();
        assert!((7100..7300).contains(&ahead), "{ahead}");
    }
    let made = caller.post(MAPS, config_map("late", "1")).await.ok();
    let at: jiff::Timestamp = made["metadata"]["creationTimestamp"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(at.as_second() > jiff::Timestamp::now().as_second() + 7000);
}

#[tokio::test]
async fn a_dry_run_judges_and_stores_nothing() {
    let (server, caller) = server_and_caller().await;
    let before = server.version();
    let made = caller
        .post(&format!("{MAPS}?dryRun=All"), config_map("a", "1"))
        .await;
    assert_eq!(made.code, 201);
    caller
        .post(&format!("{MAPS}?dryRun=All"), config_map("A", "1"))
        .await
        .fails(422, "Invalid");
    assert_eq!(server.version(), before);
    assert!(server.get("", "configmaps", "default", "a").is_none());
}

#[tokio::test]
async fn the_two_forms_of_an_event_are_one_object() {
    let (_server, caller) = server_and_caller().await;
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "drydock.dev/coordinator", "reportingInstance": "c",
        "action": "Cordon", "reason": "Cordoned", "type": "Normal", "note": "hello",
        "regarding": {"kind": "Node", "name": "n1"},
    });
    let new = "/apis/events.k8s.io/v1/namespaces/default/events";
    assert_eq!(
        caller
            .post(&format!("{new}?fieldValidation=Strict"), event)
            .await
            .ok()["note"],
        "hello"
    );
    let old = caller.get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dn1,involvedObject.kind=Node").await.ok();
    assert_eq!(old["items"][0]["message"], "hello");
    assert_eq!(old["items"][0]["reportingComponent"], "drydock.dev/coordinator");
    let by_new_name = caller
        .get(&format!("{new}?fieldSelector=regarding.name=n2"))
        .await
        .ok();
    assert_eq!(by_new_name["items"], json!([]));
}
