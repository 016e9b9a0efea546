//! How an act of the controllers becomes a write.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::decide::Act;

pub(super) async fn act(client: &Client, act: &Act) -> kube::Result<()> {
    let namespaced = |meta: &kube::core::ObjectMeta| meta.namespace.clone().unwrap_or_default();
    let post = PostParams::default();
    match act {
        Act::CreateReplicaSet(set) => {
            let api = Api::<ReplicaSet>::namespaced(client.clone(), &namespaced(&set.metadata));
            api.create(&post, set).await.map(drop)
        }
        Act::CreatePod(pod) => {
            let api = Api::<Pod>::namespaced(client.clone(), &namespaced(&pod.metadata));
            api.create(&post, pod).await.map(drop)
        }
        Act::Bind { namespace, pod, node } => bind(client, namespace, pod, node).await,
        Act::CountReplicaSet {
            namespace,
            name,
            generation,
            pods,
            ready,
        } => {
            let api = Api::<ReplicaSet>::namespaced(client.clone(), namespace);
            let status = counts(*generation, *pods, *ready);
            api.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
                .await
                .map(drop)
        }
        Act::CountDeployment {
            namespace,
            name,
            generation,
            pods,
            ready,
        } => {
            let api = Api::<Deployment>::namespaced(client.clone(), namespace);
            let status = counts(*generation, *pods, *ready);
            api.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
                .await
                .map(drop)
        }
        Act::NodeUnknown { name } => {
            let api = Api::<Node>::all(client.clone());
            let mut node = api.get(name).await?;
            let conditions = node
                .status
                .iter_mut()
                .flat_map(|status| status.conditions.iter_mut().flatten());
            for ready in conditions.filter(|condition| condition.type_ == "Ready") {
                "Unknown".clone_into(&mut ready.status);
                ready.reason = Some("NodeStatusUnknown".to_owned());
                ready.message = Some("Kubelet stopped posting node status.".to_owned());
            }
            api.replace_status(name, &post, &node).await.map(drop)
        }
        Act::PodUnready { namespace, name } => {
            let api = Api::<Pod>::namespaced(client.clone(), namespace);
            let status = json!({"status": {"conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": "False"},
            ]}});
            api.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
                .await
                .map(drop)
        }
    }
}

async fn bind(client: &Client, namespace: &str, pod: &str, node: &str) -> kube::Result<()> {
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod, "namespace": namespace},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    pods.create_subresource::<Value, Value>("binding", pod, &PostParams::default(), &binding)
        .await
        .map(drop)
}

fn counts(generation: i64, pods: i32, ready: i32) -> Value {
    json!({"status": {"observedGeneration": generation, "replicas": pods, "readyReplicas": ready,
        "availableReplicas": ready}})
}
