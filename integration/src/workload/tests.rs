//! The controllers' decisions, as tables of what is there and what they do about it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Act, Scene, decide};

fn now() -> Timestamp {
    "2026-11-02T10:00:00Z".parse().unwrap()
}

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn node(name: &str, ready: &str, cordoned: bool) -> Value {
    json!({"metadata": {"name": name, "uid": name, "creationTimestamp": now()},
        "spec": {"unschedulable": cordoned}, "status": {"conditions": [{"type": "Ready", "status": ready}]}})
}

fn set(replicas: u32) -> Value {
    json!({"metadata": {"name": "shop", "namespace": "shop", "uid": "rs"},
        "spec": {"replicas": replicas, "selector": {}, "template": {
            "metadata": {"labels": {"app": "shop"}}, "spec": {"containers": []}}}})
}

fn pod(name: &str, node: Option<&str>, deleting: bool) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "uid": name,
            "deletionTimestamp": deleting.then(now),
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "shop", "uid": "rs",
                "controller": true}]},
        "spec": {"containers": [], "nodeName": node},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn made(scene: &Scene) -> usize {
    let acts = decide(scene, now(), Duration::from_secs(4));
    acts.iter().filter(|act| matches!(act, Act::CreatePod(_))).count()
}

fn bound(scene: &Scene) -> Vec<String> {
    let acts = decide(scene, now(), Duration::from_secs(4));
    acts.into_iter()
        .filter_map(|act| match act {
            Act::Bind { node, .. } => Some(node),
            _ => None,
        })
        .collect()
}

#[test]
fn a_pod_on_its_way_out_is_replaced_at_once_and_one_too_few_is_made() {
    let mut scene = Scene {
        replica_sets: vec![typed(set(2))],
        ..Scene::default()
    };
    assert_eq!(made(&scene), 2);
    scene.pods = vec![
        typed(pod("a", Some("one"), false)),
        typed(pod("b", Some("two"), false)),
    ];
    assert_eq!(made(&scene), 0);
    scene.pods[0] = typed(pod("a", Some("one"), true));
    assert_eq!(made(&scene), 1);
}

#[test]
fn pods_go_to_ready_nodes_that_nobody_cordoned_and_spread() {
    let scene = Scene {
        nodes: vec![
            typed(node("cordoned", "True", true)),
            typed(node("down", "Unknown", false)),
            typed(node("one", "True", false)),
            typed(node("two", "True", false)),
        ],
        pods: vec![
            typed(pod("a", Some("one"), false)),
            typed(pod("b", None, false)),
            typed(pod("c", None, false)),
            typed(pod("d", None, true)),
        ],
        ..Scene::default()
    };
    assert_eq!(bound(&scene), ["two", "one"]);
}

#[test]
fn a_daemon_set_has_a_pod_on_every_node_cordoned_or_not() {
    let daemon = json!({"metadata": {"name": "logs", "namespace": "shop", "uid": "ds"},
        "spec": {"selector": {}, "template": {"spec": {"containers": []}}}});
    let scene = Scene {
        daemon_sets: vec![typed(daemon)],
        nodes: vec![
            typed(node("one", "True", true)),
            typed(node("two", "False", false)),
        ],
        ..Scene::default()
    };
    assert_eq!(made(&scene), 2);
    assert!(bound(&scene).is_empty());
}

#[test]
fn a_node_is_unknown_once_its_heartbeats_are_too_old() {
    let lease = |age: i64| {
        let renewed = now() - SignedDuration::from_secs(age);
        json!({"metadata": {"name": "one"}, "spec": {"renewTime": format!("{renewed:.6}")}})
    };
    let mut old = node("one", "True", false);
    old["metadata"]["creationTimestamp"] = json!(now() - SignedDuration::from_secs(100));
    for (age, gone) in [(3, false), (4, true)] {
        let scene = Scene {
            nodes: vec![typed(old.clone())],
            leases: vec![typed(lease(age))],
            pods: vec![typed(pod("a", Some("one"), false))],
            ..Scene::default()
        };
        let acts = decide(&scene, now(), Duration::from_secs(4));
        assert_eq!(
            acts.contains(&Act::NodeUnknown { name: "one".into() }),
            gone,
            "{age}"
        );
        let unready = Act::PodUnready {
            namespace: "shop".into(),
            name: "a".into(),
        };
        assert_eq!(acts.contains(&unready), gone, "{age}");
    }
}
