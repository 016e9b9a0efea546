//! What the planner sees of a Node. Made from the Kubernetes object; never written back.

use std::collections::BTreeMap;

use drydock_api::annotation::{self, Ask, DockMark};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;

/// What the planner sees of a Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// The Ready condition.
    pub ready: Readiness,
    /// Since when it is so. None: never reported.
    pub ready_since: Option<Timestamp>,
    /// `status.nodeInfo.bootID`; empty where the kubelet never reported.
    pub boot_id: String,
    /// `status.nodeInfo.kubeletVersion`.
    pub kubelet_version: String,
    /// Annotation `drydock.dev/dock`; an unreadable value as it stands.
    pub mark: Option<Result<DockMark, String>>,
    /// Annotation `drydock.dev/term`; unreadable counts as none.
    pub term: Option<i64>,
    /// Annotation `drydock.dev/ask`; an unreadable value as it stands.
    pub ask: Option<Result<Ask, String>>,
}

/// The Ready condition of a Node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// `True`.
    Ready,
    /// `False`.
    NotReady,
    /// `Unknown`, or there is no condition: nobody has heard of it.
    Unknown,
}

impl NodeView {
    /// The view of a Node as the API server gave it; None for an object without name, UID or
    /// resourceVersion.
    #[must_use]
    pub fn of(node: &Node) -> Option<Self> {
        let meta = &node.metadata;
        let annotations = meta.annotations.as_ref();
        let note = |key: &str| annotations.and_then(|all| all.get(key)).map(String::as_str);
        let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
        let ready = node
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_ref())
            .and_then(|all| all.iter().find(|condition| condition.type_ == "Ready"));
        Some(Self {
            name: meta.name.clone()?,
            uid: meta.uid.clone()?,
            resource_version: meta.resource_version.clone()?,
            labels: meta.labels.clone().unwrap_or_default(),
            unschedulable: node
                .spec
                .as_ref()
                .and_then(|spec| spec.unschedulable)
                .unwrap_or(false),
            deleting: meta.deletion_timestamp.is_some(),
            ready: match ready.map(|condition| condition.status.as_str()) {
                Some("True") => Readiness::Ready,
                Some("False") => Readiness::NotReady,
                _ => Readiness::Unknown,
            },
            ready_since: ready
                .and_then(|condition| condition.last_transition_time.as_ref())
                .map(|time| time.0),
            boot_id: info.map(|info| info.boot_id.clone()).unwrap_or_default(),
            kubelet_version: info.map(|info| info.kubelet_version.clone()).unwrap_or_default(),
            mark: note(annotation::DOCK).map(|text| text.parse().map_err(|_| text.to_owned())),
            term: note(annotation::TERM).and_then(|text| text.parse().ok()),
            ask: note(annotation::ASK).map(|text| text.parse().map_err(|_| text.to_owned())),
        })
    }

    /// Whether the Ready condition is true.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready == Readiness::Ready
    }

    /// Whether it carries the label of a control-plane node.
    #[must_use]
    pub fn is_control_plane(&self) -> bool {
        [
            "node-role.kubernetes.io/control-plane",
            "node-role.kubernetes.io/master",
        ]
        .iter()
        .any(|label| self.labels.contains_key(*label))
    }

    /// The mark, if it is there, readable, and this attempt's.
    #[must_use]
    pub fn mark_of(&self, attempt: &str) -> Option<&DockMark> {
        match &self.mark {
            Some(Ok(mark)) if mark.attempt == attempt => Some(mark),
            _ => None,
        }
    }
}
