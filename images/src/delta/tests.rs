//! Heads that are written and read, and those that are refused; segments that are not what was signed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::chunk::FrameError;
use crate::chunk::cut::tests::noise;
use crate::chunk::frame::encode_large_frame;
use crate::digest::Digest;
use zstd::zstd_safe::CCtx;

const SIZE: u64 = 2 * SEGMENT_BYTES as u64 + 100;
const BASE_SIZE: u64 = 5_000_000;

fn frame(stored_bytes: u32, references: &[(u64, u32)]) -> Source {
    Source::Frame(SegmentFrame {
        stored_bytes,
        digest: Digest::of(&stored_bytes.to_le_bytes()),
        references: references
            .iter()
            .map(|(at, bytes)| Reference {
                at: *at,
                bytes: *bytes,
            })
            .collect(),
    })
}

fn head(sources: Vec<Source>) -> DeltaHead {
    DeltaHead {
        artifact: Digest::of(b"new"),
        size: SIZE,
        base: Digest::of(b"old"),
        base_size: BASE_SIZE,
        segments: sources
            .into_iter()
            .enumerate()
            .map(|(place, source)| Segment {
                id: SegmentId::of(&[u8::try_from(place).unwrap()]),
                source,
            })
            .collect(),
    }
}

fn example() -> DeltaHead {
    head(vec![
        Source::Copy { at: 4096 },
        frame(1000, &[(0, 100), (BASE_SIZE - 1, 1)]),
        frame(MAX_STORED_BYTES, &[]),
    ])
}

#[test]
fn what_was_written_is_read() {
    let bytes = example().to_bytes().unwrap();
    let read = DeltaHead::parse(&bytes).unwrap();
    assert_eq!(read, example());
    assert_eq!(read.frames_bytes(), 1000 + u64::from(MAX_STORED_BYTES));
    assert_eq!(
        [0, 1, 2, 3].map(|place| read.segment_bytes(place)),
        [SEGMENT_BYTES, SEGMENT_BYTES, 100, 0]
    );
    let (new, old) = (Digest::of(b"new"), Digest::of(b"old"));
    read.check((&new, SIZE), (&old, BASE_SIZE)).unwrap();
    for (artifact, base) in [
        ((&old, SIZE), (&old, BASE_SIZE)),
        ((&new, SIZE + 1), (&old, BASE_SIZE)),
        ((&new, SIZE), (&new, BASE_SIZE)),
        ((&new, SIZE), (&old, BASE_SIZE - 1)),
    ] {
        assert!(matches!(
            read.check(artifact, base),
            Err(DeltaError::Other { .. })
        ));
    }
}

#[test]
fn a_delta_that_points_outside_or_breaks_a_bound_is_refused() {
    let with = |place: usize, source: Source| {
        let mut head = example();
        head.segments[place].source = source;
        head
    };
    let three = MAX_REFERENCE_BYTES / 3;
    let whole = u64::from(SEGMENT_BYTES);
    let many = vec![(0, 1); MAX_REFERENCES + 1];
    for (what, broken) in [
        (
            "a copy past the end",
            with(
                0,
                Source::Copy {
                    at: BASE_SIZE - whole + 1,
                },
            ),
        ),
        ("a range past the end", with(1, frame(10, &[(BASE_SIZE - 1, 2)]))),
        ("a range of nothing", with(1, frame(10, &[(7, 0)]))),
        (
            "ranges too long together",
            with(1, frame(10, &[(0, three), (0, three), (0, three), (0, 1)])),
        ),
        ("too many ranges", with(1, frame(10, &many))),
        ("a frame too long", with(1, frame(MAX_STORED_BYTES + 1, &[]))),
        // Stored as nothing it would be a copy of what is in no range.
        ("a frame of nothing", with(1, frame(0, &[]))),
        ("a segment too few", head(vec![Source::Copy { at: 0 }; 2])),
        ("a segment too many", head(vec![Source::Copy { at: 0 }; 4])),
    ] {
        let refused = broken.to_bytes();
        assert!(matches!(refused, Err(DeltaError::Rule(_))), "{what}: {refused:?}");
    }
    for size in [0, (64 << 30) + 1] {
        let broken = DeltaHead { size, ..example() };
        assert!(matches!(broken.to_bytes(), Err(DeltaError::Rule(_))), "{size}");
    }
}

#[test]
fn a_changed_head_is_refused_or_says_something_else() {
    let bytes = example().to_bytes().unwrap();
    assert_eq!(DeltaHead::parse(b"DRYDOCKX"), Err(DeltaError::Magic));
    for length in 8..bytes.len() {
        assert!(DeltaHead::parse(&bytes[..length]).is_err(), "{length}");
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(matches!(
        DeltaHead::parse(&longer),
        Err(DeltaError::Length { .. })
    ));
    for at in 0..bytes.len() {
        for bit in [1, 0x80] {
            let mut changed = bytes.clone();
            changed[at] ^= bit;
            if let Ok(read) = DeltaHead::parse(&changed) {
                assert_ne!(read, example(), "byte {at}");
            }
        }
    }
    let mut newer = bytes;
    newer[8] = 2;
    assert_eq!(
        DeltaHead::parse(&newer),
        Err(DeltaError::NewerFormat { found: 2 })
    );
}

#[test]
fn a_segment_on_another_base_than_it_was_made_for_is_refused() {
    let base = noise(1, 500_000);
    let content = [&base[100_000..400_000], &noise(2, 1000)].concat();
    let stored = encode_large_frame(&mut CCtx::create(), &content, &base, 9).unwrap();
    let frame = SegmentFrame {
        stored_bytes: u32::try_from(stored.len()).unwrap(),
        digest: Digest::of(&stored),
        references: Vec::new(),
    };
    let (id, bytes) = (SegmentId::of(&content), u32::try_from(content.len()).unwrap());
    let mut decoder = SegmentDecoder::default();
    let mut decode = |stored: &[u8], bytes: u32, base: &[u8]| {
        decoder.decode(id, bytes, &frame, stored, base).map(Digest::of)
    };
    assert_eq!(decode(&stored, bytes, &base), Ok(Digest::of(&content)));
    let mut other = base.clone();
    other[200_000] ^= 1;
    assert_eq!(
        decode(&stored, bytes, &other),
        Err(SegmentError::Other { wanted: id })
    );
    assert!(decode(&stored, bytes, &base[..1000]).is_err());
    let mut changed = stored.clone();
    changed[30] ^= 1;
    assert!(matches!(
        decode(&changed, bytes, &base),
        Err(SegmentError::Frame(FrameError::Digest { .. }))
    ));
    assert!(matches!(
        decode(&stored, bytes - 1, &base),
        Err(SegmentError::Frame(FrameError::ContentSize { .. }))
    ));
}

#[test]
fn a_delta_that_is_a_bomb_is_refused_before_it_is_unpacked() {
    let content = vec![0; 64 << 20];
    let stored = encode_large_frame(&mut CCtx::create(), &content, b"", 9).unwrap();
    let frame = SegmentFrame {
        stored_bytes: u32::try_from(stored.len()).unwrap(),
        digest: Digest::of(&stored),
        references: Vec::new(),
    };
    let refused = SegmentDecoder::default()
        .decode(SegmentId::of(&content), u32::MAX, &frame, &stored, b"")
        .map(<[u8]>::len);
    assert!(matches!(
        refused,
        Err(SegmentError::Frame(FrameError::ContentSize {
            wanted: SEGMENT_BYTES,
            ..
        }))
    ));
}
