//! One node in a model world: a loader, a table, a journal, a guard that is killed anywhere, power cuts,
//! writes that fail, verdicts right and wrong. What must hold is checked after every event; then the
//! faults stop, and every attempt must come to its end. A failing seed replays with `DRYDOCK_SEED=N`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod world;

use std::collections::{BTreeMap, BTreeSet};

use drydock_machine::{EndState, Timing, next_tick};

use world::World;

const SEEDS: u64 = 4_000;

#[test]
fn whatever_happens_the_node_boots_and_every_attempt_ends() {
    let only = std::env::var("DRYDOCK_SEED")
        .ok()
        .and_then(|seed| seed.parse::<u64>().ok());
    let mut states: BTreeMap<String, u64> = BTreeMap::new();
    for seed in only.map_or(0..SEEDS, |seed| seed..seed + 1) {
        let mut world = World::new(seed);
        let run = std::panic::AssertUnwindSafe(|| {
            for _ in 0..120 {
                world.random_act();
            }
            world.heal();
        });
        if let Err(panic) = std::panic::catch_unwind(run) {
            for line in &world.log {
                eprintln!("{line}");
            }
            eprintln!(
                "{:?}, {:?}; replay with DRYDOCK_SEED={seed}",
                world.loader, world.release
            );
            std::panic::resume_unwind(panic);
        }
        let journal = world.journal();
        let spent: BTreeSet<_> = journal.ended.iter().map(|ended| &ended.attempt).collect();
        assert_eq!(
            spent.len(),
            journal.ended.len(),
            "seed {seed}: a name ended twice"
        );
        for ended in &journal.ended {
            let code = ended.code.clone().unwrap_or_default();
            *states.entry(format!("{:?} {code}", ended.state)).or_default() += 1;
        }
        assert_eq!(
            next_tick(&journal, &world.seen(), &Timing::default()),
            drydock_machine::NextTick::Never
        );
    }
    if only.is_none() {
        // A simulation that reaches no outcome proves nothing.
        for wanted in [
            EndState::Committed,
            EndState::Failed,
            EndState::Unconfirmed,
            EndState::NotTried,
        ] {
            let found: u64 = states
                .iter()
                .filter(|(key, _)| key.starts_with(&format!("{wanted:?}")))
                .map(|(_, n)| n)
                .sum();
            assert!(found > 100, "{wanted:?} came about {found} times: {states:#?}");
        }
    }
}
