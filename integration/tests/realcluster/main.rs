//! What only a real control plane can judge: that it takes Drydock's resources and enforces their rules,
//! who its identities are, and that the harness leaves nothing behind. All cases share one control plane
//! and run in turn, so that its end is certain and is itself checked.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod failures;
mod identities;
mod outage;
mod processes;
mod requests;
mod resources;

use std::sync::Arc;
use std::time::{Duration, Instant};

use drydock_integration::realcluster::cases::{Case, run_in_turn};
use drydock_integration::realcluster::{Binaries, ControlPlane, Options};

/// In this order; each after the first finds Drydock's resources there.
const CASES: &[(&str, Case)] = &[
    ("it is ready and knows its version", |c| {
        Box::pin(outage::ready(c))
    }),
    ("the CRDs are taken without a warning", |c| {
        Box::pin(resources::crds(c))
    }),
    ("the CRDs' rules speak as documented", |c| {
        Box::pin(resources::rules(c))
    }),
    ("what the types write comes back the same", |c| {
        Box::pin(resources::round_trip(c))
    }),
    ("users are in all their groups, and RBAC judges them", |c| {
        Box::pin(identities::users(c))
    }),
    ("a node may change itself and no other", |c| {
        Box::pin(identities::nodes(c))
    }),
    ("a pod's token names its node and ends with the pod", |c| {
        Box::pin(identities::pods(c))
    }),
    ("the audit log tells who did what as whom", |c| {
        Box::pin(identities::audit(c))
    }),
    ("an outage ends, and what was there still is", |c| {
        Box::pin(outage::outage(c))
    }),
];
/// For each case, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(180);

#[test]
fn a_real_control_plane() {
    let Some(binaries) = Binaries::find().unwrap() else {
        return;
    };
    println!("programs: {}", binaries.origin);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let cluster = Arc::new(ControlPlane::start(Options::new(binaries)).await.unwrap());
        println!("ready after {:.1} s", cluster.time_to_ready().as_secs_f64());
        let failed = run_in_turn(&cluster, CASES, PATIENCE).await;
        for (name, memory) in cluster.memory() {
            let mib = |bytes: u64| bytes / (1024 * 1024);
            println!(
                "{name}: {} MiB resident, {} MiB at most",
                mib(memory.resident_bytes),
                mib(memory.peak_bytes)
            );
        }
        let (ids, folder) = (cluster.process_ids(), cluster.folder().to_owned());
        assert!(ids.len() >= 2 && folder.is_dir());
        let cluster = Arc::try_unwrap(cluster)
            .ok()
            .expect("a case has kept the control plane");
        let started = Instant::now();
        cluster.stop().await.unwrap();
        println!("ended after {:.1} s", started.elapsed().as_secs_f64());
        for (name, id) in ids {
            assert!(!processes::is_running(id), "{name} runs on as {id}");
        }
        assert!(!folder.exists(), "{} is left", folder.display());
        assert!(failed.is_empty(), "failed: {failed:#?}");
    });
}
