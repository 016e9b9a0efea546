//! The pods of nodes in dock: listed from the server when a plan asks for it, followed by a watch from
//! there on, with the answers to this process's evictions beside them. All of it may be lost at any
//! time: the next plan lists again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use drydock_plan::{Answer, Controller, DrainView, PodView};
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Pod};
use kube::{Api, Client};
use tokio_util::task::AbortOnDropHandle;

use super::{Bound, Feed, Selected, bind, put, volumes::Volumes};
use crate::{clock::Clock, metrics::Metrics, settings::Settings};

/// The pods of all nodes in dock.
pub struct Drains {
    client: Client,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    changed: tokio::sync::watch::Sender<u64>,
    own: OwnPods,
    /// What is attached, where a drain asks for it.
    pub(super) volumes: Volumes,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<String, Drain>,
    busy_until: Option<Timestamp>,
}

struct Drain {
    feed: Feed<Followed>,
    listed: Timestamp,
    /// By pod UID.
    answers: HashMap<String, (Timestamp, Answer)>,
    /// UIDs of DaemonSets that are no more.
    gone: BTreeSet<String>,
    /// What claims of its pods are bound to, as far as that was asked.
    bound: Bound,
    _task: AbortOnDropHandle<()>,
}

/// A pod, and the UID of the DaemonSet that owns it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Followed {
    pod: PodView,
    daemon_set: Option<(String, String)>,
}

/// How the coordinator's own pods are told.
#[derive(Debug, Clone)]
struct OwnPods {
    namespace: String,
    labels: Vec<(String, String)>,
}

impl Drains {
    pub(super) fn new(
        client: Client,
        settings: &Settings,
        clock: &Arc<dyn Clock>,
        metrics: &Metrics,
        changed: tokio::sync::watch::Sender<u64>,
    ) -> Self {
        let pairs = settings.replica_selector.split(',');
        let labels = pairs.filter_map(|pair| pair.split_once('='));
        Self {
            volumes: Volumes::new(client.clone(), metrics, changed.clone()),
            client,
            clock: Arc::clone(clock),
            metrics: metrics.clone(),
            changed,
            own: OwnPods {
                namespace: settings.namespace.clone(),
                labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            },
            state: Mutex::default(),
        }
    }

    /// Lists the node's pods from the server, and follows them from there.
    ///
    /// # Errors
    /// When they could not be listed; what was known before stands.
    pub async fn list(&self, node: &str) -> Result<(), kube::Error> {
        let began = self.clock.now();
        let api = Api::<Pod>::all(self.client.clone());
        let selected = Selected {
            fields: Some(format!("spec.nodeName={node}")),
            labels: None,
        };
        let own = self.own.clone();
        let keep = move |pod: Pod| followed(&pod, &own);
        let known = self.lock().nodes.get(node).map(|drain| drain.feed.clone());
        let feed = known
            .clone()
            .unwrap_or_else(|| Feed::new("pods", self.changed.clone(), |a, b| a == b));
        let version = feed.list(&api, &selected, &keep).await?;
        let gone = self.gone_daemon_sets(&feed).await;
        let mut bound = self.bound(node);
        if self.volumes.wanted(node) {
            let pods: Vec<PodView> = feed.items().into_values().map(|followed| followed.pod).collect();
            bind(&self.client, &pods, &mut bound).await;
        }
        let mut state = self.lock();
        if let Some(drain) = state.nodes.get_mut(node) {
            drain.listed = began;
            drain.gone = gone;
            drain.bound = bound;
        } else {
            let follow = feed
                .clone()
                .follow(api, selected, Some(version), keep, self.metrics.clone());
            let drain = Drain {
                feed,
                listed: began,
                answers: HashMap::new(),
                gone,
                bound,
                _task: AbortOnDropHandle::new(tokio::spawn(follow)),
            };
            state.nodes.insert(node.to_owned(), drain);
        }
        drop(state);
        self.bump();
        Ok(())
    }

