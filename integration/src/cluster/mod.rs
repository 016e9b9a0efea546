//! A whole cluster in one process: the embedded API, controllers, nodes, a web server with releases,
//! coordinator replicas, and the observer over all of them. When it is dropped everything ends.

mod eye;
mod files;
mod objects;
mod releases;
mod replica;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use drydock_images::{StoreWatch, Unwatched};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

use crate::apiserver::hooks::Outage;
use crate::apiserver::{ApiServer, ServerConfig};
use crate::firmware::LoaderKind;
use crate::node::{
    Behaviour, Catalog, FirstImages, Install, Installed, NoSabotage, NodePace, NodeSpec, OtherKernels,
    Saboteur, SimNode, install,
};
use crate::observer::{Cast, Knowledge, KnownRelease};
use crate::workload;

pub use eye::Eye;
pub use files::{FileServer, Sent};
pub use objects::{OpenWindow, POLICY, PolicyPace, REPOSITORY, SHOP, SYSTEM, policy, repository, workloads};
pub use releases::{ARCH, BOARD, Built, CHANNEL, OS_NAME, ReleaseImages, Workshop};
pub use replica::{Freezer, Replica, ReplicaPace};

/// What changed less than this ago a coordinator need not have seen.
const GRACE: Duration = Duration::from_secs(2);

/// Who is told of the writes of each replica's trust store, and may kill it there.
pub trait StoreSaboteur: Send + Sync {
    /// The watch of this replica's store.
    fn of(&self, replica: &str) -> Arc<dyn StoreWatch>;
}

impl StoreSaboteur for NoSabotage {
    fn of(&self, _: &str) -> Arc<dyn StoreWatch> {
        Arc::new(Unwatched)
    }
}

/// A cluster to be.
#[derive(Clone)]
pub struct ClusterPlan {
    /// How many nodes.
    pub nodes: usize,
    /// How many coordinator replicas.
    pub coordinators: usize,
    /// Where everything lies; it must exist.
    pub folder: PathBuf,
    /// The release that the nodes are installed with.
    pub first: ReleaseImages,
    /// The longest kernel and root that will ever be written.
    pub room: (u64, u64),
    /// The loader of each node, in turn.
    pub loaders: Vec<LoaderKind>,
    /// What the nodes' owner says of other kernels where the loader counts no tries.
    pub other_kernels: OtherKernels,
    /// How quick the nodes are.
    pub node_pace: NodePace,
    /// How quick the coordinators are.
    pub replica_pace: ReplicaPace,
    /// How quick a rollout is.
    pub policy_pace: PolicyPace,
    /// When nodes may be disrupted.
    pub window: OpenWindow,
    /// How quick the controllers are.
    pub controllers: workload::Pace,
    /// The one node that the policy selects; none: all of them.
    pub only: Option<String>,
    /// Who may kill the nodes' processes.
    pub saboteur: Arc<dyn Saboteur>,
    /// Who may kill the coordinators at a write of their trust stores.
    pub stores: Arc<dyn StoreSaboteur>,
}

/// A running cluster.
pub struct SimCluster {
    /// The API.
    pub api: ApiServer,
    /// The observer's.
    pub eye: Arc<Eye>,
    /// Every release that was built.
    pub catalog: Arc<Catalog>,
    /// Where releases are built and published.
    pub workshop: Workshop,
    /// Where they are served.
    pub files: FileServer,
    /// The nodes, by number.
    pub nodes: Vec<SimNode>,
    /// The first release.
    pub first: Built,
    replicas: BTreeMap<String, Replica>,
    /// The dead send nothing any more.
    dead: Vec<Outage>,
    plan: ClusterPlan,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
    tasks: JoinSet<()>,
}

fn node_name(number: usize) -> String {
    format!("node-{}", number + 1)
}

/// The user that a node's agent writes as.
#[must_use]
pub fn agent_user(node: &str) -> String {
    format!("drydock-agent:{node}")
}

fn replica_name(number: usize) -> String {
    format!("coordinator-{number}")
}

