//! Heads that are written and read, and those that are refused; segments that are not what was signed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::packed::tests::{packed, text};
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
            .map(|(at, bytes)| Reference::to(*at, *bytes))
            .collect(),
        runs: Vec::new(),
    })
}

/// A frame whose content is packed so.
fn packing_frame(runs: &[(u32, u32)]) -> Source {
    let Source::Frame(mut frame) = frame(500, &[(10, 20)]) else {
        unreachable!()
    };
    frame.references.push(Reference {
        packed: Some(SegmentId::of(b"packed")),
        ..Reference::to(4000, 300)
    });
    frame.runs = runs
        .iter()
        .map(|&(verbatim, packed)| Run { verbatim, packed })
        .collect();
    Source::Frame(frame)
}

const PACKING: Packing = Packing {
    level: 15,
    zstd_version: 10507,
};

/// What a head is made of, whether it is one or not.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    header: DeltaHeader,
    segments: Vec<Segment>,
}

impl Parts {
    fn packed_by(self, packing: Option<Packing>) -> Self {
        let header = DeltaHeader {
            packing,
            ..self.header
        };
        Self { header, ..self }
    }

    fn head(&self) -> Result<DeltaHead, DeltaError> {
        DeltaHead::new(&self.header, &self.segments)
    }

    fn to_bytes(&self) -> Vec<u8> {
        self.head().unwrap().bytes().to_vec()
    }
}

fn parse(bytes: &[u8]) -> Result<Parts, DeltaError> {
    let head = DeltaHead::parse(bytes.to_vec().into())?;
    Ok(Parts {
        header: *head.header(),
        segments: head.segments().collect(),
    })
}

fn parts(sources: Vec<Source>) -> Parts {
    Parts {
        header: DeltaHeader {
            artifact: Digest::of(b"new"),
            size: SIZE,
            base: Digest::of(b"old"),
            base_size: BASE_SIZE,
            packing: None,
        },
        segments: sources
            .into_iter()
            .enumerate()
            .map(|(place, source)| Segment {
                id: SegmentId::of(&[u8::try_from(place).unwrap()]),
                bytes: [SEGMENT_BYTES, SEGMENT_BYTES, 100, 1][place],
                source,
            })
            .collect(),
    }
}

fn example() -> Parts {
    parts(vec![
        Source::Copy { at: 4096 },
        frame(1000, &[(0, 100), (BASE_SIZE - 1, 1)]),
        frame(MAX_STORED_BYTES, &[]),
    ])
}

/// The example, of which the second segment is packed so.
fn packing_example(runs: &[(u32, u32)]) -> Parts {
    let mut head = example().packed_by(Some(PACKING));
    head.segments[1].source = packing_frame(runs);
    head
}

#[test]
fn what_was_written_is_read() {
    assert_eq!(parse(&example().to_bytes()).unwrap(), example());
    let read = example().head().unwrap();
    assert_eq!(read.frames_bytes(), 1000 + u64::from(MAX_STORED_BYTES));
    read.check_packing().unwrap();
    let newer = packing_example(&[(1, 5)]).packed_by(Some(Packing {
        zstd_version: zstd::zstd_safe::version_number() + 1,
        ..PACKING
    }));
    let refused = newer.head().unwrap().check_packing();
    assert!(matches!(refused, Err(DeltaError::OtherZstd { .. })));
    let packed = packing_example(&[(100, 2000), (0, 3000), (7, 0)]);
    let read_packed = parse(&packed.to_bytes()).unwrap();
    assert_eq!(read_packed, packed);
    let Source::Frame(frame) = &read_packed.segments[1].source else {
        panic!("{read_packed:?}");
    };
    assert_eq!(frame.content_bytes(SEGMENT_BYTES), 5107);
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
        ("a segment too few", parts(vec![Source::Copy { at: 0 }; 2])),
        ("a segment too many", parts(vec![Source::Copy { at: 0 }; 4])),
        (
            "more content than a segment has",
            packing_example(&[(1, MAX_PACKED_BYTES); 4]),
        ),
        (
            "more packed than may be",
            packing_example(&[(1, MAX_PACKED_BYTES + 1)]),
        ),
        (
            "more as it is than there is",
            packing_example(&[(SEGMENT_BYTES, 0), (1, 5)]),
        ),
        (
            "a run of nothing packed before another",
            packing_example(&[(5, 0), (1, 5)]),
        ),
        ("a last run of nothing", packing_example(&[(5, 9), (0, 0)])),
        ("too many runs", packing_example(&vec![(0, 1); MAX_RUNS + 1])),
        ("packing without runs", packing_example(&[])),
        (
            "a level that zstd has not",
            packing_example(&[(1, 5)]).packed_by(Some(Packing { level: 23, ..PACKING })),
        ),
        (
            "a level of no zstd",
            packing_example(&[(1, 5)]).packed_by(Some(Packing {
                zstd_version: 0,
                ..PACKING
            })),
        ),
        ("runs without packing", packing_example(&[(1, 5)]).packed_by(None)),
        ("a copy of what is packed", {
            let mut head = packing_example(&[(1, 5)]);
            head.segments[1].source = Source::Frame(SegmentFrame {
                stored_bytes: 0,
                digest: Digest::of(b""),
                references: vec![Reference {
                    packed: Some(SegmentId::of(b"")),
                    ..Reference::to(0, SEGMENT_BYTES)
                }],
                runs: Vec::new(),
            });
            head
        }),
        ("a segment of no bytes", {
            let mut head = example();
            head.segments[2].bytes = 0;
            head
        }),
        ("segments that are longer than the image", {
            let mut head = example();
            head.segments[2].bytes = 101;
            head
        }),
    ] {
        let refused = broken.head();
        assert!(matches!(refused, Err(DeltaError::Rule(_))), "{what}: {refused:?}");
    }
    for size in [0, (64 << 30) + 1] {
        let mut broken = example();
        broken.header.size = size;
        assert!(matches!(broken.head(), Err(DeltaError::Rule(_))), "{size}");
    }
}