    fn bound(&self, node: &str) -> Bound {
        let known = self.lock().nodes.get(node).map(|drain| drain.bound.clone());
        known.unwrap_or_default()
    }

    /// Which DaemonSets of these pods are no more. One that cannot be read counts as being there.
    async fn gone_daemon_sets(&self, feed: &Feed<Followed>) -> BTreeSet<String> {
        let mut owners = BTreeSet::new();
        for followed in feed.items().into_values() {
            if let Some((uid, name)) = followed.daemon_set {
                owners.insert((uid, followed.pod.namespace, name));
            }
        }
        let mut gone = BTreeSet::new();
        for (uid, namespace, name) in owners {
            let api = Api::<DaemonSet>::namespaced(self.client.clone(), &namespace);
            match api.get_metadata_opt(&name).await {
                Ok(found) if found.as_ref().and_then(|set| set.metadata.uid.as_ref()) == Some(&uid) => {}
                Ok(_) => {
                    gone.insert(uid);
                }
                Err(error) => {
                    tracing::warn!(%error, daemon_set = name, namespace, "it counts as being there");
                }
            }
        }
        gone
    }

    /// Notes what an eviction was answered with.
    pub fn answered(&self, node: &str, pod_uid: &str, answer: Answer) {
        let now = self.clock.now();
        let mut state = self.lock();
        if let Answer::Busy { retry_after } = &answer {
            let until = now.checked_add(*retry_after).unwrap_or(now);
            state.busy_until = Some(state.busy_until.map_or(until, |known| known.max(until)));
        }
        if let Some(drain) = state.nodes.get_mut(node) {
            drain.answers.insert(pod_uid.to_owned(), (now, answer));
        }
        drop(state);
        self.bump();
    }

    /// Forgets every node that is not in dock any more.
    pub(super) fn keep_only(&self, in_dock: impl Fn(&str) -> bool) {
        self.lock().nodes.retain(|node, _| in_dock(node));
    }

    /// What the planner sees.
    pub(super) fn views(&self, now: Timestamp) -> BTreeMap<String, DrainView> {
        let mut volumes = self.volumes.views(now);
        let state = self.lock();
        let busy_until = state.busy_until.filter(|until| *until > now);
        let views = state.nodes.iter().map(|(node, drain)| {
            let view = DrainView {
                pods: drain.pods(),
                volumes: volumes.remove(node).unwrap_or_default(),
                listed: Some(drain.listed),
                busy_until,
            };
            (node.clone(), view)
        });
        views.collect()
    }

    fn bump(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drain {
    fn pods(&self) -> Vec<PodView> {
        let pods = self.feed.items().into_values().map(|followed| {
            let mut pod = followed.pod;
            pod.answer = self.answers.get(&pod.uid).cloned();
            put(&mut pod, &self.bound);
            if let (Controller::DaemonSet { gone }, Some((uid, _))) =
                (&mut pod.controller, &followed.daemon_set)
            {
                *gone = self.gone.contains(uid);
            }
            pod
        });
        pods.collect()
    }
}

fn followed(pod: &Pod, own: &OwnPods) -> Option<Followed> {
    let mut view = PodView::of(pod)?;
    view.coordinator = own.is(&view);
    let owners = pod.metadata.owner_references.iter().flatten();
    let daemon_set = owners
        .filter(|owner| owner.controller == Some(true) && owner.kind == "DaemonSet")
        .map(|owner| (owner.uid.clone(), owner.name.clone()))
        .next();
    Some(Followed {
        pod: view,
        daemon_set,
    })
}

impl OwnPods {
    fn is(&self, pod: &PodView) -> bool {
        let labelled = |(key, value): &(String, String)| pod.labels.get(key) == Some(value);
        pod.namespace == self.namespace && !self.labels.is_empty() && self.labels.iter().all(labelled)
    }
}