impl SimCluster {
    /// Starts it: API and objects first, then the nodes with the first release, then the coordinators.
    ///
    /// # Errors
    /// If anything of it does not start.
    pub async fn start(plan: ClusterPlan) -> anyhow::Result<Self> {
        let api = ApiServer::start(ServerConfig::default())
            .await
            .context("starting the embedded API")?;
        let eye = Arc::new(Eye::new(knowledge(&plan), api.audit().subscribe()));
        let catalog = Arc::new(Catalog::default());
        let workshop = Workshop::open(&plan.folder, BOARD, catalog.clone()).await?;
        let first = workshop.build(&plan.first).await?;
        eye.learn(known(&first, &plan.first));
        workshop.publish(&first).await?;
        let files = FileServer::start(&workshop.repository())
            .await
            .context("starting the web server")?;
        let stop = CancellationToken::new();
        let mut cluster = Self {
            api,
            eye,
            catalog,
            workshop,
            files,
            nodes: Vec::new(),
            first,
            replicas: BTreeMap::new(),
            dead: Vec::new(),
            plan,
            _stop_when_dropped: stop.clone().drop_guard(),
            stop,
            tasks: JoinSet::new(),
        };
        cluster.apply_objects().await?;
        cluster.start_controllers().await?;
        for number in 0..cluster.plan.nodes {
            let node = cluster.install_node(number).await?;
            cluster.nodes.push(node);
        }
        for number in 1..=cluster.plan.coordinators {
            cluster.start_replica(&replica_name(number)).await?;
        }
        Ok(cluster)
    }

    async fn apply_objects(&self) -> anyhow::Result<()> {
        for crd in drydock_api::crds() {
            let mut crd = serde_json::to_value(crd)?;
            crd["apiVersion"] = json!("apiextensions.k8s.io/v1");
            crd["kind"] = json!("CustomResourceDefinition");
            self.put(crd)?;
        }
        let root = tokio::fs::read_to_string(self.workshop.root())
            .await
            .context("reading the first root")?;
        let repository = objects::repository(self.files.url(), &root, self.plan.replica_pace.refresh);
        for object in repository {
            self.put(object)?;
        }
        Ok(())
    }

    /// Applies the workloads: two Deployments, one of them with a budget, and a DaemonSet.
    ///
    /// # Errors
    /// What the API says against it.
    pub fn apply_workloads(&self) -> anyhow::Result<()> {
        for object in objects::workloads(self.plan.nodes) {
            self.put(object)?;
        }
        Ok(())
    }

    /// Creates or replaces an object, as its owner would with `kubectl apply`.
    ///
    /// # Errors
    /// What the API says against it.
    pub fn put(&self, object: Value) -> anyhow::Result<()> {
        let what = format!("{} {}", object["kind"], object["metadata"]["name"]);
        match self.api.put(object) {
            Ok(_) => Ok(()),
            Err(error) => anyhow::bail!("the API refuses {what}: {error:?}"),
        }
    }

    /// Applies the policy: the rollout may begin.
    ///
    /// # Errors
    /// What the API says against it.
    pub fn apply_policy(&self) -> anyhow::Result<()> {
        let mut policy = objects::policy(&self.plan.window, &self.plan.policy_pace);
        if let Some(only) = &self.plan.only {
            policy["spec"]["nodeSelector"] = json!({"matchLabels": {"kubernetes.io/hostname": only}});
        }
        self.put(policy)
    }

