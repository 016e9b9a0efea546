//! What is checked at each write to the API.

use std::time::Duration;

use drydock_api::{AttemptClass, DrainMode, NodeUpgrade, OnDrainTimeout, PolicyStatus, UpgradePolicy};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::world::{flag, has_to_move, is_deleting, is_ready, mark, selects, text};
use super::{ApiWrite, Invariant, Observer};

/// What someone is about to do to a node, and how long that may be expected to take.
struct Disruption<'a> {
    what: &'a str,
    node: &'a str,
    policy: &'a str,
    expected: Duration,
}

impl Observer {
    pub(super) fn see_write(&mut self, now: Timestamp, write: &ApiWrite) {
        let by_coordinator = self.is_coordinator(&write.user);
        if let Some(own) = self.knowledge.cast.agents.get(&write.user).cloned() {
            let allowed =
                write.resource == "nodeupgrades" && write.subresource == "status" && write.name == own;
            self.check(now, Invariant::S12, allowed, || {
                format!(
                    "the agent of {own} wrote {}/{} {}",
                    write.resource, write.name, write.subresource
                )
            });
        }
        // Evictions are judged by the world as it stands after them.
        self.world.apply(write);
        match write.resource.as_str() {
            "nodes" => self.see_node(now, write, by_coordinator),
            "nodeupgrades" => self.see_upgrade(now, write, by_coordinator),
            "upgradepolicies" if by_coordinator => self.see_policy(now, write),
            "pods" if by_coordinator => self.see_pod(now, write),
            "releasehalts" => self.see_halt(now, write, by_coordinator),
            _ => {}
        }
    }

