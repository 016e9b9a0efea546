//! The objects that a cluster's people would apply: workloads with a budget, the repository, the policy.

use std::time::Duration;

use drydock_api::{DrainMode, SpanText};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde_json::{Value, json};
use url::Url;

use super::releases::CHANNEL;

/// The namespace of the workloads.
pub const SHOP: &str = "shop";
/// The namespace of Drydock itself.
pub const SYSTEM: &str = "drydock-system";
/// The ImageRepository's name, here and in each node's configuration.
pub const REPOSITORY: &str = "harbor";
/// The UpgradePolicy's name.
pub const POLICY: &str = "workers";

fn labels(app: &str) -> Value {
    json!({"app": app})
}

fn template(app: &str) -> Value {
    json!({"metadata": {"labels": labels(app)}, "spec": {
        "terminationGracePeriodSeconds": 5,
        "containers": [{"name": app, "image": format!("registry.example/{app}:1")}],
    }})
}

/// Two Deployments, a DaemonSet, and a budget that lets one pod of the first go at a time.
#[must_use]
pub fn workloads(nodes: usize) -> Vec<Value> {
    let deployment = |app: &str, replicas: usize| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": app, "namespace": SHOP},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels(app)}, "template": template(app)}})
    };
    let mut agent = template("log-agent");
    agent["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SHOP}}),
        deployment("web", nodes * 2),
        deployment("orders", nodes.div_ceil(2)),
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "log-agent", "namespace": SHOP},
            "spec": {"selector": {"matchLabels": labels("log-agent")}, "template": agent}}),
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "web", "namespace": SHOP},
            "spec": {"minAvailable": nodes * 2 - 1, "selector": {"matchLabels": labels("web")}}}),
    ]
}

/// The namespace of Drydock, the root of trust of its own checks, and the ImageRepository.
#[must_use]
pub fn repository(url: &Url, root: &str, refresh: Duration) -> Vec<Value> {
    let refresh = SpanText::from_secs(refresh.as_secs().max(1));
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "harbor-root", "namespace": SYSTEM},
            "data": {"root.json": root}}),
        json!({"apiVersion": "drydock.dev/v1alpha1", "kind": "ImageRepository", "metadata": {"name": REPOSITORY},
            "spec": {"url": url.as_str(), "refreshInterval": refresh,
                "root": {"name": "harbor-root", "namespace": SYSTEM, "key": "root.json"}}}),
    ]
}

/// A maintenance window that is open now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenWindow {
    /// When it opened today: a whole minute.
    pub start: Timestamp,
    /// How long it is open each day.
    pub duration: Duration,
}

impl OpenWindow {
    /// Opened half an hour ago, for four hours each day.
    #[must_use]
    pub fn around(now: Timestamp) -> Self {
        let minute = now.as_second().div_euclid(60) * 60;
        let start = Timestamp::from_second(minute).unwrap_or(now) - SignedDuration::from_mins(30);
        Self {
            start,
            duration: Duration::from_secs(4 * 3600),
        }
    }

    /// The first instant after it.
    #[must_use]
    pub fn end(&self) -> Timestamp {
        self.start + self.duration
    }

    fn spec(&self) -> Value {
        let start = self.start.to_zoned(TimeZone::UTC).datetime();
        json!({"name": "nightly", "start": start.strftime("%Y-%m-%dT%H:%M:%S").to_string(), "timeZone": "UTC",
            "duration": SpanText::from_secs(self.duration.as_secs()), "rrule": "FREQ=DAILY"})
    }
}

/// How the simulated policy differs from the usual one: shorter.
#[derive(Debug, Clone)]
pub struct PolicyPace {
    /// Longest drain.
    pub drain: Duration,
    /// Longest way from grant to Committed.
    pub health: Duration,
    /// Longest wait of a trial boot for the cluster's word.
    pub confirm_wait: Duration,
    /// By when a node's own checks must have passed in a trial boot.
    pub checks: Duration,
    /// How long a committed node must stay Ready.
    pub soak: Duration,
    /// What drain, reboot and way back are expected to take.
    pub expected: Duration,
    /// Whether pods are evicted; where they have nowhere to go they are not.
    pub drain_mode: DrainMode,
}

/// One node at a time, one canary, inside the window, halted by the first failure.
#[must_use]
pub fn policy(window: &OpenWindow, pace: &PolicyPace) -> Value {
    let span = |span: Duration| SpanText::from_secs(span.as_secs());
    let expected = span(pace.expected);
    json!({"apiVersion": "drydock.dev/v1alpha1", "kind": "UpgradePolicy", "metadata": {"name": POLICY},
    "spec": {
        "repository": REPOSITORY,
        "release": {"channel": CHANNEL},
        "windows": [window.spec()],
        "strategy": {"maxUnavailable": 1, "canaries": 1, "soak": span(pace.soak), "failureThreshold": 1},
        "drain": {"mode": pace.drain_mode, "timeout": span(pace.drain)},
        "health": {"deadline": span(pace.health), "confirmWait": span(pace.confirm_wait)},
        "expected": {"drain": expected, "reboot": expected, "wayBack": expected},
    }})
}
