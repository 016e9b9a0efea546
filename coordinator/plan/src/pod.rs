//! What the planner sees of the pods of a node in dock, and how the eviction API's answers are read.
//! Never evicts anything.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};

use crate::volumes::{ClaimView, VolumesView};

/// The pods of one node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DrainView {
    /// Every pod whose `spec.nodeName` is the node, finished ones too.
    pub pods: Vec<PodView>,
    /// What is attached to the node, where the policy waits for it.
    pub volumes: VolumesView,
    /// When all of them were last listed from the server (not from a cache, and not by a watch).
    pub listed: Option<Timestamp>,
    /// The server said that it is busy: no eviction anywhere before this.
    pub busy_until: Option<Timestamp>,
}

/// What the planner sees of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodView {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// `metadata.deletionTimestamp`.
    pub deleting: Option<Timestamp>,
    /// `status.phase` is Succeeded or Failed.
    pub finished: bool,
    /// It has the mirror annotation of a static pod.
    pub mirror: bool,
    /// It has an emptyDir volume.
    pub empty_dir: bool,
    /// The PersistentVolumeClaims that it uses.
    pub claims: Vec<ClaimView>,
    /// What will make it again.
    pub controller: Controller,
    /// It is a replica of the coordinator.
    pub coordinator: bool,
    /// The last answer to an eviction, if this process asked: a hint for pauses and texts, never needed.
    pub answer: Option<(Timestamp, Answer)>,
}

/// What will make a pod again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Controller {
    /// Nothing.
    None,
    /// A DaemonSet.
    DaemonSet {
        /// The shell looked, and that DaemonSet (by UID) is no more.
        gone: bool,
    },
    /// Another kind.
    Other {
        /// For people: `ReplicaSet/web-5d9`.
        name: String,
    },
}

/// What the eviction API said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It will go.
    Accepted,
    /// It is gone, or another pod has its name.
    Gone,
    /// A PodDisruptionBudget says no, for now.
    Budget {
        /// The server's words.
        text: String,
    },
    /// The server is busy: no eviction anywhere for this long.
    Busy {
        /// `Retry-After`.
        retry_after: Duration,
    },
    /// An admission webhook or a ValidatingAdmissionPolicy, or something else that concerns this pod
    /// alone, says no.
    Denied {
        /// The server's words.
        text: String,
    },
    /// More than one budget selects the pod: it will not heal by itself.
    ManyBudgets,
    /// Its namespace is being deleted.
    NamespaceTerminating,
    /// The coordinator has no right to evict.
    Forbidden {
        /// The server's words.
        text: String,
    },
    /// Something went wrong; try again.
    Again {
        /// The server's words.
        text: String,
    },
}

/// An answer as it came over the wire.
#[derive(Debug, Clone, Copy, Default)]
pub struct RawAnswer<'a> {
    /// HTTP status.
    pub code: u16,
    /// `reason` of the Status object; empty where there was none.
    pub reason: &'a str,
    /// `message` of the Status object, or the body's beginning where it was no Status.
    pub message: &'a str,
    /// The body was a Status object.
    pub is_status: bool,
    /// The `reason`s of `details.causes`.
    pub causes: &'a [String],
    /// `Retry-After`.
    pub retry_after: Option<Duration>,
}

impl Answer {
    /// Reads an answer of the eviction API.
    #[must_use]
    pub fn read(raw: RawAnswer<'_>) -> Self {
        let text = || raw.message.chars().take(300).collect::<String>();
        let lower = raw.message.to_ascii_lowercase();
        // Whatever their codes are: both choose them freely.
        let admission = lower.contains("admission webhook") || lower.contains("validatingadmissionpolicy");
        if raw.code >= 400 && admission && lower.contains("denied") {
            return Self::Denied { text: text() };
        }
        match raw.code {
            200..=299 => Self::Accepted,
            404 => Self::Gone,
            409 if names_another_pod(&lower) => Self::Gone,
            429 if raw.causes.iter().any(|cause| cause == "DisruptionBudget") => {
                Self::Budget { text: text() }
            }
            429 if !raw.is_status => Self::Busy {
                retry_after: raw.retry_after.unwrap_or(Duration::from_secs(1)),
            },
            429 => Self::Denied { text: text() },
            500 if lower.contains("more than one poddisruptionbudget") => Self::ManyBudgets,
            403 if raw.causes.iter().any(|cause| cause == "NamespaceTerminating")
                || lower.contains("is being terminated") =>
            {
                Self::NamespaceTerminating
            }
            403 if lower.contains("cannot create resource") => Self::Forbidden { text: text() },
            403 if lower.contains("poddisruptionbudget")
                || raw.causes.iter().any(|c| c == "DisruptionBudget") =>
            {
                Self::Again { text: text() }
            }
            401 | 403 => Self::Denied { text: text() },
            _ => Self::Again { text: text() },
        }
    }
}

/// Whether a conflict (its message in lower case) says that the pod of this name has another UID. The
/// registry and the storage have each their own words for it. A conflict that is about the pod's version,
/// or about the budget that the server could not count down against others, leaves the pod where it is.
fn names_another_pod(conflict: &str) -> bool {
    let of_uid = conflict.contains("uid in the precondition") || conflict.contains("uid in precondition");
    of_uid && !conflict.contains("on poddisruptionbudget")
}

impl PodView {
    /// The view of a pod as the API server gave it; None for an object without namespace, name or UID.
    /// `coordinator`, `answer`, whether a DaemonSet is gone and what claims are bound to are the caller's
    /// to say.
    #[must_use]
    pub fn of(pod: &Pod) -> Option<Self> {
        let meta = &pod.metadata;
        let owner = meta
            .owner_references
            .as_ref()
            .and_then(|owners| owners.iter().find(|owner| owner.controller == Some(true)));
        Some(Self {
            namespace: meta.namespace.clone()?,
            name: meta.name.clone()?,
            uid: meta.uid.clone()?,
            labels: meta.labels.clone().unwrap_or_default(),
            created: meta.creation_timestamp.as_ref().map(|time| time.0),
            deleting: meta.deletion_timestamp.as_ref().map(|time| time.0),
            finished: pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref())
                .is_some_and(|phase| phase == "Succeeded" || phase == "Failed"),
            mirror: meta
                .annotations
                .as_ref()
                .is_some_and(|all| all.contains_key("kubernetes.io/config.mirror")),
            empty_dir: pod
                .spec
                .as_ref()
                .and_then(|spec| spec.volumes.as_ref())
                .is_some_and(|volumes| volumes.iter().any(|volume| volume.empty_dir.is_some())),
            claims: pod
                .spec
                .iter()
                .flat_map(|spec| spec.volumes.iter().flatten())
                .filter_map(|volume| claim(meta.name.as_deref()?, volume))
                .collect(),
            controller: match owner {
                None => Controller::None,
                Some(owner) if owner.kind == "DaemonSet" => Controller::DaemonSet { gone: false },
                Some(owner) => Controller::Other {
                    name: format!("{}/{}", owner.kind, owner.name),
                },
            },
            coordinator: false,
            answer: None,
        })
    }

    /// `namespace/name`, for people.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// The claim behind a volume; that of an ephemeral one is named after pod and volume.
fn claim(pod: &str, volume: &Volume) -> Option<ClaimView> {
    let name = match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => claim.claim_name.clone(),
        (None, Some(_)) => format!("{pod}-{}", volume.name),
        (None, None) => return None,
    };
    Some(ClaimView { name, volume: None })
}
