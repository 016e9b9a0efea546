//! `kubectl drydock explain`: why a node or a policy is where it is, and what a person can do.

use std::io::Write;

use drydock_plan::{Note, Reason};
use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::ListParams};
use serde_json::json;

use super::{
    Output, Snapshot,
    show::{instant, notes_json, or_dash, short, write_json},
    status::running,
};
use crate::execute::REPORTER;

/// The last so many Events are shown.
const MAX_EVENTS: usize = 10;

/// What is to be explained.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A node, a policy or a reason; without it, every reason.
    name: Option<String>,
}

/// Explains it.
pub(super) async fn main(
    args: Args,
    config: kube::Config,
    output: Output,
    out: &mut (impl Write + Send),
) -> anyhow::Result<()> {
    let Some(name) = args.name else {
        return every_reason(Reason::ALL, output, out);
    };
    if let Ok(reason) = name.parse::<Reason>() {
        return every_reason(&[reason], output, out);
    }
    let snapshot = Snapshot::read(config.clone()).await?;
    let plan = &snapshot.plan;
    let found = plan.nodes.get(&name).map(|node| &node.notes);
    let found = found.or_else(|| plan.policies.get(&name).map(|policy| &policy.notes));
    let Some(notes) = found else {
        anyhow::bail!(
            "there is no node that a policy selects, no policy and no reason of the name {name}; `kubectl drydock status` lists them"
        );
    };
    let all: Vec<Note> = plan.notes.iter().chain(notes).cloned().collect();
    if output == Output::Json {
        return write_json(&json!({"name": name, "notes": notes_json(&all)}), out);
    }
    if plan.nodes.contains_key(&name) {
        node(&snapshot, &name, out)?;
        told(&name, config, out).await?;
    } else {
        writeln!(out, "Policy {name}")?;
    }
    for note in &all {
        writeln!(out, "{note}\n  {}", note.reason.explain())?;
    }
    if all.is_empty() {
        writeln!(out, "Nothing holds it.")?;
    }
    Ok(())
}

fn every_reason(reasons: &[Reason], output: Output, out: &mut impl Write) -> anyhow::Result<()> {
    if output == Output::Json {
        let notes: Vec<Note> = reasons.iter().map(|reason| Note::from(*reason)).collect();
        return write_json(&notes_json(&notes), out);
    }
    for reason in reasons {
        writeln!(out, "{reason}\n  {}", reason.explain())?;
    }
    Ok(())
}

/// What the coordinator lately said of the node. What an eviction was answered with, only it knows.
async fn told(name: &str, config: kube::Config, out: &mut (impl Write + Send)) -> anyhow::Result<()> {
    let events = Api::<Event>::namespaced(super::client(config)?, "default");
    let params = ListParams::default().fields(&format!("regarding.kind=Node,regarding.name={name}"));
    let Ok(mut found) = events.list(&params).await.map(|list| list.items) else {
        writeln!(
            out,
            "Its Events cannot be read; may you list events in the namespace default?"
        )?;
        return Ok(());
    };
    found.retain(|event| event.reporting_controller.as_deref() == Some(REPORTER));
    found.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
    let skip = found.len().saturating_sub(MAX_EVENTS);
    for event in found.into_iter().skip(skip) {
        let at = event.event_time.map(|time| instant(time.0));
        writeln!(
            out,
            "{} said {}: {}",
            or_dash(at.as_deref()),
            or_dash(event.reason.as_deref()),
            or_dash(event.note.as_deref())
        )?;
    }
    Ok(())
}

/// The node's story: where it is, and what its last attempts came to.
fn node(snapshot: &Snapshot, name: &str, out: &mut impl Write) -> anyhow::Result<()> {
    let Some(assessment) = snapshot.plan.nodes.get(name) else {
        return Ok(());
    };
    let policies = assessment.policies.join(", ");
    writeln!(
        out,
        "Node {name}: {} (policy {})",
        assessment.phase,
        or_dash(Some(policies.as_str()))
    )?;
    let Some(upgrade) = snapshot.world.upgrades.get(name) else {
        return Ok(());
    };
    let wish = upgrade.spec.wish.as_ref().map(|wish| wish.version.as_str());
    let runs = running(upgrade.status.as_ref());
    writeln!(out, "Runs {}, wants {}", or_dash(runs.as_deref()), or_dash(wish))?;
    if let Some(dock) = &upgrade.spec.dock {
        writeln!(
            out,
            "In dock: {:?} since {}, attempt {}",
            dock.step,
            instant(dock.since),
            dock.attempt
        )?;
    }
    if let Some(error) = upgrade
        .status
        .as_ref()
        .and_then(|status| status.last_error.as_ref())
    {
        writeln!(out, "Its agent says {}: {}", error.code, error.text)?;
    }
    for record in &upgrade.spec.records {
        let forgiven = upgrade.spec.forgiven.contains(&record.attempt);
        writeln!(
            out,
            "{} {:?} {} attempt {}{}",
            instant(record.at),
            record.class,
            short(&record.digest),
            record.attempt,
            if forgiven { " (forgiven)" } else { "" }
        )?;
    }
    for halt in snapshot.world.halts.values() {
        for evidence in halt.spec.evidence.iter().filter(|evidence| evidence.node == name) {
            writeln!(
                out,
                "Evidence of the halt of {}: {} in attempt {}",
                short(&halt.spec.digest),
                evidence.code,
                evidence.attempt
            )?;
        }
    }
    Ok(())
}
