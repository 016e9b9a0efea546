//! What Drydock needs in a cluster, as manifests: resources, rights, admission policies, coordinator and,
//! where wanted, the agents' DaemonSet. One source for `kubectl drydock install` and for the Helm chart.
//! Talks to no cluster.

mod admission;
mod chart;
mod differs;
mod rights;
mod workloads;

use serde_json::{Value, json};

pub use chart::{ChartError, ChartFile, chart};
pub use differs::first_difference;

/// The namespace of the coordinator, unless told otherwise.
pub const NAMESPACE: &str = "drydock-system";
/// Name of the coordinator's Deployment, ServiceAccount, roles and budget.
pub const COORDINATOR: &str = "drydock-coordinator";
/// Name of the agents' DaemonSet, ServiceAccount and roles.
pub const AGENT: &str = "drydock-agent";
/// The label that all objects of an installation carry.
pub const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "drydock");

/// How agents run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Agents {
    /// As a unit of the node's image, with the kubelet's own credentials.
    Unit,
    /// As a DaemonSet, with a token bound to the pod; the guard is a unit of the node's image all the same.
    DaemonSet,
}

/// What is to be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// Namespace of the coordinator; agents of a DaemonSet run in NAMESPACE-agents.
    pub namespace: String,
    /// Image of coordinator and agents.
    pub image: String,
    /// Replicas of the coordinator.
    pub replicas: Number,
    /// How agents run.
    pub agents: Agents,
    /// Resources of the coordinator's container.
    pub coordinator_resources: Block,
    /// Resources of the agent's container.
    pub agent_resources: Block,
}

/// A number, or the chart's expression for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Number {
    /// Itself.
    Is(u32),
    /// An expression of the chart's.
    Chart(&'static str),
}

/// A part of a manifest, or the path of a chart's value that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// Itself.
    Is(Value),
    /// A path among the chart's values.
    Chart(&'static str),
}

impl Number {
    fn value(&self) -> Value {
        match self {
            Self::Is(number) => json!(number),
            Self::Chart(expression) => json!(chart::raw(expression)),
        }
    }
}

impl Block {
    fn value(&self) -> Value {
        match self {
            Self::Is(value) => value.clone(),
            Self::Chart(path) => json!(chart::block(path)),
        }
    }
}

/// What the coordinator's container asks for: measured at rest and in a rollout, with room.
#[must_use]
pub fn coordinator_resources() -> Value {
    json!({
        "requests": {"cpu": "50m", "memory": "64Mi"},
        "limits": {"memory": "512Mi"},
    })
}

/// What an agent's container asks for: it stages with bounded memory, and never at the pods' expense.
#[must_use]
pub fn agent_resources() -> Value {
    json!({
        "requests": {"cpu": "10m", "memory": "32Mi"},
        "limits": {"memory": "256Mi"},
    })
}

impl Installation {
    /// The usual one: two replicas, agents as units.
    #[must_use]
    pub fn new(image: &str) -> Self {
        Self {
            namespace: NAMESPACE.to_owned(),
            image: image.to_owned(),
            replicas: Number::Is(2),
            agents: Agents::Unit,
            coordinator_resources: Block::Is(coordinator_resources()),
            agent_resources: Block::Is(agent_resources()),
        }
    }

    /// Namespace of the agents' DaemonSet. Its pods are privileged, which the coordinator's namespace
    /// does not allow.
    #[must_use]
    pub fn agents_namespace(&self) -> String {
        format!("{}-agents", self.namespace)
    }

    /// The user name of the coordinator's ServiceAccount.
    #[must_use]
    pub fn coordinator_user(&self) -> String {
        format!("system:serviceaccount:{}:{COORDINATOR}", self.namespace)
    }

    /// Every object, in the order in which they are to be applied: what limits rights before what has
    /// them, what has rights before what uses them.
    #[must_use]
    pub fn manifests(&self) -> Vec<Value> {
        let mut all = vec![self.coordinator_namespace()];
        if self.agents == Agents::DaemonSet {
            all.push(self.agents_namespace_object());
        }
        all.extend(resources());
        all.extend(self.admission());
        all.extend(self.rights());
        all.extend(self.workloads());
        for object in &mut all {
            label(object);
        }
        all
    }
}

/// The CustomResourceDefinitions as JSON.
pub(crate) fn resources() -> Vec<Value> {
    drydock_api::crds()
        .iter()
        .filter_map(|crd| serde_json::to_value(crd).ok())
        .collect()
}

fn label(object: &mut Value) {
    let (key, value) = PART_OF;
    object["metadata"]["labels"][key] = json!(value);
}

#[cfg(test)]
mod tests;
