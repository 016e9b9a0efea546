//! Counts the pods of an app that are available, event by event, from a watch of its own: whether its budget
//! was kept is judged by this, not by what anybody reports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{StreamExt as _, pin_mut};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::task::JoinHandle;

/// A count, from this instant on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Since when.
    pub at: Timestamp,
    /// Pods that are Ready and not on their way out.
    pub available: usize,
}

/// A time in which more pods than the budget allows may be away, because something other than Drydock took
/// them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excuse {
    /// From.
    pub from: Timestamp,
    /// Until.
    pub to: Timestamp,
    /// What happened.
    pub what: String,
}

#[derive(Default)]
struct Seen {
    /// By UID; whether each is available.
    pods: BTreeMap<String, bool>,
    counts: Vec<Count>,
    /// Every pod that ever was, and where.
    places: BTreeSet<(String, String)>,
    /// What a list under way has shown.
    listing: Option<BTreeMap<String, bool>>,
}

/// A count that goes on until it is dropped.
pub struct PodCount {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl PodCount {
    /// Counts the pods with the label `app=NAME`.
    #[must_use]
    pub fn begin(client: Client, namespace: &str, app: &str) -> Self {
        let pods: Api<Pod> = Api::namespaced(client, namespace);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let own = seen.clone();
        let config = watcher::Config::default().labels(&format!("app={app}"));
        let task = tokio::spawn(async move {
            let events = watcher(pods, config).default_backoff();
            pin_mut!(events);
            while let Some(event) = events.next().await {
                // Errors are bridged by the watcher itself: it lists anew.
                if let Ok(event) = event {
                    lock(&own).take(event);
                }
            }
        });
        Self { seen, task }
    }

    /// Every count that was below `least` at a time that nothing excuses.
    #[must_use]
    pub fn violations(&self, least: usize, since: Timestamp, excuses: &[Excuse]) -> Vec<Count> {
        let seen = lock(&self.seen);
        let counts = seen.counts.iter().filter(|count| count.at >= since);
        let below = counts.filter(|count| count.available < least);
        let excused = |count: &Count| {
            let mut excuses = excuses.iter();
            excuses.any(|excuse| excuse.from <= count.at && count.at < excuse.to)
        };
        below.filter(|count| !excused(count)).copied().collect()
    }

    /// The lowest count since then, and how many counts there were.
    #[must_use]
    pub fn lowest(&self, since: Timestamp) -> (usize, usize) {
        let seen = lock(&self.seen);
        let counts: Vec<_> = seen.counts.iter().filter(|count| count.at >= since).collect();
        let lowest = counts.iter().map(|count| count.available).min();
        (lowest.unwrap_or_default(), counts.len())
    }

    /// How many pods there ever were, and on how many nodes.
    #[must_use]
    pub fn pods_and_nodes(&self) -> (usize, usize) {
        let seen = lock(&self.seen);
        let pods: BTreeSet<_> = seen.places.iter().map(|(uid, _)| uid).collect();
        let nodes: BTreeSet<_> = seen.places.iter().map(|(_, node)| node).collect();
        (pods.len(), nodes.len())
    }
}

impl Drop for PodCount {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seen {
    fn take(&mut self, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => self.listing = Some(BTreeMap::new()),
            watcher::Event::InitApply(pod) => {
                let (uid, available) = self.look(&pod);
                if let Some(listing) = &mut self.listing {
                    listing.insert(uid, available);
                }
                return;
            }
            watcher::Event::InitDone => {
                if let Some(listing) = self.listing.take() {
                    self.pods = listing;
                }
            }
            watcher::Event::Apply(pod) => {
                let (uid, available) = self.look(&pod);
                self.pods.insert(uid, available);
            }
            watcher::Event::Delete(pod) => {
                self.pods.remove(&pod.metadata.uid.unwrap_or_default());
            }
        }
        if self.listing.is_some() {
            return;
        }
        let available = self.pods.values().filter(|available| **available).count();
        if self.counts.last().map(|last| last.available) != Some(available) {
            self.counts.push(Count {
                at: Timestamp::now(),
                available,
            });
        }
    }

    fn look(&mut self, pod: &Pod) -> (String, bool) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
            self.places.insert((uid.clone(), node));
        }
        let conditions = pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions
            .filter(|condition| condition.type_ == "Ready")
            .any(|condition| condition.status == "True");
        (uid, ready && pod.metadata.deletion_timestamp.is_none())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, ready: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"uid": uid}, "spec": {"nodeName": "pier-1", "containers": []},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_list_is_counted_when_it_is_whole() {
        let mut seen = Seen::default();
        seen.take(watcher::Event::Init);
        seen.take(watcher::Event::InitApply(pod("a", "True")));
        seen.take(watcher::Event::InitApply(pod("b", "True")));
        assert!(seen.counts.is_empty());
        seen.take(watcher::Event::InitDone);
        seen.take(watcher::Event::Apply(pod("b", "False")));
        seen.take(watcher::Event::Delete(pod("a", "True")));
        let counts: Vec<usize> = seen.counts.iter().map(|count| count.available).collect();
        assert_eq!(counts, [2, 1, 0]);
    }
}
