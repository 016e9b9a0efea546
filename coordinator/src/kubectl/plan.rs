//! `kubectl drydock plan`: what the coordinator would do now, and what holds the rest.

use std::io::Write;

use drydock_plan::{Action, EventTarget};
use serde_json::json;

use super::{
    Output, Snapshot,
    show::{instant, notes_json, table, write_json, write_table},
};

/// Shows the actions of one plan. Nothing is done.
pub(super) fn show(snapshot: &Snapshot, output: Output, out: &mut impl Write) -> anyhow::Result<()> {
    let plan = &snapshot.plan;
    let rows: Vec<_> = plan.actions.iter().map(row).collect();
    if output == Output::Json {
        let actions: Vec<_> = rows
            .iter()
            .map(|[what, object, detail]| json!({"action": what, "object": object, "detail": detail}))
            .collect();
        let whole = json!({"actions": actions, "notes": notes_json(&plan.notes), "wakeAt": plan.wake_at});
        return write_json(&whole, out);
    }
    for note in &plan.notes {
        writeln!(out, "{note}\n  {}", note.reason.explain())?;
    }
    if rows.is_empty() {
        writeln!(
            out,
            "Nothing is to be done now; `kubectl drydock status` says what waits for what."
        )?;
    } else {
        let mut actions = table(&["action", "object", "detail"]);
        for row in rows {
            actions.add_row(row);
        }
        write_table(&actions, out)?;
    }
    if let Some(at) = plan.wake_at {
        writeln!(out, "Next look at {} at the latest.", instant(at))?;
    }
    Ok(())
}

/// What, on which object, and how.
fn row(action: &Action) -> [String; 3] {
    let cells = |what: &str, object: &str, detail: String| [what.to_owned(), object.to_owned(), detail];
    match action {
        Action::StepDown { seen } => cells("step down", "-", format!("term {seen} exists")),
        Action::GiveUpLease => cells("give up the Lease", "-", String::new()),
        Action::WritePolicyStatus { policy, change, .. } => {
            cells("write status", &policy.name, format!("{change:?}"))
        }
        Action::RebuildDock { policy } => cells("rebuild dock", &policy.name, String::new()),
        Action::CreateNodeUpgrade { node, .. } => cells("create NodeUpgrade", node, String::new()),
        Action::WriteSpec { upgrade, change, .. } => cells("order", &upgrade.name, format!("{change:?}")),
        Action::FenceNode { node, term } => cells("fence", &node.name, format!("term {term}")),
        Action::CordonNode { node, mark, .. } => cells("cordon", &node.name, mark.to_string()),
        Action::UncordonNode { node, attempt, keep } => {
            cells("uncordon", &node.name, format!("{attempt}, keep {keep:?}"))
        }
        Action::EvictPods { node, pods, .. } => {
            let names: Vec<_> = pods
                .iter()
                .map(|pod| format!("{}/{}", pod.namespace, pod.name))
                .collect();
            cells("evict", node, names.join(" "))
        }
        Action::ListPods { node, .. } => cells("list pods", node, String::new()),
        Action::CreateHalt { halt } => cells("halt", &halt.digest, halt.reason.clone()),
        Action::ClearAsk { node, ask } => cells("take up", &node.name, ask.clone()),
        Action::Event { on, reason, text } => {
            let (EventTarget::Node(name) | EventTarget::Policy(name)) = on;
            cells("say", name, format!("{reason} {text}"))
        }
    }
}
