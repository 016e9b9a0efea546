//! Actions as they are carried out: preconditions, conflicts, evictions, and the cache after one's own
//! writes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use drydock_api::{DockMark, NodeUpgradeSpec, annotation};
use drydock_coordinator::{
    Clock, Settings, SystemClock,
    execute::{End, Events, Executor},
    lead::Gate,
    link::Link,
    metrics::Metrics,
    observe::Observer,
};
use drydock_integration::apiserver::{ApiServer, hooks::WatchMatch};
use drydock_plan::{Action, Answer, Keep, ObjectRef, PodRef, SpecChange, World};
use serde_json::json;
use tokio::time::Instant;

use crate::{cluster, node, pod, until};

/// A leader's hands without its head.
struct Hands {
    settings: Settings,
    client: kube::Client,
    link: Link,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    observer: Observer,
    events: Events,
    gate: Gate,
    _dir: tempfile::TempDir,
}

impl Hands {
    async fn of(server: &ApiServer) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings::new("test", "default", dir.path().to_owned());
        let (metrics, clock): (_, Arc<dyn Clock>) = (Metrics::new(), Arc::new(SystemClock));
        let link = Link::new(Arc::clone(&clock), metrics.clone());
        let client = link.client(server.config("coordinator").await.unwrap()).unwrap();
        let observer = Observer::start(&client, &settings, &link, &clock, &metrics);
        until("everything is listed", || observer.in_step().is_ok()).await;
        Self {
            events: Events::new(client.clone(), "test"),
            gate: Gate::open(Instant::now(), Duration::from_secs(600)),
            settings,
            client,
            link,
            metrics,
            clock,
            observer,
            _dir: dir,
        }
    }

    async fn execute(&self, actions: Vec<Action>) -> End {
        let executor = Executor {
            client: self.client.clone(),
            observer: &self.observer,
            gate: &self.gate,
            term: 1,
            link: &self.link,
            clock: &*self.clock,
            metrics: &self.metrics,
            events: &self.events,
            parallel: 4,
        };
        executor.execute(actions).await
    }

    fn world(&self) -> World {
        self.observer.world(1, &self.settings, BTreeMap::new())
    }

    fn node(&self, name: &str) -> ObjectRef {
        ObjectRef::of_node(&self.world().nodes[name])
    }

    fn cordon(&self, name: &str) -> Action {
        Action::CordonNode {
            node: self.node(name),
            mark: mark(),
            term: 1,
        }
    }
}

fn mark() -> DockMark {
    DockMark {
        attempt: "a1-5-0".to_owned(),
        policy: "all".to_owned(),
        kept: false,
    }
}

#[tokio::test]
async fn a_plan_is_never_made_from_anything_older_than_ones_own_write() {
    let server = cluster().await;
    server.put(node("n1")).unwrap();
    let hands = Hands::of(&server).await;
    // The watch shows nothing any more, so only the answer of the write can.
    let _held = server.hooks().hold_watches(WatchMatch::any());
    let end = hands.execute(vec![hands.cordon("n1")]).await;
    assert!(matches!(end, End::Done { actions: 1 }), "{end:?}");
    let seen = hands.world().nodes["n1"].clone();
    assert!(seen.unschedulable);
    assert_eq!(seen.mark, Some(Ok(mark())));
    // And what was read is good enough for the next write.
    let uncordon = Action::UncordonNode {
        node: ObjectRef::of_node(&seen),
        attempt: mark().attempt,
        keep: Keep::Nothing,
    };
    let end = hands.execute(vec![uncordon]).await;
    assert!(matches!(end, End::Done { .. }), "{end:?}");
    let held = server.get("", "nodes", "", "n1").unwrap();
    assert_ne!(held["spec"]["unschedulable"], json!(true));
    assert!(
        held["metadata"]["annotations"].get(annotation::DOCK).is_none(),
        "{held}"
    );
}

#[tokio::test]
async fn a_conflict_throws_the_rest_of_the_plan_away_and_the_next_is_made_from_fresh_data() {
    let server = cluster().await;
    server.put(node("n1")).unwrap();
    server.put(node("n2")).unwrap();
    let hands = Hands::of(&server).await;
    let stale = hands.cordon("n1");
    let held = server.hooks().hold_watches(WatchMatch::any());
    let mut changed = node("n1");
    changed["metadata"]["labels"]["new"] = json!("x");
    server.put(changed).unwrap();
    let after = Action::CreateNodeUpgrade {
        node: "n2".to_owned(),
        node_uid: hands.node("n2").uid,
    };
    let end = hands.execute(vec![stale, after]).await;
    assert!(
        matches!(&end, End::Stale { object, .. } if object == "Node n1"),
        "{end:?}"
    );
    assert!(server.get("drydock.dev", "nodeupgrades", "", "n2").is_none());
    // The conflict itself brought what the watch does not show.
    assert_eq!(
        hands.world().nodes["n1"].labels.get("new").map(String::as_str),
        Some("x")
    );
    let end = hands.execute(vec![hands.cordon("n1")]).await;
    assert!(matches!(end, End::Done { .. }), "{end:?}");
    held.release();
}

