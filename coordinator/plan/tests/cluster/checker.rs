//! What must never happen, checked at every write by its own reading of the objects.

use std::collections::{BTreeMap, BTreeSet};

use drydock_api::{DockStep, DrainMode, NodeUpgrade, OnDrainTimeout};
use drydock_plan::{
    Action, Controller, Keep, NodeView, SpecChange, StatusChange,
    windows::{Calendar, Kind, open_until},
};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::{machine::Machine, model::Cluster};

#[derive(Default)]
pub struct Checker {
    /// Attempts that were granted, each with the node.
    granted: BTreeSet<String>,
    /// Nodes that a person wants cordoned.
    pub by_hand: BTreeSet<String>,
    /// Nodes whose place is owed to what was lost, or that a person changed in dock.
    pub restored: BTreeSet<String>,
    pub released: BTreeSet<String>,
}

const KINDS: Kind = Kind {
    minor: true,
    security: false,
};

impl Checker {
    pub fn before(cluster: &Cluster, action: &Action) {
        match action {
            Action::WritePolicyStatus {
                policy,
                change: StatusChange::Take(entry),
                ..
            } => {
                let Some(object) = cluster.policies.get(&policy.name) else {
                    return;
                };
                if object.metadata.resource_version.as_deref() != Some(&policy.resource_version) {
                    return;
                }
                Self::fresh(cluster, "place");
                Self::budget(cluster, &policy.name, &entry.node);
            }
            Action::CordonNode { node, mark, .. } => {
                let current = &cluster.nodes.get(&node.name);
                if current.is_none_or(|current| current.resource_version != node.resource_version) {
                    return;
                }
                let restored = cluster.upgrades.get(&node.name).is_some_and(|upgrade| {
                    upgrade
                        .spec
                        .dock
                        .as_ref()
                        .is_some_and(|dock| dock.step != DockStep::Asked)
                });
                if !restored {
                    Self::fresh(cluster, "cordon");
                    Self::window(cluster, &mark.policy, "cordon", true);
                }
            }
            Action::EvictPods { node, pods, .. } => Self::evictions(cluster, node, pods),
            Action::WriteSpec {
                upgrade,
                spec,
                change: SpecChange::Grant,
            } => {
                let Some(object) = cluster.upgrades.get(&upgrade.name) else {
                    return;
                };
                if object.metadata.resource_version.as_deref() == Some(&upgrade.resource_version) {
                    Self::grant(cluster, object, spec);
                }
            }
            Action::UncordonNode { node, attempt, keep } => {
                let machine = &cluster.machines[&node.name];
                let busy = (machine.armed() || machine.trying())
                    && machine
                        .journal
                        .as_ref()
                        .is_some_and(|journal| journal.attempt == *attempt);
                let current = cluster.nodes.get(&node.name);
                let stale = current.is_none_or(|current| current.resource_version != node.resource_version);
                if stale {
                    return;
                }
                assert!(
                    !busy || cluster.checker.released.contains(attempt),
                    "{} is uncordoned while {attempt} is {:?}",
                    node.name,
                    machine.journal
                );
                if cluster.checker.by_hand.contains(&node.name) {
                    assert_eq!(
                        *keep,
                        Keep::Unschedulable,
                        "S10: {} was cordoned by a person",
                        node.name
                    );
                } else {
                    assert_eq!(
                        *keep,
                        Keep::Nothing,
                        "S10: {} stays cordoned by Drydock",
                        node.name
                    );
                }
            }
            _ => {}
        }
    }

    pub fn after(cluster: &mut Cluster, action: &Action) {
        if let Action::WriteSpec {
            upgrade,
            spec,
            change: SpecChange::Grant,
        } = action
        {
            let attempt = spec.grant.as_ref().unwrap().attempt.clone();
            assert!(
                cluster.checker.granted.insert(attempt.clone()),
                "a second grant of {attempt} for {}",
                upgrade.name
            );
        }
    }

