//! Reading ahead: what is given, and how far ahead of its use.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;

use super::fixture::{Fixture, MIB, Node};
use crate::disk::gate::OpenGate;
use crate::disk::{PartitionReader, SlotName};
use crate::stage::ahead::{Ahead, PIECE_BYTES};

const ROOT_BYTES: usize = 4 * MIB as usize;

/// However many places there are and however long, all come in their order and as they stand there, and three
/// are in memory, neither more nor fewer: the one that is used, and one for each reader.
#[tokio::test(flavor = "multi_thread")]
async fn all_comes_in_order_and_three_places_are_in_memory() {
    let fixture = Fixture::new(&[1]).await;
    let node = Node::on(fixture.disk_image(1), fixture.path("state"), Arc::new(OpenGate));
    let partition = node.slots().a.artifact("root").unwrap().clone();
    let reader = PartitionReader::open(node.control.device(), &partition).unwrap();
    let content = node.content(SlotName::A, "root", ROOT_BYTES);
    let run = |places: Vec<Range<usize>>| {
        let given = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let told = places.clone().into_iter().map(|place| {
                given.fetch_add(1, Ordering::SeqCst);
                place.start as u64..place.end as u64
            });
            let mut ahead = Ahead::start(scope, reader.clone(), told);
            for (used, place) in places.iter().enumerate() {
                prop_assert!(ahead.advance().unwrap());
                prop_assert!(ahead.bytes() == &content[place.clone()], "{place:?}");
                // The readers come to what they may read, whoever uses it or not, and no further.
                let foreseen = 3.min(places.len() - used);
                let patience = Instant::now() + Duration::from_secs(10);
                while given.load(Ordering::SeqCst) - used < foreseen && Instant::now() < patience {
                    std::thread::yield_now();
                }
                prop_assert_eq!(given.load(Ordering::SeqCst) - used, foreseen);
            }
            prop_assert_eq!(ahead.advance().unwrap(), false);
            Ok(())
        })
    };
    let place = (0..ROOT_BYTES, 1..=2 * PIECE_BYTES).prop_map(|(at, len)| at..(at + len).min(ROOT_BYTES));
    let small = (0..ROOT_BYTES - 4096).prop_map(|at| at..at + 4096);
    let long = (0..ROOT_BYTES / 4).prop_map(|at| at..at + 3 * MIB as usize);
    let places = vec(prop_oneof![4 => place, 4 => small, 1 => long], 0..60);
    // Where a reader stands still, each try takes all the patience there is.
    let config = ProptestConfig {
        cases: 48,
        max_shrink_iters: 8,
        ..ProptestConfig::default()
    };
    proptest!(config, |(places in places)| run(places)?);
}
