//! Kubernetes Events for people, on Nodes and policies: deduplicated and rate limited, and never a reason
//! for anything else to fail.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use drydock_plan::{EventTarget, Reason};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::time::Instant;

/// The name under which the coordinator says things.
pub const REPORTER: &str = "drydock-coordinator";
/// The same words on the same object are not repeated within this time.
const REPEAT_AFTER: Duration = Duration::from_secs(600);
/// At most so many at once.
const BURST: f64 = 25.0;
/// And after these so many a second.
const PER_SECOND: f64 = 2.0;
/// How many are remembered.
const MAX_KNOWN: usize = 4096;
/// The longest note that the API server takes.
const MAX_NOTE_CHARS: usize = 1000;

/// Publishes Events.
pub struct Events {
    recorder: Recorder,
    said: Mutex<Said>,
}

/// What was said lately.
struct Said {
    known: BTreeMap<(EventTarget, Reason, String), Instant>,
    tokens: f64,
    refilled: Instant,
}

impl Events {
    /// Events in the name of this replica.
    #[must_use]
    pub fn new(client: Client, identity: &str) -> Self {
        let reporter = Reporter {
            controller: REPORTER.to_owned(),
            instance: Some(identity.chars().take(128).collect()),
        };
        Self {
            recorder: Recorder::new(client, reporter),
            said: Mutex::new(Said {
                known: BTreeMap::new(),
                tokens: BURST,
                refilled: Instant::now(),
            }),
        }
    }

    /// Says it, unless it was just said or too much is being said. `uid` is the object's, where known.
    pub async fn say(&self, on: EventTarget, uid: Option<String>, reason: Reason, text: String) {
        if !self.is_worth_saying(&on, reason, &text) {
            return;
        }
        let (api_version, kind, name) = match on {
            EventTarget::Node(name) => ("v1", "Node", name),
            EventTarget::Policy(name) => ("drydock.dev/v1alpha1", "UpgradePolicy", name),
        };
        let about = ObjectReference {
            api_version: Some(api_version.to_owned()),
            kind: Some(kind.to_owned()),
            name: Some(name),
            uid,
            ..ObjectReference::default()
        };
        let note = if text.is_empty() { reason.explain() } else { &text };
        let event = Event {
            type_: severity(reason),
            reason: reason.name().to_owned(),
            note: Some(note.chars().take(MAX_NOTE_CHARS).collect()),
            action: "Upgrade".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &about).await {
            tracing::warn!(%error, reason = reason.name(), "an Event was not written");
        }
    }

    fn is_worth_saying(&self, on: &EventTarget, reason: Reason, text: &str) -> bool {
        let now = Instant::now();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (on.clone(), reason, text.to_owned());
        let repeated = said.known.get(&key).is_some_and(|at| now - *at < REPEAT_AFTER);
        if repeated {
            return false;
        }
        let refill = (now - said.refilled).as_secs_f64() * PER_SECOND;
        said.tokens = (said.tokens + refill).min(BURST);
        said.refilled = now;
        if said.tokens < 1.0 {
            return false;
        }
        said.tokens -= 1.0;
        if said.known.len() >= MAX_KNOWN {
            said.known.retain(|_, at| now - *at < REPEAT_AFTER);
        }
        if said.known.len() >= MAX_KNOWN {
            said.known.clear();
        }
        said.known.insert(key, now);
        true
    }
}

/// What a person should look at is a warning.
const fn severity(reason: Reason) -> EventType {
    match reason {
        Reason::Failed
        | Reason::Halted
        | Reason::NotBack
        | Reason::Undecided
        | Reason::NoWayBack
        | Reason::AgentSilent
        | Reason::AgentDisagrees
        | Reason::AgentUnknown
        | Reason::AgentError
        | Reason::BudgetBlocks
        | Reason::ManyBudgets
        | Reason::PodRefused
        | Reason::PodReturns
        | Reason::WebhookDenies
        | Reason::EvictForbidden
        | Reason::DrainTimeout
        | Reason::DrainForced
        | Reason::NotReadyInSoak
        | Reason::RolledBack
        | Reason::TwoPolicies
        | Reason::NotAccepted
        | Reason::MarkUnreadable
        | Reason::AskUnreadable
        | Reason::Unconfirmed => EventType::Warning,
        _ => EventType::Normal,
    }
}
