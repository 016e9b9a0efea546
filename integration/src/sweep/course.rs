//! One run of one case: a small cluster, one node that goes its way, one thing that goes wrong, and a
//! look at everything at the end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drydock_api::{GROUP, NodeUpgrade};
use tokio::sync::mpsc::UnboundedReceiver;

use super::Baseline;
use super::accident::Accident;
use super::case::{Case, Group, Phase, Writer};
use super::end::{all_up, missing_at_the_end, runs, upgrade};
use super::scenery::Scenery;
use super::trap::{DiskTrap, Spring, StoreTrap, StoreTraps};
use crate::apiserver::audit::{AuditEntry, Verb};
use crate::cluster::{ClusterPlan, SimCluster, agent_user};
use crate::demo;
use crate::node::Side;

/// The node that goes its way; the other one stays as it is.
pub(super) const NODE: &str = "node-1";
/// No case takes longer.
const PATIENCE: Duration = Duration::from_secs(120);
/// How things stand is looked at this often though nothing was written.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How a case ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// What was to go wrong did.
    pub reached: bool,
    /// What must never happen and did, and what should have come to pass and did not.
    pub wrong: Vec<String>,
    /// Its time was over, and nothing that must never happen did: on a busy machine that says nothing yet.
    pub late: bool,
    /// How long it took.
    pub took: Duration,
    /// What was written, for a run in which nothing goes wrong.
    pub baseline: Baseline,
}

impl Ended {
    /// One of which no more is known than what was wrong with it.
    pub(super) fn cut_short(wrong: String) -> Self {
        Self {
            reached: false,
            wrong: vec![wrong],
            late: false,
            took: Duration::ZERO,
            baseline: Baseline::default(),
        }
    }

    pub(super) fn broken(error: &anyhow::Error) -> Self {
        Self {
            late: true,
            ..Self::cut_short(format!("{error:#}"))
        }
    }
}

/// The only replica of those cases in which its trust store is at stake.
const FIRST_LEADER: &str = "coordinator-1";

/// What is set on the writes of this run to disks.
struct Traps {
    node: Arc<DiskTrap>,
    store: Arc<StoreTrap>,
}

impl Traps {
    fn of(case: &Case) -> Self {
        let store = match *case {
            Case::Store { nth, side } => Some((nth, side)),
            Case::Baseline
            | Case::Api { .. }
            | Case::Disk { .. }
            | Case::Power { .. }
            | Case::OldLeader { .. }
            | Case::Wipe { .. }
            | Case::Reapply { .. } => None,
        };
        Self {
            node: Arc::new(DiskTrap::new(NODE, spring(case))),
            store: Arc::new(StoreTrap::new(FIRST_LEADER, store)),
        }
    }

    fn set(&self) {
        self.node.set();
        self.store.set();
    }
}

fn plan(folder: &Path, scenery: &Scenery, case: &Case, traps: &Traps) -> ClusterPlan {
    let millis = Duration::from_millis;
    let mut plan = demo::plan(folder, &scenery.first, scenery.room, 2);
    plan.coordinators = match case {
        Case::OldLeader { .. } => 2,
        Case::Baseline
        | Case::Api { .. }
        | Case::Disk { .. }
        | Case::Store { .. }
        | Case::Power { .. }
        | Case::Wipe { .. }
        | Case::Reapply { .. } => 1,
    };
    plan.only = Some(NODE.to_owned());
    plan.saboteur = traps.node.clone();
    plan.stores = Arc::new(StoreTraps(traps.store.clone()));
    plan.node_pace.boot = millis(300);
    plan.node_pace.restart = millis(100);
    plan.node_pace.pod_start = millis(100);
    plan.node_pace.pod_stop = millis(100);
    plan.node_pace.updater.check_retry = millis(100);
    plan.replica_pace.lease = millis(2000);
    plan.replica_pace.poll = millis(600);
    plan.policy_pace.soak = Duration::from_secs(1);
    plan.policy_pace.checks = Duration::from_secs(1);
    // A kubelet that waits for a CPU is not a node that broke. Whoever asks less often leaves more of it
    // to the other runs.
    plan.controllers.node_grace = Duration::from_secs(20);
    plan.controllers.resync = Duration::from_secs(3);
    plan.controllers.gather = millis(120);
    plan.node_pace.heartbeat = Duration::from_secs(3);
    plan.node_pace.updater.guard_poll = millis(250);
    plan
}

