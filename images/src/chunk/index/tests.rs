//! Indexes that are written and read, and those that are refused.

#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::*;
use crate::chunk::cut::tests::CUTS;
use crate::chunk::page::{Chunk, ChunkList, Frame};
use crate::chunk::{ChunkId, MAX_CHUNK_BYTES};
use proptest::prelude::*;

fn page(seed: u8, length: u32) -> Page {
    let mut list = ChunkList::default();
    let id = ChunkId::of(&[seed, 1]);
    list.push(Chunk { length, id });
    list.push(Chunk {
        length: 100,
        id: ChunkId::ZEROS,
    });
    let frame = Frame {
        part: if seed == 1 { Part::Rest } else { Part::Front },
        first_chunk: 0,
        chunks: 1,
        stored_bytes: 50,
        content_bytes: length,
        digest: Digest::of(&[seed]),
    };
    Page::new(list, vec![frame]).unwrap()
}

fn example() -> Vec<u8> {
    let mut builder = IndexBuilder::new();
    for (seed, length) in [(1, 70_000), (2, MAX_CHUNK_BYTES)] {
        let page = page(seed, length);
        builder
            .push(&page, &page.to_bytes(), page.frames()[0].part)
            .unwrap();
    }
    builder.finish(&Digest::of(b"artifact"), 1000, CUTS).unwrap()
}

const SIZE: u64 = 70_100 + MAX_CHUNK_BYTES as u64 + 100;

#[test]
fn what_was_written_is_read() {
    let index = ChunkIndex::parse(&example()).unwrap();
    let places: Vec<_> = index
        .pages()
        .iter()
        .map(|page| (page.offset, page.frames(page.part), page.page_at))
        .collect();
    assert_eq!(places, [(0, 134..184, 184), (70_100, 0..50, 50)]);
    assert_eq!((index.size(), index.pack_bytes(), index.chunks()), (SIZE, 268, 4));
    index.check_artifact(&Digest::of(b"artifact"), SIZE).unwrap();
    assert!(index.check_artifact(&Digest::of(b"artifact"), SIZE + 1).is_err());
    assert!(index.check_artifact(&Digest::of(b"other"), SIZE).is_err());
}

#[test]
fn a_page_is_read_only_as_the_one_that_is_named() {
    let index = ChunkIndex::parse(&example()).unwrap();
    let (first, second) = (page(1, 70_000), page(2, MAX_CHUNK_BYTES));
    assert_eq!(index.pages()[0].read(&first.to_bytes()).unwrap(), first);
    assert!(matches!(
        index.pages()[0].read(&second.to_bytes()),
        Err(PageError::Other(_))
    ));
    // Signed, but at odds with itself.
    let mut lying = index.pages()[0];
    lying.frames_bytes[0] += 1;
    assert!(matches!(lying.read(&first.to_bytes()), Err(PageError::Other(_))));
    let mut lying = index.pages()[0];
    lying.list = index.pages()[1].list;
    assert!(matches!(lying.read(&first.to_bytes()), Err(PageError::Other(_))));
}

#[test]
fn every_cut_and_every_addition_is_refused() {
    let bytes = example();
    for length in 0..bytes.len() {
        assert!(ChunkIndex::parse(&bytes[..length]).is_err(), "cut at {length}");
    }
    assert!(ChunkIndex::parse(&[bytes.as_slice(), b"x"].concat()).is_err());
    let entry = &bytes[HEADER_BYTES..HEADER_BYTES + ENTRY_BYTES];
    assert!(ChunkIndex::parse(&[bytes.as_slice(), entry].concat()).is_err());
}

#[test]
fn what_does_not_add_up_is_refused() {
    let set = |at: usize, value: &[u8]| {
        let mut bytes = example();
        bytes[at..at + value.len()].copy_from_slice(value);
        ChunkIndex::parse(&bytes)
    };
    let rules: [(usize, u32); 12] = [
        (10, 1),
        (12, 0),
        (12, u32::MAX),
        (24, MAX_WINDOW_BYTES + 1),
        (28, 5000),
        (36, 1),
        (HEADER_BYTES + 48, 2 << 16),
        (HEADER_BYTES + 48, 100),
        (HEADER_BYTES + 52, u32::MAX),
        (HEADER_BYTES + 56, u32::MAX),
        (HEADER_BYTES + 60, u32::MAX),
        (HEADER_BYTES + 48, 84 | 129 << 16),
    ];
    for (at, value) in rules {
        let found = set(at, &value.to_le_bytes());
        assert!(matches!(found, Err(IndexError::Rule(_))), "{at}: {found:?}");
    }
    for (at, value) in [(16, SIZE + 1), (16, u64::MAX)] {
        assert!(matches!(
            set(at, &value.to_le_bytes()),
            Err(IndexError::Sum { .. })
        ));
    }
    let longer = 70_101u32.to_le_bytes();
    assert!(matches!(
        set(HEADER_BYTES + 52, &longer),
        Err(IndexError::Sum { .. })
    ));
    assert!(matches!(
        set(8, &3u16.to_le_bytes()),
        Err(IndexError::NewerFormat { found: 3 })
    ));
    assert!(matches!(
        set(8, &1u16.to_le_bytes()),
        Err(IndexError::OlderFormat { found: 1 })
    ));
    assert!(matches!(
        set(12, &3u32.to_le_bytes()),
        Err(IndexError::Length { .. })
    ));
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), real: bool) {
        if real && bytes.len() >= 10 {
            bytes[..8].copy_from_slice(&MAGIC);
            bytes[8..10].copy_from_slice(&INDEX_FORMAT.to_le_bytes());
        }
        let _ = ChunkIndex::parse(&bytes);
    }
}
