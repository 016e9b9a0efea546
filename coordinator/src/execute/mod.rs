//! Execution of a plan's actions, in its order, each with the precondition that it carries. Nothing is
//! decided here: an answer that is not the expected one throws the rest of the plan away, and the next
//! plan is made from fresh data.
//!
//! Every write passes the leader's [`Gate`] first. All of it runs inside the future that leads: dropping
//! that future ends every write at once.

pub mod answer;
mod events;
mod objects;

pub use events::{Events, REPORTER};

use std::time::Duration;

use drydock_plan::{Action, EventTarget, PodRef, SpecChange};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::{core::v1::Pod, policy::v1::Eviction};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions};
use kube::{
    Api, Client,
    api::{PostParams, Resource},
};

use crate::{
    clock::Clock,
    lead::{Gate, GateShut},
    link::Link,
    metrics::Metrics,
    observe::Observer,
};

/// Carries out plans for one leader.
pub struct Executor<'a> {
    /// The client of the link.
    pub client: Client,
    /// Answers of one's own writes are put here.
    pub observer: &'a Observer,
    /// Passed before each write.
    pub gate: &'a Gate,
    /// The term of this leader.
    pub term: i64,
    /// For overload.
    pub link: &'a Link,
    /// The wall clock.
    pub clock: &'a dyn Clock,
    /// Counters.
    pub metrics: &'a Metrics,
    /// Events for people.
    pub events: &'a Events,
    /// How many requests are under way at once.
    pub parallel: usize,
}

/// How far a plan was carried out.
#[derive(Debug)]
pub enum End {
    /// To its end.
    Done {
        /// How many actions were carried out.
        actions: usize,
    },
    /// An object is not any more what the plan was made from (or is gone): plan again.
    Stale {
        /// Which action.
        action: &'static str,
        /// Which object.
        object: String,
    },
    /// The server refused or gave no answer: plan again after a pause.
    Failed {
        /// Which action.
        action: &'static str,
        /// Which object.
        object: String,
        /// What it said.
        error: Box<kube::Error>,
    },
    /// A higher term than one's own exists.
    StepDown {
        /// That term.
        seen: i64,
    },
    /// Another replica is to lead.
    GiveUpLease,
    /// The Lease was lost.
    NotLeading,
}

/// What stops a plan.
pub(crate) enum Stop {
    Stale { object: String },
    Failed { object: String, error: kube::Error },
    StepDown { seen: i64 },
    GiveUpLease,
    NotLeading,
}

impl From<GateShut> for Stop {
    fn from(_: GateShut) -> Self {
        Self::NotLeading
    }
}

impl Stop {
    /// A conflict, or an object that is gone, is stale; a term that the CRD refuses to let fall comes as
    /// "invalid", and the fresh object shows it.
    fn of(object: &str, error: kube::Error) -> Self {
        let object = object.to_owned();
        match error {
            kube::Error::Api(status) if matches!(status.code, 404 | 409 | 422) => {
                tracing::debug!(object, message = %status.message, "not what the plan was made from");
                Self::Stale { object }
            }
            error => Self::Failed { object, error },
        }
    }

    fn end(self, action: &'static str) -> End {
        match self {
            Self::Stale { object } => End::Stale { action, object },
            Self::Failed { object, error } => End::Failed {
                action,
                object,
                error: Box::new(error),
            },
            Self::StepDown { seen } => End::StepDown { seen },
            Self::GiveUpLease => End::GiveUpLease,
            Self::NotLeading => End::NotLeading,
        }
    }
}