    fn see_node(&mut self, now: Timestamp, write: &ApiWrite, by_coordinator: bool) {
        let name = &write.name;
        let Some(after) = &write.after else {
            self.nodes.remove(name);
            return;
        };
        let before = write.before.as_deref().unwrap_or(&Value::Null);
        let (was_cordoned, is_cordoned) = (
            flag(before, "/spec/unschedulable"),
            flag(after, "/spec/unschedulable"),
        );
        let down = !is_ready(after) || is_deleting(after) || (is_cordoned && mark(after).is_none());
        let memory = self.nodes.entry(name.clone()).or_default();
        memory.down_since = down.then(|| memory.down_since.unwrap_or(now));
        if !by_coordinator {
            return;
        }
        match (mark(before), mark(after)) {
            (None, Some(mark)) => {
                let fine = is_cordoned && mark.kept == was_cordoned;
                self.check(now, Invariant::S10, fine, || {
                    format!("{name}: taken with mark `{mark}`; cordoned before: {was_cordoned}, now: {is_cordoned}")
                });
                let expected = self.expected(&mark.policy, true);
                let cordon = Disruption {
                    what: "cordoned",
                    node: name,
                    policy: &mark.policy,
                    expected,
                };
                self.check_window(now, &cordon);
            }
            (Some(mark), None) => self.check(now, Invariant::S10, is_cordoned == mark.kept, || {
                format!("{name}: given back from `{mark}`, and is now cordoned: {is_cordoned}")
            }),
            (Some(_), Some(_)) | (None, None) if was_cordoned != is_cordoned => {
                self.check(now, Invariant::S10, false, || {
                    format!("{name}: cordoned {was_cordoned} -> {is_cordoned} without its mark")
                });
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }

    fn see_upgrade(&mut self, now: Timestamp, write: &ApiWrite, by_coordinator: bool) {
        let parse = |object: &Value| serde_json::from_value::<NodeUpgrade>(object.clone()).ok();
        let Some(after) = write.after.as_deref().and_then(parse) else {
            self.nodes.entry(write.name.clone()).or_default().lost = Some(now);
            return;
        };
        let before = write
            .before
            .as_deref()
            .and_then(parse)
            .map(|upgrade| upgrade.spec)
            .unwrap_or_default();
        let spec = after.spec;
        let name = &write.name;
        let memory = self.nodes.entry(name.clone()).or_default();
        if spec.verdict.is_some() {
            memory.verdict.clone_from(&spec.verdict);
        }
        if spec.grant.is_some() {
            memory.grant.clone_from(&spec.grant);
        }
        if !by_coordinator {
            return;
        }
        let failed_here = |digest: &str| {
            let records = spec.records.iter().filter(|record| record.digest == digest);
            let mut failed = records.filter(|record| record.class == AttemptClass::Failed);
            failed.any(|record| !spec.forgiven.contains(&record.attempt))
        };
        if let (true, Some(wish)) = (spec.stage, &spec.wish) {
            let begins = !before.stage || before.wish.as_ref().map(|wish| &wish.digest) != Some(&wish.digest);
            if begins {
                let bad = failed_here(&wish.digest) || self.is_halted(now, &wish.digest);
                self.check(now, Invariant::S6, !bad, || {
                    format!("{name} is told to stage bad {}", wish.digest)
                });
            }
        }
        let Some(grant) = spec.grant.as_ref().filter(|_| before.grant.is_none()) else {
            return;
        };
        let bad = failed_here(&grant.digest) || self.is_halted(now, &grant.digest);
        self.check(now, Invariant::S6, !bad, || {
            format!("{name} is granted bad {}", grant.digest)
        });
        let policy = spec
            .dock
            .as_ref()
            .map(|dock| dock.policy.clone())
            .unwrap_or_default();
        self.check_grant(now, name, &policy);
    }

    /// S8 and S9 at the moment in which a node is told to go.
    fn check_grant(&mut self, now: Timestamp, name: &str, policy_name: &str) {
        let policy = self.world.policy(policy_name);
        if !policy
            .as_ref()
            .is_some_and(|policy| policy.spec.finish_after_window)
        {
            let expected = self.expected(policy_name, false);
            self.check_window(
                now,
                &Disruption {
                    what: "granted",
                    node: name,
                    policy: policy_name,
                    expected,
                },
            );
        }
        let drains = policy.is_none_or(|policy| {
            policy.spec.drain.mode == DrainMode::Evict
                && policy.spec.drain.on_timeout == OnDrainTimeout::Abort
        });
        let pods = self.world.of("pods");
        let left: Vec<&String> = pods
            .iter()
            .filter(|(_, pod)| text(pod, "/spec/nodeName") == name && has_to_move(pod))
            .map(|(pod, _)| pod)
            .collect();
        self.check(now, Invariant::S9, !drains || left.is_empty(), || {
            format!("{name} is granted while it still has the pods {left:?}")
        });
    }

    fn see_policy(&mut self, now: Timestamp, write: &ApiWrite) {
        let parse = |object: &Value| serde_json::from_value::<UpgradePolicy>(object.clone()).ok();
        let Some(policy) = write.after.as_deref().and_then(parse) else {
            return;
        };
        let before = write
            .before
            .as_deref()
            .and_then(parse)
            .and_then(|policy| policy.status);
        let dock_of =
            |status: &Option<PolicyStatus>| status.as_ref().map(|s| s.dock.clone()).unwrap_or_default();
        let (was, is) = (dock_of(&before), dock_of(&policy.status));
        for entry in is
            .iter()
            .filter(|entry| was.iter().all(|old| old.attempt != entry.attempt))
        {
            let docked: Vec<&str> = is.iter().map(|entry| entry.node.as_str()).collect();
            self.check_budget(now, &policy, &entry.node, &docked);
        }
    }

    /// S7: with `taken` in dock, no more nodes are out of service than the policy allows.
    fn check_budget(&mut self, now: Timestamp, policy: &UpgradePolicy, taken: &str, docked: &[&str]) {
        let selector = serde_json::to_value(&policy.spec.node_selector).unwrap_or_default();
        let all = self.world.of("nodes");
        let selected: Vec<_> = all.iter().filter(|(_, node)| selects(&selector, node)).collect();
        let allowed = match &policy.spec.strategy.max_unavailable {
            IntOrString::Int(number) => usize::try_from(*number).unwrap_or(0),
            IntOrString::String(percent) => {
                let percent: usize = percent.trim_end_matches('%').parse().unwrap_or(0);
                if percent == 0 {
                    0
                } else {
                    (selected.len() * percent / 100).max(1)
                }
            }
        };
        let grace = self.knowledge.grace;
        let down = |name: &str| {
            let since = self.nodes.get(name).and_then(|memory| memory.down_since);
            since.is_some_and(|since| now.duration_since(since).unsigned_abs() >= grace)
        };
        let out: Vec<&String> = selected
            .iter()
            .filter(|(name, node)| docked.contains(&name.as_str()) || mark(node).is_some() || down(name))
            .map(|(name, _)| name)
            .collect();
        let costs_nothing = self
            .nodes
            .get(taken)
            .is_some_and(|memory| memory.down_since.is_some());
        let mut fits = costs_nothing || out.len() <= allowed;
        if let Some(key) = &policy.spec.strategy.topology_key {
            let domain = |node: &Value| {
                node.pointer("/metadata/labels")
                    .map(|l| text(&l[key.as_str()], ""))
            };
            let mut domains: Vec<_> = all
                .iter()
                .filter(|(name, _)| docked.contains(&name.as_str()))
                .map(|(_, node)| domain(node))
                .collect();
            domains.dedup();
            fits &= domains.len() <= 1;
        }
        self.check(now, Invariant::S7, fits, || {
            format!("{taken} was taken; {allowed} may be out of service, and {out:?} are")
        });
    }

    fn see_pod(&mut self, now: Timestamp, write: &ApiWrite) {
        let name = &write.name;
        if write.subresource != "eviction" {
            self.check(now, Invariant::S9, false, || {
                format!(
                    "a coordinator wrote pod {}/{name} without evicting it",
                    write.namespace
                )
            });
            return;
        }
        let Some(before) = write.before.clone() else {
            return;
        };
        // An eviction first notes itself in the pod, and then deletes it.
        let stays = write.after.as_deref().is_some_and(|after| !is_deleting(after));
        if stays || is_deleting(&before) {
            return;
        }
        let node = text(&before, "/spec/nodeName");
        if let Some(mark) = self.world.object("nodes", "", &node).as_deref().and_then(mark) {
            let eviction = Disruption {
                what: "evicted from",
                node: &node,
                policy: &mark.policy,
                expected: Duration::ZERO,
            };
            self.check_window(now, &eviction);
        } else {
            self.check(now, Invariant::S9, false, || {
                format!("pod {name} was evicted from {node}, not in dock")
            });
        }
        for (budget, object) in self.world.of("poddisruptionbudgets") {
            let same = text(&object, "/metadata/namespace") == write.namespace;
            if same && selects(&object["spec"]["selector"], &before) && is_ready(&before) {
                self.check_pod_budget(now, &budget, &object, name);
            }
        }
    }

    fn check_pod_budget(&mut self, now: Timestamp, budget: &str, object: &Value, evicted: &str) {
        let namespace = text(object, "/metadata/namespace");
        let pods: Vec<_> = self
            .world
            .of("pods")
            .into_iter()
            .filter(|(_, pod)| text(pod, "/metadata/namespace") == namespace)
            .filter(|(_, pod)| selects(&object["spec"]["selector"], pod))
            .collect();
        let healthy = pods
            .iter()
            .filter(|(_, pod)| is_ready(pod) && !is_deleting(pod))
            .count();
        // The disruption controller's own count of what is expected; percentages are its business.
        let desired = object
            .pointer("/status/desiredHealthy")
            .and_then(Value::as_u64)
            .unwrap_or_default();
        let stated = object
            .pointer("/spec/minAvailable")
            .and_then(Value::as_u64)
            .unwrap_or_default();
        let needed = usize::try_from(desired.max(stated)).unwrap_or(usize::MAX);
        self.check(now, Invariant::S9, healthy >= needed, || {
            format!("{evicted} was evicted; {budget} wants {needed} healthy pods, {healthy} are left")
        });
    }

    fn see_halt(&mut self, now: Timestamp, write: &ApiWrite, by_coordinator: bool) {
        let object = write.after.as_ref().or(write.before.as_ref());
        let Some(digest) = object.map(|object| text(object, "/spec/digest")) else {
            return;
        };
        if write.after.is_some() {
            self.halts.entry(digest).or_insert((now, by_coordinator));
        } else {
            self.check(now, Invariant::S6, !by_coordinator, || {
                format!("a coordinator lifted the halt of {digest}")
            });
            self.halts.remove(&digest);
        }
    }

    /// Halted so that a coordinator must have seen it.
    fn is_halted(&self, now: Timestamp, digest: &str) -> bool {
        self.halts.get(digest).is_some_and(|(since, by_coordinator)| {
            *by_coordinator || now.duration_since(*since).unsigned_abs() >= self.knowledge.grace
        })
    }

    /// What the policy says that is to be expected, as long as there is no history to go by.
    fn expected(&self, policy: &str, with_drain: bool) -> Duration {
        let Some(policy) = self.world.policy(policy) else {
            return Duration::ZERO;
        };
        if policy
            .status
            .as_ref()
            .is_some_and(|status| status.took.len() >= 5)
        {
            return Duration::ZERO;
        }
        let expected = &policy.spec.expected;
        let drain = if with_drain {
            expected.drain.duration()
        } else {
            Duration::ZERO
        };
        drain + expected.reboot.duration() + expected.way_back.duration()
    }

    /// S8: now is inside a window that leaves enough time, and in no freeze.
    fn check_window(&mut self, now: Timestamp, disruption: &Disruption<'_>) {
        let end = now.checked_add(disruption.expected).unwrap_or(now);
        let open = self.knowledge.windows.get(disruption.policy);
        let inside = open.is_none_or(|all| {
            all.iter()
                .any(|(from, to)| *from <= now && end <= *to && now < *to)
        });
        let frozen = self
            .knowledge
            .freezes
            .iter()
            .any(|(from, to)| *from <= now && now < *to);
        self.check(now, Invariant::S8, inside && !frozen, || {
            let Disruption { what, node, policy, expected } = disruption;
            format!("{node} was {what} for {policy}: in a window with {expected:?} left: {inside}, frozen: {frozen}")
        });
    }
}
