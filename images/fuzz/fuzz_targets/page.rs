//! Pages. One that is accepted is written as it was read, its frames hold just its chunks that are no zeros,
//! and it is taken only where the index names just this one.
#![no_main]

use drydock_images::Digest;
use drydock_images::chunk::{
    ChunkId, ChunkIndex, Cuts, IndexBuilder, MAX_CHUNK_BYTES, MAX_FRAME_BYTES, MAX_FRAME_CONTENT_BYTES, Page,
    Part,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(page) = Page::parse(data) else {
        return;
    };
    assert_eq!(page.to_bytes(), data);
    let chunks: Vec<_> = page.list().chunks().collect();
    assert!(
        chunks
            .iter()
            .all(|chunk| (1..=MAX_CHUNK_BYTES).contains(&chunk.length))
    );
    let image_bytes: u32 = chunks.iter().map(|chunk| chunk.length).sum();
    assert_eq!(
        (chunks.len(), image_bytes),
        (page.list().count(), page.list().image_bytes())
    );

    let mut in_frames = vec![false; chunks.len()];
    for frame in page.frames() {
        let first = usize::from(frame.first_chunk);
        let inside = first..first + usize::from(frame.chunks);
        assert!(!inside.is_empty() && in_frames[inside.clone()].iter().all(|taken| !taken));
        in_frames[inside.clone()].fill(true);
        let content_bytes: u32 = chunks[inside].iter().map(|chunk| chunk.length).sum();
        assert_eq!(frame.content_bytes, content_bytes);
        assert!(content_bytes <= MAX_FRAME_CONTENT_BYTES);
        assert!((1..=MAX_FRAME_BYTES).contains(&frame.stored_bytes));
    }
    for (chunk, in_frame) in chunks.iter().zip(in_frames) {
        assert_eq!(chunk.id == ChunkId::ZEROS, !in_frame);
    }

    let mut builder = IndexBuilder::new();
    builder.push(&page, data, Part::Rest).expect("one page fits");
    let index = builder
        .finish(&Digest::of(b"artifact"), 0, Cuts::for_image(1, &[]))
        .expect("an index of one page");
    let index = ChunkIndex::parse(&index).expect("what was written can be read");
    let named = index.pages()[0];
    assert_eq!(named.read(data), Ok(page));
    let mut other = data.to_vec();
    other[data.len() / 2] ^= 1;
    assert!(named.read(&other).is_err());
});
