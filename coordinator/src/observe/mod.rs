//! What is seen of the cluster: a feed per kind, the pods of nodes in dock, and the state of the link, put
//! together into the planner's [`World`]. It never writes, and never judges what it sees.

mod drains;
mod feed;
mod replicas;
mod volumes;

pub use drains::Drains;
pub use feed::{Feed, Kept, Selected};
pub(crate) use volumes::{Attachment, Bound, attachment, bind, put};

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use drydock_api::{DockStep, ImageRepository, NodeUpgrade, ReleaseHalt, UpgradePolicy};
use drydock_plan::{ApiHealth, NodeView, RepositoryView, World};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, ResourceExt};
use tokio_util::task::AbortOnDropHandle;

use crate::{clock::Clock, link::Link, metrics::Metrics, settings::Settings};
use replicas::Replicas;

/// How often the server's version is read again.
const VERSION_EVERY: Duration = Duration::from_secs(300);

/// Everything that one leader sees. Dropping it ends every watch.
pub struct Observer {
    /// All Nodes, reduced.
    pub nodes: Feed<NodeView>,
    /// All NodeUpgrades.
    pub upgrades: Feed<NodeUpgrade>,
    /// All policies.
    pub policies: Feed<UpgradePolicy>,
    /// All repositories.
    pub repositories: Feed<ImageRepository>,
    /// All halts.
    pub halts: Feed<ReleaseHalt>,
    /// The pods of nodes in dock.
    pub drains: Drains,
    replicas: Option<Replicas>,
    changed: tokio::sync::watch::Receiver<u64>,
    server_version: Arc<Mutex<Option<String>>>,
    link: Link,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Observer {
    /// Begins to list and watch. What is listed from now on is at least as new as anything that a
    /// leader before this one has written.
    #[must_use]
    pub fn start(
        client: &Client,
        settings: &Settings,
        link: &Link,
        clock: &Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Self {
        let (sender, changed) = tokio::sync::watch::channel(0);
        let mut tasks = Vec::new();
        let nodes = Feed::new("nodes", sender.clone(), same_node);
        tasks.push(spawn(nodes.clone().follow(
            Api::<Node>::all(client.clone()),
            Selected::default(),
            None,
            |node| NodeView::of(&node),
            metrics.clone(),
        )));
        let (upgrades, task) = follow_whole(client, "nodeupgrades", &sender, metrics);
        tasks.push(task);
        let (policies, task) = follow_whole(client, "upgradepolicies", &sender, metrics);
        tasks.push(task);
        let (repositories, task) = follow_whole(client, "imagerepositories", &sender, metrics);
        tasks.push(task);
        let (halts, task) = follow_whole(client, "releasehalts", &sender, metrics);
        tasks.push(task);
        let server_version = Arc::default();
        tasks.push(spawn(read_version(
            client.clone(),
            Arc::clone(&server_version),
            sender.clone(),
        )));
        Self {
            nodes,
            upgrades,
            policies,
            repositories,
            halts,
            drains: Drains::new(client.clone(), settings, clock, metrics, sender.clone()),
            replicas: Replicas::start(client, settings, metrics, sender),
            changed,
            server_version,
            link: link.clone(),
            clock: Arc::clone(clock),
            metrics: metrics.clone(),
            _tasks: tasks,
        }
    }

    /// Counts up with every change that is worth a plan.
    #[must_use]
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changed.clone()
    }

    /// Whether everything was listed at least once; else what is missing, and why.
    ///
    /// # Errors
    /// The kinds that were not listed, with their last errors.
    pub fn in_step(&self) -> Result<(), String> {
        let missing: Vec<String> = self
            .ages()
            .into_iter()
            .filter(|(_, age, _)| age.is_none())
            .map(|(kind, _, error)| format!("{kind} ({})", error.unwrap_or_else(|| "under way".to_owned())))
            .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("not listed yet: {}", missing.join(", ")))
        }
    }

    fn ages(&self) -> [(&'static str, Option<Duration>, Option<String>); 5] {
        [
            self.nodes.sign(),
            self.upgrades.sign(),
            self.policies.sign(),
            self.repositories.sign(),
            self.halts.sign(),
        ]
    }

    /// The world as it is seen now.
    #[must_use]
    pub fn world(
        &self,
        term: i64,
        settings: &Settings,
        repositories: BTreeMap<String, RepositoryView>,
    ) -> World {
        let now = self.clock.now();
        let upgrades = self.upgrades.items();
        let nodes = self.nodes.items();
        let policies = self.policies.items();
        self.drains
            .keep_only(|node| in_dock(node, &nodes, &upgrades, &policies));
        self.drains
            .volumes
            .only_for(waiting_for_volumes(&upgrades, &policies));
        let halts = self.halts.items().into_values();
        World {
            now,
            term,
            timings: settings.timings,
            api: self.health(now),
            me: drydock_plan::Myself {
                node: settings.node.clone(),
                other_replica: self.replicas.as_ref().is_some_and(Replicas::another_is_ready),
            },
            drains: self.drains.views(now),
            policies,
            nodes,
            upgrades,
            halts: halts.map(|halt| (halt.spec.digest.clone(), halt)).collect(),
            repositories,
        }
    }

    fn health(&self, now: Timestamp) -> ApiHealth {
        let ages = self.ages();
        let oldest = ages.iter().filter_map(|(_, age, _)| *age).max();
        self.metrics.oldest_watch(oldest.unwrap_or_default());
        let watches = ages.into_iter().map(|(kind, age, _)| {
            let last = age.and_then(|age| now.checked_sub(age).ok());
            (kind.to_owned(), last)
        });
        let outages = self.link.outages().into_iter();
        ApiHealth {
            server_version: self
                .server_version
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            watches: watches.collect(),
            skew: self.link.skew().map(|ahead| SignedDuration::ZERO - ahead),
            outages: outages
                .map(|outage| (outage.start, outage.end.unwrap_or(now)))
                .collect(),
        }
    }
}