impl Executor<'_> {
    /// Carries out the actions in their order; neighbours of one kind, which are about different
    /// objects, a few at a time.
    pub async fn execute(&self, actions: Vec<Action>) -> End {
        let total = actions.len();
        let mut rest = actions.into_iter().peekable();
        while let Some(first) = rest.next() {
            let kind = kind(&first);
            let mut group = vec![first];
            while let Some(next) = rest.next_if(|next| self::kind(next) == kind && !is_barrier(next)) {
                group.push(next);
            }
            self.wait_while_busy().await;
            let mut running = stream::iter(group.into_iter().map(|action| self.one(action)))
                .buffer_unordered(self.parallel.max(1));
            while let Some(result) = running.next().await {
                if let Err(stop) = result {
                    let end = stop.end(kind);
                    self.note(&end);
                    return end;
                }
                self.metrics.action(kind);
            }
        }
        End::Done { actions: total }
    }

    /// After an overload answer everything waits as long as the server asked.
    async fn wait_while_busy(&self) {
        while let Some(until) = self.link.busy_until() {
            tokio::time::sleep_until(until).await;
        }
    }

    fn note(&self, end: &End) {
        match end {
            End::Done { .. } => {}
            End::Stale { action, object } => {
                self.metrics.action_failed("stale");
                tracing::info!(
                    action,
                    object,
                    "the rest of the plan is thrown away: its object has changed"
                );
            }
            End::Failed {
                action,
                object,
                error,
            } => {
                self.metrics.action_failed(error_kind(error));
                tracing::warn!(action, object, %error, "the rest of the plan is thrown away");
            }
            End::StepDown { seen } => tracing::warn!(seen, own = self.term, "a newer leader exists"),
            End::GiveUpLease => tracing::info!("the Lease is given up: this replica's own node is next"),
            End::NotLeading => self.metrics.action_failed("notLeading"),
        }
    }

    async fn one(&self, action: Action) -> Result<(), Stop> {
        match action {
            Action::StepDown { seen } => Err(Stop::StepDown { seen }),
            Action::GiveUpLease => Err(Stop::GiveUpLease),
            Action::WritePolicyStatus {
                policy,
                status,
                change,
            } => {
                tracing::debug!(policy = policy.name, ?change, "status of a policy");
                self.write_policy_status(&policy, *status).await
            }
            Action::RebuildDock { policy } => {
                tracing::info!(policy = policy.name, "its dock is built again");
                self.rebuild_dock(&policy).await
            }
            Action::CreateNodeUpgrade { node, node_uid } => self.create_upgrade(&node, &node_uid).await,
            Action::WriteSpec {
                upgrade,
                spec,
                change,
            } => {
                let attempt = spec.dock.as_ref().map(|dock| dock.attempt.as_str());
                tracing::info!(node = upgrade.name, attempt, ?change, "order to a node");
                if let SpecChange::Leave(_) = change
                    && let Some(record) = spec.records.last()
                {
                    self.metrics.attempt_ended(objects::class_name(record.class));
                }
                self.write_spec(&upgrade, *spec).await
            }
            Action::FenceNode { node, term } => self.patch_node(&node, objects::fence(term)).await,
            Action::CordonNode { node, mark, term } => {
                tracing::info!(
                    node = node.name,
                    attempt = mark.attempt,
                    policy = mark.policy,
                    "cordon"
                );
                self.patch_node(&node, objects::cordon(&mark, term)).await
            }
            Action::UncordonNode { node, attempt, keep } => {
                tracing::info!(node = node.name, attempt, ?keep, "uncordon");
                self.patch_node(&node, objects::uncordon(keep)).await
            }
            Action::ClearAsk { node, ask } => {
                tracing::info!(node = node.name, ask, "what a person asked is taken up");
                self.patch_node(&node, objects::clear_ask()).await
            }
            Action::EvictPods { node, attempt, pods } => self.evict(&node, &attempt, pods).await,
            Action::ListPods { node, attempt } => {
                tracing::debug!(node, attempt, "its pods are listed");
                let listed = self.observer.drains.list(&node).await;
                listed.map_err(|error| Stop::of(&format!("pods of {node}"), error))
            }
            Action::CreateHalt { halt } => self.create_halt(*halt).await,
            Action::Event { on, reason, text } => {
                self.gate.pass()?;
                let uid = self.uid_of(&on);
                self.events.say(on, uid, reason, text).await;
                Ok(())
            }
        }
    }

    /// Evicts a few pods at a time. An answer, whichever, ends nothing: the planner reads it.
    async fn evict(&self, node: &str, attempt: &str, pods: Vec<PodRef>) -> Result<(), Stop> {
        let evictions = pods.into_iter().map(|pod| self.evict_one(node, attempt, pod));
        let mut running = stream::iter(evictions).buffer_unordered(self.parallel.max(1));
        while let Some(result) = running.next().await {
            result?;
        }
        Ok(())
    }

    async fn evict_one(&self, node: &str, attempt: &str, pod: PodRef) -> Result<(), Stop> {
        if self.link.busy_until().is_some() {
            return Ok(());
        }
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace);
        let eviction = Eviction {
            metadata: ObjectMeta {
                name: Some(pod.name.clone()),
                namespace: Some(pod.namespace.clone()),
                ..ObjectMeta::default()
            },
            delete_options: Some(DeleteOptions {
                preconditions: Some(Preconditions {
                    uid: Some(pod.uid.clone()),
                    resource_version: None,
                }),
                ..DeleteOptions::default()
            }),
        };
        self.gate.pass()?;
        // Before 1.22 or so the answer was the Eviction, since then a Status; both are JSON objects.
        let answered: Result<serde_json::Value, kube::Error> = api
            .create_subresource("eviction", &pod.name, &PostParams::default(), &eviction)
            .await;
        let answer = answer::read(&answered, self.busy_pause());
        let class = answer::class(&answer);
        self.metrics.eviction(class);
        let name = format!("{}/{}", pod.namespace, pod.name);
        tracing::info!(node, attempt, pod = name, answer = class, "eviction");
        if let Some((reason, text)) = answer::told(&answer) {
            tracing::debug!(node, pod = name, text, "what the server said");
            let on = EventTarget::Node(node.to_owned());
            let uid = self.uid_of(&on);
            self.events.say(on, uid, reason, format!("{name}: {text}")).await;
        }
        self.observer.drains.answered(node, &pod.uid, answer);
        Ok(())
    }

    fn busy_pause(&self) -> Option<Duration> {
        let until = self.link.busy_until()?;
        Some(until.saturating_duration_since(tokio::time::Instant::now()))
    }
}

