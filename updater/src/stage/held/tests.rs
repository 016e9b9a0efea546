//! A kept file of several runs, and what is found in it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use drydock_images::chunk::Chunk;

use super::*;
use crate::disk::gate::OpenGate;
use crate::state::{LockName, StateDir};

impl Held {
    /// Every chunk and every list, for comparing.
    pub(in super::super) fn sorted(&self) -> (Vec<u64>, Vec<[u8; LIST_BYTES]>) {
        let mut chunks = Vec::new();
        for leaf in 0..self.fences.len() {
            let look = |leaf: &[[u8; CHUNK_BYTES]]| {
                chunks.extend(leaf.iter().map(|chunk| u64::from_le_bytes(*chunk)));
            };
            self.leaf(leaf, look).unwrap();
        }
        chunks.sort_unstable();
        let mut lists = Vec::new();
        for leaf in 0..self.list_fences.len() {
            self.list_leaf(leaf, |leaf| lists.extend_from_slice(leaf))
                .unwrap();
        }
        (chunks, lists)
    }
}

fn id(number: u64) -> ChunkId {
    ChunkId::of(&number.to_le_bytes())
}

const BLOCK: u32 = 4096;

/// Lists of 64 chunks, as long as two runs and a half; each chunk that is `seldom` stands in many places.
fn image() -> Vec<u64> {
    let count = RUN_CHUNKS as u64 * 5 / 2;
    (0..count)
        .map(|at| if at % 1000 == 7 { at % 3000 } else { at + (1 << 40) })
        .collect()
}

fn put(builder: &mut HeldBuilder<'_>, image: &[u64]) -> Vec<ListId> {
    let mut ids = Vec::new();
    for (number, numbers) in image.chunks(64).enumerate() {
        let chunks = numbers.iter().map(|number| Chunk {
            id: id(*number),
            length: BLOCK,
        });
        let at = number as u64 * 64 * u64::from(BLOCK);
        let list = ListId::from_bytes(*id(at).as_bytes().first_chunk().unwrap());
        builder.list(at, list, chunks);
        ids.push(list);
    }
    ids
}

fn holds_what_the_image_has(held: &Held, image: &[u64], lists: &[ListId]) {
    let mut places: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (at, number) in image.iter().enumerate() {
        places
            .entry(*number)
            .or_default()
            .push(at as u64 * u64::from(BLOCK));
    }
    for (number, places) in places.iter().step_by(13) {
        for near in [0, places[0], *places.last().unwrap(), u64::MAX] {
            let found: Vec<u64> = held.chunk(&id(*number), near).collect();
            assert!(found.len() <= MAX_PLACES);
            if places.len() < MAX_PLACES {
                assert!(
                    places.iter().all(|place| found.contains(place)),
                    "{number}: {found:?}"
                );
            } else {
                assert!(
                    found.iter().any(|place| places.contains(place)),
                    "{number}: {found:?}"
                );
            }
        }
        // What is wanted where it stands is found there first.
        let [place] = places[..] else { continue };
        let first = held.chunk(&id(*number), place).next().unwrap();
        let run = |place: u64| place / u64::from(BLOCK) / RUN_CHUNKS as u64;
        assert_eq!(run(first), run(place));
    }
    for (number, list) in lists.iter().enumerate() {
        assert_eq!(held.list(list), Some(number as u64 * 64 * u64::from(BLOCK)));
    }
    assert_eq!(held.chunk(&id(u64::MAX), 0).next(), None);
    for id in [[1; 16], [77; 16], [255; 16]] {
        assert_eq!(held.list(&ListId::from_bytes(id)), None);
    }
}

fn cuts() -> Cuts {
    Cuts::for_image(1 << 30, &[])
}

#[test]
fn what_is_kept_of_several_runs_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path(), Arc::new(OpenGate)).unwrap();
    let lock = state.lock(LockName::Slot).unwrap();
    let hints = Hints::new(&state);
    let image = image();
    let keeping = Keeping {
        hints: &hints,
        lock: &lock,
        slot: SlotName::A,
        name: "root",
    };
    let artifact = Digest::of(b"image");
    let mut builder = HeldBuilder::in_file(keeping);
    let lists = put(&mut builder, &image);
    assert!(builder.keep(artifact, cuts()));
    let kept = Held::load(&hints, SlotName::A, "root", &artifact).unwrap();
    holds_what_the_image_has(&kept, &image, &lists);

    let mut builder = HeldBuilder::in_memory();
    put(&mut builder, &image);
    let held = builder.into_memory(cuts());
    holds_what_the_image_has(&held, &image, &lists);
    assert_eq!(held.sorted(), kept.sorted());
    assert_eq!(held.runs, kept.runs);

    // One that is not kept leaves the one before, and nothing else.
    let mut builder = HeldBuilder::in_file(keeping);
    put(&mut builder, &image);
    assert!(folder.path().join("slot-a.root.held.new").exists());
    drop(builder);
    assert_eq!(names(folder.path()), ["slot-a.root.held", "slot.lock"]);
    assert!(Held::load(&hints, SlotName::A, "root", &artifact).is_some());
}

fn names(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
