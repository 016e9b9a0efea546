//! `kubectl drydock status`: policies and nodes, and what each waits for.

use std::io::Write;

use drydock_api::NodeUpgradeStatus;
use serde_json::{Value, json};

use super::{
    Output, Snapshot,
    show::{instant, notes_json, or_dash, short, table, write_json, write_table},
};

/// Shows everything.
pub(super) fn show(snapshot: &Snapshot, output: Output, out: &mut impl Write) -> anyhow::Result<()> {
    match output {
        Output::Json => write_json(&as_json(snapshot), out),
        Output::Table => as_tables(snapshot, out),
    }
}

fn as_tables(snapshot: &Snapshot, out: &mut impl Write) -> anyhow::Result<()> {
    let Snapshot {
        world,
        plan,
        second_hand,
    } = snapshot;
    for note in &plan.notes {
        writeln!(out, "{note}\n  {}", note.reason.explain())?;
    }
    for name in second_hand {
        writeln!(
            out,
            "Repository {name} cannot be read from here; what is said of its releases is the coordinator's last word."
        )?;
    }
    let mut policies = table(&[
        "policy",
        "target",
        "updated",
        "in dock",
        "next window",
        "forecast end",
        "holds",
    ]);
    for (name, policy) in &plan.policies {
        let status = &policy.status;
        let window = status.next_window.as_ref().map(|span| instant(span.start));
        policies.add_row([
            name.clone(),
            or_dash(status.target.as_ref().map(|target| target.version.as_str())),
            or_dash(status.progress.as_deref()),
            status.dock.len().to_string(),
            or_dash(window.as_deref()),
            or_dash(status.forecast_end.map(instant).as_deref()),
            or_dash(policy.notes.first().map(ToString::to_string).as_deref()),
        ]);
    }
    write_table(&policies, out)?;
    writeln!(out)?;
    let mut nodes = table(&["node", "policy", "phase", "running", "wanted", "waits for"]);
    for (name, node) in &plan.nodes {
        let upgrade = world.upgrades.get(name);
        let status = upgrade.and_then(|upgrade| upgrade.status.as_ref());
        let wish = upgrade.and_then(|upgrade| upgrade.spec.wish.as_ref());
        nodes.add_row([
            name.clone(),
            or_dash(Some(node.policies.join(",").as_str())),
            node.phase.name().to_owned(),
            or_dash(running(status).as_deref()),
            or_dash(wish.map(|wish| wish.version.as_str())),
            or_dash(node.notes.first().map(ToString::to_string).as_deref()),
        ]);
    }
    write_table(&nodes, out)?;
    if !world.halts.is_empty() {
        writeln!(out)?;
        let mut halts = table(&["halted", "version", "by", "reason"]);
        for halt in world.halts.values() {
            halts.add_row([
                short(&halt.spec.digest),
                or_dash(halt.spec.version.as_deref()),
                halt.spec.by.clone(),
                halt.spec.reason.clone(),
            ]);
        }
        write_table(&halts, out)?;
    }
    Ok(())
}

/// The version, or the digest's beginning where the version is not known.
pub(super) fn running(status: Option<&NodeUpgradeStatus>) -> Option<String> {
    let status = status?;
    let digest = status.running.as_deref().map(short);
    status.running_version.clone().or(digest)
}

fn as_json(snapshot: &Snapshot) -> Value {
    let Snapshot {
        world,
        plan,
        second_hand,
    } = snapshot;
    let policies = plan.policies.iter().map(|(name, policy)| {
        json!({
            "name": name,
            "notes": notes_json(&policy.notes),
            "status": policy.status,
        })
    });
    let nodes = plan.nodes.iter().map(|(name, node)| {
        let upgrade = world.upgrades.get(name);
        json!({
            "name": name,
            "policies": node.policies,
            "phase": node.phase.name(),
            "notes": notes_json(&node.notes),
            "wakeAt": node.wake_at,
            "spec": upgrade.map(|upgrade| &upgrade.spec),
            "status": upgrade.and_then(|upgrade| upgrade.status.as_ref()),
        })
    });
    let halts = world.halts.values().map(|halt| json!(halt.spec));
    json!({
        "notes": notes_json(&plan.notes),
        "repositoriesNotRead": second_hand,
        "policies": policies.collect::<Vec<_>>(),
        "nodes": nodes.collect::<Vec<_>>(),
        "halts": halts.collect::<Vec<_>>(),
    })
}