#[test]
fn a_changed_head_is_refused_or_says_something_else() {
    let example = || packing_example(&[(100, 2000), (0, 3000), (7, 0)]);
    let bytes = example().to_bytes();
    assert_eq!(parse(b"DRYDOCKX"), Err(DeltaError::Magic));
    for length in 8..bytes.len() {
        assert!(parse(&bytes[..length]).is_err(), "{length}");
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(matches!(parse(&longer), Err(DeltaError::Length { .. })));
    for at in 0..bytes.len() {
        for bit in [1, 0x80] {
            let mut changed = bytes.clone();
            changed[at] ^= bit;
            if let Ok(read) = parse(&changed) {
                assert_ne!(read, example(), "byte {at}");
            }
        }
    }
    let mut newer = bytes;
    newer[8] = 3;
    assert_eq!(parse(&newer), Err(DeltaError::NewerFormat { found: 3 }));
}

/// Segments that are kept elsewhere come back as they were, or not at all.
#[test]
fn segments_in_tables_of_their_own_are_read_as_they_were_or_refused() {
    let all = packing_example(&[(100, 2000), (0, 3000), (7, 0)]).segments;
    for kept in [&all[..], &all[1..2], &all[2..], &[]] {
        let bytes = segments_to_bytes(kept);
        assert_eq!(segments_from_bytes(&bytes, BASE_SIZE).as_deref(), Ok(kept));
        let longer = [&bytes[..], b"x"].concat();
        let shorter = &bytes[..bytes.len() - 1];
        for other in [&longer, shorter, &bytes[..3]] {
            let refused = segments_from_bytes(other, BASE_SIZE);
            assert!(matches!(refused, Err(DeltaError::Length { .. })), "{refused:?}");
        }
    }
    // One of the runs taken for a range, and the other way round: the length is right, and nothing else.
    let bytes = segments_to_bytes(&all);
    for (more, less) in [(4, 8), (8, 4)] {
        let mut other = bytes.clone();
        (other[more], other[less]) = (other[more] + 1, other[less] - 1);
        let refused = segments_from_bytes(&other, BASE_SIZE);
        assert!(matches!(refused, Err(DeltaError::Rule(_))), "{refused:?}");
    }
    // Of a shorter old image.
    let short = 4096 + u64::from(SEGMENT_BYTES);
    assert!(segments_from_bytes(&bytes, short).is_ok());
    let refused = segments_from_bytes(&bytes, short - 1);
    assert!(matches!(refused, Err(DeltaError::Rule(_))), "{refused:?}");
}

/// What stands in an old image as it is.
fn on(base: &[u8]) -> Ground {
    let mut ground = Ground::default();
    ground.add(&Reference::to(0, 0), base).unwrap();
    ground
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
        runs: Vec::new(),
    };
    let (id, bytes) = (SegmentId::of(&content), u32::try_from(content.len()).unwrap());
    let mut decoder = SegmentDecoder::new(None);
    let mut decode = |stored: &[u8], bytes: u32, base: &[u8]| {
        let source = Source::Frame(frame.clone());
        let segment = Segment { id, bytes, source };
        decoder
            .decode(&segment, &frame, stored, &mut on(base))
            .map(Digest::of)
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
        runs: Vec::new(),
    };
    let packing = SegmentFrame {
        runs: vec![Run {
            verbatim: 0,
            packed: u32::MAX,
        }],
        ..frame.clone()
    };
    for frame in [frame, packing] {
        let segment = Segment {
            id: SegmentId::of(&content),
            bytes: u32::MAX,
            source: Source::Frame(frame.clone()),
        };
        let refused = SegmentDecoder::new(Some(PACKING))
            .decode(&segment, &frame, &stored, &mut Ground::default())
            .map(<[u8]>::len);
        assert!(matches!(
            refused,
            Err(SegmentError::Frame(FrameError::ContentSize {
                wanted: SEGMENT_BYTES,
                ..
            }))
        ));
    }
}

