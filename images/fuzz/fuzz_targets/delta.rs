//! Heads of deltas. One that is accepted is written as it was read, as are parts of it; its ranges lie in the
//! old image, and a frame that is signed for one of its segments makes that segment's bytes or nothing.
#![no_main]

use drydock_images::Digest;
use drydock_images::delta::{
    DeltaHead, Ground, MAX_REFERENCE_BYTES, MAX_REFERENCES, MAX_RUNS, MAX_STORED_BYTES, Packing, Reference,
    SEGMENT_BYTES, Segment, SegmentDecoder, SegmentId, Source, segments_from_bytes, segments_to_bytes,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // As tables of some segments, whatever they are of.
    if let Ok(some) = segments_from_bytes(data, u64::MAX >> 1) {
        assert_eq!(segments_to_bytes(&some), data);
    }
    let Ok(read) = DeltaHead::parse(data.to_vec().into()) else {
        return;
    };
    let (head, segments): (_, Vec<Segment>) = (read.header(), read.segments().collect());
    let written = DeltaHead::new(head, &segments).expect("what was read can be written");
    assert_eq!(written.bytes(), data);
    for some in segments.chunks(2) {
        let kept = segments_from_bytes(&segments_to_bytes(some), head.base_size);
        assert_eq!(kept.as_deref(), Ok(some));
    }
    let covered: u64 = segments.iter().map(|segment| u64::from(segment.bytes)).sum();
    assert_eq!(covered, head.size);
    let mut stored = 0;
    for segment in &segments {
        let bytes = segment.bytes;
        assert!((1..=SEGMENT_BYTES).contains(&bytes));
        match &segment.source {
            Source::Copy { at } => assert!(at + u64::from(bytes) <= head.base_size),
            Source::Frame(frame) => {
                assert!((1..=MAX_STORED_BYTES).contains(&frame.stored_bytes));
                assert!(frame.references.len() <= MAX_REFERENCES);
                let inside = |at: u64, bytes: u32| bytes > 0 && at + u64::from(bytes) <= head.base_size;
                assert!(frame.references.iter().all(|range| inside(range.at, range.bytes)));
                let all: u64 = frame.references.iter().map(|range| u64::from(range.bytes)).sum();
                assert!(all <= u64::from(MAX_REFERENCE_BYTES));
                assert!(frame.runs.len() <= MAX_RUNS && (frame.runs.is_empty() || head.packing.is_some()));
                assert!(frame.content_bytes(bytes) <= u64::from(SEGMENT_BYTES));
                stored += u64::from(frame.stored_bytes);
            }
        }
    }
    assert_eq!(read.frames_bytes(), stored);

    // Whatever is signed as a frame, or as packed: here the input itself, on the ground of itself.
    let mut ground = Ground::default();
    let packed = Reference {
        packed: Some(SegmentId::of(data)),
        ..Reference::to(0, data.len() as u32)
    };
    let _ = ground.add(&packed, data);
    let _ = ground.add(&Reference::to(0, data.len() as u32), data);
    assert!(ground.bytes().len() <= MAX_REFERENCE_BYTES as usize);
    let first = segments.iter().find_map(|segment| match &segment.source {
        Source::Frame(frame) => Some((segment, frame.clone())),
        Source::Copy { .. } => None,
    });
    if let Some((segment, mut frame)) = first {
        frame.digest = Digest::of(data);
        frame.stored_bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
        // A level that is fast: what is looked for is no slowness of zstd's.
        let packing = head.packing.map(|packing| Packing { level: 1, ..packing });
        let made = SegmentDecoder::new(packing)
            .decode(segment, &frame, data, &mut ground)
            .map(SegmentId::of);
        assert!(made.is_err() || made == Ok(segment.id));
    }
});
