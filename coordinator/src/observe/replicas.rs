//! The coordinator's own pods: whether another Ready replica runs on another Node, so that the leader can
//! hand over before its own Node goes. Reads only.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use tokio_util::task::AbortOnDropHandle;

use super::{Feed, Selected};
use crate::{metrics::Metrics, settings::Settings};

/// What is kept of a replica's pod.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Replica {
    node: Option<String>,
    ready: bool,
}

/// The replicas, as their pods show them.
pub(super) struct Replicas {
    own_node: String,
    feed: Feed<Replica>,
    _task: AbortOnDropHandle<()>,
}

impl Replicas {
    /// None outside a cluster, where no Node is known to be one's own.
    pub(super) fn start(
        client: &Client,
        settings: &Settings,
        metrics: &Metrics,
        changed: tokio::sync::watch::Sender<u64>,
    ) -> Option<Self> {
        let own_node = settings.node.clone()?;
        let feed = Feed::new("replicas", changed, |a, b| a == b);
        let selected = Selected {
            fields: None,
            labels: Some(settings.replica_selector.clone()),
        };
        let api = Api::<Pod>::namespaced(client.clone(), &settings.namespace);
        let follow = feed.clone().follow(api, selected, None, replica, metrics.clone());
        Some(Self {
            own_node,
            feed,
            _task: AbortOnDropHandle::new(tokio::spawn(follow)),
        })
    }

    pub(super) fn another_is_ready(&self) -> bool {
        self.feed.items().values().any(|replica| {
            let elsewhere = replica.node.as_ref().is_some_and(|node| *node != self.own_node);
            replica.ready && elsewhere
        })
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "a feed hands over what it does not keep"
)]
#[expect(clippy::unnecessary_wraps, reason = "a feed may keep nothing of an object")]
fn replica(pod: Pod) -> Option<Replica> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions
        .iter()
        .flat_map(|all| all.iter())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    Some(Replica {
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        ready: ready && pod.metadata.deletion_timestamp.is_none(),
    })
}