/// A bounded name of an action.
const fn kind(action: &Action) -> &'static str {
    match action {
        Action::StepDown { .. } => "StepDown",
        Action::GiveUpLease => "GiveUpLease",
        Action::WritePolicyStatus { .. } => "WritePolicyStatus",
        Action::RebuildDock { .. } => "RebuildDock",
        Action::CreateNodeUpgrade { .. } => "CreateNodeUpgrade",
        Action::WriteSpec { .. } => "WriteSpec",
        Action::FenceNode { .. } => "FenceNode",
        Action::CordonNode { .. } => "CordonNode",
        Action::UncordonNode { .. } => "UncordonNode",
        Action::EvictPods { .. } => "EvictPods",
        Action::ListPods { .. } => "ListPods",
        Action::CreateHalt { .. } => "CreateHalt",
        Action::ClearAsk { .. } => "ClearAsk",
        Action::Event { .. } => "Event",
    }
}

/// What must have succeeded, alone, before anything after it begins.
const fn is_barrier(action: &Action) -> bool {
    matches!(
        action,
        Action::StepDown { .. }
            | Action::GiveUpLease
            | Action::RebuildDock { .. }
            | Action::CreateHalt { .. }
    )
}

/// A bounded word for an error of the client.
const fn error_kind(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) => match status.code {
            401 => "unauthorized",
            403 => "forbidden",
            429 => "tooManyRequests",
            400..=499 => "otherClientError",
            _ => "serverError",
        },
        kube::Error::SerdeError(_) => "unreadable",
        _ => "noAnswer",
    }
}

/// `kind/name`, for logs.
fn object_name<K: Resource<DynamicType = ()>>(name: &str) -> String {
    format!("{} {name}", K::kind(&()))
}
