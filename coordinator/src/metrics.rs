//! What a replica counts, in the OpenMetrics text format. Every label has a bounded set of values: no
//! node, pod or digest is ever one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use http::StatusCode;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// One label `kind`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: String,
}

/// Nodes of a policy in one phase, or waiting for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPolicy {
    policy: String,
    name: String,
}

/// The counters of one replica. Clones count into the same ones.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    nodes: Family<OfPolicy, Gauge>,
    waiting: Family<OfPolicy, Gauge>,
    actions: Family<Kind, Counter>,
    refused: Family<Kind, Counter>,
    evictions: Family<Kind, Counter>,
    records: Family<Kind, Counter>,
    answers: Family<Kind, Counter>,
    watch_restarts: Family<Kind, Counter>,
    plan_seconds: Histogram,
    leader: Gauge,
    term: Gauge,
    oldest_watch_seconds: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Counters at zero, in a registry of their own: several replicas live in one process.
    #[must_use]
    pub fn new() -> Self {
        let plan_seconds = Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0]);
        let metrics = Self {
            registry: Arc::new(Mutex::new(Registry::with_prefix("drydock"))),
            nodes: Family::default(),
            waiting: Family::default(),
            actions: Family::default(),
            refused: Family::default(),
            evictions: Family::default(),
            records: Family::default(),
            answers: Family::default(),
            watch_restarts: Family::default(),
            plan_seconds,
            leader: Gauge::default(),
            term: Gauge::default(),
            oldest_watch_seconds: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register("nodes", "Nodes of a policy in each phase", self.nodes.clone());
        registry.register(
            "nodes_waiting",
            "Nodes of a policy that wait, by reason",
            self.waiting.clone(),
        );
        registry.register("actions", "Actions executed, by kind", self.actions.clone());
        registry.register(
            "actions_failed",
            "Actions that failed, by kind of failure",
            self.refused.clone(),
        );
        registry.register(
            "evictions",
            "Answers of the eviction API, by class",
            self.evictions.clone(),
        );
        registry.register("attempts", "Attempts that ended, by class", self.records.clone());
        registry.register(
            "api_answers",
            "Answers of the API server, by class",
            self.answers.clone(),
        );
        registry.register(
            "watch_restarts",
            "Watches that broke or fell silent, by kind",
            self.watch_restarts.clone(),
        );
        registry.register(
            "plan_seconds",
            "What one plan took to compute",
            self.plan_seconds.clone(),
        );
        registry.register("leader", "1 while this replica leads", self.leader.clone());
        registry.register(
            "term",
            "Term of this replica's leading, 0 if it does not",
            self.term.clone(),
        );
        registry.register(
            "oldest_watch_seconds",
            "Time since the most silent watch showed an event or a bookmark",
            self.oldest_watch_seconds.clone(),
        );
    }

    /// Everything, as `/metrics` serves it.
    ///
    /// # Errors
    /// Never in practice: the text is written into memory.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        text::encode(&mut out, &registry)?;
        Ok(out)
    }

    /// Counts of all policies: `(policy, name of phase) -> nodes`, and the same of reasons. What is
    /// not in them any more is dropped.
    pub fn set_nodes(
        &self,
        phases: &BTreeMap<(String, String), i64>,
        reasons: &BTreeMap<(String, String), i64>,
    ) {
        for (family, counts) in [(&self.nodes, phases), (&self.waiting, reasons)] {
            family.clear();
            for ((policy, name), count) in counts {
                let label = OfPolicy {
                    policy: policy.clone(),
                    name: name.clone(),
                };
                family.get_or_create(&label).set(*count);
            }
        }
    }

    /// One action was executed.
    pub fn action(&self, kind: &str) {
        count(&self.actions, kind);
    }

    /// One action failed.
    pub fn action_failed(&self, kind: &str) {
        count(&self.refused, kind);
    }

    /// One answer of the eviction API.
    pub fn eviction(&self, class: &str) {
        count(&self.evictions, class);
    }

    /// One attempt ended.
    pub fn attempt_ended(&self, class: &str) {
        count(&self.records, class);
    }

    /// One watch was begun again.
    pub fn watch_restarted(&self, kind: &str) {
        count(&self.watch_restarts, kind);
    }

    /// One answer of the API server.
    pub fn api_answer(&self, status: StatusCode) {
        count(
            &self.answers,
            match status.as_u16() {
                200..=299 => "ok",
                401 => "unauthorized",
                403 => "forbidden",
                404 => "notFound",
                409 => "conflict",
                410 => "gone",
                422 => "invalid",
                429 => "tooManyRequests",
                400..=499 => "otherClientError",
                _ => "serverError",
            },
        );
    }

    /// One request had no answer.
    pub fn api_unreachable(&self) {
        count(&self.answers, "none");
    }

    /// What one plan took.
    pub fn planned(&self, took: Duration) {
        self.plan_seconds.observe(took.as_secs_f64());
    }

    /// This replica leads in this term, or does not.
    pub fn leading(&self, term: Option<i64>) {
        self.leader.set(i64::from(term.is_some()));
        self.term.set(term.unwrap_or(0));
    }

    /// Age of the most silent watch.
    pub fn oldest_watch(&self, age: Duration) {
        self.oldest_watch_seconds.set(age.as_secs_f64());
    }
}

fn count(family: &Family<Kind, Counter>, kind: &str) {
    let label = Kind {
        kind: kind.to_owned(),
    };
    family.get_or_create(&label).inc();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_phase_that_no_node_is_in_any_more_is_dropped() {
        let metrics = Metrics::new();
        let phase = |name: &str| BTreeMap::from([(("p".to_owned(), name.to_owned()), 2)]);
        metrics.set_nodes(&phase("Draining"), &BTreeMap::new());
        metrics.set_nodes(&phase("Idle"), &BTreeMap::new());
        let text = metrics.text().unwrap();
        assert!(
            text.contains("drydock_nodes{policy=\"p\",name=\"Idle\"} 2"),
            "{text}"
        );
        assert!(!text.contains("Draining"), "{text}");
    }
}
