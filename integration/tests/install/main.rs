//! What `kubectl drydock install` puts into a cluster, on a real control plane: it is taken without a
//! warning, it lets everyone do what they are for and nothing else, and a whole rollout uses exactly the
//! rights that it gives. All cases share one control plane and run in turn.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod agents;
mod apply;
mod coordinators;
mod doctor;
mod fleet;
mod helm;
#[path = "../realcluster/requests.rs"]
mod requests;
mod rights;
mod rollout;
mod tools;

use std::sync::Arc;
use std::time::Duration;

use drydock_integration::realcluster::cases::{Case, run_in_turn};
use drydock_integration::realcluster::{Binaries, ControlPlane, Options};

/// In this order: each finds what the one before left.
const CASES: &[(&str, Case)] = &[
    ("a dry run before anything is there", |c| {
        Box::pin(apply::dry_run_before(c))
    }),
    ("agents as units are applied without a warning", |c| {
        Box::pin(apply::units(c))
    }),
    (
        "a kubelet's credential does what its agent needs and no more",
        |c| Box::pin(agents::kubelets(c)),
    ),
    ("agents as pods are applied over them", |c| {
        Box::pin(apply::daemon_set(c))
    }),
    ("the Helm chart is the same installation", |c| {
        Box::pin(helm::same(c))
    }),
    ("the policies' expressions have no type errors", |c| {
        Box::pin(apply::type_checks(c))
    }),
    ("the doctor finds what is broken", |c| Box::pin(doctor::finds(c))),
    ("an agent's token does what it needs and no more", |c| {
        Box::pin(agents::pods(c))
    }),
    ("the coordinator does what it needs and no more", |c| {
        Box::pin(coordinators::coordinator(c))
    }),
    ("people steer by other means than a NodeUpgrade", |c| {
        Box::pin(coordinators::people(c))
    }),
    ("a NodeUpgrade goes with its Node", |c| {
        Box::pin(coordinators::collected(c))
    }),
    (
        "a rollout uses the rights that it has, and goes on after an outage",
        |c| Box::pin(rollout::story(c)),
    ),
    ("agents as units use the rights that they have", |c| {
        Box::pin(rollout::units(c))
    }),
    ("an uninstall keeps what is held, or leaves nothing", |c| {
        Box::pin(apply::uninstall(c))
    }),
    ("Helm installs, upgrades and uninstalls, and loses nothing", |c| {
        Box::pin(helm::life(c))
    }),
];
/// The variable with a word of the one case that is run; none: all of them.
const ONLY: &str = "DRYDOCK_ONLY_CASE";
/// For each case, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(400);

#[test]
fn an_installation_on_a_real_control_plane() {
    let Some(binaries) = Binaries::find().unwrap() else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let cluster = Arc::new(ControlPlane::start(Options::new(binaries)).await.unwrap());
        let only = std::env::var(ONLY);
        // One alone, for whoever works on it; those that are applied before are always needed.
        let wanted = |name: &str| {
            only.as_ref()
                .map_or(true, |only| name.contains(only) || name.contains("applied"))
        };
        let cases = CASES.iter().filter(|(name, _)| wanted(name));
        let failed = run_in_turn(&cluster, cases, PATIENCE).await;
        assert!(failed.is_empty(), "failed: {failed:#?}");
        let cluster = Arc::try_unwrap(cluster)
            .ok()
            .expect("a case has kept the control plane");
        cluster.stop().await.unwrap();
    });
}