#[test]
fn what_is_packed_is_unpacked_and_packed_again_as_it_was() {
    let level = i32::from(PACKING.level);
    let contents = [text(1, 90_000), text(2, 131_072), text(3, 5000)];
    let old: Vec<Vec<u8>> = contents.iter().map(|content| packed(content, level)).collect();
    let reference = |bytes: &[u8]| Reference {
        packed: Some(SegmentId::of(bytes)),
        ..Reference::to(0, u32::try_from(bytes.len()).unwrap())
    };
    let mut ground = Ground::default();
    // Two together, and one with something before it.
    let both = [&old[0][..], &old[1]].concat();
    ground.add(&reference(&both), &both).unwrap();
    ground.add(&Reference::to(0, 3), b"xyz").unwrap();
    ground.add(&reference(&old[2]), &old[2]).unwrap();
    let wanted = [&contents[0][..], &contents[1], b"xyz", &contents[2]].concat();
    assert!(ground.bytes() == wanted);

    let mut changed = contents.clone();
    changed.iter_mut().for_each(|content| content[2000] ^= 1);
    let content = [b"head".as_slice(), &changed[0], &changed[1], b"tail", &changed[2]].concat();
    let image = [
        b"head".as_slice(),
        &packed(&changed[0], level),
        &packed(&changed[1], level),
        b"tail",
        &packed(&changed[2], level),
    ];
    let image = image.concat();
    let stored = encode_large_frame(&mut CCtx::create(), &content, ground.bytes(), 9).unwrap();
    assert!(stored.len() < 300, "{}", stored.len());
    let frame = SegmentFrame {
        stored_bytes: u32::try_from(stored.len()).unwrap(),
        digest: Digest::of(&stored),
        references: Vec::new(),
        runs: vec![
            Run {
                verbatim: 4,
                packed: 90_000,
            },
            Run {
                verbatim: 0,
                packed: 131_072,
            },
            Run {
                verbatim: 4,
                packed: 5000,
            },
        ],
    };
    let segment = Segment {
        id: SegmentId::of(&image),
        bytes: u32::try_from(image.len()).unwrap(),
        source: Source::Frame(frame.clone()),
    };
    let decode = |packing: Option<Packing>| {
        let mut decoder = SegmentDecoder::new(packing);
        decoder
            .decode(&segment, &frame, &stored, &mut on(&wanted))
            .map(<[u8]>::to_vec)
    };
    assert!(decode(Some(PACKING)).unwrap() == image);
    // At another level it is another segment; and what is not said cannot be done.
    let other = Packing { level: 1, ..PACKING };
    assert_eq!(
        decode(Some(other)),
        Err(SegmentError::Other { wanted: segment.id })
    );
    assert_eq!(decode(None), Err(SegmentError::NoPacking));
}

#[test]
fn packed_bytes_that_are_others_are_refused_before_they_are_unpacked() {
    let old = packed(&text(4, 100_000), 9);
    let reference = |bytes: &[u8]| Reference {
        packed: Some(SegmentId::of(bytes)),
        ..Reference::to(0, u32::try_from(bytes.len()).unwrap())
    };
    let add = |reference: &Reference, read: &[u8]| Ground::default().add(reference, read);
    add(&reference(&old), &old).unwrap();
    let mut other = old.clone();
    other[5000] ^= 1;
    let wanted = SegmentId::of(&old);
    assert_eq!(add(&reference(&old), &other), Err(SegmentError::Other { wanted }));
    // As signed, but no frames, or not to their end; more than there may be; a bomb.
    let cut = old[..old.len() - 1].to_vec();
    let more = [&old[..], b"x"].concat();
    for bytes in [cut, more, noise(5, 1000), packed(&vec![0; 64 << 20], 1)] {
        let wanted = SegmentId::of(&bytes);
        assert_eq!(
            add(&reference(&bytes), &bytes),
            Err(SegmentError::NotPacked { wanted })
        );
    }
    let zeros = packed(&vec![0; MAX_PACKED_BYTES as usize], 1);
    let mut ground = Ground::default();
    for _ in 0..12 {
        ground.add(&reference(&zeros), &zeros).unwrap();
    }
    assert_eq!(
        ground.add(&reference(&zeros), &zeros),
        Err(SegmentError::TooMuchGround)
    );
    assert_eq!(
        ground.add(&Reference::to(0, 1), b"x"),
        Err(SegmentError::TooMuchGround)
    );
    ground.clear();
    ground.add(&reference(&zeros), &zeros).unwrap();
}
