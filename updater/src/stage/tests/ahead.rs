//! Reading ahead: what is given, and how much memory it takes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::collection::vec;
use proptest::prelude::*;

use super::fixture::{Fixture, MIB, Node};
use crate::disk::gate::OpenGate;
use crate::disk::{PartitionReader, SlotName};
use crate::stage::ahead::{Ahead, PIECE_BYTES};

const ROOT_BYTES: usize = 4 * MIB as usize;

/// However many places there are and however long, all come in their order and as they stand there, and what
/// is read before it is used has a bound: so many pieces, so many bytes, or three longer places.
#[tokio::test(flavor = "multi_thread")]
async fn all_comes_in_order_and_in_bounded_memory() {
    let fixture = Fixture::new(&[1]).await;
    let node = Node::on(fixture.disk_image(1), fixture.path("state"), Arc::new(OpenGate));
    let partition = node.slots().a.artifact("root").unwrap().clone();
    let reader = PartitionReader::open(node.control.device(), &partition).unwrap();
    let content = node.content(SlotName::A, "root", ROOT_BYTES);
    let run = |places: Vec<Range<usize>>, most: usize| {
        // Those that a reader was given, with the one that waits for memory.
        let (given, given_bytes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let longest = places.iter().map(|place| place.len()).max().unwrap_or(0);
        let most_bytes = (most * PIECE_BYTES).max(3 * longest);
        std::thread::scope(|scope| {
            let told = places.clone().into_iter().map(|place| {
                given.fetch_add(1, Ordering::SeqCst);
                given_bytes.fetch_add(place.len(), Ordering::SeqCst);
                Ok(place.start as u64..place.end as u64)
            });
            let mut ahead = Ahead::start(scope, reader.clone(), told, most);
            let (mut used, mut used_bytes) = (0, 0);
            for place in &places {
                prop_assert!(ahead.advance().unwrap());
                prop_assert!(ahead.bytes() == &content[place.clone()], "{place:?}");
                std::thread::yield_now();
                let pieces = given.load(Ordering::SeqCst) - used;
                let bytes = given_bytes.load(Ordering::SeqCst) - used_bytes;
                prop_assert!(pieces <= most + 1, "{pieces} pieces of at most {most}");
                prop_assert!(
                    bytes <= most_bytes + longest,
                    "{bytes} bytes of at most {most_bytes}"
                );
                used += 1;
                used_bytes += place.len();
            }
            prop_assert_eq!(ahead.advance().unwrap(), false);
            Ok(())
        })
    };
    let place = (0..ROOT_BYTES, 1..=2 * PIECE_BYTES).prop_map(|(at, len)| at..(at + len).min(ROOT_BYTES));
    let small = (0..ROOT_BYTES - 4096).prop_map(|at| at..at + 4096);
    let long = (0..ROOT_BYTES / 4).prop_map(|at| at..at + 3 * MIB as usize);
    let places = vec(prop_oneof![4 => place, 4 => small, 1 => long], 0..60);
    proptest!(ProptestConfig::with_cases(48), |(places in places, most in 3..8_usize)| run(places, most)?);
}
