//! Building a policy's dock again from Nodes and NodeUpgrades, when its status was lost. Never adds an
//! attempt that neither a Node's mark nor a NodeUpgrade names.

use drydock_api::{DockEntry, NodeUpgrade, PolicyStatus};
use jiff::Timestamp;

use crate::node::NodeView;

/// The status of `policy` after its loss: the term, and every attempt that a NodeUpgrade or a Node's mark
/// holds for it. `nodes` and `upgrades` must have been listed from the server after the policy was read.
///
/// An attempt of a Node that is no more, or that was made again, gets no place.
#[must_use]
pub fn rebuilt_status<'a>(
    policy: &str,
    term: i64,
    now: Timestamp,
    nodes: impl IntoIterator<Item = &'a NodeView>,
    upgrades: impl IntoIterator<Item = &'a NodeUpgrade>,
) -> PolicyStatus {
    let upgrades: std::collections::BTreeMap<&str, &NodeUpgrade> = upgrades
        .into_iter()
        .filter_map(|upgrade| Some((upgrade.metadata.name.as_deref()?, upgrade)))
        .collect();
    let mut dock = Vec::new();
    for node in nodes {
        let spec = upgrades
            .get(node.name.as_str())
            .and_then(|upgrade| upgrade.spec.dock.as_ref())
            .filter(|dock| dock.policy == policy && dock.node_uid == node.uid);
        let attempt = match (spec, &node.mark) {
            (Some(dock), _) => Some((dock.attempt.clone(), dock.cordoned.unwrap_or(dock.since))),
            (None, Some(Ok(mark))) if mark.policy == policy => Some((mark.attempt.clone(), now)),
            (None, _) => None,
        };
        if let Some((attempt, since)) = attempt {
            dock.push(DockEntry {
                node: node.name.clone(),
                uid: node.uid.clone(),
                attempt,
                since,
            });
        }
    }
    dock.sort_by(|a, b| a.node.cmp(&b.node));
    PolicyStatus {
        term: Some(term),
        dock,
        ..PolicyStatus::default()
    }
}
