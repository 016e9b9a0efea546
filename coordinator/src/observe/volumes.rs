//! VolumeAttachments of nodes that are drained for a policy that waits for them. The API server knows no
//! field selector for them but the name, so all of them are followed by one watch, reduced to two words
//! each, and only while a drain asks for it. It never writes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use drydock_plan::{PodView, VolumesView};
use jiff::Timestamp;
use k8s_openapi::api::{core::v1::PersistentVolumeClaim, storage::v1::VolumeAttachment};
use kube::{Api, Client};
use tokio_util::task::AbortOnDropHandle;

use super::{Feed, Selected};
use crate::metrics::Metrics;

/// What is kept of a VolumeAttachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attachment {
    /// `spec.nodeName`.
    pub(crate) node: String,
    /// The PersistentVolume, or the attachment's own name where it has none.
    pub(crate) volume: String,
}

/// The VolumeAttachments, while somebody asks for them.
pub(super) struct Volumes {
    client: Client,
    metrics: Metrics,
    changed: tokio::sync::watch::Sender<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Nodes whose drain asks for them.
    nodes: BTreeSet<String>,
    follow: Option<Follow>,
}

struct Follow {
    feed: Feed<Attachment>,
    _task: AbortOnDropHandle<()>,
}

impl Volumes {
    pub(super) fn new(client: Client, metrics: &Metrics, changed: tokio::sync::watch::Sender<u64>) -> Self {
        Self {
            client,
            metrics: metrics.clone(),
            changed,
            state: Mutex::default(),
        }
    }

    /// Begins to follow them when the first node asks, and ends with the last.
    pub(super) fn only_for(&self, nodes: BTreeSet<String>) {
        let mut state = self.lock();
        if nodes.is_empty() {
            state.follow = None;
        } else if state.follow.is_none() {
            let feed = Feed::new("volumeattachments", self.changed.clone(), |a, b| a == b);
            let api = Api::<VolumeAttachment>::all(self.client.clone());
            let all = Selected::default();
            let follow = feed
                .clone()
                .follow(api, all, None, attachment, self.metrics.clone());
            state.follow = Some(Follow {
                feed,
                _task: AbortOnDropHandle::new(tokio::spawn(follow)),
            });
        }
        state.nodes = nodes;
    }

    /// Whether the drain of this node asks for them.
    pub(super) fn wanted(&self, node: &str) -> bool {
        self.lock().nodes.contains(node)
    }

    /// What the planner sees of the nodes whose drains ask.
    pub(super) fn views(&self, now: Timestamp) -> BTreeMap<String, VolumesView> {
        let state = self.lock();
        let Some(follow) = &state.follow else {
            return BTreeMap::new();
        };
        let (_, age, error) = follow.feed.sign();
        let heard = age.and_then(|age| now.checked_sub(age).ok());
        let empty = match heard {
            Some(heard) => VolumesView::Seen {
                attached: BTreeSet::new(),
                heard,
            },
            None => VolumesView::Unseen { error },
        };
        let nodes = state.nodes.iter();
        let mut views: BTreeMap<_, _> = nodes.map(|node| (node.clone(), empty.clone())).collect();
        for attachment in follow.feed.items().into_values() {
            if let Some(VolumesView::Seen { attached, .. }) = views.get_mut(&attachment.node) {
                attached.insert(attachment.volume);
            }
        }
        views
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reduced form of a VolumeAttachment.
pub(crate) fn attachment(object: VolumeAttachment) -> Option<Attachment> {
    let volume = object.spec.source.persistent_volume_name;
    Some(Attachment {
        node: object.spec.node_name,
        volume: volume.or(object.metadata.name)?,
    })
}

/// The volumes that claims (by namespace and name) are bound to: a bound claim never changes its volume.
pub(crate) type Bound = HashMap<(String, String), String>;

/// Reads what the claims of these pods are bound to, as far as `bound` does not know it. One that cannot be
/// read is left out, and named by the planner where it matters.
pub(crate) async fn bind(client: &Client, pods: &[PodView], bound: &mut Bound) {
    let claims = pods.iter().flat_map(|pod| {
        pod.claims
            .iter()
            .map(|claim| (pod.namespace.clone(), claim.name.clone()))
    });
    let unknown: BTreeSet<_> = claims.filter(|claim| !bound.contains_key(claim)).collect();
    for (namespace, name) in unknown {
        let api = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &namespace);
        match api.get_opt(&name).await {
            Ok(claim) => {
                let volume = claim
                    .and_then(|claim| claim.spec)
                    .and_then(|spec| spec.volume_name);
                if let Some(volume) = volume.filter(|volume| !volume.is_empty()) {
                    bound.insert((namespace, name), volume);
                }
            }
            Err(error) => tracing::warn!(%error, claim = name, namespace, "its volume is not known"),
        }
    }
}

/// Puts what is known of the claims into a pod.
pub(crate) fn put(pod: &mut PodView, bound: &Bound) {
    for claim in &mut pod.claims {
        let key = (pod.namespace.clone(), claim.name.clone());
        claim.volume = bound.get(&key).cloned();
    }
}
