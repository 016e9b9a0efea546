//! A random cluster, and what goes wrong in it: leaders that sleep, nodes that die, agents that are silent,
//! people who interfere.

use std::collections::BTreeMap;

use drydock_api::UpgradePolicySpec;
use drydock_plan::{Action, Controller, Plan, plan};
use jiff::{SignedDuration, Timestamp};

use crate::{
    machine::{Machine, Power},
    model::{Cluster, digest},
    script::policy,
};

pub struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        (!all.is_empty()).then(|| all[usize::try_from(self.below(all.len() as u64)).unwrap()].clone())
    }
}

pub struct Simulation {
    pub cluster: Cluster,
    pub rng: Rng,
    pub policies: BTreeMap<String, UpgradePolicySpec>,
    /// Plans that were made and not carried out: a leader that slept.
    pub asleep: Vec<(Plan, i64)>,
    pub silent_until: BTreeMap<String, Timestamp>,
    pub away: BTreeMap<String, (Timestamp, BTreeMap<String, String>)>,
    pub unreachable_until: Option<Timestamp>,
    pub bad: bool,
}

pub fn build(seed: u64) -> Simulation {
    let mut rng = Rng(seed);
    let start: Timestamp = "2026-11-02T08:00:00Z".parse().unwrap();
    let mut cluster = Cluster::new(start);
    cluster.release("1.0");
    cluster.release("2.0");
    let bad = rng.one_in(4);
    if bad {
        cluster.bad.insert(digest("2.0"));
    }
    let pools: &[&str] = if rng.one_in(2) { &["a"] } else { &["a", "b"] };
    let mut policies = BTreeMap::new();
    for pool in pools {
        let max = rng.pick(&["1", "2", "50%", "3"]).unwrap();
        let canaries = 1 + rng.below(2);
        let threshold = 1 + rng.below(2);
        let topology = if rng.one_in(3) { ", topologyKey: zone" } else { "" };
        let windows = match rng.below(3) {
            0 => "",
            1 => ", windows: [{start: '2026-11-02T08:00:00', duration: 2h, rrule: FREQ=DAILY}]",
            _ => {
                ", windows: [{start: '2026-11-02T08:00:00', duration: 1h, rrule: 'FREQ=DAILY;BYHOUR=2,8,14,20'}], finishAfterWindow: true"
            }
        };
        let wait = rng.one_in(2);
        let text = format!(
            "{{drain: {{waitForVolumeDetach: {wait}}}, strategy: {{maxUnavailable: {max}, canaries: {canaries}, failureThreshold: {threshold}, soak: 2m{topology}}}{windows}}}"
        );
        let spec = policy(pool, &text);
        policies.insert((*pool).to_owned(), spec.clone());
        cluster.apply(pool, spec);
    }
    let nodes = 1 + rng.below(6);
    for index in 0..nodes {
        let name = format!("n{index}");
        let mut labels = BTreeMap::from([
            ("pool".to_owned(), rng.pick(pools).unwrap().to_owned()),
            ("zone".to_owned(), rng.pick(&["x", "y"]).unwrap().to_owned()),
        ]);
        if rng.one_in(4) {
            labels.insert("node-role.kubernetes.io/control-plane".to_owned(), String::new());
        }
        cluster.join(&name, "1.0", labels);
        for pod in 0..rng.below(4) {
            cluster.pod(
                &name,
                &format!("p{pod}"),
                Controller::Other {
                    name: "ReplicaSet/p".to_owned(),
                },
            );
            if rng.one_in(2) {
                cluster.attach(&name, &format!("pv-{name}-{pod}"));
            }
        }
        if rng.one_in(3) {
            // It stays, and what it uses stays attached.
            cluster.pod(&name, "logs", Controller::DaemonSet { gone: false });
            cluster.attach(&name, &format!("pv-{name}-logs"));
        }
    }
    Simulation {
        cluster,
        rng,
        policies,
        asleep: Vec::new(),
        silent_until: BTreeMap::new(),
        away: BTreeMap::new(),
        unreachable_until: None,
        bad,
    }
}

impl Simulation {
    pub fn step(&mut self) {
        let now = self.cluster.now;
        let out = self.unreachable_until.is_some_and(|until| now < until);
        if !out {
            let made = plan(&self.cluster.world());
            let term = self.cluster.term;
            drop(self.cluster.execute(&made, term, usize::MAX));
        }
        self.tick();
    }

    pub fn tick(&mut self) {
        self.cluster.tick();
        let now = self.cluster.now;
        let names: Vec<String> = self.cluster.machines.keys().cloned().collect();
        for name in names {
            let silent = self.silent_until.get(&name).is_some_and(|until| now < *until);
            let unreachable = self.unreachable_until.is_some_and(|until| now < until);
            self.cluster.machines.get_mut(&name).unwrap().silent = silent || unreachable;
        }
        let back: Vec<String> = self
            .away
            .iter()
            .filter(|(_, (until, _))| now >= *until)
            .map(|(name, _)| name.clone())
            .collect();
        for name in back {
            let (_, labels) = self.away.remove(&name).unwrap();
            self.cluster.join(&name, "1.0", labels);
        }
    }

    fn node(&mut self) -> Option<String> {
        let names: Vec<String> = self.cluster.nodes.keys().cloned().collect();
        self.rng.pick(&names)
    }

