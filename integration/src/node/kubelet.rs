//! The kubelet of a simulated node: keeps the Node object and its heartbeat, and makes the pods bound
//! to it run, become ready, and end. It runs no containers and never looks at Drydock's objects.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::workload::LEASE_NAMESPACE;

/// What the kubelet says of its machine, and how quick it is.
#[derive(Debug, Clone)]
pub struct KubeletSpec {
    /// The Node's name.
    pub node: String,
    /// Labels it registers with.
    pub labels: BTreeMap<String, String>,
    /// The kernel's boot ID.
    pub boot_id: String,
    /// What os-release calls the system.
    pub os_image: String,
    /// Its own version, with the `v`.
    pub version: String,
    /// From one heartbeat to the next.
    pub heartbeat: Duration,
    /// From binding to readiness of a pod.
    pub pod_start: Duration,
    /// From a deletion to the end of a pod's containers.
    pub pod_stop: Duration,
}

/// Runs until `stop`, then leaves everything as it is: what a power cut does.
pub async fn run(client: Client, spec: KubeletSpec, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = heartbeats(&client, &spec) => {}
        () = pods(&client, &spec) => {}
    }
}

/// What a kubelet that is told of an orderly shutdown does last: its node is not ready any more.
///
/// # Errors
/// Those of the API.
pub async fn say_goodbye(client: &Client, node: &str) -> kube::Result<()> {
    let nodes = Api::<Node>::all(client.clone());
    let now = Timestamp::now();
    let status = json!({"status": {"conditions": [{
        "type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "node is shutting down",
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    }]}});
    nodes
        .patch_status(node, &PatchParams::default(), &Patch::Merge(status))
        .await
        .map(drop)
}

async fn heartbeats(client: &Client, spec: &KubeletSpec) {
    let mut registered = false;
    let mut every = tokio::time::interval(spec.heartbeat);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if let Err(error) = beat(client, spec).await {
            tracing::debug!(node = spec.node, %error, "a heartbeat did not get through");
            continue;
        }
        // Ready is said once, and again when someone else said otherwise.
        match say_ready(client, spec, registered).await {
            Ok(()) => registered = true,
            Err(error) => tracing::debug!(node = spec.node, %error, "the node is not registered yet"),
        }
    }
}

async fn beat(client: &Client, spec: &KubeletSpec) -> kube::Result<()> {
    let leases = Api::<Lease>::namespaced(client.clone(), LEASE_NAMESPACE);
    let renewed = json!({"spec": {
        "holderIdentity": spec.node,
        "leaseDurationSeconds": 40,
        "renewTime": format!("{:.6}", Timestamp::now()),
    }});
    match leases
        .patch(&spec.node, &PatchParams::default(), &Patch::Merge(&renewed))
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let mut lease = renewed;
            lease["metadata"] = json!({"name": spec.node});
            let lease: Lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
            leases.create(&PostParams::default(), &lease).await.map(drop)
        }
        other => other.map(drop),
    }
}

async fn say_ready(client: &Client, spec: &KubeletSpec, registered: bool) -> kube::Result<()> {
    let nodes = Api::<Node>::all(client.clone());
    let node = match nodes.get_opt(&spec.node).await? {
        Some(node) => node,
        None => {
            let node = json!({"metadata": {"name": spec.node, "labels": spec.labels}, "spec": {}});
            let node: Node = serde_json::from_value(node).map_err(kube::Error::SerdeError)?;
            nodes.create(&PostParams::default(), &node).await?
        }
    };
    let status = node.status.unwrap_or_default();
    let mut conditions = status.conditions.iter().flatten();
    let ready = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let same_boot = status.node_info.is_some_and(|info| info.boot_id == spec.boot_id);
    if registered && ready && same_boot {
        return Ok(());
    }
    nodes
        .patch_status(
            &spec.node,
            &PatchParams::default(),
            &Patch::Merge(node_status(spec)),
        )
        .await?;
    Ok(())
}

