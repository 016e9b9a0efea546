//! The real cluster of the story: a control plane, three machines, the repository, two coordinators.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use drydock_api::DrainMode;
use drydock_coordinator::install::{Agents, COORDINATOR, Installation};
use jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use url::Url;

use super::replicas::Replicas;
use crate::cluster::{
    Built, FileServer, OpenWindow, POLICY, PolicyPace, ReleaseImages, SHOP, SYSTEM, Workshop, policy,
    repository,
};
use crate::demo::{Objects, Snapshot};
use crate::node::{Behaviour, Catalog, FirstImages};
use crate::realcluster::{Binaries, ControlPlane, Identity, Options, QEMU_HOST, build};
use crate::realnode::{DiskPlan, IMAGES, Machine, MachineSpec, NodeImages, NodePrograms, Signs, make};

/// The nodes.
pub const NODES: [&str; 3] = ["pier-1", "pier-2", "pier-3"];
/// The versions of the five releases.
pub const VERSIONS: [&str; IMAGES] = ["1.0.0", "2.0.0", "3.0.0", "4.0.0", "5.0.0"];
/// The board that the image's own configuration names.
const BOARD: &str = "qemu";
/// The app whose pods are counted, and how many there are.
pub const APP: &str = "web";
/// Two on each node.
pub const PODS: usize = 6;
/// What its budget demands: it lets a whole node's pods be away.
pub const BUDGET: usize = 4;
/// The image that holds Drydock, in each node's store.
const DRYDOCK_IMAGE: &str = "drydock.test/drydock:1";
const BUSYBOX: &str = "drydock.test/busybox:1";
const MEMORY_MIB: u32 = 1024;
const STATE_BYTES: u64 = 768 << 20;
/// A system shows its first sign a few seconds after power on; three at once on two cores take longer.
const SIGNS: Signs = Signs {
    first: Duration::from_secs(60),
    next: Duration::from_secs(45),
};
const RESOURCES: &str = "/apis/drydock.dev/v1alpha1";

/// What the real cluster is made with.
pub struct Yard {
    /// etcd, API server and so on.
    pub binaries: Binaries,
    /// What lies in the images or speaks to them.
    pub programs: NodePrograms,
    /// The images.
    pub images: NodeImages,
    /// Where everything else goes.
    pub folder: PathBuf,
}

/// The cluster. Dropped, all of it ends.
pub struct Berths {
    /// The machines, in the order of [`NODES`].
    pub machines: Vec<Machine>,
    /// The coordinators.
    pub replicas: Replicas,
    /// The control plane.
    pub plane: ControlPlane,
    /// May do everything.
    pub admin: Client,
    /// The release that the nodes were installed with.
    pub first: Built,
    files: FileServer,
    /// Where the nodes, and so everybody, find releases.
    url: Url,
    workshop: Workshop,
    yard: Yard,
    kubernetes: String,
}

impl Berths {
    /// Starts the control plane, installs Drydock, makes the disks, and turns the machines on.
    ///
    /// # Errors
    /// If any of it fails.
    pub async fn start(yard: Yard) -> anyhow::Result<Self> {
        let kubernetes = build::version(&build::module())?;
        let plane = ControlPlane::start(Options::new(yard.binaries.clone())).await?;
        let admin = plane.client(&Identity::Admin).await?;
        let workshop = Workshop::open(&yard.folder, BOARD, Arc::new(Catalog::default())).await?;
        let first = workshop.build(&release(&yard.images, 0, &kubernetes)).await?;
        workshop.publish(&first).await?;
        let files = FileServer::start(&workshop.repository()).await?;
        let replicas = Replicas::new(
            &yard.programs.coordinator,
            &yard.folder.join("coordinators"),
            files.url(),
        )?;
        let mut url = files.url().clone();
        url.set_host(Some(QEMU_HOST))
            .context("the repository as a guest sees it")?;
        let mut berths = Self {
            machines: Vec::new(),
            replicas,
            plane,
            admin,
            first,
            files,
            url,
            workshop,
            yard,
            kubernetes,
        };
        berths.install(Agents::Unit).await?;
        for number in 0..NODES.len() {
            let machine = berths.machine(number).await?;
            berths.machines.push(machine);
        }
        let root = std::fs::read_to_string(berths.workshop.root()).context("the first root of trust")?;
        let mut objects = repository(&berths.url, &root, Duration::from_secs(10));
        objects.retain(|object| object["kind"] != "Namespace");
        berths.apply(objects).await?;
        Ok(berths)
    }

