//! Heads of deltas. One that is accepted is written as it was read, its ranges lie in the old image, and a
//! frame that is signed for one of its segments makes that segment's bytes or nothing.
#![no_main]

use drydock_images::Digest;
use drydock_images::delta::{
    DeltaHead, MAX_REFERENCE_BYTES, MAX_REFERENCES, MAX_STORED_BYTES, SEGMENT_BYTES, SegmentDecoder,
    SegmentId, Source,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(head) = DeltaHead::parse(data) else {
        return;
    };
    assert_eq!(head.to_bytes().expect("what was read can be written"), data);
    let covered: u64 = (0..head.segments.len())
        .map(|place| u64::from(head.segment_bytes(place)))
        .sum();
    assert_eq!(covered, head.size);
    let mut stored = 0;
    for (place, segment) in head.segments.iter().enumerate() {
        let bytes = head.segment_bytes(place);
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
                stored += u64::from(frame.stored_bytes);
            }
        }
    }
    assert_eq!(head.frames_bytes(), stored);

    // Whatever is signed as a frame: here the input itself, on the ground of itself.
    let first = head
        .segments
        .iter()
        .enumerate()
        .find_map(|(place, segment)| match &segment.source {
            Source::Frame(frame) => Some((place, segment.id, frame.clone())),
            Source::Copy { .. } => None,
        });
    if let Some((place, id, mut frame)) = first {
        frame.digest = Digest::of(data);
        frame.stored_bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let made = SegmentDecoder::default()
            .decode(id, head.segment_bytes(place), &frame, data, data)
            .map(SegmentId::of);
        assert!(made.is_err() || made == Ok(id));
    }
});