    async fn start_controllers(&mut self) -> anyhow::Result<()> {
        let client = self.api.client("system:controllers").await?;
        self.tasks.spawn(workload::run(
            client,
            self.plan.controllers.clone(),
            self.stop.clone(),
        ));
        let (eye, stop) = (self.eye.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            let mut every = tokio::time::interval(Duration::from_millis(50));
            while !stop.is_cancelled() {
                every.tick().await;
                eye.catch_up();
            }
        });
        Ok(())
    }

    async fn install_node(&self, number: usize) -> anyhow::Result<SimNode> {
        let name = node_name(number);
        let folder = self.plan.folder.join(&name);
        std::fs::create_dir_all(&folder)?;
        let kubeconfig = folder.join("kubeconfig");
        std::fs::write(&kubeconfig, self.api.kubeconfig(&agent_user(&name)))?;
        let loaders = &self.plan.loaders;
        let loader = loaders
            .get(number % loaders.len().max(1))
            .copied()
            .unwrap_or(LoaderKind::GptPrio);
        let url: Url = self.files.url().clone();
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
            repository: (REPOSITORY.to_owned(), url, self.workshop.root().to_owned()),
            kubeconfig,
            confirm_wait: format!("{}s", self.plan.policy_pace.confirm_wait.as_secs()),
            health_deadline: format!("{}s", self.plan.policy_pace.checks.as_secs()),
        };
        let Installed { disk, config } = tokio::task::spawn_blocking(move || install(&job)).await??;
        let spec = NodeSpec {
            labels: BTreeMap::from([
                ("kubernetes.io/hostname".to_owned(), name.clone()),
                (
                    "topology.kubernetes.io/zone".to_owned(),
                    format!("quay-{}", number % 3 + 1),
                ),
            ]),
            disk,
            loader,
            config,
            pace: self.plan.node_pace.clone(),
            kubelet: self.api.client(&format!("system:node:{name}")).await?,
            agent: self.api.client(&agent_user(&name)).await?,
            saboteur: self.plan.saboteur.clone(),
            name,
        };
        Ok(SimNode::power_on(spec, self.eye.clone(), self.catalog.clone()))
    }

    /// Starts a coordinator replica of this name.
    ///
    /// # Errors
    /// If it cannot have a client.
    pub async fn start_replica(&mut self, name: &str) -> anyhow::Result<()> {
        self.start_replica_in(name, name).await
    }

    /// Starts a coordinator replica of this name with the data of another that is dead.
    ///
    /// # Errors
    /// If it cannot have a client.
    pub async fn start_replica_in(&mut self, name: &str, data: &str) -> anyhow::Result<()> {
        let config = self.api.config(name).await?;
        let data = self.plan.folder.join(data);
        std::fs::create_dir_all(&data)?;
        let watch = self.plan.stores.of(name);
        let replica = Replica::start(name, config, data, watch, &self.plan.replica_pace)?;
        self.replicas.insert(name.to_owned(), replica);
        Ok(())
    }

    /// The name of the replica that holds the Lease.
    #[must_use]
    pub fn leader(&self) -> Option<String> {
        let lease = self
            .api
            .get("coordination.k8s.io", "leases", SYSTEM, "drydock-coordinator")?;
        let holder = lease.pointer("/spec/holderIdentity")?.as_str()?;
        self.replicas
            .keys()
            .find(|name| holder.starts_with(&format!("{name}_")))
            .cloned()
    }

    /// Kills a replica where it stands: nothing it has begun is ended.
    pub fn kill_replica(&mut self, name: &str) {
        // What is still on its way in another thread does not arrive.
        self.dead.push(self.api.hooks().cut_off(name));
        drop(self.replicas.remove(name));
    }

    /// What freezes a replica; none if there is no such one.
    #[must_use]
    pub fn freezer(&self, name: &str) -> Option<Freezer> {
        self.replicas.get(name).map(Replica::freezer)
    }

    /// The names of the replicas that were started and not killed.
    #[must_use]
    pub fn replicas(&self) -> Vec<String> {
        self.replicas.keys().cloned().collect()
    }

    /// Builds a release, and tells the observer of it.
    ///
    /// # Errors
    /// As [`Workshop::build`].
    pub async fn build(&self, images: &ReleaseImages) -> anyhow::Result<Built> {
        self.build_after(images, &[]).await
    }

    /// The same for nodes that run one of these.
    ///
    /// # Errors
    /// As [`Workshop::build`].
    pub async fn build_after(&self, images: &ReleaseImages, before: &[&Built]) -> anyhow::Result<Built> {
        let built = self.workshop.build_after(images, before).await?;
        self.eye.learn(known(&built, images));
        Ok(built)
    }

    /// The nodes' names.
    #[must_use]
    pub fn node_names(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.name().to_owned()).collect()
    }

    /// Ends everything, in order, and waits for it.
    pub async fn shutdown(mut self) {
        self.replicas.clear();
        self.nodes.clear();
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.api.shutdown().await;
    }
}

fn known(built: &Built, images: &ReleaseImages) -> KnownRelease {
    KnownRelease {
        digest: built.digest.clone(),
        version: images.version.clone(),
        healthy: images.behaviour == Behaviour::Healthy,
    }
}

fn knowledge(plan: &ClusterPlan) -> Knowledge {
    // More than are started: a replica that replaces a dead one is one, too.
    let coordinators = (1..=plan.coordinators + 8).map(replica_name).collect();
    let agents = (0..plan.nodes)
        .map(node_name)
        .map(|node| (agent_user(&node), node))
        .collect();
    Knowledge {
        cast: Cast { coordinators, agents },
        releases: Vec::new(),
        windows: BTreeMap::from([(POLICY.to_owned(), vec![(plan.window.start, plan.window.end())])]),
        freezes: Vec::new(),
        grace: GRACE,
    }
}
