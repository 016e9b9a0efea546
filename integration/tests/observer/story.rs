//! One node's upgrade as the observer sees it when all is right, and what its events are made of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use drydock_integration::firmware::Bits;
use drydock_integration::observer::{
    ApiWrite, Cast, Content, Knowledge, KnownRelease, Place, Seen, SlotId, TableView,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

pub const OLD: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
pub const NEW: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";
pub const START: &str = "2026-11-02T10:00:00Z";

pub fn at(secs: i64) -> Timestamp {
    START.parse::<Timestamp>().unwrap() + SignedDuration::from_secs(secs)
}

pub fn knowledge() -> Knowledge {
    let release = |digest: &str, version: &str| KnownRelease {
        digest: digest.into(),
        version: version.into(),
        healthy: true,
    };
    Knowledge {
        cast: Cast {
            coordinators: vec!["coordinator".into()],
            agents: BTreeMap::from([("agent-one".into(), "one".into())]),
        },
        releases: vec![release(OLD, "1"), release(NEW, "2")],
        windows: BTreeMap::from([("all".into(), vec![(at(0), at(3600))])]),
        freezes: vec![],
        grace: Duration::from_secs(2),
    }
}

pub fn write(user: &str, resource: &str, sub: &str, before: Value, after: Value) -> Seen {
    let named = if after.is_null() { &before } else { &after };
    let text = |path: &str| {
        named
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let some = |value: &Value| (!value.is_null()).then(|| Arc::new(value.clone()));
    Seen::Api(ApiWrite {
        user: user.into(),
        resource: resource.into(),
        subresource: sub.into(),
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
        before: some(&before),
        after: some(&after),
    })
}

pub fn coordinator(resource: &str, before: Value, after: Value) -> Seen {
    write("coordinator", resource, "", before, after)
}

pub fn node(name: &str, cordoned: bool, mark: Option<&str>) -> Value {
    json!({
        "metadata": {"name": name, "uid": format!("uid-{name}"), "labels": {"zone": name},
            "annotations": mark.map(|mark| json!({"drydock.dev/dock": mark}))},
        "spec": {"unschedulable": cordoned},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    })
}

pub fn pod(name: &str, on: &str, deleting: bool) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "shop"}},
        "spec": {"nodeName": on},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    });
    if deleting {
        pod["metadata"]["deletionTimestamp"] = json!(START);
    }
    pod
}

pub fn policy(dock: Value) -> Value {
    json!({
        "apiVersion": "drydock.dev/v1alpha1", "kind": "UpgradePolicy", "metadata": {"name": "all"},
        "spec": {"repository": "os", "release": {"channel": "stable"},
            "expected": {"drain": "1m", "reboot": "1m", "wayBack": "1m"}},
        "status": {"term": 1, "dock": dock},
    })
}

pub fn upgrade(spec: Value) -> Value {
    json!({"apiVersion": "drydock.dev/v1alpha1", "kind": "NodeUpgrade",
        "metadata": {"name": "one", "uid": "nu-one"}, "spec": spec})
}

pub fn wish() -> Value {
    json!({"repository": "os", "url": "http://x", "digest": NEW, "version": "2"})
}

pub fn dock(step: &str) -> Value {
    json!({"policy": "all", "attempt": "a1-7-0", "term": 1, "step": step, "since": START, "digest": NEW,
        "nodeUid": "uid-one", "bootId": "boot-1",
        "deadlines": {"drain": "5m", "health": "5m", "confirmWait": "5m"}})
}

pub fn grant() -> Value {
    json!({"attempt": "a1-7-0", "nodeUid": "uid-one", "bootId": "boot-1", "digest": NEW,
        "notAfter": at(600).to_string(), "confirmWait": "5m"})
}

pub fn verdict() -> Value {
    json!({"attempt": "a1-7-0", "bootId": "boot-2", "digest": NEW, "decision": "confirm"})
}

pub const GOOD: Bits = bits(2, 0, true);
pub const UNBOOTABLE: Bits = bits(0, 0, false);
pub const MARK: &str = "a1-7-0 policy=all";

pub const fn bits(priority: u8, tries: u8, successful: bool) -> Bits {
    Bits {
        priority,
        tries,
        successful,
    }
}

pub fn table(a: Bits, b: Bits, next: SlotId) -> TableView {
    TableView {
        a,
        b,
        whole_copies: 2,
        next: Some(next),
        rest: "rest".into(),
    }
}

