//! Simulated nodes and real coordinators on a real control plane: each writes as who it is in a cluster,
//! a kubelet with its node's credential, an agent with the token of its pod or its node's credential, a
//! coordinator with a token of its ServiceAccount.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use drydock_images::Unwatched;
use drydock_integration::cluster::{
    BOARD, Built, ClusterPlan, Eye, FileServer, POLICY, Replica, Workshop, policy, repository, workloads,
};
use drydock_integration::demo::{StoryImages, plan};
use drydock_integration::node::{Catalog, FirstImages, Install, NodeSpec, SimNode, install};
use drydock_integration::observer::{Cast, Knowledge};
use drydock_integration::realcluster::{ControlPlane, Identity};
use kube::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::requests::{ask, get, until};
use crate::tools::{AGENT, AGENTS, COORDINATOR, DRYDOCK, NODES, SOON, SYSTEM, admin, clean, kubectl};

/// What a step of a story may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(150);

/// How an agent proves who it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Agents {
    Units,
    Pods,
}

pub struct Fleet {
    pub cluster: Arc<ControlPlane>,
    pub admin: Client,
    pub names: Vec<String>,
    pub nodes: Vec<SimNode>,
    pub images: StoryImages,
    pub first: Built,
    pub workshop: Workshop,
    files: FileServer,
    catalog: Arc<Catalog>,
    eye: Arc<Eye>,
    plan: ClusterPlan,
    replicas: BTreeMap<String, Replica>,
    folder: TempDir,
}

impl Fleet {
    /// The repository's objects; no node yet, no coordinator.
    pub async fn prepare(cluster: Arc<ControlPlane>, names: &[&str]) -> Fleet {
        let folder = tempfile::tempdir().unwrap();
        let packed = folder.path().join("images");
        std::fs::create_dir(&packed).unwrap();
        let images = tokio::task::spawn_blocking(move || StoryImages::from_host(&packed, 6 << 20))
            .await
            .unwrap()
            .unwrap();
        let mut plan = plan(folder.path(), &images.releases()[0], images.room(), names.len());
        plan.replica_pace.lease = Duration::from_secs(6);
        let catalog = Arc::new(Catalog::default());
        let workshop = Workshop::open(folder.path(), BOARD, catalog.clone())
            .await
            .unwrap();
        let first = workshop.build(&images.releases()[0]).await.unwrap();
        workshop.publish(&first).await.unwrap();
        let files = FileServer::start(&workshop.repository()).await.unwrap();
        // Nobody tells it what is written here: the audit log of this server has no bodies.
        let (_nobody, trail) = tokio::sync::mpsc::unbounded_channel();
        let knowledge = Knowledge {
            cast: Cast {
                coordinators: Vec::new().into_iter().collect(),
                agents: Vec::new().into_iter().collect(),
            },
            releases: Vec::new(),
            windows: BTreeMap::new(),
            freezes: Vec::new(),
            grace: Duration::ZERO,
        };
        let fleet = Fleet {
            admin: admin(&cluster).await,
            cluster,
            names: names.iter().map(|&name| name.to_owned()).collect(),
            nodes: Vec::new(),
            images,
            first,
            workshop,
            files,
            catalog,
            eye: Arc::new(Eye::new(knowledge, trail)),
            plan,
            replicas: BTreeMap::new(),
            folder,
        };
        let root = std::fs::read_to_string(fleet.workshop.root()).unwrap();
        let refresh = fleet.plan.replica_pace.refresh;
        let mut objects = repository(fleet.files.url(), &root, refresh);
        objects.retain(|object| object["kind"] != "Namespace");
        fleet.apply(objects).await;
        fleet
    }