/// Whether anything names this node as being in dock; its pods are followed only then.
fn in_dock(
    node: &str,
    nodes: &BTreeMap<String, NodeView>,
    upgrades: &BTreeMap<String, NodeUpgrade>,
    policies: &BTreeMap<String, UpgradePolicy>,
) -> bool {
    let entries = policies.values().filter_map(|policy| policy.status.as_ref());
    nodes.get(node).is_some_and(|view| view.mark.is_some())
        || upgrades
            .get(node)
            .is_some_and(|upgrade| upgrade.spec.dock.is_some())
        || entries
            .flat_map(|status| &status.dock)
            .any(|entry| entry.node == node)
}

/// Nodes that are drained for a policy that waits until their volumes are detached.
fn waiting_for_volumes(
    upgrades: &BTreeMap<String, NodeUpgrade>,
    policies: &BTreeMap<String, UpgradePolicy>,
) -> BTreeSet<String> {
    let waits = |upgrade: &NodeUpgrade| {
        let dock = upgrade.spec.dock.as_ref();
        let dock = dock.filter(|dock| dock.step == DockStep::Draining);
        dock.and_then(|dock| policies.get(&dock.policy))
            .is_some_and(|policy| policy.spec.drain.wait_for_volume_detach)
    };
    let waiting = upgrades.iter().filter(|(_, upgrade)| waits(upgrade));
    waiting.map(|(node, _)| node.clone()).collect()
}

/// A kubelet's heartbeat changes the resourceVersion and nothing that is kept: no reason for a plan.
fn same_node(before: &NodeView, after: &NodeView) -> bool {
    let same_version = NodeView {
        resource_version: before.resource_version.clone(),
        ..after.clone()
    };
    *before == same_version
}

fn follow_whole<K>(
    client: &Client,
    kind: &'static str,
    changed: &tokio::sync::watch::Sender<u64>,
    metrics: &Metrics,
) -> (Feed<K>, AbortOnDropHandle<()>)
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let feed: Feed<K> = Feed::new(kind, changed.clone(), |_, _| false);
    let task = spawn(feed.clone().follow(
        Api::<K>::all(client.clone()),
        Selected::default(),
        None,
        |object| Some(without_managed_fields(object)),
        metrics.clone(),
    ));
    (feed, task)
}

/// Managed fields are half of an object and nobody here reads them.
pub(crate) fn without_managed_fields<K: ResourceExt>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

/// Keeps the API server's version current.
async fn read_version(
    client: Client,
    into: Arc<Mutex<Option<String>>>,
    changed: tokio::sync::watch::Sender<u64>,
) {
    loop {
        let pause = match client.apiserver_version().await {
            Ok(info) => {
                let mut known = into.lock().unwrap_or_else(PoisonError::into_inner);
                if known.as_ref() != Some(&info.git_version) {
                    *known = Some(info.git_version);
                    changed.send_modify(|count| *count = count.wrapping_add(1));
                }
                VERSION_EVERY
            }
            Err(error) => {
                tracing::warn!(%error, "the API server's version could not be read");
                Duration::from_secs(5)
            }
        };
        tokio::time::sleep(pause).await;
    }
}
