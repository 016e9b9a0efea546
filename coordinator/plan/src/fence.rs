//! Terms: who reads a higher one stops, and a new leader writes its own everywhere before it plans. Never
//! lowers a term.

use drydock_api::{NodeUpgrade, UpgradePolicy};

use crate::{
    action::{Action, ObjectRef, SpecChange, StatusChange},
    node::NodeView,
    world::World,
};

/// The highest term in policies, NodeUpgrades and Nodes. A new leader's own is one above this and above
/// the Lease's.
#[must_use]
pub fn highest_term<'a>(
    policies: impl IntoIterator<Item = &'a UpgradePolicy>,
    upgrades: impl IntoIterator<Item = &'a NodeUpgrade>,
    nodes: impl IntoIterator<Item = &'a NodeView>,
) -> i64 {
    let policies = policies
        .into_iter()
        .filter_map(|policy| policy.status.as_ref()?.term);
    let upgrades = upgrades
        .into_iter()
        .filter_map(|upgrade| Some(upgrade.spec.dock.as_ref()?.term));
    let nodes = nodes.into_iter().filter_map(|node| node.term);
    policies.chain(upgrades).chain(nodes).max().unwrap_or(0)
}

/// What has to be done before anything else is planned: terms, and policies whose status was wiped (to
/// build their dock again writes the term too). Empty: nothing.
pub(crate) fn fence(world: &World) -> Vec<Action> {
    let seen = highest_term(
        world.policies.values(),
        world.upgrades.values(),
        world.nodes.values(),
    );
    if seen > world.term {
        return vec![Action::StepDown { seen }];
    }
    let mut actions = Vec::new();
    for policy in world.policies.values() {
        let Some(policy_ref) = ObjectRef::of(&policy.metadata) else {
            continue;
        };
        match policy.status.as_ref().and_then(|status| status.term) {
            None => actions.push(Action::RebuildDock { policy: policy_ref }),
            Some(term) if term < world.term => {
                let mut status = policy.status.clone().unwrap_or_default();
                status.term = Some(world.term);
                actions.push(Action::WritePolicyStatus {
                    policy: policy_ref,
                    status: Box::new(status),
                    change: StatusChange::Fence,
                });
            }
            Some(_) => {}
        }
    }
    // The Node before its NodeUpgrade: when the latter holds our term, the former does.
    for node in world.nodes.values() {
        let upgrade = world.upgrades.get(&node.name);
        let docked = upgrade.is_some_and(|upgrade| {
            upgrade
                .spec
                .dock
                .as_ref()
                .is_some_and(|dock| dock.node_uid == node.uid && dock.term < world.term)
        });
        let marked = matches!(node.mark, Some(Ok(_)));
        if (docked || marked) && node.term.is_none_or(|term| term < world.term) {
            actions.push(Action::FenceNode {
                node: ObjectRef::of_node(node),
                term: world.term,
            });
        }
    }
    for upgrade in world.upgrades.values() {
        let mut spec = upgrade.spec.clone();
        if let Some(dock) = &mut spec.dock
            && dock.term < world.term
            && let Some(upgrade_ref) = ObjectRef::of(&upgrade.metadata)
        {
            dock.term = world.term;
            actions.push(Action::WriteSpec {
                upgrade: upgrade_ref,
                spec: Box::new(spec),
                change: SpecChange::Fence,
            });
        }
    }
    actions
}