fn node_status(spec: &KubeletSpec) -> Value {
    let now = Timestamp::now();
    let resources = json!({"cpu": "4", "memory": "16Gi", "pods": "110"});
    json!({"status": {
        "capacity": resources,
        "allocatable": resources,
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "KubeletReady",
            "message": "kubelet is posting ready status", "lastHeartbeatTime": now, "lastTransitionTime": now,
        }],
        "nodeInfo": {
            "architecture": std::env::consts::ARCH, "bootID": spec.boot_id, "containerRuntimeVersion": "sim://1",
            "kernelVersion": "6.12.0", "kubeProxyVersion": "", "kubeletVersion": spec.version,
            "machineID": spec.node, "operatingSystem": "linux", "osImage": spec.os_image, "systemUUID": spec.node,
        },
    }})
}

/// What the kubelet has begun to do with a pod.
#[derive(PartialEq, Eq)]
enum Begun {
    Start,
    Stop,
}

async fn pods(client: &Client, spec: &KubeletSpec) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", spec.node));
    let mut events = watcher(Api::<Pod>::all(client.clone()), config).boxed();
    let mut begun: HashMap<String, Begun> = HashMap::new();
    let mut work = JoinSet::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            Some(_) = work.join_next() => continue,
        };
        match event {
            None => return,
            Some(Err(error)) => {
                tracing::debug!(node = spec.node, %error, "the kubelet's watch broke off");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Some(Ok(watcher::Event::Delete(pod))) => drop(begun.remove(&pod.uid().unwrap_or_default())),
            Some(Ok(watcher::Event::Init | watcher::Event::InitDone)) => {}
            Some(Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod))) => {
                let wanted = if pod.metadata.deletion_timestamp.is_some() {
                    Begun::Stop
                } else {
                    Begun::Start
                };
                let uid = pod.uid().unwrap_or_default();
                if begun.get(&uid) == Some(&wanted) {
                    continue;
                }
                let (client, spec) = (client.clone(), spec.clone());
                match wanted {
                    Begun::Start => work.spawn(start(client, spec, pod)),
                    Begun::Stop => work.spawn(end(client, spec, pod)),
                };
                begun.insert(uid, wanted);
            }
        }
    }
}

/// Containers start, and after a while the pod is ready. Pods from before a reboot start again.
async fn start(client: Client, spec: KubeletSpec, pod: Pod) {
    let api = Api::<Pod>::namespaced(client, &pod.namespace().unwrap_or_default());
    let name = pod.name_any();
    let containers: Vec<(String, String)> = pod
        .spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .map(|container| {
            (
                container.name.clone(),
                container.image.clone().unwrap_or_default(),
            )
        })
        .collect();
    let say = async |ready: &str| {
        let now = Timestamp::now();
        let containers = containers.iter().map(|(name, image)| {
            json!({
                "name": name, "image": image, "imageID": "", "restartCount": 0,
                "ready": ready == "True", "started": true, "state": {"running": {"startedAt": now}},
            })
        });
        let condition =
            |kind: &str, status: &str| json!({"type": kind, "status": status, "lastTransitionTime": now});
        let status = json!({"metadata": {"uid": pod.metadata.uid}, "status": {
            "phase": "Running",
            "startTime": now,
            "conditions": [condition("PodScheduled", "True"), condition("Ready", ready)],
            "containerStatuses": containers.collect::<Vec<_>>(),
        }});
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
            .await
    };
    for (ready, wait) in [("False", Duration::ZERO), ("True", spec.pod_start)] {
        tokio::time::sleep(wait).await;
        if let Err(error) = say(ready).await {
            tracing::debug!(node = spec.node, pod = name, %error, "a pod's status was not taken");
            return;
        }
    }
}

/// Containers get their signal and end; then the pod's object may go.
async fn end(client: Client, spec: KubeletSpec, pod: Pod) {
    tokio::time::sleep(spec.pod_stop).await;
    let api = Api::<Pod>::namespaced(client, &pod.namespace().unwrap_or_default());
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: pod.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    if let Err(error) = api.delete(&pod.name_any(), &now).await {
        tracing::debug!(node = spec.node, pod = pod.name_any(), %error, "a pod was not deleted");
    }
}