    fn fresh(cluster: &Cluster, what: &str) {
        let stale = cluster
            .watches_since
            .is_some_and(|since| cluster.now.duration_since(since) > SignedDuration::from_secs(120));
        assert!(!stale, "S13: {what} on stale information");
    }

    fn window(cluster: &Cluster, policy: &str, what: &str, fit: bool) {
        let policy = &cluster.policies[policy];
        assert!(!policy.spec.paused, "{what} while paused");
        let calendar = Calendar::new(&policy.spec, cluster.now).unwrap();
        let end = open_until(&calendar.open(KINDS), cluster.now);
        let end = end.unwrap_or_else(|| panic!("S8: {what} outside of a window at {}", cluster.now));
        let least = policy.spec.expected.way_back.duration();
        if fit {
            let left = end.duration_since(cluster.now);
            let least = SignedDuration::try_from(least).unwrap();
            assert!(left >= least, "S8: {what} does not fit");
        }
    }

    fn out(cluster: &Cluster, node: &NodeView) -> bool {
        node.ready != drydock_plan::Readiness::Ready
            || node.unschedulable
            || node.deleting
            || cluster
                .policies
                .values()
                .flat_map(|policy| policy.status.iter().flat_map(|status| &status.dock))
                .any(|entry| entry.node == node.name && entry.uid == node.uid)
    }

    /// S7, by its own count.
    fn budget(cluster: &Cluster, policy: &str, node: &str) {
        let spec = &cluster.policies[policy].spec;
        let pool: Vec<&NodeView> = cluster
            .nodes
            .values()
            .filter(|node| drydock_plan::selector::selects(&spec.node_selector, &node.labels))
            .collect();
        let max = match &spec.strategy.max_unavailable {
            IntOrString::Int(number) => usize::try_from(*number).unwrap(),
            IntOrString::String(text) => match text.trim_end_matches('%').parse::<usize>().unwrap() {
                0 => 0,
                percent => (pool.len() * percent / 100).max(1),
            },
        };
        let out = pool
            .iter()
            .filter(|other| other.name == node || Self::out(cluster, other))
            .count();
        assert!(
            out <= max,
            "S7: {out} of {} in {policy} are out, {max} may be",
            pool.len()
        );
        let taken = &cluster.nodes[node];
        if let Some(key) = &spec.strategy.topology_key {
            let domains: BTreeSet<Option<&String>> = cluster
                .nodes
                .values()
                .filter(|other| other.name == node || Self::out(cluster, other))
                .map(|other| other.labels.get(key))
                .collect();
            assert!(domains.len() <= 1, "S7: {domains:?} are out at once");
        }
        if taken.is_control_plane() {
            let others = cluster
                .nodes
                .values()
                .filter(|other| other.name != node && other.is_control_plane() && Self::out(cluster, other))
                .count();
            assert_eq!(others, 0, "S7: two control-plane nodes");
        }
        let owners = cluster
            .policies
            .values()
            .filter(|policy| drydock_plan::selector::selects(&policy.spec.node_selector, &taken.labels))
            .count();
        assert_eq!(owners, 1, "{node} is taken though {owners} policies select it");
    }

    fn evictions(cluster: &Cluster, node: &str, pods: &[drydock_plan::PodRef]) {
        Self::fresh(cluster, "eviction");
        let current = &cluster.nodes[node];
        let mark = current.mark.as_ref().unwrap().as_ref().unwrap();
        Self::window(cluster, &mark.policy, "eviction", false);
        assert!(current.unschedulable, "evictions from a schedulable node");
        for pod in pods {
            let Some(pod) = cluster.pods[node].iter().find(|other| other.uid == pod.uid) else {
                continue;
            };
            assert!(!pod.mirror && !matches!(pod.controller, Controller::DaemonSet { gone: false }));
        }
    }

