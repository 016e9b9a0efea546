//! The observer finds nothing in a story in which all is right, and finds each thing that is put wrong
//! in it: an observer that cannot complain proves nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use drydock_integration::firmware::Bits;
use drydock_integration::observer::{
    ApiWrite, Cast, Content, Invariant, Knowledge, KnownRelease, Observer, Place, Seen, SlotId, TableView,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

const OLD: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const NEW: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";
const START: &str = "2026-11-02T10:00:00Z";

fn at(secs: i64) -> Timestamp {
    START.parse::<Timestamp>().unwrap() + SignedDuration::from_secs(secs)
}

fn knowledge() -> Knowledge {
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

fn write(user: &str, resource: &str, sub: &str, before: Value, after: Value) -> Seen {
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

fn coordinator(resource: &str, before: Value, after: Value) -> Seen {
    write("coordinator", resource, "", before, after)
}

fn node(name: &str, cordoned: bool, mark: Option<&str>) -> Value {
    json!({
        "metadata": {"name": name, "uid": format!("uid-{name}"), "labels": {"zone": name},
            "annotations": mark.map(|mark| json!({"drydock.dev/dock": mark}))},
        "spec": {"unschedulable": cordoned},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn pod(name: &str, on: &str, deleting: bool) -> Value {
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

fn policy(dock: Value) -> Value {
    json!({
        "apiVersion": "drydock.dev/v1alpha1", "kind": "UpgradePolicy", "metadata": {"name": "all"},
        "spec": {"repository": "os", "release": {"channel": "stable"},
            "expected": {"drain": "1m", "reboot": "1m", "wayBack": "1m"}},
        "status": {"term": 1, "dock": dock},
    })
}

fn upgrade(spec: Value) -> Value {
    json!({"apiVersion": "drydock.dev/v1alpha1", "kind": "NodeUpgrade",
        "metadata": {"name": "one", "uid": "nu-one"}, "spec": spec})
}

fn wish() -> Value {
    json!({"repository": "os", "url": "http://x", "digest": NEW, "version": "2"})
}

fn dock(step: &str) -> Value {
    json!({"policy": "all", "attempt": "a1-7-0", "term": 1, "step": step, "since": START, "digest": NEW,
        "nodeUid": "uid-one", "bootId": "boot-1",
        "deadlines": {"drain": "5m", "health": "5m", "confirmWait": "5m"}})
}

fn grant() -> Value {
    json!({"attempt": "a1-7-0", "nodeUid": "uid-one", "bootId": "boot-1", "digest": NEW,
        "notAfter": at(600).to_string(), "confirmWait": "5m"})
}

fn verdict() -> Value {
    json!({"attempt": "a1-7-0", "bootId": "boot-2", "digest": NEW, "decision": "confirm"})
}

const GOOD: Bits = bits(2, 0, true);
const UNBOOTABLE: Bits = bits(0, 0, false);
const MARK: &str = "a1-7-0 policy=all";

const fn bits(priority: u8, tries: u8, successful: bool) -> Bits {
    Bits {
        priority,
        tries,
        successful,
    }
}

fn table(a: Bits, b: Bits, next: SlotId) -> TableView {
    TableView {
        a,
        b,
        whole_copies: 2,
        next: Some(next),
        rest: "rest".into(),
    }
}

fn changed(table: TableView, other: &str) -> Seen {
    Seen::Table {
        node: "one".into(),
        table: Some(table),
        other: Content::Release(other.into()),
    }
}

fn bytes(place: Place) -> Seen {
    Seen::DeviceWrite {
        node: "one".into(),
        place,
        offset: 4096,
        len: 512,
    }
}

fn boot(id: &str, slot: SlotId, content: Content, table: TableView) -> Seen {
    Seen::Booted {
        node: "one".into(),
        boot_id: id.into(),
        slot,
        content,
        table,
    }
}

fn release(digest: &str) -> Content {
    Content::Release(digest.into())
}

/// The cluster before anything happens.
fn setting() -> Vec<(&'static str, i64, Seen)> {
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
fn story() -> Vec<(&'static str, i64, Seen)> {
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

fn observe(events: Vec<(&'static str, i64, Seen)>) -> Observer {
    let mut observer = Observer::new(knowledge());
    for (_, secs, seen) in events {
        observer.see(at(secs), seen);
    }
    observer.finish(at(60), &[]);
    observer
}

#[test]
fn a_story_in_which_all_is_right_tests_every_invariant_and_finds_nothing() {
    let observer = observe(story());
    assert_eq!(observer.report().findings(), Vec::<&_>::new());
    assert_eq!(observer.report().untested(), []);
}

/// One thing put wrong: the event of this name is replaced by another at another second, or left out.
struct Wrong {
    what: &'static str,
    event: &'static str,
    by: Option<(i64, Seen)>,
    found: Invariant,
}

fn wrong(what: &'static str, event: &'static str, secs: i64, seen: Seen, found: Invariant) -> Wrong {
    Wrong {
        what,
        event,
        by: Some((secs, seen)),
        found,
    }
}

fn left_out(what: &'static str, event: &'static str, found: Invariant) -> Wrong {
    Wrong {
        what,
        event,
        by: None,
        found,
    }
}

fn moved(what: &'static str, event: &'static str, secs: i64, found: Invariant) -> Wrong {
    let (_, _, seen) = story().into_iter().find(|(name, _, _)| *name == event).unwrap();
    wrong(what, event, secs, seen, found)
}

fn wrongs_on_disk() -> Vec<Wrong> {
    use Invariant::{S1, S2, S3, S4, S5, S14};
    let trial = || table(GOOD, bits(3, 1, false), SlotId::B);
    let armed = || table(GOOD, bits(3, 2, false), SlotId::B);
    let committed = || table(GOOD, bits(3, 0, true), SlotId::B);
    let elsewhere = TableView {
        rest: "other".into(),
        ..committed()
    };
    let dead = Seen::Dead {
        node: "one".into(),
        why: "no table".into(),
    };
    let no_table = Seen::Table {
        node: "one".into(),
        table: None,
        other: Content::Unknown,
    };
    let bootable = changed(table(GOOD, bits(1, 0, true), SlotId::A), OLD);
    let lowered = changed(table(UNBOOTABLE, bits(3, 1, false), SlotId::B), OLD);
    vec![
        wrong(
            "the running slot is written",
            "staging",
            5,
            bytes(Place::Slot(SlotId::A)),
            S1,
        ),
        wrong("a byte goes elsewhere", "staging", 5, bytes(Place::Elsewhere), S1),
        wrong(
            "another partition moves",
            "commit",
            21,
            changed(elsewhere, OLD),
            S1,
        ),
        wrong("other content is armed", "arm", 16, changed(armed(), OLD), S2),
        left_out("armed without a grant", "grant", S3),
        moved("armed too late", "arm", 601, S3),
        left_out("rebooted with nothing armed", "arm", S3),
        left_out("marked good without a verdict", "verdict", S4),
        wrong(
            "the verdict is for another boot",
            "trial",
            18,
            boot("boot-3", SlotId::B, release(NEW), trial()),
            S4,
        ),
        wrong("nothing boots", "trial", 18, dead, S5),
        wrong(
            "something else boots",
            "trial",
            18,
            boot("boot-2", SlotId::B, Content::Unknown, trial()),
            S5,
        ),
        wrong(
            "written while the loader could boot it",
            "unbootable",
            4,
            bootable,
            S5,
        ),
        wrong("no copy of the table is whole", "arm", 16, no_table, S5),
        wrong(
            "the other slot is overwritten on trial",
            "verdict",
            20,
            bytes(Place::Slot(SlotId::A)),
            S14,
        ),
        wrong("the way back is lowered on trial", "verdict", 20, lowered, S14),
    ]
}

fn wrongs_in_the_cluster() -> Vec<Wrong> {
    use Invariant::{S6, S7, S8, S9, S10, S12};
    let halt = json!({"metadata": {"name": NEW.replace(':', "-")}, "spec": {"digest": NEW}});
    let failed = json!([{"digest": NEW, "attempt": "a0", "class": "Failed", "at": START}]);
    let again = upgrade(json!({"wish": wish(), "stage": true, "records": failed}));
    let deleted = coordinator("pods", pod("a", "one", false), Value::Null);
    let kept = node("one", true, Some("a1-7-0 policy=all kept"));
    let bare = coordinator("nodes", node("one", false, None), node("one", true, None));
    let by_agent = write(
        "agent-one",
        "nodes",
        "",
        node("one", false, None),
        node("one", true, Some(MARK)),
    );
    let down = write("kubelet", "nodes", "", Value::Null, node("two", true, None));
    vec![
        wrong(
            "a halted release is granted",
            "report",
            6,
            coordinator("releasehalts", Value::Null, halt),
            S6,
        ),
        wrong(
            "what failed is staged again",
            "wish",
            3,
            coordinator("nodeupgrades", upgrade(json!({})), again),
            S6,
        ),
        wrong("the other node is down", "node two", 1, down, S7),
        moved("cordoned after the window", "cordon", 3601, S8),
        moved("cordoned with too little left", "cordon", 3500, S8),
        moved("evicted before the window", "evict", -1, S8),
        left_out("granted with a pod left", "gone", S9),
        left_out("the last healthy pod is evicted", "pod b", S9),
        wrong("a pod is deleted, not evicted", "evict", 13, deleted, S9),
        left_out("left behind cordoned", "uncordon", S10),
        wrong(
            "another's cordon is removed",
            "uncordon",
            22,
            coordinator("nodes", kept, node("one", false, None)),
            S10,
        ),
        wrong("cordoned without a mark", "cordon", 11, bare, S10),
        wrong("an agent cordons", "report", 6, by_agent, S12),
    ]
}

#[test]
fn each_thing_put_wrong_is_found() {
    let mut covered = Vec::new();
    for Wrong {
        what,
        event,
        by,
        found,
    } in wrongs_on_disk().into_iter().chain(wrongs_in_the_cluster())
    {
        let mut events = story();
        let index = events.iter().position(|(name, _, _)| *name == event).unwrap();
        match by {
            Some((secs, seen)) => events[index] = (event, secs, seen),
            None => drop(events.remove(index)),
        }
        let observer = observe(events);
        let tally = observer.report().tally(found);
        assert!(
            tally.violated > 0,
            "{what}: {found} saw nothing: {:#?}",
            observer.report()
        );
        covered.push(found);
    }
    assert!(Invariant::ALL.iter().all(|invariant| covered.contains(invariant)));
}