pub fn changed(table: TableView, other: &str) -> Seen {
    Seen::Table {
        node: "one".into(),
        table: Some(table),
        other: Content::Release(other.into()),
    }
}

pub fn bytes(place: Place) -> Seen {
    Seen::DeviceWrite {
        node: "one".into(),
        place,
        offset: 4096,
        len: 512,
    }
}

pub fn boot(id: &str, slot: SlotId, content: Content, table: TableView) -> Seen {
    Seen::Booted {
        node: "one".into(),
        boot_id: id.into(),
        slot,
        content,
        table,
    }
}

pub fn release(digest: &str) -> Content {
    Content::Release(digest.into())
}

/// The cluster before anything happens.
pub fn setting() -> Vec<(&'static str, i64, Seen)> {
    let null = || Value::Null;
    let budget = json!({"metadata": {"name": "shop", "namespace": "shop"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "shop"}}},
        "status": {"desiredHealthy": 1}});
    vec![
        (
            "node one",
            1,
            write("kubelet", "nodes", "", null(), node("one", false, None)),
        ),
        (
            "node two",
            1,
            write("kubelet", "nodes", "", null(), node("two", false, None)),
        ),
        (
            "policy",
            1,
            write("admin", "upgradepolicies", "", null(), policy(json!([]))),
        ),
        (
            "budget",
            1,
            write("admin", "poddisruptionbudgets", "", null(), budget),
        ),
        (
            "pod a",
            1,
            write("controller", "pods", "", null(), pod("a", "one", false)),
        ),
        (
            "pod b",
            1,
            write("controller", "pods", "", null(), pod("b", "two", false)),
        ),
        (
            "first boot",
            2,
            boot(
                "boot-1",
                SlotId::A,
                release(OLD),
                table(GOOD, UNBOOTABLE, SlotId::A),
            ),
        ),
    ]
}

/// One node's upgrade as it should be: each event by its name, with its second.
pub fn story() -> Vec<(&'static str, i64, Seen)> {
    let marked = node("one", true, Some(MARK));
    let staging = upgrade(json!({"wish": wish(), "stage": true}));
    let draining = upgrade(json!({"wish": wish(), "dock": dock("Draining")}));
    let granted = upgrade(json!({"wish": wish(), "dock": dock("Granted"), "grant": grant()}));
    let mut judged = granted.clone();
    judged["spec"]["verdict"] = verdict();
    let entry = json!([{"node": "one", "uid": "uid-one", "attempt": "a1-7-0", "since": START}]);
    let mut all = setting();
    all.extend([
        (
            "wish",
            3,
            coordinator("nodeupgrades", upgrade(json!({})), staging.clone()),
        ),
        ("unbootable", 4, changed(table(GOOD, UNBOOTABLE, SlotId::A), NEW)),
        ("staging", 5, bytes(Place::Slot(SlotId::B))),
        (
            "report",
            6,
            write("agent-one", "nodeupgrades", "status", staging.clone(), staging),
        ),
        (
            "place",
            10,
            coordinator("upgradepolicies", policy(json!([])), policy(entry)),
        ),
        (
            "cordon",
            11,
            coordinator("nodes", node("one", false, None), marked.clone()),
        ),
        (
            "drain",
            12,
            coordinator("nodeupgrades", upgrade(json!({"wish": wish()})), draining.clone()),
        ),
        (
            "evict",
            13,
            write(
                "coordinator",
                "pods",
                "eviction",
                pod("a", "one", false),
                pod("a", "one", true),
            ),
        ),
        (
            "gone",
            14,
            write("kubelet", "pods", "", pod("a", "one", true), Value::Null),
        ),
        (
            "grant",
            15,
            coordinator("nodeupgrades", draining, granted.clone()),
        ),
        ("arm", 16, changed(table(GOOD, bits(3, 2, false), SlotId::B), NEW)),
        ("reboot", 17, Seen::Rebooting { node: "one".into() }),
        (
            "trial",
            18,
            boot(
                "boot-2",
                SlotId::B,
                release(NEW),
                table(GOOD, bits(3, 1, false), SlotId::B),
            ),
        ),
        ("verdict", 20, coordinator("nodeupgrades", granted, judged)),
        (
            "commit",
            21,
            changed(table(GOOD, bits(3, 0, true), SlotId::B), OLD),
        ),
        (
            "uncordon",
            22,
            coordinator("nodes", marked, node("one", false, None)),
        ),
    ]);
    all
}
