//! Which pods of a node in dock must go, which stay, and which stop the drain. Decides by what the pods
//! are, never by what was asked before.

use std::{collections::BTreeSet, time::Duration};

use drydock_api::{Drain, EmptyDir, UnmanagedPods};
use jiff::Timestamp;

use crate::{
    action::PodRef,
    pod::{Answer, Controller, DrainView, PodView},
    reason::{Note, Reason},
    selector::selects,
    windows::add,
    world::Timings,
};

/// How long eviction rests on a node after the server refused the right to it. Not long: an API server
/// that has just started refuses what it will allow a moment later.
const NO_RIGHT_PAUSE: Duration = Duration::from_secs(10);

/// Why a drain has not ended, the most telling first: what no waiting heals, what somebody else has to
/// let go, what passes. What is not in here is waited for by nobody.
const TELLING: [Reason; 11] = [
    Reason::EvictForbidden,
    Reason::ManyBudgets,
    Reason::WebhookDenies,
    Reason::PodReturns,
    Reason::BudgetBlocks,
    Reason::EvictFails,
    Reason::ApiBusy,
    Reason::VolumeDetaching,
    Reason::NamespaceTerminating,
    Reason::PodTerminating,
    Reason::Draining,
];

/// Notes about one drain.
const NOTES: usize = 8;

/// What is left of a drain.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct DrainState {
    /// Pods that the policy does not let go: the drain stops before any eviction.
    pub refused: Vec<String>,
    /// Pods to be asked to go now.
    pub evict: Vec<PodRef>,
    /// Pods that must go and are still there, asked or not.
    pub remaining: usize,
    /// Why they are still there, the most telling first.
    pub notes: Vec<Note>,
    /// When a pod may be asked again.
    pub wake_at: Option<Timestamp>,
}

/// What is to become of one pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is no matter of the drain.
    Stays,
    /// It is the coordinator's own, and stays.
    OwnStays,
    /// It must go, and is going.
    Going,
    /// It must go.
    Goes,
    /// It must go, and the policy does not let it.
    Refused,
}

/// What is to become of one pod of a node that was cordoned at `cordoned` (None: not yet).
pub(crate) fn fate(pod: &PodView, drain: &Drain, cordoned: Option<Timestamp>, own_node: bool) -> Fate {
    let skipped = drain
        .skip_pod_selectors
        .iter()
        .any(|selector| selects(selector, &pod.labels));
    if pod.finished || pod.mirror || skipped {
        return Fate::Stays;
    }
    let unmanaged = match pod.controller {
        Controller::DaemonSet { gone: false } => return Fate::Stays,
        Controller::DaemonSet { gone: true } | Controller::None => true,
        Controller::Other { .. } => false,
    };
    if pod.coordinator && (own_node || returned(pod, cordoned)) {
        return Fate::OwnStays;
    }
    if pod.deleting.is_some() {
        return Fate::Going;
    }
    // What the coordinator keeps in its emptyDir it reads again: it must not stand in its own way.
    let holds = pod.empty_dir && !pod.coordinator;
    let refused = (unmanaged && drain.unmanaged_pods == UnmanagedPods::Refuse)
        || (holds && drain.empty_dir == EmptyDir::Refuse);
    if refused { Fate::Refused } else { Fate::Goes }
}

/// The state of a drain, from the pods that are there.
pub(crate) fn state(
    view: &DrainView,
    drain: &Drain,
    cordoned: Option<Timestamp>,
    own_node: bool,
    timings: &Timings,
    now: Timestamp,
) -> DrainState {
    let mut state = DrainState::default();
    let mut going = Vec::new();
    let mut reasons: BTreeSet<(Reason, String)> = BTreeSet::new();
    let mut resting = view.busy_until.is_some_and(|until| until > now);
    if let (true, Some(until)) = (resting, view.busy_until) {
        reasons.insert((Reason::ApiBusy, format!("until {until}")));
        state.wake_at = Some(until);
    }
    for pod in &view.pods {
        if let Some((at, Answer::Forbidden { text })) = &pod.answer
            && add(*at, NO_RIGHT_PAUSE) > now
        {
            reasons.insert((Reason::EvictForbidden, text.clone()));
            state.wake_at = earliest(state.wake_at, add(*at, NO_RIGHT_PAUSE));
            resting = true;
        }
    }
    for pod in &view.pods {
        match fate(pod, drain, cordoned, own_node) {
            Fate::Stays => {}
            Fate::OwnStays => {
                reasons.insert((Reason::OwnPodStays, pod.full_name()));
            }
            Fate::Refused => state
                .refused
                .push(format!("{} ({})", pod.full_name(), refusal(pod))),
            Fate::Going => {
                state.remaining += 1;
                going.push(pod.full_name());
            }
            Fate::Goes => {
                state.remaining += 1;
                if let Some(said) = said(pod) {
                    reasons.insert(said);
                }
                if returned(pod, cordoned) {
                    reasons.insert((Reason::PodReturns, pod.full_name()));
                }
                let again = pod.answer.as_ref().map(|(at, _)| add(*at, timings.evict_again));
                match again.filter(|again| *again > now) {
                    Some(again) => state.wake_at = earliest(state.wake_at, again),
                    None if !resting && state.evict.len() < timings.evict_at_once => {
                        state.evict.push(PodRef {
                            namespace: pod.namespace.clone(),
                            name: pod.name.clone(),
                            uid: pod.uid.clone(),
                        });
                    }
                    None => {}
                }
            }
        }
    }
    if !going.is_empty() {
        reasons.insert((Reason::PodTerminating, names(&going)));
    }
    state.notes = reasons
        .into_iter()
        .map(|(reason, text)| Note::new(reason, text))
        .collect();
    tell(&mut state.notes);
    state.notes.truncate(NOTES);
    state
}

/// Puts the most telling first.
pub(crate) fn tell(notes: &mut [Note]) {
    let place = |reason| TELLING.iter().position(|other| *other == reason);
    notes.sort_by_key(|note| place(note.reason).unwrap_or(TELLING.len()));
}

/// What the server last said about a pod that is still there.
fn said(pod: &PodView) -> Option<(Reason, String)> {
    let name = pod.full_name();
    let (_, answer) = pod.answer.as_ref()?;
    Some(match answer {
        Answer::Accepted | Answer::Gone => return None,
        Answer::Budget { text } => (Reason::BudgetBlocks, format!("{name}: {text}")),
        Answer::Busy { .. } => (Reason::ApiBusy, name),
        Answer::Denied { text } => (Reason::WebhookDenies, format!("{name}: {text}")),
        Answer::ManyBudgets => (Reason::ManyBudgets, name),
        Answer::NamespaceTerminating => (Reason::NamespaceTerminating, name),
        Answer::Forbidden { text } => (Reason::EvictForbidden, text.clone()),
        Answer::Again { text } => (Reason::EvictFails, format!("{name}: {text}")),
    })
}

fn refusal(pod: &PodView) -> &'static str {
    if pod.empty_dir {
        "emptyDir"
    } else {
        "no controller"
    }
}

/// Scheduled to the node after its cordon.
fn returned(pod: &PodView, cordoned: Option<Timestamp>) -> bool {
    matches!((pod.created, cordoned), (Some(created), Some(cordoned)) if created > cordoned)
}

/// At most five names, and how many more.
pub(crate) fn names(all: &[String]) -> String {
    let shown = all.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(5) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn earliest(a: Option<Timestamp>, b: Timestamp) -> Option<Timestamp> {
    Some(a.map_or(b, |a| a.min(b)))
}
