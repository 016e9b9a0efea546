//! Pages that are written and read, and those that are refused.

#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::*;
use crate::chunk::cut::tests::{CUTS, noise};
use proptest::prelude::*;

fn chunk(seed: u8, length: u32) -> Chunk {
    Chunk {
        length,
        id: ChunkId::of(&[seed, 1]),
    }
}

const HOLE: Chunk = Chunk {
    length: 5000,
    id: ChunkId::ZEROS,
};

fn frame(chunks: u16) -> Vec<u8> {
    [
        &77u32.to_le_bytes()[..],
        &chunks.to_le_bytes(),
        &[0; 2],
        Digest::of(b"frame").as_bytes(),
    ]
    .concat()
}

fn page_of(chunks: &[Chunk], frames: &[u16]) -> Vec<u8> {
    let mut list = ChunkList::default();
    chunks.iter().for_each(|chunk| list.push(*chunk));
    let counts = [chunks.len() as u16, frames.len() as u16];
    let head: Vec<u8> = counts.iter().flat_map(|count| count.to_le_bytes()).collect();
    let frames: Vec<u8> = frames.iter().flat_map(|chunks| frame(*chunks)).collect();
    [head, list.stored, frames].concat()
}

#[test]
fn what_was_written_is_read() {
    let bytes = page_of(&[HOLE, chunk(1, 100), chunk(2, 200), HOLE, chunk(3, 7)], &[2, 1]);
    let page = Page::parse(&bytes).unwrap();
    let frames: Vec<_> = page
        .frames()
        .iter()
        .map(|frame| (frame.first_chunk, frame.chunks, frame.content_bytes))
        .collect();
    assert_eq!(frames, [(1, 2, 300), (4, 1, 7)]);
    assert_eq!(
        (page.list().image_bytes(), page.stored_bytes(Part::Front)),
        (10_307, 154)
    );
    assert_eq!(page.to_bytes(), bytes);
    // What it is called does not depend on how it is stored.
    let other = page_of(
        &[HOLE, chunk(1, 100), chunk(2, 200), HOLE, chunk(3, 7)],
        &[1, 1, 1],
    );
    assert_eq!(Page::parse(&other).unwrap().list().id(), page.list().id());
}

#[test]
fn what_breaks_a_rule_is_refused() {
    let good = [chunk(1, 100), HOLE, chunk(2, 200)];
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("no chunks", page_of(&[], &[])),
        ("too many chunks", page_of(&[chunk(1, 1); 129], &[128, 1])),
        ("a frame over zeros", page_of(&good, &[3])),
        ("a frame too few", page_of(&good, &[1])),
        ("a frame too many", page_of(&good, &[1, 1, 1])),
        ("a frame of nothing", page_of(&good, &[0, 1, 1])),
        ("a frame past the end", page_of(&good, &[1, 2])),
        ("an empty chunk", page_of(&[chunk(1, 0)], &[1])),
        ("a long chunk", page_of(&[chunk(1, MAX_CHUNK_BYTES + 1)], &[1])),
        (
            "a long frame",
            page_of(&[chunk(1, MAX_CHUNK_BYTES), chunk(2, 1)], &[2]),
        ),
        ("zeros with an id", page_of(&[chunk(1, 5 | ZEROS)], &[])),
        ("more than it says", [page_of(&good, &[1, 1]), vec![0]].concat()),
    ];
    for (what, bytes) in table {
        assert!(Page::parse(&bytes).is_err(), "{what}");
    }
    let bytes = page_of(&good, &[1, 1]);
    for length in 0..bytes.len() {
        assert!(Page::parse(&bytes[..length]).is_err(), "cut at {length}");
    }
}

fn lists(image: &[u8]) -> Vec<ChunkList> {
    let mut cutter = ListCutter::default();
    let mut lists: Vec<_> = chunk_slice(image, CUTS)
        .filter_map(|chunk| cutter.push(Chunk::of(chunk)))
        .collect();
    lists.extend(cutter.finish());
    lists
}

#[test]
fn a_shift_in_front_leaves_later_lists_as_they_were() {
    let old = noise(1, 8_000_000);
    let new = [b"a few bytes more".as_slice(), &old].concat();
    let (old, new) = (lists(&old), lists(&new));
    let shared = new.iter().filter(|list| old.contains(list)).count();
    assert!(shared > 5 && shared + 3 >= new.len(), "{shared} of {}", new.len());
}

/// So a node proves a copied piece by cutting it again.
#[test]
fn what_a_list_covers_gives_the_list_again() {
    let image = [noise(2, 3_000_000), vec![0; 700_000], noise(3, 1_000_001)].concat();
    let mut at = 0;
    for list in lists(&image) {
        let end = at + list.image_bytes() as usize;
        assert_eq!(ChunkList::of(&image[at..end], CUTS), list);
        at = end;
    }
    assert_eq!(at, image.len());
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400), chunks in 0u16..4, frames in 0u16..4,
    ) {
        if bytes.len() >= 4 {
            bytes[..2].copy_from_slice(&chunks.to_le_bytes());
            bytes[2..4].copy_from_slice(&frames.to_le_bytes());
        }
        let length = 4 + usize::from(chunks) * CHUNK_BYTES + usize::from(frames) * FRAME_BYTES;
        bytes.resize(length, 1);
        if let Ok(page) = Page::parse(&bytes) {
            prop_assert_eq!(page.to_bytes(), bytes);
        }
    }
}
