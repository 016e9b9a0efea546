//! Leases, as elections use them, and Events, as recorders write them.

use serde_json::{Value, json};

use super::talk::{Talk, lean, names};

fn lease(name: &str, holder: &str) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 0, "acquireTime": "2026-01-01T00:00:00.000000Z", "renewTime": "2026-01-01T00:00:00.000000Z"}})
}

pub async fn held(t: Talk) {
    let leases = t.of("coordination.k8s.io/v1", "leases");
    let path = format!("{leases}/l");
    let made = t.post(&leases, lease("l", "one")).await;
    t.note("made", made.body.clone());
    t.expect("made twice", 409, t.post(&leases, lease("l", "two")).await);
    let mut mine = made.body.clone();
    mine["spec"]["renewTime"] = json!("2026-01-01T00:00:05.123456Z");
    t.parts("renewed", &t.put(&path, mine.clone()).await, &["/spec"]);
    mine["spec"]["holderIdentity"] = json!("two");
    t.expect("by one who comes late", 409, t.put(&path, mine.clone()).await);
    mine["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("resourceVersion");
    t.told("without a version", t.put(&path, mine).await);
    for (step, spec) in [
        ("no duration", json!({"leaseDurationSeconds": 0})),
        ("transitions below nothing", json!({"leaseTransitions": -1})),
        ("an empty holder", json!({"holderIdentity": ""})),
        (
            "a time without a fraction",
            json!({"renewTime": "2026-01-01T00:00:09Z"}),
        ),
        (
            "a time with nine digits",
            json!({"renewTime": "2026-01-01T00:00:09.123456789Z"}),
        ),
        ("no time", json!({"renewTime": "soon"})),
        ("released", json!({"holderIdentity": null, "renewTime": null})),
    ] {
        t.parts(
            step,
            &t.merge(&path, json!({"spec": spec})).await,
            &["/spec/holderIdentity", "/spec/leaseDurationSeconds"],
        );
    }
}

pub async fn gone(t: Talk) {
    let leases = t.of("coordination.k8s.io/v1", "leases");
    let path = format!("{leases}/l");
    let held = t.post(&leases, lease("l", "one")).await.ok();
    t.expect("deleted", 200, t.delete(&path, json!({})).await);
    t.expect("a PUT of the old one", 409, t.put(&path, held.clone()).await);
    t.expect(
        "a dry run of it",
        409,
        t.put(&format!("{path}?dryRun=All"), held.clone()).await,
    );
    let mut new = held.clone();
    new["metadata"].as_object_mut().unwrap().remove("uid");
    t.told("with a version and no UID", t.put(&path, new.clone()).await);
    new["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    t.told(
        "with neither",
        t.put(&format!("{leases}/m"), {
            new["metadata"]["name"] = json!("m");
            new
        })
        .await,
    );
    t.expect("the old one once more", 409, t.put(&path, held).await);
    t.expect(
        "a patch of none",
        404,
        t.merge(&format!("{leases}/none"), json!({})).await,
    );
    t.expect(
        "another name",
        400,
        t.put(&format!("{leases}/a"), lease("b", "x")).await,
    );
}

fn event(t: &Talk, name: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": name},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "drydock.dev/coordinator",
        "reportingInstance": "c-0", "action": "Upgrade", "reason": "Docked", "type": "Normal", "note": "in dock",
        "regarding": {"kind": "Pod", "name": "x", "namespace": t.ns, "uid": "u", "apiVersion": "v1"},
    })
}

pub async fn events_series(t: Talk) {
    let events = t.of("events.k8s.io/v1", "events");
    let made = t.post(&events, event(&t, "e")).await;
    t.parts(
        "made",
        &made,
        &[
            "/note",
            "/regarding",
            "/reportingController",
            "/eventTime",
            "/series",
        ],
    );
    let path = format!("{events}/e");
    let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:01:00.000000Z"}});
    t.parts(
        "a series",
        &t.merge(&path, series.clone()).await,
        &["/series/count", "/note"],
    );
    let more = json!({"series": {"count": 3, "lastObservedTime": "2026-01-01T00:02:00.000000Z"}});
    t.parts(
        "by a strategic patch",
        &t.strategic(&path, more).await,
        &["/series/count"],
    );
    t.told("another note", t.merge(&path, json!({"note": "changed"})).await);
    t.told(
        "another reason",
        t.merge(&path, json!({"reason": "Changed"})).await,
    );
    t.told(
        "a label",
        t.merge(&path, json!({"metadata": {"labels": {"l": "x"}}})).await,
    );
    for (step, change) in [
        ("no time", json!({"eventTime": null})),
        ("no controller", json!({"reportingController": ""})),
        ("no instance", json!({"reportingInstance": ""})),
        ("no action", json!({"action": ""})),
        ("no reason", json!({"reason": ""})),
        ("a wrong type", json!({"type": "Loud"})),
        ("a long note", json!({"note": "x".repeat(1025)})),
        ("a long reason", json!({"reason": "x".repeat(129)})),
        (
            "about another namespace",
            json!({"regarding": {"kind": "Pod", "name": "x", "namespace": "other"}}),
        ),
        (
            "about no namespace",
            json!({"regarding": {"kind": "Node", "name": "x"}}),
        ),
        (
            "a series of one",
            json!({"series": {"count": 1, "lastObservedTime": "2026-01-01T00:01:00.000000Z"}}),
        ),
    ] {
        let mut body = event(&t, "wrong");
        for (key, value) in change.as_object().unwrap() {
            body[key] = value.clone();
        }
        t.told(step, t.post(&format!("{events}?dryRun=All"), body).await);
    }
}

pub async fn events_views(t: Talk) {
    t.post(&t.of("events.k8s.io/v1", "events"), event(&t, "new"))
        .await
        .ok();
    let core = t.get(&t.core("events/new")).await.ok();
    t.note("the core view", lean(&core));
    let old = json!({"metadata": {"name": "old"}, "reason": "R", "message": "m", "type": "Warning", "count": 3,
        "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:05:00Z", "source": {"component": "kubelet", "host": "n"},
        "involvedObject": {"kind": "Pod", "name": "x", "namespace": t.ns}});
    t.post(&t.core("events"), old).await.ok();
    let new = t.get(&t.of("events.k8s.io/v1", "events/old")).await.ok();
    t.note("the new view", lean(&new));
    let list = t
        .get(&t.core("events?fieldSelector=involvedObject.kind%3DPod,involvedObject.name%3Dx"))
        .await
        .ok();
    t.note("by object", names(&list));
    let cluster = json!({"metadata": {"name": "leases-node-event"}, "reason": "R", "involvedObject": {"kind": "Node", "name": "n"}});
    t.told(
        "of a node, in default",
        t.post("/api/v1/namespaces/default/events", cluster.clone()).await,
    );
    t.told("of a node, elsewhere", t.post(&t.core("events"), cluster).await);
    let put = json!({"metadata": {"name": "put"}, "reason": "R", "involvedObject": {"kind": "Pod", "name": "x", "namespace": t.ns}});
    t.told("a PUT makes one", t.put(&t.core("events/put"), put).await);
}
