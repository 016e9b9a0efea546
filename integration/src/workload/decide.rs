//! What the controllers do about what they see. Pure: objects in, acts out.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt as _};

/// Everything the controllers look at.
#[derive(Debug, Clone, Default)]
pub struct Scene {
    /// All Deployments.
    pub deployments: Vec<Deployment>,
    /// All ReplicaSets.
    pub replica_sets: Vec<ReplicaSet>,
    /// All DaemonSets.
    pub daemon_sets: Vec<DaemonSet>,
    /// All pods.
    pub pods: Vec<Pod>,
    /// All Nodes.
    pub nodes: Vec<Node>,
    /// The kubelets' heartbeats.
    pub leases: Vec<Lease>,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Make the ReplicaSet of a Deployment.
    CreateReplicaSet(Box<ReplicaSet>),
    /// Make a pod.
    CreatePod(Box<Pod>),
    /// Place a pod.
    Bind {
        namespace: String,
        pod: String,
        node: String,
    },
    /// Say how many pods a ReplicaSet has.
    CountReplicaSet {
        namespace: String,
        name: String,
        generation: i64,
        pods: i32,
        ready: i32,
    },
    /// Say how many pods a Deployment has.
    CountDeployment {
        namespace: String,
        name: String,
        generation: i64,
        pods: i32,
        ready: i32,
    },
    /// The node's heartbeats stopped.
    NodeUnknown { name: String },
    /// A pod on such a node is not ready any more.
    PodUnready { namespace: String, name: String },
}

/// What is to be done now.
#[must_use]
pub fn decide(scene: &Scene, now: Timestamp, node_grace: Duration) -> Vec<Act> {
    let mut acts = Vec::new();
    deployments(scene, &mut acts);
    replica_sets(scene, &mut acts);
    daemon_sets(scene, &mut acts);
    schedule(scene, &mut acts);
    silent_nodes(scene, now, node_grace, &mut acts);
    acts
}

/// Whether an object's condition `Ready` is true.
pub(super) fn ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn node_condition(node: &Node) -> &str {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
    ready.next().map_or("Unknown", |condition| &condition.status)
}

fn owner_of<K: Resource<DynamicType = ()>>(object: &K) -> Option<OwnerReference> {
    object.controller_owner_ref(&())
}

fn owned<'a>(pods: &'a [Pod], uid: &'a str) -> impl Iterator<Item = &'a Pod> {
    pods.iter().filter(move |pod| {
        let owners = pod.metadata.owner_references.iter().flatten();
        owners
            .into_iter()
            .any(|owner| owner.controller == Some(true) && owner.uid == uid)
    })
}

fn finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn active(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && !finished(pod)
}

fn deployments(scene: &Scene, acts: &mut Vec<Act>) {
    for deployment in &scene.deployments {
        let (Some(uid), spec) = (deployment.uid(), &deployment.spec) else {
            continue;
        };
        if deployment.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let of_it = |set: &&ReplicaSet| set.owner_references().iter().any(|owner| owner.uid == uid);
        let Some(set) = scene.replica_sets.iter().find(of_it) else {
            let set = ReplicaSet {
                metadata: ObjectMeta {
                    name: Some(format!("{}-{}", deployment.name_any(), short(&uid))),
                    namespace: deployment.namespace(),
                    labels: spec
                        .template
                        .metadata
                        .as_ref()
                        .and_then(|meta| meta.labels.clone()),
                    owner_references: owner_of(deployment).map(|owner| vec![owner]),
                    ..ObjectMeta::default()
                },
                spec: k8s_openapi::api::apps::v1::ReplicaSetSpec {
                    replicas: spec.replicas,
                    selector: spec.selector.clone(),
                    template: Some(spec.template.clone()),
                    ..Default::default()
                },
                status: None,
            };
            acts.push(Act::CreateReplicaSet(Box::new(set)));
            continue;
        };
        let Some(status) = &set.status else { continue };
        let ready = status.ready_replicas.unwrap_or(0);
        let generation = deployment.metadata.generation.unwrap_or(0);
        let told = deployment.status.as_ref();
        let told = told.map(|told| (told.replicas, told.ready_replicas, told.observed_generation));
        if told != Some((Some(status.replicas), Some(ready), Some(generation))) {
            acts.push(Act::CountDeployment {
                namespace: deployment.namespace().unwrap_or_default(),
                name: deployment.name_any(),
                generation,
                pods: status.replicas,
                ready,
            });
        }
    }
}

