//! ReleaseHalts that are due: a release failed on as many nodes as a policy's threshold says. Only ever
//! creates; people delete.

use drydock_api::ReleaseHaltSpec;

use crate::{action::Action, scene::Scene};

/// Evidence that a halt may name.
const EVIDENCE: usize = 20;

/// Halts to be created before anything else is done.
pub(crate) fn due(scene: &Scene<'_>) -> Vec<Action> {
    let mut actions = Vec::new();
    for (digest, evidence) in &scene.failures {
        if digest.is_empty() || scene.world.halts.contains_key(digest) {
            continue;
        }
        let threshold = evidence
            .iter()
            .filter_map(|failure| scene.selected_by.get(failure.node.as_str()))
            .flatten()
            .filter_map(|name| scene.policies.get(name))
            .map(|policy| policy.object.spec.strategy.failure_threshold)
            .min()
            .unwrap_or(1);
        if evidence.len() < usize::try_from(threshold).unwrap_or(1).max(1) {
            continue;
        }
        let repository = scene
            .world
            .repositories
            .iter()
            .find(|(_, repository)| repository.releases.contains_key(digest));
        let codes: Vec<String> = evidence
            .iter()
            .map(|failure| format!("{} ({})", failure.node, failure.code))
            .collect();
        actions.push(Action::CreateHalt {
            halt: Box::new(ReleaseHaltSpec {
                digest: digest.clone(),
                repository: repository.map(|(name, _)| name.clone()),
                version: repository
                    .and_then(|(_, repository)| repository.releases.get(digest))
                    .map(|release| release.version.to_string()),
                reason: format!("failed on {}", crate::drain::names(&codes)),
                evidence: evidence.iter().take(EVIDENCE).cloned().collect(),
                by: "coordinator".to_owned(),
                at: scene.world.now,
            }),
        });
    }
    actions
}
