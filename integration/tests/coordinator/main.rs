//! What the coordinator's shell must hold against a Kubernetes API: who leads, what is written with which
//! precondition, and that no plan is made from anything older than its own last write.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod agent;
mod election;
mod execution;
mod rollout;

use std::time::Duration;

use drydock_integration::apiserver::{ApiServer, ServerConfig};
use serde_json::{Value, json};

/// A server that knows Drydock's resources.
pub async fn cluster() -> ApiServer {
    let server = ApiServer::start(ServerConfig {
        pod_grace_cap: Some(Duration::from_millis(10)),
        ..ServerConfig::default()
    })
    .await
    .unwrap();
    for crd in drydock_api::crds() {
        server.put(serde_json::to_value(crd).unwrap()).unwrap();
    }
    server
}

pub fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {
            "nodeInfo": {
                "architecture": "amd64", "bootID": "boot-1", "containerRuntimeVersion": "c://1",
                "kernelVersion": "6.12", "kubeProxyVersion": "", "kubeletVersion": "v1.34.2",
                "machineID": "m", "operatingSystem": "linux", "osImage": "Harbor", "systemUUID": "s",
            },
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}],
        },
    })
}

/// A pod on that node, Ready. Nothing owns it: an owner that is not there would have it collected.
pub fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "default", "labels": {"app": "web"},
        },
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// Waits until it holds; a test that waits in vain fails after a while that no machine needs.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = tokio::time::Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(tokio::time::Instant::now() < patience, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