    async fn machine(&self, number: usize) -> anyhow::Result<Machine> {
        let name = NODES[number];
        let longest = |paths: &[&PathBuf]| -> anyhow::Result<u64> {
            let mut most = 0;
            for path in paths {
                let meta =
                    std::fs::metadata(path).with_context(|| format!("the image {}", path.display()))?;
                most = most.max(meta.len());
            }
            Ok(most)
        };
        let images = &self.yard.images;
        let roots: Vec<_> = images.roots.iter().collect();
        let plan = DiskPlan {
            name: name.to_owned(),
            folder: self.yard.folder.join("nodes").join(name),
            seed: number as u64 + 1,
            images: FirstImages {
                kernel: images.kernel.clone(),
                root: images.roots[0].clone(),
                kernel_bytes: longest(&[&images.kernel, &images.hanging_kernel])?,
                root_bytes: longest(&roots)?,
                state_bytes: STATE_BYTES,
            },
            release: self.first.path.clone(),
            repository: self.url.clone(),
            root: self.workshop.root().to_owned(),
            kubeconfig: self.plane.kubeconfig(&Identity::node(name)).await?,
            ca_pem: self.plane.ca_pem(),
            api_port: self.plane.port(),
            containers: images.containers.clone(),
        };
        let folder = plan.folder.join("machine");
        let disk = tokio::task::spawn_blocking(move || make(&plan)).await??;
        Machine::turn_on(MachineSpec {
            name: name.to_owned(),
            disk,
            folder,
            memory_mib: MEMORY_MIB,
            signs: SIGNS,
        })
    }

    /// Applies what `kubectl drydock install` prints. The coordinators run beside the cluster, where they
    /// can be killed at will, so their Deployment is left out.
    ///
    /// # Errors
    /// If kubectl fails.
    pub async fn install(&self, agents: Agents) -> anyhow::Result<()> {
        let mut installation = Installation::new(DRYDOCK_IMAGE);
        installation.agents = agents;
        let mut objects = installation.manifests();
        objects.retain(|object| object["kind"] != "Deployment");
        self.apply(objects).await
    }

