//! How attempts ended: their classes, what bars a release, and what was forgiven. Never forgets a failure
//! that nobody forgave.

use std::collections::{BTreeMap, BTreeSet};

use drydock_api::{
    AttemptClass, AttemptRecord, HaltEvidence, NodeUpgrade, NodeUpgradeSpec, Outcome, outcome,
};
use jiff::Timestamp;

use crate::{node::NodeView, world::World};

/// Longest list of records and forgiven attempts, as the CRD bounds them.
const MOST: usize = 32;

/// Codes of attempts that went back without a failure of the release: a power cut, or no word.
const NO_FAULT: [&str; 2] = ["ConfirmTimeout", "PowerCut"];

/// The report of this attempt, if the agent's last one is of it.
pub(crate) fn report<'a>(upgrade: &'a NodeUpgrade, attempt: &str) -> Option<&'a Outcome> {
    upgrade
        .status
        .as_ref()?
        .attempt
        .as_ref()
        .filter(|report| report.attempt == attempt)
}

/// Appends a record; where there are too many the oldest goes that bars and counts nothing.
pub(crate) fn push(spec: &mut NodeUpgradeSpec, record: AttemptRecord) {
    spec.records.retain(|old| old.attempt != record.attempt);
    spec.records.push(record);
    while spec.records.len() > MOST {
        let last = spec.records.len() - 1;
        let weight = |index: usize, record: &AttemptRecord| {
            let class = match record.class {
                AttemptClass::NotTried | AttemptClass::Released | AttemptClass::Excused => 0,
                AttemptClass::Committed => 1,
                AttemptClass::Unconfirmed | AttemptClass::Failed
                    if spec.forgiven.contains(&record.attempt) =>
                {
                    1
                }
                AttemptClass::Unconfirmed => 2,
                AttemptClass::Failed => 3,
            };
            (class, index)
        };
        let lightest = spec.records[..last]
            .iter()
            .enumerate()
            .map(|(index, record)| weight(index, record))
            .min();
        let Some((_, index)) = lightest else { break };
        spec.records.remove(index);
    }
}

/// Whether the release failed on this node, by the union of the spec's records and what the agent
/// reports, and nobody forgave it.
pub(crate) fn failed_here(upgrade: &NodeUpgrade, digest: &str) -> bool {
    failures_here(upgrade).contains_key(digest)
}

/// Digests that failed on this node and were not forgiven, each with its attempt and code.
pub(crate) fn failures_here(upgrade: &NodeUpgrade) -> BTreeMap<String, (String, String)> {
    let forgiven = |attempt: &str| upgrade.spec.forgiven.iter().any(|other| other == attempt);
    let mut failed = BTreeMap::new();
    for record in &upgrade.spec.records {
        if record.class == AttemptClass::Failed && !forgiven(&record.attempt) {
            let code = record.code.clone().unwrap_or_else(|| "Failed".to_owned());
            failed.insert(record.digest.clone(), (record.attempt.clone(), code));
        }
    }
    let Some(status) = &upgrade.status else {
        return failed;
    };
    for entry in &status.failed {
        if !forgiven(&entry.attempt) {
            failed
                .entry(entry.digest.clone())
                .or_insert_with(|| (entry.attempt.clone(), entry.code.clone()));
        }
    }
    if let Some(report) = &status.attempt
        && failing(report)
        && !forgiven(&report.attempt)
        && !upgrade
            .spec
            .records
            .iter()
            .any(|record| record.attempt == report.attempt && record.class == AttemptClass::Released)
    {
        failed.entry(report.digest.clone()).or_insert_with(|| {
            let code = report.code.clone().unwrap_or_else(|| report.state.clone());
            (report.attempt.clone(), code)
        });
    }
    failed
}

/// Whether a report already says that the release failed, also when the node is not back yet.
fn failing(report: &Outcome) -> bool {
    let fault = report
        .code
        .as_deref()
        .is_some_and(|code| !NO_FAULT.contains(&code));
    match report.state.as_str() {
        outcome::FAILED => true,
        outcome::GOING_BACK | outcome::STUCK => fault,
        _ => false,
    }
}

/// Every failure in the cluster, by digest: node and evidence. A node counts once for a digest.
pub(crate) fn failures(world: &World) -> BTreeMap<String, Vec<HaltEvidence>> {
    let mut all: BTreeMap<String, Vec<HaltEvidence>> = BTreeMap::new();
    for (name, upgrade) in &world.upgrades {
        let mut here = failures_here(upgrade);
        if let Some(node) = world.nodes.get(name)
            && let Some(dock) = &upgrade.spec.dock
            && let Some(report) = report(upgrade, &dock.attempt)
            && report.state == outcome::UNCONFIRMED
            && !ended(upgrade, &dock.attempt)
            && class_of(world, node, upgrade, report, dock.granted).0 == AttemptClass::Failed
        {
            let code = report.code.clone().unwrap_or_else(|| report.state.clone());
            here.entry(report.digest.clone())
                .or_insert((report.attempt.clone(), code));
        }
        for (digest, (attempt, code)) in here {
            let boot_id = report(upgrade, &attempt).and_then(|report| report.boot_id.clone());
            all.entry(digest).or_default().push(HaltEvidence {
                node: name.clone(),
                attempt,
                code,
                boot_id,
            });
        }
    }
    all
}