    /// What people run: two Deployments, one with a budget and one with a volume, and a DaemonSet.
    pub async fn apply_workloads(&self) {
        let mut objects = workloads(self.names.len());
        for object in &mut objects {
            if object["kind"] == "Deployment" && object["metadata"]["name"] == "orders" {
                let pod = &mut object["spec"]["template"]["spec"];
                pod["volumes"] = json!([{"name": "book", "persistentVolumeClaim": {"claimName": "book"}}]);
                pod["containers"][0]["volumeMounts"] = json!([{"name": "book", "mountPath": "/book"}]);
            }
        }
        let size = json!({"storage": "1Mi"});
        objects.push(json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "book"},
            "spec": {"capacity": size, "accessModes": ["ReadWriteMany"], "storageClassName": "",
                "hostPath": {"path": "/book"}, "claimRef": {"namespace": "shop", "name": "book"}},
        }));
        objects.push(json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "book", "namespace": "shop"},
            "spec": {"accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": "book",
                "resources": {"requests": size}},
        }));
        self.apply(objects).await;
    }

    /// The policy, which waits for volumes.
    pub async fn apply_policy(&self) {
        let mut policy = policy(&self.plan.window, &self.plan.policy_pace);
        policy["spec"]["drain"]["waitForVolumeDetach"] = json!(true);
        self.apply(vec![policy]).await;
    }

    async fn apply(&self, objects: Vec<Value>) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        clean(&kubectl(&self.cluster, &["apply", "-f", "-"], list.to_string()).await);
    }

    /// Turns every node on.
    pub async fn power_on(&mut self, agents: Agents) {
        for number in 0..self.names.len() {
            let node = self.node(number, agents).await;
            self.nodes.push(node);
        }
    }

    async fn node(&self, number: usize, agents: Agents) -> SimNode {
        let name = self.names[number].clone();
        let credential = Identity::node(&name);
        let kubelet = self.cluster.client(&credential).await.unwrap();
        let labels = BTreeMap::from([
            ("kubernetes.io/hostname".to_owned(), name.clone()),
            ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ]);
        register(&kubelet, &name, &labels).await;
        let identity = match agents {
            Agents::Units => credential,
            Agents::Pods => Identity::pod(AGENTS, AGENT, &agent_pod(&self.admin, &name).await),
        };
        let folder = self.folder.path().join("nodes").join(&name);
        std::fs::create_dir_all(&folder).unwrap();
        let kubeconfig = folder.join("kubeconfig");
        std::fs::write(&kubeconfig, self.cluster.kubeconfig(&identity).await.unwrap()).unwrap();
        let loader = self.plan.loaders[number % self.plan.loaders.len()];
        let job = Install {
            name: name.clone(),
            folder,
            seed: number as u64 + 1,
            loader,
            other_kernels: self.plan.other_kernels,
            images: FirstImages {
                kernel: self.plan.first.kernel.clone(),
                root: self.plan.first.root.clone(),
                kernel_bytes: self.plan.room.0,
                root_bytes: self.plan.room.1,
                state_bytes: 1 << 20,
            },
            release: self.first.path.clone(),
            repository: (
                drydock_integration::cluster::REPOSITORY.to_owned(),
                self.files.url().clone(),
                self.workshop.root().to_owned(),
            ),
            kubeconfig,
            confirm_wait: format!("{}s", self.plan.policy_pace.confirm_wait.as_secs()),
            health_deadline: "3s".to_owned(),
        };
        let installed = tokio::task::spawn_blocking(move || install(&job))
            .await
            .unwrap()
            .unwrap();
        let spec = NodeSpec {
            name,
            labels,
            disk: installed.disk,
            loader,
            config: installed.config,
            pace: self.plan.node_pace.clone(),
            kubelet,
            agent: self.cluster.client(&identity).await.unwrap(),
            saboteur: self.plan.saboteur.clone(),
        };
        SimNode::power_on(spec, self.eye.clone(), self.catalog.clone())
    }

    pub async fn start_replica(&mut self, name: &str) {
        let identity = Identity::service_account(SYSTEM, COORDINATOR);
        let config = self.cluster.config(&identity).await.unwrap();
        let data = self.folder.path().join(name);
        std::fs::create_dir_all(&data).unwrap();
        let replica =
            Replica::start(name, config, data, Arc::new(Unwatched), &self.plan.replica_pace).unwrap();
        self.replicas.insert(name.to_owned(), replica);
    }

    /// Builds and publishes one of the story's releases; its digest.
    pub async fn publish(&self, index: usize) -> String {
        let built = self.workshop.build(&self.images.releases()[index]).await.unwrap();
        self.workshop.publish(&built).await.unwrap();
        built.digest
    }

    /// NodeUpgrade and Node of each node; none while the server cannot say.
    pub async fn look(&self) -> Option<Vec<(Value, Value)>> {
        let mut seen = Vec::new();
        for name in &self.names {
            let upgrade = peek(&self.admin, &format!("{DRYDOCK}/nodeupgrades/{name}")).await?;
            let node = peek(&self.admin, &format!("{NODES}/{name}")).await?;
            seen.push((upgrade, node));
        }
        Some(seen)
    }

    pub async fn until(&self, what: &str, is_so: impl Fn(&[(Value, Value)]) -> bool) {
        let end = tokio::time::Instant::now() + PATIENCE;
        let mut last = None;
        loop {
            if let Some(seen) = self.look().await {
                if is_so(&seen) {
                    return;
                }
                last = Some(seen);
            }
            assert!(
                tokio::time::Instant::now() < end,
                "not within {PATIENCE:?}: {what}: {last:#?} {:#?}",
                get(&self.admin, &format!("{DRYDOCK}/upgradepolicies/{POLICY}")).await
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// What is at this path; none where there is nothing, or no server.
async fn peek(client: &Client, path: &str) -> Option<Value> {
    let request = http::Request::get(path).body(Vec::new()).unwrap();
    client.request(request).await.ok()
}

/// Runs this release and is nobody's business.
pub fn at_rest((upgrade, node): &(Value, Value), digest: &str) -> bool {
    upgrade["status"]["running"] == digest
        && upgrade["spec"]["dock"].is_null()
        && node["spec"]["unschedulable"] != json!(true)
}

/// As a kubelet does when it first starts, by its own credential.
async fn register(kubelet: &Client, name: &str, labels: &BTreeMap<String, String>) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
    ask(kubelet, "POST", NODES, Some(&node)).await.clean();
    let resources = json!({"cpu": "4", "memory": "16Gi", "pods": "110"});
    let status = json!({"status": {"capacity": resources, "allocatable": resources, "conditions": [
        {"type": "Ready", "status": "True", "lastHeartbeatTime": jiff::Timestamp::now()},
    ]}});
    let path = format!("{NODES}/{name}/status");
    ask(kubelet, "PATCH", &path, Some(&status)).await.clean();
}

/// The name of the DaemonSet's pod on this node, once it is bound.
async fn agent_pod(admin: &Client, node: &str) -> String {
    let path = format!("/api/v1/namespaces/{AGENTS}/pods?fieldSelector=spec.nodeName={node}");
    let found = until(
        SOON,
        || get(admin, &path),
        |answer| {
            answer.body["items"]
                .as_array()
                .is_some_and(|pods| !pods.is_empty())
        },
    )
    .await
    .clean();
    found["items"][0]["metadata"]["name"].as_str().unwrap().to_owned()
}