    /// What people run: an app with a budget.
    ///
    /// # Errors
    /// If kubectl fails.
    pub async fn apply_app(&self) -> anyhow::Result<()> {
        let labels = json!({"app": APP});
        let pod = json!({"metadata": {"labels": labels}, "spec": {
            "terminationGracePeriodSeconds": 5,
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": labels}}],
            "containers": [{"name": APP, "image": BUSYBOX, "imagePullPolicy": "Never",
                "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait"]}],
        }});
        self.apply(vec![
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SHOP}}),
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": APP, "namespace": SHOP},
                "spec": {"replicas": PODS, "selector": {"matchLabels": labels}, "template": pod}}),
            json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
                "metadata": {"name": APP, "namespace": SHOP},
                "spec": {"minAvailable": BUDGET, "selector": {"matchLabels": labels}}}),
        ])
        .await
    }

    /// The policy: one node at a time, one canary, inside a window that is open.
    ///
    /// # Errors
    /// If kubectl fails.
    pub async fn apply_policy(&self) -> anyhow::Result<()> {
        let secs = Duration::from_secs;
        let pace = PolicyPace {
            drain: secs(300),
            health: secs(900),
            confirm_wait: secs(600),
            checks: secs(90),
            soak: secs(10),
            expected: secs(120),
            drain_mode: DrainMode::Evict,
        };
        self.apply(vec![policy(&OpenWindow::around(Timestamp::now()), &pace)])
            .await
    }

    /// Builds and signs one of the five releases, and puts it into the channel.
    ///
    /// # Errors
    /// If there is no room.
    pub async fn publish(&self, index: usize) -> anyhow::Result<Built> {
        let built = self
            .workshop
            .build(&release(&self.yard.images, index, &self.kubernetes))
            .await?;
        self.workshop.publish(&built).await?;
        Ok(built)
    }

    /// Bytes that the web server has sent.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.files.sent_bytes()
    }

    /// Starts a coordinator.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn start_replica(&mut self, name: &str) -> anyhow::Result<()> {
        self.replicas.start(name, &self.plane).await
    }

    /// From agents as units to agents as pods, as an operator does it: on each node the unit is stopped and
    /// the configuration says how its agent is run, by a pod that may; then the DaemonSet is applied.
    ///
    /// # Errors
    /// If kubectl fails.
    pub async fn agents_as_pods(&self) -> anyhow::Result<()> {
        let script = "nsenter -t 1 -m -u -i -n -p -- sh -ec 'touch /var/etc/drydock/agent-is-a-pod; \
                      printf \"[kubernetes]\\nin_cluster = true\\n\" >/var/etc/drydock/updater.d/kubernetes.toml; \
                      systemctl stop drydock-agent.service; systemctl restart image-import.service'";
        let pods = NODES.map(|node| {
            json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": format!("agent-to-pod-{node}"), "namespace": "kube-system"},
                "spec": {"nodeName": node, "hostPID": true, "restartPolicy": "OnFailure",
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{"name": "switch", "image": BUSYBOX, "imagePullPolicy": "Never",
                        "command": ["sh", "-c", script], "securityContext": {"privileged": true}}]}})
        });
        self.apply(pods.into()).await?;
        let names = NODES.map(|node| format!("pod/agent-to-pod-{node}"));
        let words = [
            "--namespace=kube-system",
            "wait",
            "--for=jsonpath={.status.phase}=Succeeded",
            "--timeout=180s",
        ];
        let words: Vec<&str> = words
            .into_iter()
            .chain(names.iter().map(String::as_str))
            .collect();
        self.kubectl(&words, String::new()).await?;
        // One that is still there when its node drains has no controller, and no policy lets it go.
        let words = ["--namespace=kube-system", "delete", "--timeout=60s"];
        let words: Vec<&str> = words
            .into_iter()
            .chain(names.iter().map(String::as_str))
            .collect();
        self.kubectl(&words, String::new()).await?;
        self.install(Agents::DaemonSet).await
    }

    /// Waits until the DaemonSet has a ready pod on each node.
    ///
    /// # Errors
    /// If it has not in three minutes.
    pub async fn agent_pods_ready(&self) -> anyhow::Result<()> {
        let words = [
            "--namespace=drydock-system-agents",
            "rollout",
            "status",
            "daemonset/drydock-agent",
            "--timeout=180s",
        ];
        self.kubectl(&words, String::new()).await
    }

    /// By node and program: the most memory that guard and agents held, in KiB, as the node's own sign of
    /// life says.
    #[must_use]
    pub fn memory_in_guests(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let of = |machine: &Machine| (machine.name().to_owned(), machine.peaks_in_guest());
        self.machines.iter().map(of).collect()
    }

    async fn apply(&self, objects: Vec<Value>) -> anyhow::Result<()> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.kubectl(&["apply", "-f", "-"], list.to_string()).await
    }

    async fn kubectl(&self, words: &[&str], input: String) -> anyhow::Result<()> {
        let output = self.plane.run_kubectl(words, &input).await?;
        anyhow::ensure!(
            output.status.success(),
            "kubectl {} ended with {}:\n{}{}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// A kubeconfig file of somebody who may do everything.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn kubeconfig(&self) -> anyhow::Result<PathBuf> {
        let path = self.yard.folder.join("kubeconfig");
        tokio::fs::write(&path, self.plane.kubeconfig(&Identity::Admin).await?)
            .await
            .with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// The folder of everything but the control plane.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.yard.folder
    }

    /// The machine of this node.
    #[must_use]
    pub fn machine_of(&self, node: &str) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.name() == node)
    }

    /// The cluster as it is now; none while the API server does not answer.
    pub async fn look(&self) -> Option<Snapshot> {
        let leases = "/apis/coordination.k8s.io/v1/namespaces";
        let lease = self.get(&format!("{leases}/{SYSTEM}/leases/{COORDINATOR}")).await;
        let holder = lease.and_then(|lease| lease["spec"]["holderIdentity"].as_str().map(str::to_owned));
        let objects = Objects {
            names: NODES.map(str::to_owned).into(),
            nodes: self.list("/api/v1/nodes").await?,
            upgrades: self.list(&format!("{RESOURCES}/nodeupgrades")).await?,
            policy: self
                .get(&format!("{RESOURCES}/upgradepolicies/{POLICY}"))
                .await
                .map(Arc::new),
            halts: self.list(&format!("{RESOURCES}/releasehalts")).await?,
            pods: self.list(&format!("/api/v1/namespaces/{SHOP}/pods")).await?,
            deployments: self
                .list(&format!("/apis/apps/v1/namespaces/{SHOP}/deployments"))
                .await?,
            budgets: self
                .list(&format!("/apis/policy/v1/namespaces/{SHOP}/poddisruptionbudgets"))
                .await?,
            leader: holder.and_then(|holder| self.replicas.of_holder(&holder)),
        };
        Some(Snapshot::of(&objects))
    }

    async fn get(&self, path: &str) -> Option<Value> {
        let request = http::Request::get(path).body(Vec::new()).ok()?;
        self.admin.request(request).await.ok()
    }

    async fn list(&self, path: &str) -> Option<Vec<Arc<Value>>> {
        let mut answer = self.get(path).await?;
        let items = answer["items"].take();
        let Value::Array(items) = items else { return None };
        Some(items.into_iter().map(Arc::new).collect())
    }

    /// The last words of everybody.
    #[must_use]
    pub fn tails(&self) -> String {
        let mut text = self.plane.tails();
        text.push_str(&self.replicas.tails(25));
        for machine in &self.machines {
            text.push_str(&machine.tail(30));
        }
        text
    }

    /// Fails when a coordinator has ended or a machine does not boot any more.
    ///
    /// # Errors
    /// With its last words.
    pub fn all_run(&mut self) -> anyhow::Result<()> {
        self.replicas.all_run()?;
        for machine in &self.machines {
            if let Some(why) = machine.dead() {
                anyhow::bail!("{} boots no more: {why}\n{}", machine.name(), machine.tail(20));
            }
        }
        Ok(())
    }

    /// Ends everything, and says if anything of that fails.
    ///
    /// # Errors
    /// When something is left.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let machines = std::mem::take(&mut self.machines);
        tokio::task::spawn_blocking(move || drop(machines))
            .await
            .context("turn the machines off")?;
        self.plane.stop().await
    }
}

fn release(images: &NodeImages, index: usize, kubernetes: &str) -> ReleaseImages {
    ReleaseImages {
        version: VERSIONS[index].to_owned(),
        kubelet: kubernetes.trim_start_matches('v').to_owned(),
        behaviour: Behaviour::Healthy,
        kernel: match index {
            3 => images.hanging_kernel.clone(),
            _ => images.kernel.clone(),
        },
        root: images.roots[index].clone(),
    }
}

/// By node: how many boots each has behind it.
#[must_use]
pub fn boots(machines: &[Machine]) -> BTreeMap<String, usize> {
    let count = |machine: &Machine| (machine.name().to_owned(), machine.boots().len());
    machines.iter().map(count).collect()
}