/// The class of an attempt whose node is back on the old release, and a code for the record.
pub(crate) fn class_of(
    world: &World,
    node: &NodeView,
    upgrade: &NodeUpgrade,
    report: &Outcome,
    granted: Option<Timestamp>,
) -> (AttemptClass, Option<String>) {
    let code = report.code.clone();
    match report.state.as_str() {
        outcome::FAILED => (AttemptClass::Failed, code),
        outcome::NOT_TRIED => (AttemptClass::NotTried, code),
        _ => (unconfirmed(world, node, upgrade, &report.digest, granted), code),
    }
}

/// Unconfirmed, unless that was not the node's own doing (Excused), or it is the second time (Failed).
pub(crate) fn unconfirmed(
    world: &World,
    node: &NodeView,
    upgrade: &NodeUpgrade,
    digest: &str,
    granted: Option<Timestamp>,
) -> AttemptClass {
    let from = granted.unwrap_or(world.now);
    let to = match node.ready_since {
        Some(since) if node.is_ready() && since > from => since,
        _ => world.now,
    };
    let no_server = world
        .api
        .outages
        .iter()
        .any(|(start, end)| *start < to && *end > from);
    if no_server || others_down(world, node, from, to) {
        return AttemptClass::Excused;
    }
    let before = upgrade.spec.records.iter().any(|record| {
        record.class == AttemptClass::Unconfirmed
            && record.digest == digest
            && !upgrade.spec.forgiven.contains(&record.attempt)
    });
    if before {
        AttemptClass::Failed
    } else {
        AttemptClass::Unconfirmed
    }
}

/// There are other Nodes, and none of them was Ready at any time between.
pub(crate) fn others_down(world: &World, node: &NodeView, from: Timestamp, to: Timestamp) -> bool {
    let mut others = world
        .nodes
        .values()
        .filter(|other| other.name != node.name)
        .peekable();
    others.peek().is_some()
        && others.all(|other| match (other.is_ready(), other.ready_since) {
            (true, Some(since)) => since >= to,
            (true, None) => false,
            // It was Ready until then.
            (false, Some(since)) => since <= from,
            (false, None) => true,
        })
}

/// Attempts of this digest that a person's forgiveness covers and the spec does not hold yet.
pub(crate) fn to_forgive(upgrade: &NodeUpgrade, digest: &str) -> BTreeSet<String> {
    let records = upgrade
        .spec
        .records
        .iter()
        .filter(|record| {
            record.digest == digest
                && matches!(record.class, AttemptClass::Failed | AttemptClass::Unconfirmed)
        })
        .map(|record| record.attempt.clone());
    let status = upgrade.status.iter();
    let reported = status
        .clone()
        .flat_map(|status| &status.failed)
        .filter(|failed| failed.digest == digest)
        .map(|failed| failed.attempt.clone());
    let last = status
        .filter_map(|status| status.attempt.as_ref())
        .filter(|report| report.digest == digest && (failing(report) || report.state == outcome::UNCONFIRMED))
        .map(|report| report.attempt.clone());
    records
        .chain(reported)
        .chain(last)
        .filter(|attempt| !upgrade.spec.forgiven.contains(attempt))
        .collect()
}

/// Adds forgiven attempts; where there are too many, those go first that nothing names any more.
pub(crate) fn forgive(upgrade: &NodeUpgrade, spec: &mut NodeUpgradeSpec, attempts: BTreeSet<String>) {
    spec.forgiven.extend(attempts);
    while spec.forgiven.len() > MOST {
        let named = |attempt: &String| {
            spec.records.iter().any(|record| record.attempt == *attempt)
                || upgrade
                    .status
                    .iter()
                    .flat_map(|status| &status.failed)
                    .any(|failed| failed.attempt == *attempt)
        };
        let index = spec
            .forgiven
            .iter()
            .position(|attempt| !named(attempt))
            .unwrap_or(0);
        spec.forgiven.remove(index);
    }
}

/// Whether this attempt is over, by the spec's records.
pub(crate) fn ended(upgrade: &NodeUpgrade, attempt: &str) -> bool {
    upgrade
        .spec
        .records
        .iter()
        .any(|record| record.attempt == attempt)
}
