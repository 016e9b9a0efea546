//! Volumes that are still attached to a node whose pods are gone (`spec.drain.waitForVolumeDetach`). Decides
//! by elimination: what no staying pod uses was used by one that is gone. Detaches nothing itself.

use std::collections::BTreeSet;

use drydock_api::Drain;
use jiff::Timestamp;

use crate::{
    drain::{self, Fate, fate},
    pod::DrainView,
    reason::{Note, Reason},
    windows::between,
    world::Timings,
};

/// The node's VolumeAttachments (`storage.k8s.io/v1`), as far as they are seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumesView {
    /// They were not listed yet.
    Unseen {
        /// What the last try said.
        error: Option<String>,
    },
    /// They are followed.
    Seen {
        /// `spec.source.persistentVolumeName` of each attachment whose `spec.nodeName` is the node; the
        /// attachment's own name where it has none.
        attached: BTreeSet<String>,
        /// When the watch last showed an event or a bookmark.
        heard: Timestamp,
    },
}

impl Default for VolumesView {
    fn default() -> Self {
        Self::Unseen { error: None }
    }
}

/// A PersistentVolumeClaim of a pod's namespace that the pod uses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimView {
    /// `metadata.name`.
    pub name: String,
    /// The PersistentVolume it is bound to (`spec.volumeName`); None: it was not read.
    pub volume: Option<String>,
}

/// What a drain whose pods are gone still waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attached {
    /// For people.
    pub note: Note,
    /// Claims of pods that stay were not read: with the next list of the pods they are.
    pub unread: bool,
}

/// What is still attached for pods that are gone. None: nothing, or nobody asked.
pub(crate) fn attached(
    view: &DrainView,
    drain: &Drain,
    cordoned: Option<Timestamp>,
    own_node: bool,
    timings: &Timings,
    now: Timestamp,
) -> Option<Attached> {
    if !drain.wait_for_volume_detach {
        return None;
    }
    let wait = |reason, text: String| {
        Some(Attached {
            note: Note::new(reason, text),
            unread: false,
        })
    };
    let (attached, heard) = match &view.volumes {
        VolumesView::Seen { attached, heard } => (attached, *heard),
        VolumesView::Unseen { error: None } => {
            return wait(
                Reason::VolumeDetaching,
                "VolumeAttachments are being listed".to_owned(),
            );
        }
        VolumesView::Unseen { error: Some(error) } => {
            let text = format!("VolumeAttachments cannot be listed: {error}");
            return wait(Reason::VolumeDetaching, text);
        }
    };
    if between(heard, now) > timings.stale {
        return wait(
            Reason::WatchStale,
            format!("volumeattachments: last heard at {heard}"),
        );
    }
    let mut left: BTreeSet<&String> = attached.iter().collect();
    let mut unread = Vec::new();
    for pod in &view.pods {
        let stays = matches!(fate(pod, drain, cordoned, own_node), Fate::Stays | Fate::OwnStays);
        // A finished pod is on the node still, its volumes are not.
        if !stays || pod.finished {
            continue;
        }
        for claim in &pod.claims {
            match &claim.volume {
                Some(volume) => {
                    left.remove(volume);
                }
                None => unread.push(format!("{} of {}", claim.name, pod.full_name())),
            }
        }
    }
    if left.is_empty() {
        return None;
    }
    let volumes: Vec<String> = left.into_iter().cloned().collect();
    let mut text = drain::names(&volumes);
    if !unread.is_empty() {
        text.push_str("; not read, and maybe among them: claim ");
        text.push_str(&drain::names(&unread));
    }
    Some(Attached {
        note: Note::new(Reason::VolumeDetaching, text),
        unread: !unread.is_empty(),
    })
}