#[tokio::test]
async fn an_order_keeps_what_others_wrote_into_the_object_and_is_refused_for_another_uid() {
    let server = cluster().await;
    server.put(node("n1")).unwrap();
    let hands = Hands::of(&server).await;
    let node_uid = hands.node("n1").uid;
    let create = || Action::CreateNodeUpgrade {
        node: "n1".to_owned(),
        node_uid: node_uid.clone(),
    };
    for again in ["new", "there already"] {
        let end = hands.execute(vec![create()]).await;
        assert!(matches!(end, End::Done { .. }), "{again}: {end:?}");
    }
    let upgrade = ObjectRef::of(&hands.world().upgrades["n1"].metadata).unwrap();
    let order = |upgrade: &ObjectRef| Action::WriteSpec {
        upgrade: upgrade.clone(),
        spec: Box::new(NodeUpgradeSpec {
            stage: true,
            ..NodeUpgradeSpec::default()
        }),
        change: SpecChange::Wish,
    };
    let other = ObjectRef {
        uid: "another".to_owned(),
        ..upgrade.clone()
    };
    assert!(matches!(
        hands.execute(vec![order(&other)]).await,
        End::Stale { .. }
    ));
    let end = hands.execute(vec![order(&upgrade)]).await;
    assert!(matches!(end, End::Done { .. }), "{end:?}");
    let held = server.get("drydock.dev", "nodeupgrades", "", "n1").unwrap();
    assert_eq!(held["spec"]["stage"], json!(true));
    assert_eq!(held["metadata"]["ownerReferences"][0]["uid"], json!(node_uid));
}

#[tokio::test]
async fn nothing_is_written_once_the_gate_is_shut_or_the_link() {
    let server = cluster().await;
    server.put(node("n1")).unwrap();
    let hands = Hands::of(&server).await;
    let before = server.version();
    let cordon = hands.cordon("n1");
    hands.link.shut();
    let end = hands.execute(vec![cordon.clone()]).await;
    assert!(matches!(end, End::Failed { .. }), "{end:?}");
    hands.gate.shut();
    let end = hands.execute(vec![cordon]).await;
    assert!(matches!(end, End::NotLeading), "{end:?}");
    assert_eq!(server.version(), before);
}

#[tokio::test]
async fn a_budget_that_blocks_is_told_apart_and_only_the_pod_that_was_meant_is_evicted() {
    let server = cluster().await;
    let mut marked = node("n1");
    marked["metadata"]["annotations"] = json!({annotation::DOCK: mark().to_string()});
    server.put(marked).unwrap();
    let mut lonely = pod("lonely", "n1");
    lonely["metadata"]["labels"] = json!({"app": "lonely"});
    server.put(lonely).unwrap();
    server.put(pod("guarded", "n1")).unwrap();
    server.put(pod("reborn", "n1")).unwrap();
    server
        .put(json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}},
        }))
        .unwrap();
    until("the budget is counted", || {
        let budget = server
            .get("policy", "poddisruptionbudgets", "default", "web")
            .unwrap();
        budget["status"]["currentHealthy"] == json!(2)
    })
    .await;
    let hands = Hands::of(&server).await;
    let list = Action::ListPods {
        node: "n1".to_owned(),
        attempt: mark().attempt,
    };
    let end = hands.execute(vec![list]).await;
    assert!(matches!(end, End::Done { .. }), "{end:?}");
    let drain = hands.world().drains["n1"].clone();
    assert_eq!(drain.pods.len(), 3);
    let pods = drain.pods.iter().map(|pod| PodRef {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        // As if it were made again since it was listed.
        uid: if pod.name == "reborn" {
            "old".to_owned()
        } else {
            pod.uid.clone()
        },
    });
    let evict = Action::EvictPods {
        node: "n1".to_owned(),
        attempt: mark().attempt,
        pods: pods.collect(),
    };
    let end = hands.execute(vec![evict]).await;
    assert!(matches!(end, End::Done { .. }), "{end:?}");
    until("the lonely pod is gone, and the watch shows it", || {
        hands.world().drains["n1"].pods.len() == 2
    })
    .await;
    let left = hands.world().drains["n1"].clone().pods;
    let guarded = left.iter().find(|pod| pod.name == "guarded").unwrap();
    assert!(
        matches!(&guarded.answer, Some((_, Answer::Budget { .. }))),
        "{guarded:?}"
    );
    assert!(server.get("", "pods", "default", "reborn").is_some());
}

#[tokio::test]
async fn a_skewed_clock_and_an_outage_are_noticed_and_watches_go_on_after_it() {
    let server = cluster().await;
    server.set_clock_offset(jiff::SignedDuration::from_secs(90));
    let hands = Hands::of(&server).await;
    let api = hands.world().api;
    let skew = api.skew.expect("answers have a Date").as_secs();
    assert!((-90..=-88).contains(&skew), "coordinator minus server is {skew}s");
    assert!(api.watches.values().all(Option::is_some), "{api:?}");
    let outage = server.hooks().cut_off("coordinator");
    until("the outage is noted", || !hands.link.outages().is_empty()).await;
    outage.end();
    until("its end, too", || {
        hands.link.outages().iter().all(|outage| outage.end.is_some())
    })
    .await;
    server.put(node("n9")).unwrap();
    until("the watch goes on", || hands.world().nodes.contains_key("n9")).await;
}
