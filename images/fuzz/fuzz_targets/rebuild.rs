//! A page that was signed by mistake, with any bytes stored for it. What comes out before a refusal is never
//! more than the page covers; what comes out of a page that is accepted are just its chunks.
#![no_main]

use drydock_fuzz::{RebuildInput, signed_by_mistake};
use drydock_images::Digest;
use drydock_images::chunk::{
    ChunkIndex, Cuts, Frame, IndexBuilder, MAX_WINDOW_BYTES, Page, Part, Rebuilder, check_chunks,
};
use libfuzzer_sys::fuzz_target;

/// What a longer page gives is counted only, so that this target's own memory is no part of the measure.
const KEPT_BYTES: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let RebuildInput {
        window_bytes,
        page,
        before,
        stored,
    } = RebuildInput::split(data);
    let Ok(page) = Page::parse(page) else {
        return;
    };
    let page = describing(&page, stored);
    let mut builder = IndexBuilder::new();
    builder
        .push(&page, &page.to_bytes(), Part::Front)
        .expect("one page fits");
    let window_bytes = window_bytes % (MAX_WINDOW_BYTES + 1);
    let index = builder
        .finish(&Digest::of(b"artifact"), window_bytes, Cuts::for_image(1, &[]))
        .expect("an index of one page");
    let index = ChunkIndex::parse(&index).expect("what was written can be read");

    let mut rebuilder = Rebuilder::new(index.window_bytes());
    rebuilder.known(before);
    let covers = page.list().image_bytes() as usize;
    let mut content_bytes = 0;
    let mut content = Vec::new();
    let done = rebuilder.page(&page, [stored, stored], |piece| {
        content_bytes += piece.len();
        if covers <= KEPT_BYTES {
            content.extend_from_slice(piece);
        }
    });
    assert!(content_bytes <= covers, "{content_bytes} bytes of {covers}");
    if done.is_ok() {
        assert_eq!(content_bytes, covers);
        let chunks: Vec<_> = page.list().chunks().collect();
        if covers <= KEPT_BYTES {
            assert_eq!(check_chunks(&content, &chunks), Ok(()));
        }
        for part in [Part::Front, Part::Rest] {
            assert!(page.stored_bytes(part) as usize <= stored.len());
        }
    }
});

/// The same page, but its frames have the digests of what is stored, the same in both parts of the pack, as
/// far as it goes.
fn describing(page: &Page, stored: &[u8]) -> Page {
    let mut places = [0; 2];
    let frames = page.frames().iter().map(|frame| {
        let at = &mut places[frame.part as usize];
        let end = *at + frame.stored_bytes as usize;
        let of_frame = stored.get(*at..end).unwrap_or_default();
        *at = end;
        Frame {
            digest: signed_by_mistake(of_frame, frame.content_bytes).digest,
            ..*frame
        }
    });
    Page::new(page.list().clone(), frames.collect()).expect("only digests differ")
}