    pub fn fault(&mut self) {
        let now = self.cluster.now;
        let minutes = i64::try_from(self.rng.below(30)).unwrap();
        let later = now + SignedDuration::from_mins(minutes);
        match self.rng.below(15) {
            0 => self.cluster.term += 1,
            1 => {
                // Dies in the middle of a plan; another takes over.
                let made = plan(&self.cluster.world());
                let term = self.cluster.term;
                let most = usize::try_from(self.rng.below(4)).unwrap();
                drop(self.cluster.execute(&made, term, most));
                self.cluster.term += 1;
            }
            2 => {
                // Falls asleep with a plan in its hands; another takes over.
                let mut made = plan(&self.cluster.world());
                // Evictions carry no resourceVersion: the executor drops them when the plan is old.
                made.actions
                    .retain(|action| !matches!(action, Action::EvictPods { .. }));
                self.asleep.push((made, self.cluster.term));
                self.cluster.term += 1;
            }
            3 => {
                if let Some((made, term)) = self.asleep.pop() {
                    drop(self.cluster.execute(&made, term, usize::MAX));
                }
            }
            4 => {
                let names: Vec<String> = self.policies.keys().cloned().collect();
                let name = self.rng.pick(&names).unwrap();
                self.cluster.wipe_policy(&name);
            }
            5 => {
                let names: Vec<String> = self.policies.keys().cloned().collect();
                let name = self.rng.pick(&names).unwrap();
                self.cluster.policies.remove(&name);
                self.cluster.apply(&name, self.policies[&name].clone());
            }
            6 => {
                if let Some(name) = self.node() {
                    self.cluster.touch_upgrade(&name, |upgrade| upgrade.status = None);
                }
            }
            7 => {
                if let Some(name) = self.node() {
                    self.cluster.upgrades.remove(&name);
                }
            }
            8 => {
                if let Some(name) = self.node() {
                    let labels = self.cluster.part(&name).unwrap().labels;
                    self.cluster.checker.by_hand.remove(&name);
                    self.cluster.checker.restored.insert(name.clone());
                    self.away.insert(name, (later, labels));
                }
            }
            9 => {
                if let Some(name) = self.node() {
                    self.silent_until.insert(name, later);
                }
            }
            10 => {
                if let Some(name) = self.node() {
                    self.cluster.machines.get_mut(&name).unwrap().reboot_by_hand(now);
                }
            }
            11 => self.person(),
            12 => {
                self.cluster.outages.push((now, later));
                self.unreachable_until = Some(later);
            }
            13 => {
                if let Some(name) = self.node() {
                    self.cluster.machines.get_mut(&name).unwrap().cuts = 1;
                }
            }
            _ => {
                let stale = now - SignedDuration::from_secs(200);
                self.cluster.watches_since = if self.rng.one_in(2) { Some(stale) } else { None };
            }
        }
    }

    /// A person cordons a node that is not in dock, or takes a cordon away.
    fn person(&mut self) {
        let Some(name) = self.node() else { return };
        let node = &self.cluster.nodes[&name];
        if node.mark.is_none() && !node.unschedulable {
            self.cluster.checker.by_hand.insert(name.clone());
            self.cluster.touch_node(&name, |node| node.unschedulable = true);
        } else if self.cluster.checker.by_hand.contains(&name) && node.mark.is_none() {
            self.cluster.checker.by_hand.remove(&name);
            self.cluster.touch_node(&name, |node| node.unschedulable = false);
        } else if node.mark.is_some() && !self.cluster.checker.by_hand.contains(&name) {
            self.cluster.checker.restored.insert(name.clone());
            self.cluster.touch_node(&name, |node| node.unschedulable = false);
        }
    }

    pub fn heal(&mut self) {
        self.asleep.clear();
        self.silent_until.clear();
        self.unreachable_until = None;
        self.cluster.watches_since = None;
        for (name, (_, labels)) in std::mem::take(&mut self.away) {
            self.cluster.join(&name, "1.0", labels);
        }
        let cordoned: Vec<String> = std::mem::take(&mut self.cluster.checker.by_hand)
            .into_iter()
            .collect();
        for name in cordoned {
            // A kept mark says that it stays so: the person comes again when the node is out of dock.
            if self
                .cluster
                .nodes
                .get(&name)
                .is_some_and(|node| node.mark.is_some())
            {
                self.cluster.checker.by_hand.insert(name);
            } else {
                self.cluster.touch_node(&name, |node| node.unschedulable = false);
            }
        }
        let names: Vec<String> = self.cluster.machines.keys().cloned().collect();
        for name in names {
            if self.cluster.machines[&name].power == Power::Dead {
                self.cluster.revive(&name);
            }
        }
    }

    pub fn done(&self) -> bool {
        let wanted = if self.bad { digest("1.0") } else { digest("2.0") };
        let all = self
            .cluster
            .machines
            .values()
            .all(|machine| machine.running == wanted && machine.good && machine.on());
        let docked = self
            .cluster
            .upgrades
            .values()
            .any(|upgrade| upgrade.spec.dock.is_some());
        let places = self.cluster.policies.values().any(|policy| {
            policy
                .status
                .as_ref()
                .is_none_or(|status| !status.dock.is_empty())
        });
        let halted = self.cluster.halts.contains_key(&digest("2.0"));
        all && !docked && !places && (!self.bad || halted || self.too_few_to_halt())
    }
}

impl Simulation {
    /// The release failed on every node, and there are fewer of them than any threshold.
    fn too_few_to_halt(&self) -> bool {
        let machines = &self.cluster.machines;
        let failed = |machine: &Machine| machine.failed.iter().any(|failed| failed.digest == digest("2.0"));
        let thresholds = self
            .policies
            .values()
            .map(|policy| policy.strategy.failure_threshold);
        machines.values().all(failed)
            && thresholds
                .min()
                .is_some_and(|least| machines.len() < usize::try_from(least).unwrap())
    }
}
