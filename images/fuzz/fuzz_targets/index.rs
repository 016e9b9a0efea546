//! Chunk indexes. The pages of one that is accepted lie one behind another, in the image and in the pack,
//! and add up; one that covers a byte more or less is refused.
#![no_main]

use drydock_images::chunk::index::{ENTRY_BYTES, HEADER_BYTES};
use drydock_images::chunk::{
    ChunkIndex, IndexError, MAX_ARTIFACT_BYTES, MAX_CHUNK_BYTES, MAX_FRAME_BYTES, MAX_PAGE_BYTES,
    MAX_PAGE_CHUNKS, MAX_PAGES, MAX_WINDOW_BYTES, Part,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(index) = ChunkIndex::parse(data) else {
        return;
    };
    let pages = index.pages();
    assert!((1..=MAX_PAGES as usize).contains(&pages.len()));
    assert_eq!(data.len(), HEADER_BYTES + pages.len() * ENTRY_BYTES);
    assert!(index.size() <= MAX_ARTIFACT_BYTES && index.window_bytes() <= MAX_WINDOW_BYTES);
    let mut offset = 0;
    for page in pages {
        assert_eq!(page.offset, offset);
        assert!((1..=MAX_PAGE_CHUNKS as u32).contains(&page.chunks));
        assert!((1..=MAX_PAGE_BYTES).contains(&page.page_bytes));
        assert!((page.chunks..=page.chunks * MAX_CHUNK_BYTES).contains(&page.image_bytes));
        assert!(
            page.frames_bytes
                .iter()
                .all(|bytes| *bytes <= page.chunks * MAX_FRAME_BYTES)
        );
        offset += u64::from(page.image_bytes);
    }
    // The pack: in each part first the frames, then the pages, without a gap.
    let mut end = 0;
    for part in [Part::Front, Part::Rest] {
        let frames = pages.iter().map(|page| page.frames(part));
        let stored = pages
            .iter()
            .filter(|page| page.part == part)
            .map(|page| page.stored());
        for piece in frames.chain(stored) {
            assert_eq!(piece.start, end);
            end = piece.end;
        }
    }
    assert_eq!((index.size(), index.pack_bytes()), (offset, end));
    assert_eq!(index.check_artifact(&index.artifact(), offset), Ok(()));
    assert!(index.check_artifact(&index.artifact(), offset + 1).is_err());

    assert!(ChunkIndex::parse(&data[..data.len() - 1]).is_err());
    let at = HEADER_BYTES + 52;
    for covers in [pages[0].image_bytes - 1, pages[0].image_bytes + 1] {
        let mut other = data.to_vec();
        other[at..at + 4].copy_from_slice(&covers.to_le_bytes());
        let refused = ChunkIndex::parse(&other);
        assert!(
            matches!(refused, Err(IndexError::Sum { .. } | IndexError::Rule(_))),
            "{refused:?}"
        );
    }
});
