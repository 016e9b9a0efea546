//! Random clusters with faults: after every write the checker looks; then the faults stop, and what must
//! come comes. A failing seed is printed; `DRYDOCK_SEED=N` runs just that one.

use std::collections::BTreeSet;

use drydock_api::DockStep;
use drydock_plan::plan;

use crate::{
    checker::Checker,
    faults::{Simulation, build},
    model::{Cluster, digest},
    script::policy,
};

fn simulate(seed: u64) {
    let mut simulation = build(seed);
    for _ in 0..600 {
        if simulation.rng.one_in(6) {
            simulation.fault();
        }
        if simulation.rng.one_in(8) {
            simulation.tick();
        } else {
            simulation.step();
        }
    }
    simulation.heal();
    let failures: BTreeSet<String> = simulation.cluster.halts.keys().cloned().collect();
    // A good release that faults made fail: a person forgives, as the guide says.
    if !simulation.bad && !failures.is_empty() {
        forgive(&mut simulation);
    }
    for tick in 0..6 * 60 * 24 * 12 {
        simulation.step();
        if tick % 360 == 0 {
            simulation.heal();
            if !simulation.bad && !simulation.done() {
                forgive(&mut simulation);
            }
        }
        if simulation.done() {
            break;
        }
    }
    if !simulation.done() {
        let made = plan(&simulation.cluster.world());
        for (name, node) in &made.nodes {
            println!("{name}: {} {:?}", node.phase, node.notes);
            println!("   {:?}", simulation.cluster.machines[name]);
            println!(
                "   {:?}",
                simulation.cluster.upgrades.get(name).map(|upgrade| &upgrade.spec)
            );
        }
        println!("halts {:?}", simulation.cluster.halts.keys());
        panic!("L1/L2: it never came to rest");
    }
    for _ in 0..60 {
        simulation.step();
    }
    Checker::at_rest(&simulation.cluster, &BTreeSet::new());
    let granted = simulation.cluster.upgrades.values().filter(|upgrade| {
        upgrade
            .spec
            .dock
            .as_ref()
            .is_some_and(|dock| dock.step == DockStep::Granted)
    });
    assert_eq!(granted.count(), 0);
}

/// A person forgives 2.0 everywhere and deletes its halt last.
fn forgive(simulation: &mut Simulation) {
    let names: Vec<String> = simulation.cluster.nodes.keys().cloned().collect();
    for name in &names {
        let ask = drydock_api::Ask::Forgive {
            digest: digest("2.0"),
        };
        simulation
            .cluster
            .touch_node(name, |node| node.ask = Some(Ok(ask)));
    }
    for _ in 0..30 {
        simulation.step();
    }
    simulation.cluster.halts.remove(&digest("2.0"));
}

#[test]
fn nothing_forbidden_happens_and_all_comes_to_its_end() {
    if let Ok(seed) = std::env::var("DRYDOCK_SEED") {
        simulate(seed.parse().unwrap());
        return;
    }
    let seeds: u64 = std::env::var("DRYDOCK_SEEDS")
        .ok()
        .map_or(30, |count| count.parse().unwrap());
    for seed in 0..seeds {
        let result = std::panic::catch_unwind(|| simulate(seed));
        if let Err(panic) = result {
            println!("failing seed: DRYDOCK_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// L2: bad everywhere, so the canaries alone are touched, and every one goes back.
#[test]
fn a_release_that_is_bad_everywhere_touches_canaries_only() {
    for (canaries, threshold) in [(1, 1), (2, 1), (1, 3), (3, 2)] {
        let mut cluster = Cluster::new("2026-11-02T08:00:00Z".parse().unwrap());
        cluster.release("1.0");
        cluster.release("2.0");
        cluster.bad.insert(digest("2.0"));
        let text = format!(
            "{{strategy: {{maxUnavailable: 5, canaries: {canaries}, failureThreshold: {threshold}, soak: 2m}}}}"
        );
        cluster.apply("a", policy("a", &text));
        for index in 0..8 {
            cluster.join(
                &format!("n{index}"),
                "1.0",
                [("pool".to_owned(), "a".to_owned())].into(),
            );
        }
        for _ in 0..2000 {
            let made = plan(&cluster.world());
            let term = cluster.term;
            cluster.execute(&made, term, usize::MAX).unwrap();
            cluster.tick();
        }
        let touched = cluster
            .machines
            .values()
            .filter(|machine| !machine.trials.is_empty())
            .count();
        assert_eq!(touched, threshold, "canaries {canaries}, threshold {threshold}");
        assert!(
            cluster
                .machines
                .values()
                .all(|machine| machine.running == digest("1.0"))
        );
        assert!(cluster.halts.contains_key(&digest("2.0")));
        Checker::at_rest(&cluster, &BTreeSet::new());
    }
}

#[test]
fn a_plan_of_many_nodes_costs_by_their_number_and_not_its_square() {
    let measure = |nodes: usize| {
        let mut cluster = Cluster::new("2026-11-02T08:00:00Z".parse().unwrap());
        cluster.release("1.0");
        cluster.release("2.0");
        let text = "{strategy: {maxUnavailable: '10%', topologyKey: zone}, windows: [{start: '2020-01-01T08:00:00', duration: 4h, rrule: FREQ=DAILY}]}";
        cluster.apply("a", policy("a", text));
        for index in 0..nodes {
            cluster.join(
                &format!("n{index:05}"),
                "1.0",
                [("pool".to_owned(), "a".to_owned())].into(),
            );
        }
        for _ in 0..4 {
            let made = plan(&cluster.world());
            cluster.execute(&made, 1, usize::MAX).unwrap();
            cluster.tick();
        }
        let world = cluster.world();
        let once = || {
            let begun = std::time::Instant::now();
            assert_eq!(plan(&world).nodes.len(), nodes);
            begun.elapsed()
        };
        (0..5).map(|_| once()).min().unwrap()
    };
    let (few, many) = (measure(500), measure(4000));
    println!("500 nodes {few:?}, 4000 nodes {many:?}");
    // 8 times the nodes: 64 times the work if it were the square.
    assert!(many < few * 32, "500 nodes {few:?}, 4000 nodes {many:?}");
}