    fn grant(cluster: &Cluster, object: &NodeUpgrade, spec: &drydock_api::NodeUpgradeSpec) {
        Self::fresh(cluster, "grant");
        let name = object.metadata.name.as_deref().unwrap();
        let grant = spec.grant.as_ref().unwrap();
        let dock = spec.dock.as_ref().unwrap();
        let node = &cluster.nodes[name];
        assert!(
            !cluster.halts.contains_key(&grant.digest),
            "S6: {name} is granted a halted release"
        );
        let failed = object.spec.records.iter().any(|record| {
            record.class == drydock_api::AttemptClass::Failed
                && record.digest == grant.digest
                && !object.spec.forgiven.contains(&record.attempt)
        });
        assert!(!failed, "S6: {name} is granted what failed there");
        assert_eq!(grant.boot_id, node.boot_id);
        assert_eq!(grant.node_uid, node.uid);
        assert!(grant.not_after.duration_since(cluster.now) <= SignedDuration::from_mins(10));
        let policy = &cluster.policies[&dock.policy].spec;
        let calendar = Calendar::new(policy, cluster.now).unwrap();
        assert!(!calendar.frozen(KINDS, cluster.now), "S8: a grant in a freeze");
        if !policy.finish_after_window {
            Self::window(cluster, &dock.policy, "grant", true);
            let end = open_until(&calendar.open(KINDS), cluster.now).unwrap();
            assert!(grant.not_after <= end, "S8: the grant outlives its window");
        }
        assert!(
            node.unschedulable && node.mark_of(&grant.attempt).is_some(),
            "a grant without cordon"
        );
        if policy.drain.mode == DrainMode::Evict && policy.drain.on_timeout == OnDrainTimeout::Abort {
            let left = cluster.pods.get(name).into_iter().flatten().filter(|pod| {
                !pod.finished
                    && !pod.mirror
                    && !pod.coordinator
                    && matches!(pod.controller, Controller::Other { .. })
            });
            assert_eq!(
                left.count(),
                0,
                "S9: {name} is granted its reboot with pods on it"
            );
            let pods = cluster.pods.get(name).into_iter().flatten();
            let kept: BTreeSet<&String> = pods
                .flat_map(|pod| &pod.claims)
                .filter_map(|claim| claim.volume.as_ref())
                .collect();
            let attached = cluster.attached.get(name).into_iter().flatten();
            let left: Vec<_> = attached
                .map(|(volume, _)| volume)
                .filter(|volume| !kept.contains(volume))
                .collect();
            assert!(
                !policy.drain.wait_for_volume_detach || left.is_empty(),
                "{name} is granted its reboot with {left:?} attached"
            );
        }
    }

    /// S3, S4 and S14 of a machine's step.
    pub fn machine(cluster: &Cluster, old: &Machine, new: &Machine, object: Option<&NodeUpgrade>) {
        if new.armed() && !old.armed() {
            let grant = object.and_then(|object| object.spec.grant.as_ref());
            assert!(grant.is_some_and(|grant| cluster.now < grant.not_after), "S3");
        }
        let node = cluster.nodes.get(&new.name);
        if old.on()
            && !new.on()
            && new
                .journal
                .as_ref()
                .is_some_and(|journal| journal.state == "Used")
            && let Some(node) = node
        {
            assert!(
                node.unschedulable || cluster.checker.restored.contains(&new.name),
                "{} reboots without its cordon",
                new.name
            );
        }
    }

    /// When all is at rest: nothing of Drydock is left on any node.
    pub fn at_rest(cluster: &Cluster, stuck: &BTreeSet<String>) {
        for node in cluster.nodes.values() {
            if stuck.contains(&node.name) {
                continue;
            }
            assert!(node.mark.is_none(), "{} still bears a mark", node.name);
            assert_eq!(
                node.unschedulable,
                cluster.checker.by_hand.contains(&node.name),
                "S10: the cordon of {}",
                node.name
            );
        }
        let places: BTreeMap<&String, usize> = cluster
            .policies
            .iter()
            .map(|(name, policy)| (name, policy.status.as_ref().map_or(0, |status| status.dock.len())))
            .filter(|(_, places)| *places > stuck.len())
            .collect();
        assert!(places.is_empty(), "places that never ended: {places:?}");
    }
}
