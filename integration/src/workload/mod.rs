//! Controllers that a cluster has and the embedded API does not: Deployments, ReplicaSets and
//! DaemonSets make pods, a scheduler places them, and a node whose heartbeats stop becomes `Unknown`.
//! They are small, and know only what a drain has to meet. They never look at Drydock's objects.

mod act;
mod decide;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};
use kube::runtime::watcher;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use decide::{Act, Scene, decide};

/// The namespace in which kubelets keep their heartbeats.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

/// How quick the controllers are.
#[derive(Debug, Clone)]
pub struct Pace {
    /// A node whose heartbeat is older is `Unknown`.
    pub node_grace: Duration,
    /// Without any change, everything is looked at this often.
    pub resync: Duration,
    /// Changes that come closer together are looked at at once.
    pub gather: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            node_grace: Duration::from_secs(4),
            resync: Duration::from_secs(1),
            gather: Duration::from_millis(80),
        }
    }
}

/// Runs all controllers until `stop`.
pub async fn run(client: Client, pace: Pace, stop: CancellationToken) {
    let wake = Arc::new(Notify::new());
    tokio::select! {
        () = stop.cancelled() => {}
        () = ring::<Deployment>(&client, &wake) => {}
        () = ring::<ReplicaSet>(&client, &wake) => {}
        () = ring::<DaemonSet>(&client, &wake) => {}
        () = ring::<Pod>(&client, &wake) => {}
        () = ring::<Node>(&client, &wake) => {}
        () = work(&client, &pace, &wake) => {}
    }
}

/// Rings at every change of a kind.
async fn ring<K>(client: &Client, wake: &Notify)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let mut events = watcher(Api::<K>::all(client.clone()), watcher::Config::default()).boxed();
    while let Some(event) = events.next().await {
        if let Err(error) = event {
            tracing::debug!(%error, "the watch of a controller broke off");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        wake.notify_one();
    }
}

async fn work(client: &Client, pace: &Pace, wake: &Notify) {
    let mut watched = HashSet::new();
    loop {
        let _ = tokio::time::timeout(pace.resync, wake.notified()).await;
        tokio::time::sleep(pace.gather).await;
        // Lists, not the watches' caches: what was just made must not be made again.
        let scene = match scene(client).await {
            Ok(scene) => scene,
            Err(error) => {
                tracing::debug!(%error, "the controllers cannot list");
                continue;
            }
        };
        for act in decide(&scene, jiff::Timestamp::now(), pace.node_grace) {
            if let Err(error) = act::act(client, &act).await {
                // Whatever it was, the next look sees what is left to do.
                if watched.insert(error.to_string()) {
                    tracing::debug!(%error, ?act, "a controller's write failed");
                }
            }
        }
    }
}

async fn scene(client: &Client) -> kube::Result<Scene> {
    async fn all<K>(client: &Client) -> kube::Result<Vec<K>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        Ok(Api::<K>::all(client.clone())
            .list(&ListParams::default())
            .await?
            .items)
    }
    let leases = Api::<Lease>::namespaced(client.clone(), LEASE_NAMESPACE);
    Ok(Scene {
        // Owners before what they own: an object is never seen without its maker.
        deployments: all(client).await?,
        replica_sets: all(client).await?,
        daemon_sets: all(client).await?,
        pods: all(client).await?,
        nodes: all(client).await?,
        leases: leases.list(&ListParams::default()).await?.items,
    })
}

#[cfg(test)]
mod tests;
