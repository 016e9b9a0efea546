//! A cluster in memory: objects with resourceVersions, machines, pods, and an executor that does what the
//! real one does and no more.

use std::collections::{BTreeMap, BTreeSet};

use drydock_api::{
    NodeUpgrade, NodeUpgradeSpec, PolicyStatus, ReleaseHalt, UpgradePolicy, UpgradePolicySpec,
};
use drydock_plan::{
    Action, ApiHealth, ChannelRelease, ClaimView, Controller, DrainView, Keep, Myself, NodeView, ObjectRef,
    Plan, PodView, Readiness, ReleaseView, RepositoryView, Timings, Version, VolumesView, World, rebuild,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

use crate::{
    checker::Checker,
    machine::{Machine, Power},
};

pub struct Cluster {
    pub now: Timestamp,
    pub term: i64,
    pub me: Myself,
    pub timings: Timings,
    pub nodes: BTreeMap<String, NodeView>,
    pub machines: BTreeMap<String, Machine>,
    pub policies: BTreeMap<String, UpgradePolicy>,
    pub upgrades: BTreeMap<String, NodeUpgrade>,
    pub halts: BTreeMap<String, ReleaseHalt>,
    pub repository: RepositoryView,
    pub pods: BTreeMap<String, Vec<PodView>>,
    /// Per node, the volumes that are attached; each with the instant since when no pod uses it.
    pub attached: BTreeMap<String, BTreeMap<String, Option<Timestamp>>>,
    /// Volumes that never detach.
    pub stuck_volumes: BTreeSet<String>,
    /// VolumeAttachments may not be listed.
    pub volumes_hidden: bool,
    pub listed: BTreeMap<String, Timestamp>,
    pub bad: BTreeSet<String>,
    pub watches_since: Option<Timestamp>,
    pub outages: Vec<(Timestamp, Timestamp)>,
    pub checker: Checker,
    version: u64,
    uid: u64,
}

/// A write met another resourceVersion than it was planned from.
#[derive(Debug)]
pub struct Conflict;

pub fn digest(version: &str) -> String {
    format!("sha256:{version:0>64}")
}

impl Cluster {
    pub fn new(start: Timestamp) -> Self {
        Self {
            now: start,
            term: 1,
            me: Myself::default(),
            timings: Timings::default(),
            nodes: BTreeMap::new(),
            machines: BTreeMap::new(),
            policies: BTreeMap::new(),
            upgrades: BTreeMap::new(),
            halts: BTreeMap::new(),
            repository: RepositoryView {
                url: "https://os.example".to_owned(),
                loaded: true,
                expires: Some(start + SignedDuration::from_hours(24 * 365)),
                channels: [("stable".to_owned(), Vec::new())].into(),
                ..RepositoryView::default()
            },
            pods: BTreeMap::new(),
            attached: BTreeMap::new(),
            stuck_volumes: BTreeSet::new(),
            volumes_hidden: false,
            listed: BTreeMap::new(),
            bad: BTreeSet::new(),
            watches_since: None,
            outages: Vec::new(),
            checker: Checker::default(),
            version: 0,
            uid: 0,
        }
    }

    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    fn next_uid(&mut self) -> String {
        self.uid += 1;
        format!("uid{}", self.uid)
    }

    fn meta(&mut self, name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            uid: Some(self.next_uid()),
            resource_version: Some(self.next_version()),
            generation: Some(1),
            creation_timestamp: Some(Time(self.now)),
            ..ObjectMeta::default()
        }
    }

    pub fn release(&mut self, version: &str) {
        let view = ReleaseView {
            version: Version::from(version),
            min_from: None,
            floor: None,
            kubelet: Some("v1.34.1".to_owned()),
            guard: true,
            state: BTreeMap::new(),
            security: false,
        };
        self.repository.releases.insert(digest(version), view);
        self.repository
            .channels
            .get_mut("stable")
            .unwrap()
            .push(ChannelRelease {
                digest: digest(version),
                published_at: Some(self.now),
                withdrawn: false,
                stepping_stone: false,
            });
    }

    pub fn join(&mut self, name: &str, running: &str, labels: BTreeMap<String, String>) {
        let machine = self
            .machines
            .entry(name.to_owned())
            .or_insert_with(|| Machine::new(name, &digest(running)))
            .clone();
        let view = NodeView {
            name: name.to_owned(),
            uid: self.next_uid(),
            resource_version: self.next_version(),
            labels,
            unschedulable: false,
            deleting: false,
            ready: if machine.on() {
                Readiness::Ready
            } else {
                Readiness::Unknown
            },
            ready_since: Some(self.now),
            boot_id: machine.boot_id(),
            kubelet_version: "v1.34.1".to_owned(),
            mark: None,
            term: None,
            ask: None,
        };
        self.nodes.insert(name.to_owned(), view);
    }

    pub fn part(&mut self, name: &str) -> Option<NodeView> {
        self.upgrades.remove(name);
        self.nodes.remove(name)
    }

    pub fn apply(&mut self, name: &str, spec: UpgradePolicySpec) {
        if let Some(policy) = self.policies.get_mut(name) {
            policy.spec = spec;
            let generation = policy.metadata.generation.unwrap() + 1;
            policy.metadata.generation = Some(generation);
            let version = self.next_version();
            self.policies.get_mut(name).unwrap().metadata.resource_version = Some(version);
            return;
        }
        let mut policy = UpgradePolicy::new(name, spec);
        policy.metadata = self.meta(name);
        self.policies.insert(name.to_owned(), policy);
    }

    pub fn pod(&mut self, node: &str, name: &str, controller: Controller) -> &mut PodView {
        let pod = PodView {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: self.next_uid(),
            labels: BTreeMap::new(),
            created: Some(self.now),
            deleting: None,
            finished: false,
            mirror: false,
            empty_dir: false,
            claims: Vec::new(),
            controller,
            coordinator: false,
            answer: None,
        };
        let pods = self.pods.entry(node.to_owned()).or_default();
        pods.push(pod);
        pods.last_mut().unwrap()
    }

    /// The last pod made on the node uses this volume, which is attached for it.
    pub fn attach(&mut self, node: &str, volume: &str) {
        let pod = self.pods.get_mut(node).unwrap().last_mut().unwrap();
        pod.claims.push(ClaimView {
            name: format!("{volume}-claim"),
            volume: Some(volume.to_owned()),
        });
        let attached = self.attached.entry(node.to_owned()).or_default();
        attached.insert(volume.to_owned(), None);
    }

    fn volumes(&self, node: &str, heard: Timestamp) -> VolumesView {
        if self.volumes_hidden {
            let error = Some("forbidden".to_owned());
            return VolumesView::Unseen { error };
        }
        let attached = self.attached.get(node).into_iter().flat_map(BTreeMap::keys);
        VolumesView::Seen {
            attached: attached.cloned().collect(),
            heard,
        }
    }

    /// A volume goes 20 seconds after the last pod that used it.
    fn detach(&mut self) {
        let (now, stuck) = (self.now, &self.stuck_volumes);
        for (node, volumes) in &mut self.attached {
            let pods = self.pods.get(node).into_iter().flatten();
            let used: BTreeSet<&String> = pods
                .flat_map(|pod| &pod.claims)
                .filter_map(|claim| claim.volume.as_ref())
                .collect();
            volumes.retain(|volume, unused| {
                if used.contains(volume) || stuck.contains(volume) {
                    *unused = None;
                    return true;
                }
                let since = *unused.get_or_insert(now);
                now.duration_since(since) < SignedDuration::from_secs(20)
            });
        }
    }

    /// A change of a Node by anyone.
    pub fn touch_node(&mut self, name: &str, change: impl FnOnce(&mut NodeView)) {
        let version = self.next_version();
        if let Some(node) = self.nodes.get_mut(name) {
            change(node);
            node.resource_version = version;
        }
    }

    /// A change of a NodeUpgrade by anyone.
    pub fn touch_upgrade(&mut self, name: &str, change: impl FnOnce(&mut NodeUpgrade)) {
        let version = self.next_version();
        if let Some(upgrade) = self.upgrades.get_mut(name) {
            let old = upgrade.spec.clone();
            change(upgrade);
            if upgrade.spec != old {
                upgrade.metadata.generation = upgrade.metadata.generation.map(|generation| generation + 1);
            }
            upgrade.metadata.resource_version = Some(version);
        }
    }

    pub fn wipe_policy(&mut self, name: &str) {
        let version = self.next_version();
        if let Some(policy) = self.policies.get_mut(name) {
            policy.status = None;
            policy.metadata.resource_version = Some(version);
        }
    }

    pub fn world(&self) -> World {
        let heard = self.watches_since.unwrap_or(self.now);
        let drains = self
            .nodes
            .keys()
            .map(|name| {
                let view = DrainView {
                    pods: self.pods.get(name).cloned().unwrap_or_default(),
                    volumes: self.volumes(name, heard),
                    listed: self.listed.get(name).copied(),
                    busy_until: None,
                };
                (name.clone(), view)
            })
            .collect();
        World {
            now: self.now,
            term: self.term,
            timings: self.timings,
            api: ApiHealth {
                server_version: Some("v1.34.2".to_owned()),
                watches: ["nodes", "policies", "nodeupgrades", "releasehalts"]
                    .map(|watch| (watch.to_owned(), Some(heard)))
                    .into(),
                skew: Some(SignedDuration::ZERO),
                outages: self.outages.clone(),
            },
            me: self.me.clone(),
            policies: self.policies.clone(),
            nodes: self.nodes.clone(),
            upgrades: self.upgrades.clone(),
            halts: self.halts.clone(),
            repositories: [("os".to_owned(), self.repository.clone())].into(),
            drains,
        }
    }

    /// Does a plan as far as it goes; at most `most` actions of it.
    pub fn execute(&mut self, plan: &Plan, term: i64, most: usize) -> Result<(), Conflict> {
        for action in plan.actions.iter().take(most) {
            Checker::before(self, action);
            self.act(action, term)?;
            Checker::after(self, action);
        }
        Ok(())
    }

    fn node_for(&mut self, wanted: &ObjectRef) -> Result<&mut NodeView, Conflict> {
        let version = self.next_version();
        let node = self.nodes.get_mut(&wanted.name).ok_or(Conflict)?;
        if node.uid != wanted.uid || node.resource_version != wanted.resource_version {
            return Err(Conflict);
        }
        node.resource_version = version;
        Ok(node)
    }

    fn write_status(&mut self, wanted: &ObjectRef, status: PolicyStatus) -> Result<(), Conflict> {
        let version = self.next_version();
        let policy = self.policies.get_mut(&wanted.name).ok_or(Conflict)?;
        if ObjectRef::of(&policy.metadata).as_ref() != Some(wanted) {
            return Err(Conflict);
        }
        policy.status = Some(status);
        policy.metadata.resource_version = Some(version);
        Ok(())
    }

    fn write_spec(&mut self, wanted: &ObjectRef, spec: &NodeUpgradeSpec) -> Result<(), Conflict> {
        let upgrade = self.upgrades.get(&wanted.name).ok_or(Conflict)?;
        if ObjectRef::of(&upgrade.metadata).as_ref() != Some(wanted) {
            return Err(Conflict);
        }
        if let (Some(old), Some(new)) = (&upgrade.spec.dock, &spec.dock)
            && new.term < old.term
        {
            return Err(Conflict);
        }
        let spec = spec.clone();
        self.touch_upgrade(&wanted.name, |upgrade| upgrade.spec = spec);
        Ok(())
    }

    fn act(&mut self, action: &Action, term: i64) -> Result<(), Conflict> {
        match action {
            Action::StepDown { seen } => self.term = self.term.max(seen + 1),
            Action::GiveUpLease => {
                // Another replica leads from its own Node.
                self.term += 1;
                self.me = Myself::default();
            }
            Action::Event { .. } => {}
            Action::WritePolicyStatus { policy, status, .. } => {
                self.write_status(policy, (**status).clone())?
            }
            Action::RebuildDock { policy } => {
                let status = rebuild::rebuilt_status(
                    &policy.name,
                    term,
                    self.now,
                    self.nodes.values(),
                    self.upgrades.values(),
                );
                self.write_status(policy, status)?;
            }
            Action::CreateNodeUpgrade { node, node_uid } => {
                if !self.upgrades.contains_key(node) {
                    let mut upgrade = NodeUpgrade::new(node, NodeUpgradeSpec::default());
                    upgrade.metadata = self.meta(node);
                    upgrade.metadata.owner_references = Some(vec![OwnerReference {
                        api_version: "v1".to_owned(),
                        kind: "Node".to_owned(),
                        name: node.clone(),
                        uid: node_uid.clone(),
                        ..OwnerReference::default()
                    }]);
                    self.upgrades.insert(node.clone(), upgrade);
                }
            }
            Action::WriteSpec { upgrade, spec, .. } => self.write_spec(upgrade, spec)?,
            Action::FenceNode { node, term } => self.node_for(node)?.term = Some(*term),
            Action::CordonNode { node, mark, term } => {
                let node = self.node_for(node)?;
                node.unschedulable = true;
                node.mark = Some(Ok(mark.clone()));
                node.term = Some(*term);
            }
            Action::UncordonNode { node, keep, .. } => {
                let node = self.node_for(node)?;
                node.mark = None;
                node.term = None;
                if *keep == Keep::Nothing {
                    node.unschedulable = false;
                }
            }
            Action::EvictPods { node, pods, .. } => {
                for pod in self.pods.entry(node.clone()).or_default() {
                    if pods.iter().any(|wanted| wanted.uid == pod.uid) && !pod.labels.contains_key("stubborn")
                    {
                        pod.deleting = Some(self.now);
                    }
                }
            }
            Action::ListPods { node, .. } => {
                self.listed.insert(node.clone(), self.now);
            }
            Action::CreateHalt { halt } => {
                let name = halt.digest.replace(':', "-");
                let mut object = ReleaseHalt::new(&name, (**halt).clone());
                object.metadata = self.meta(&name);
                self.halts.entry(halt.digest.clone()).or_insert(object);
            }
            Action::ClearAsk { node, .. } => self.node_for(node)?.ask = None,
        }
        Ok(())
    }

    /// Ten seconds pass: machines, kubelets, agents, pods.
    pub fn tick(&mut self) {
        self.now += SignedDuration::from_secs(10);
        let now = self.now;
        for pods in self.pods.values_mut() {
            pods.retain(|pod| {
                pod.deleting
                    .is_none_or(|at| now.duration_since(at) < SignedDuration::from_secs(20))
            });
        }
        self.detach();
        let names: Vec<String> = self.machines.keys().cloned().collect();
        for name in names {
            let bad = self.bad.clone();
            let mut machine = self.machines[&name].clone();
            machine.guard(now, &|digest| bad.contains(digest));
            let joined = self.nodes.contains_key(&name);
            // An agent whose object is another Node's reads nothing that is for it.
            let object = self.upgrades.get(&name).filter(|_| joined).cloned();
            let status = machine.agent(now, object.as_ref());
            Checker::machine(self, &self.machines[&name], &machine, object.as_ref());
            let boot = machine.boot_id();
            let up = machine.ready();
            let ready = if up { Readiness::Ready } else { Readiness::Unknown };
            self.machines.insert(name.clone(), machine.clone());
            if let Some(node) = self.nodes.get(&name)
                && (node.ready != ready || (up && node.boot_id != boot))
            {
                self.touch_node(&name, |node| {
                    if node.ready != ready || node.boot_id != boot {
                        node.ready_since = Some(now);
                    }
                    node.ready = ready;
                    if ready == Readiness::Ready {
                        node.boot_id = boot;
                    }
                });
            }
            if let (Some(status), Some(object)) = (status, object)
                && object.status.as_ref() != Some(&status)
            {
                self.touch_upgrade(&name, |upgrade| upgrade.status = Some(status));
            }
        }
    }

    pub fn revive(&mut self, name: &str) {
        if let Some(machine) = self.machines.get_mut(name)
            && machine.power == Power::Dead
        {
            machine.bricks = false;
            machine.power = Power::Off(self.now);
        }
    }
}