/// Where the trap springs in this case, if it is one of disk and state.
fn spring(case: &Case) -> Option<Spring> {
    let at = |kind, nth, side, loss| {
        Some(Spring {
            kind,
            nth,
            side,
            loss,
        })
    };
    match *case {
        Case::Disk { kind, nth, side } => at(kind, nth, side, None),
        Case::Power { kind, nth, loss } => at(kind, nth, Side::After, Some(loss)),
        Case::Baseline
        | Case::Api { .. }
        | Case::Store { .. }
        | Case::OldLeader { .. }
        | Case::Wipe { .. }
        | Case::Reapply { .. } => None,
    }
}

/// Runs one case below `folder`, which must be empty.
///
/// # Errors
/// If the simulation itself cannot run.
pub async fn run(folder: &Path, scenery: &Scenery, case: &Case) -> anyhow::Result<Ended> {
    let begun = Instant::now();
    let traps = Traps::of(case);
    let mut cluster = SimCluster::start(plan(folder, scenery, case, &traps)).await?;
    cluster.apply_workloads()?;
    until("every node and pod to be up", || all_up(&cluster)).await?;
    cluster.apply_policy()?;
    let first = cluster.first.digest.clone();
    until("the agents to report", || {
        upgrade(&cluster, NODE).is_some_and(|u| runs(&u, &first)) && cluster.leader().is_some()
    })
    .await?;
    let second = cluster.build(&scenery.second).await?;
    let mut trail = cluster.api.audit().subscribe();
    let mark = cluster
        .api
        .audit()
        .entries()
        .last()
        .map_or(0, |entry| entry.sequence);
    let mut accident = Accident::prepare(&cluster, case, traps.store.clone())?;
    traps.set();
    cluster.workshop.publish(&second).await?;

    let mut wrong = Vec::new();
    let mut phases = Vec::new();
    let mut late = false;
    loop {
        for phase in next_phases(&mut trail).await {
            if !phases.contains(&phase) {
                phases.push(phase.clone());
            }
            accident.at(&mut cluster, &phase).await?;
        }
        accident.look(&mut cluster).await?;
        let missing = missing_at_the_end(&cluster, scenery, &second.digest);
        let found = !cluster.eye.report().findings().is_empty();
        if found || (missing.is_empty() && accident.over()) {
            break;
        }
        if begun.elapsed() > PATIENCE {
            late = true;
            wrong.extend(missing.into_iter().map(|what| format!("never: {what}")));
            break;
        }
    }
    // A run that is cut off in the middle leaves a node as it stands: that is no finding.
    let mut report = cluster.eye.report();
    if !late && report.findings().is_empty() {
        report = cluster.eye.finish(&[]);
    }
    let mut found: Vec<String> = report.findings().iter().map(ToString::to_string).collect();
    found.extend(accident.written_out_of_term(&cluster));
    late &= found.is_empty();
    wrong.extend(found);
    let baseline = Baseline {
        api: count(&cluster.api.audit().since(mark)),
        disk: traps.node.seen(),
        store: traps.store.seen(),
        phases,
    };
    let reached = matches!(case, Case::Baseline) || traps.node.sprung() || accident.happened();
    cluster.shutdown().await;
    Ok(Ended {
        reached,
        wrong,
        late,
        took: begun.elapsed(),
        baseline,
    })
}

/// The phases that the node's object went through since the last call; waits a little for some.
async fn next_phases(trail: &mut UnboundedReceiver<AuditEntry>) -> Vec<Phase> {
    let mut entries = Vec::new();
    // A trail never ends before its server.
    let _in_time = tokio::time::timeout(LOOK_EVERY, trail.recv_many(&mut entries, 64)).await;
    let ours = entries.iter().filter(|entry| {
        *entry.resource.group == *GROUP && *entry.resource.resource == *"nodeupgrades" && entry.name == NODE
    });
    ours.filter_map(|entry| serde_json::from_value((**entry.after.as_ref()?).clone()).ok())
        .map(|upgrade: NodeUpgrade| phase_of(&upgrade))
        .collect()
}

async fn until(what: &str, so: impl Fn() -> bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !so() {
        anyhow::ensure!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
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
