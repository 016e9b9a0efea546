//! One run of one case: a small cluster, one node that goes its way, one thing that goes wrong, and a
//! look at everything at the end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use drydock_api::{GROUP, NodeUpgrade, annotation};
use serde_json::Value;

use super::Baseline;
use super::case::{Case, Group, Phase, Writer};
use super::trap::DiskTrap;
use crate::apiserver::audit::{AuditEntry, Verb};
use crate::apiserver::hooks::{Action, Rule, RuleHandle, Stage, WriteMatch};
use crate::cluster::{POLICY, ReleaseImages, SHOP, SimCluster, agent_user};
use crate::demo;
use crate::node::{Behaviour, Side};

/// The node that goes its way; the other one stays as it is.
const NODE: &str = "node-1";
/// How long a write of the old leader is under way.
const ASLEEP: Duration = Duration::from_secs(4);
/// No case takes longer.
const PATIENCE: Duration = Duration::from_secs(75);

/// What all cases of a sweep have in common.
#[derive(Debug, Clone)]
pub struct Scenery {
    first: ReleaseImages,
    second: ReleaseImages,
    room: (u64, u64),
}

impl Scenery {
    /// Small images below `folder`; the second release boots and is healthy, or boots and is not.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn prepare(folder: &Path, second: Behaviour) -> anyhow::Result<Self> {
        let image = |name: &str, bytes: usize, seed: u64, changed: bool| -> anyhow::Result<_> {
            let mut state = seed;
            let mut content: Vec<u8> = std::iter::repeat_with(|| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .take(bytes)
            .collect();
            if changed {
                let middle = bytes / 2;
                content[middle..middle + 4096].fill(7);
            }
            let path = folder.join(name);
            std::fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
            Ok(path)
        };
        let release = |version: &str, behaviour, changed| -> anyhow::Result<ReleaseImages> {
            Ok(ReleaseImages {
                version: version.to_owned(),
                kubelet: "1.34.1".to_owned(),
                behaviour,
                kernel: image(&format!("kernel-{version}"), 64 << 10, 1, changed)?,
                root: image(&format!("root-{version}"), 512 << 10, 2, changed)?,
            })
        };
        Ok(Self {
            first: release("1.0.0", Behaviour::Healthy, false)?,
            second: release("2.0.0", second, true)?,
            room: (64 << 10, 512 << 10),
        })
    }

    fn good(&self) -> bool {
        self.second.behaviour == Behaviour::Healthy
    }
}

/// How a case ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// What was to go wrong did.
    pub reached: bool,
    /// What must never happen and did, and what should have come to pass and did not.
    pub wrong: Vec<String>,
    /// How long it took.
    pub took: Duration,
    /// What was written, for a run in which nothing goes wrong.
    pub baseline: Baseline,
}

impl Ended {
    pub(super) fn broken(error: &anyhow::Error) -> Self {
        Self {
            reached: false,
            wrong: vec![format!("{error:#}")],
            took: Duration::ZERO,
            baseline: Baseline::default(),
        }
    }
}