fn replica_sets(scene: &Scene, acts: &mut Vec<Act>) {
    for set in &scene.replica_sets {
        let (Some(uid), spec) = (set.uid(), &set.spec) else {
            continue;
        };
        let (Some(template), None) = (&spec.template, &set.metadata.deletion_timestamp) else {
            continue;
        };
        let pods: Vec<_> = owned(&scene.pods, &uid).filter(|pod| active(pod)).collect();
        let there = i32::try_from(pods.len()).unwrap_or(i32::MAX);
        for _ in there..spec.replicas.unwrap_or(1) {
            acts.push(Act::CreatePod(Box::new(pod_of(set, template, None))));
        }
        let ready = i32::try_from(pods.iter().filter(|pod| ready(pod)).count()).unwrap_or(i32::MAX);
        let generation = set.metadata.generation.unwrap_or(0);
        let told = set.status.as_ref();
        let told = told.map(|told| (told.replicas, told.ready_replicas, told.observed_generation));
        if told != Some((there, Some(ready), Some(generation))) {
            acts.push(Act::CountReplicaSet {
                namespace: set.namespace().unwrap_or_default(),
                name: set.name_any(),
                generation,
                pods: there,
                ready,
            });
        }
    }
}

fn daemon_sets(scene: &Scene, acts: &mut Vec<Act>) {
    for set in &scene.daemon_sets {
        let (Some(uid), spec) = (set.uid(), &set.spec) else {
            continue;
        };
        let placed: Vec<_> = owned(&scene.pods, &uid)
            .filter(|pod| !finished(pod))
            .filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref())
            .collect();
        // A DaemonSet's pods tolerate a cordon and a node that is not ready.
        for node in scene
            .nodes
            .iter()
            .filter(|node| !placed.contains(&node.name_any().as_str()))
        {
            acts.push(Act::CreatePod(Box::new(pod_of(
                set,
                &spec.template,
                Some(node.name_any()),
            ))));
        }
    }
}

fn pod_of<K: Resource<DynamicType = ()>>(owner: &K, template: &PodTemplateSpec, node: Option<String>) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    let mut spec = template.spec.clone().unwrap_or_default();
    spec.node_name = node.or(spec.node_name);
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.name_any())),
            namespace: owner.namespace(),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: owner_of(owner).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

/// The first letters of a UID, for names.
fn short(uid: &str) -> &str {
    uid.split('-').next().unwrap_or(uid)
}

/// Each pod without a node goes where the fewest of its kind are, then where the fewest are at all.
fn schedule(scene: &Scene, acts: &mut Vec<Act>) {
    let mut at: BTreeMap<String, Vec<String>> = scene
        .nodes
        .iter()
        .filter(|node| node_condition(node) == "True")
        .filter(|node| {
            !node
                .spec
                .as_ref()
                .and_then(|spec| spec.unschedulable)
                .unwrap_or(false)
        })
        .map(|node| (node.name_any(), Vec::new()))
        .collect();
    let kind_of = |pod: &Pod| owner_of(pod).map_or_else(|| pod.name_any(), |owner| owner.uid);
    for pod in scene.pods.iter().filter(|pod| active(pod)) {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        if let Some(there) = node.and_then(|node| at.get_mut(node)) {
            there.push(kind_of(pod));
        }
    }
    for pod in scene.pods.iter().filter(|pod| active(pod)) {
        if pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_some()) {
            continue;
        }
        let kind = kind_of(pod);
        let rank = |there: &Vec<String>| (there.iter().filter(|other| **other == kind).count(), there.len());
        let Some((node, there)) = at.iter_mut().min_by_key(|(_, there)| rank(there)) else {
            return;
        };
        there.push(kind.clone());
        acts.push(Act::Bind {
            namespace: pod.namespace().unwrap_or_default(),
            pod: pod.name_any(),
            node: node.clone(),
        });
    }
}

fn silent_nodes(scene: &Scene, now: Timestamp, grace: Duration, acts: &mut Vec<Act>) {
    for node in &scene.nodes {
        let name = node.name_any();
        let lease = scene.leases.iter().find(|lease| lease.name_any() == name);
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0));
        let born = node.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let Some(last) = renewed.max(born) else { continue };
        if now.duration_since(last).unsigned_abs() < grace || now < last {
            continue;
        }
        if node_condition(node) != "Unknown" {
            acts.push(Act::NodeUnknown { name: name.clone() });
        }
        let here = |pod: &&Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(&name);
        for pod in scene.pods.iter().filter(here).filter(|pod| ready(pod)) {
            acts.push(Act::PodUnready {
                namespace: pod.namespace().unwrap_or_default(),
                name: pod.name_any(),
            });
        }
    }
}