/// Runs one case below `folder`, which must be empty.
///
/// # Errors
/// If the simulation itself cannot run.
pub async fn run(folder: &Path, scenery: &Scenery, case: &Case) -> anyhow::Result<Ended> {
    let begun = Instant::now();
    let at = match case {
        Case::Disk { kind, nth, side } => Some((*kind, *nth, *side)),
        _ => None,
    };
    let trap = Arc::new(DiskTrap::new(NODE, at));
    let mut plan = demo::plan(folder, &scenery.first, scenery.room, 2);
    plan.coordinators = if matches!(case, Case::OldLeader { .. }) {
        2
    } else {
        1
    };
    plan.only = Some(NODE.to_owned());
    plan.saboteur = trap.clone();
    plan.node_pace.boot = Duration::from_millis(300);
    plan.node_pace.restart = Duration::from_millis(100);
    plan.node_pace.pod_start = Duration::from_millis(100);
    plan.node_pace.pod_stop = Duration::from_millis(100);
    plan.replica_pace.lease = Duration::from_millis(2000);
    plan.replica_pace.poll = Duration::from_millis(300);
    plan.policy_pace.soak = Duration::from_secs(1);
    let mut cluster = SimCluster::start(plan).await?;
    cluster.apply_workloads()?;
    until("every node and pod to be up", || all_up(&cluster)).await?;
    cluster.apply_policy()?;
    let first = cluster.first.digest.clone();
    until("the agents to report", || {
        upgrade(&cluster, NODE).is_some_and(|u| runs(&u, &first)) && cluster.leader().is_some()
    })
    .await?;
    let second = cluster.build(&scenery.second).await?;
    let mark = cluster
        .api
        .audit()
        .entries()
        .last()
        .map_or(0, |entry| entry.sequence);
    let mut accident = Accident::prepare(&cluster, case)?;
    trap.set();
    cluster.workshop.publish(&second).await?;

    let mut wrong = Vec::new();
    let mut phases = Vec::new();
    loop {
        if let Some(now) = upgrade(&cluster, NODE) {
            let phase = phase_of(&now);
            if phases.last() != Some(&phase) && !phases.contains(&phase) {
                phases.push(phase.clone());
            }
            accident.look(&mut cluster, &phase).await?;
        }
        let missing = missing_at_the_end(&cluster, scenery, &second.digest);
        if missing.is_empty() && accident.over() {
            break;
        }
        if begun.elapsed() > PATIENCE {
            wrong.extend(missing.into_iter().map(|what| format!("never: {what}")));
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let report = cluster.eye.finish(&[]);
    wrong.extend(report.findings().into_iter().map(|finding| format!("{finding}")));
    let baseline = Baseline {
        api: count(&cluster.api.audit().since(mark)),
        disk: trap.seen(),
        phases,
    };
    let reached = matches!(case, Case::Baseline) || trap.sprung() || accident.happened;
    cluster.shutdown().await;
    Ok(Ended {
        reached,
        wrong,
        took: begun.elapsed(),
        baseline,
    })
}

/// What goes wrong in one run, and how far it has.
struct Accident {
    case: Case,
    rule: Option<RuleHandle>,
    leader: String,
    happened: bool,
    until: Option<Instant>,
}

impl Accident {
    fn prepare(cluster: &SimCluster, case: &Case) -> anyhow::Result<Self> {
        let leader = cluster.leader().context("nobody leads")?;
        let matching = |user: &str, group: &Group| {
            let verb = match group.verb.as_str() {
                "create" => Verb::Create,
                "update" => Verb::Update,
                "patch" => Verb::Patch,
                _ => Verb::Delete,
            };
            WriteMatch::any()
                .user(user)
                .verb(verb)
                .resource(&group.resource)
                .subresource(&group.subresource)
        };
        let hooks = cluster.api.hooks();
        let rule = match case {
            Case::Api {
                writer,
                group,
                nth,
                side,
            } => {
                let user = match writer {
                    Writer::Coordinator => leader.clone(),
                    Writer::Agent => agent_user(NODE),
                };
                let stage = match side {
                    Side::Before => Stage::Before,
                    Side::After => Stage::After,
                };
                Some(hooks.add(Rule::new(matching(&user, group), stage, Action::Stall).nth(*nth)))
            }
            Case::OldLeader { group, nth } => {
                let asleep = Rule::new(matching(&leader, group), Stage::Before, Action::Delay(ASLEEP));
                Some(hooks.add(asleep.nth(*nth)))
            }
            Case::Baseline | Case::Disk { .. } | Case::Wipe { .. } | Case::Reapply { .. } => None,
        };
        Ok(Self {
            case: case.clone(),
            rule,
            leader,
            happened: false,
            until: None,
        })
    }

    /// Lets it happen when its moment has come.
    async fn look(&mut self, cluster: &mut SimCluster, now: &Phase) -> anyhow::Result<()> {
        if self.happened {
            return Ok(());
        }
        let acted = match &self.rule {
            Some(rule) => tokio::time::timeout(Duration::from_millis(1), rule.acted(1))
                .await
                .is_ok(),
            None => false,
        };
        match self.case.clone() {
            Case::Baseline | Case::Disk { .. } => {}
            Case::Api { writer, .. } if acted => {
                self.happened = true;
                match writer {
                    Writer::Coordinator => self.change_leader(cluster).await?,
                    Writer::Agent => cluster
                        .nodes
                        .iter()
                        .filter(|n| n.name() == NODE)
                        .for_each(|n| n.kill_agent()),
                }
            }
            Case::OldLeader { .. } if acted => {
                self.happened = true;
                // It cannot renew, so another leads when its write arrives; it learns of that last.
                let renewals = WriteMatch::any().user(&self.leader).resource("leases");
                cluster
                    .api
                    .hooks()
                    .add(Rule::new(renewals, Stage::Before, Action::Delay(ASLEEP)).always());
                self.until = Some(Instant::now() + ASLEEP + Duration::from_secs(1));
            }
            Case::Api { .. } | Case::OldLeader { .. } => {}
            Case::Wipe { phase, kill_leader } => {
                if *now == phase {
                    self.happened = true;
                    wipe(cluster).await?;
                    if kill_leader {
                        self.change_leader(cluster).await?;
                    }
                }
            }
            Case::Reapply { phase, kill_leader } => {
                if *now == phase {
                    self.happened = true;
                    reapply(cluster)?;
                    if kill_leader {
                        self.change_leader(cluster).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn change_leader(&self, cluster: &mut SimCluster) -> anyhow::Result<()> {
        cluster.kill_replica(&self.leader);
        cluster.start_replica("coordinator-3").await
    }

    fn over(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() > until)
    }
}

async fn wipe(cluster: &SimCluster) -> anyhow::Result<()> {
    let client = cluster.api.client("admin").await?;
    for plural in ["upgradepolicies", "nodeupgrades", "imagerepositories"] {
        for object in cluster.api.list(GROUP, plural, "") {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let path = format!("/apis/{GROUP}/v1alpha1/{plural}/{name}/status");
            let request = http::Request::patch(path)
                .header("content-type", "application/merge-patch+json")
                .body(br#"{"status":null}"#.to_vec())?;
            client
                .request::<Value>(request)
                .await
                .with_context(|| format!("wiping {plural} {name}"))?;
        }
    }
    Ok(())
}

fn reapply(cluster: &SimCluster) -> anyhow::Result<()> {
    for plural in ["upgradepolicies", "nodeupgrades"] {
        for object in cluster.api.list(GROUP, plural, "") {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            // The coordinator may have been quicker with a NodeUpgrade of its own.
            let _gone = cluster.api.delete(GROUP, plural, "", name);
        }
    }
    cluster.apply_policy()
}

async fn until(what: &str, so: impl Fn() -> bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !so() {
        anyhow::ensure!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn all_up(cluster: &SimCluster) -> bool {
    let nodes = cluster.node_names().iter().all(|name| {
        let node = cluster.api.get("", "nodes", "", name);
        let conditions = node
            .as_deref()
            .and_then(|node| node.pointer("/status/conditions")?.as_array());
        conditions.is_some_and(|all| {
            all.iter()
                .any(|one| one["type"] == "Ready" && one["status"] == "True")
        })
    });
    let apps = cluster.api.list("apps", "deployments", SHOP);
    let wanted: u64 = apps
        .iter()
        .filter_map(|app| app["spec"]["replicas"].as_u64())
        .sum();
    let pods = cluster.api.list("", "pods", SHOP);
    let running = pods
        .iter()
        .filter(|pod| pod["status"]["phase"] == "Running")
        .count();
    nodes && wanted > 0 && running as u64 >= wanted
}

fn upgrade(cluster: &SimCluster, node: &str) -> Option<NodeUpgrade> {
    let object = cluster.api.get(GROUP, "nodeupgrades", "", node)?;
    serde_json::from_value((*object).clone()).ok()
}

fn runs(upgrade: &NodeUpgrade, digest: &str) -> bool {
    let status = upgrade.status.clone().unwrap_or_default();
    status.running.as_deref() == Some(digest) && status.running_good == Some(true)
}

fn phase_of(upgrade: &NodeUpgrade) -> Phase {
    let status = upgrade.status.clone().unwrap_or_default();
    let none = || "-".to_owned();
    Phase {
        step: upgrade
            .spec
            .dock
            .as_ref()
            .map_or_else(none, |dock| format!("{:?}", dock.step)),
        agent: status.agent_state.unwrap_or_else(none),
        attempt: status.attempt.map_or_else(none, |attempt| attempt.state),
    }
}

/// What does not stand as it should when all is over.
fn missing_at_the_end(cluster: &SimCluster, scenery: &Scenery, second: &str) -> Vec<String> {
    let mut missing = Vec::new();
    let mut must = |held: bool, what: &str| {
        if !held {
            missing.push(what.to_owned());
        }
    };
    let first = &cluster.first.digest;
    let wanted = if scenery.good() { second } else { first };
    let now = upgrade(cluster, NODE);
    must(
        now.as_ref().is_some_and(|u| runs(u, wanted)),
        "the node runs what it should, marked good",
    );
    must(
        now.as_ref().is_some_and(|u| u.spec.dock.is_none()),
        "its NodeUpgrade is out of dock",
    );
    must(
        now.as_ref().is_some_and(|u| u.spec.grant.is_none()),
        "no grant is out",
    );
    let soaked = |u: &NodeUpgrade| u.spec.soak.as_ref().is_none_or(|soak| soak.passed);
    must(now.as_ref().is_some_and(soaked), "its soak is over");
    for name in cluster.node_names() {
        let node = cluster.api.get("", "nodes", "", &name);
        let node = node.as_deref().unwrap_or(&Value::Null);
        let marks = &node["metadata"]["annotations"];
        must(
            node["spec"]["unschedulable"].as_bool() != Some(true),
            &format!("{name} is schedulable"),
        );
        must(marks[annotation::DOCK].is_null(), &format!("{name} has no mark"));
    }
    let policy = cluster.api.get(GROUP, "upgradepolicies", "", POLICY);
    let dock = policy
        .as_ref()
        .and_then(|policy| policy.pointer("/status/dock"))
        .and_then(Value::as_array);
    must(dock.is_none_or(Vec::is_empty), "the dock is empty");
    let halted = cluster.api.list(GROUP, "releasehalts", "").len();
    if scenery.good() {
        must(halted == 0, "nothing is halted");
    } else {
        must(halted == 1, "the bad release is halted");
    }
    let other = cluster.nodes.iter().find(|node| node.name() != NODE);
    must(
        other.is_some_and(|node| node.status().boots == 1),
        "the other node was left alone",
    );
    missing
}

fn count(entries: &[AuditEntry]) -> BTreeMap<(Writer, Group), u64> {
    let mut counts = BTreeMap::new();
    let agent = agent_user(NODE);
    for entry in entries {
        let writer = if *entry.user == *agent {
            Writer::Agent
        } else if entry.user.starts_with("coordinator-") {
            Writer::Coordinator
        } else {
            continue;
        };
        let verb = match entry.verb {
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete | Verb::DeleteCollection => "delete",
        };
        let group = Group {
            verb: verb.to_owned(),
            resource: entry.resource.resource.to_string(),
            subresource: entry.subresource.clone(),
        };
        *counts.entry((writer, group)).or_insert(0) += 1;
    }
    counts
}
