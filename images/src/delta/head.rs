//! The head of a delta: what each segment is made of, as a bounded binary table. Frames follow it in the order
//! of their segments, so there are no offsets in it, and segments can neither overlap nor leave gaps.

use std::fmt;

use super::{MAX_HEAD_BYTES, MAX_REFERENCE_BYTES, MAX_REFERENCES, MAX_STORED_BYTES, SEGMENT_BYTES};
use crate::chunk::MAX_ARTIFACT_BYTES;
use crate::digest::Digest;

/// The first bytes of every delta.
const MAGIC: [u8; 8] = *b"DRYDOCKD";
/// The format that is written and read.
const FORMAT: u16 = 1;
/// Bytes before the first segment.
const HEADER_BYTES: usize = 108;
/// Bytes of each segment, of each reference, and of each frame's digest.
const SEGMENT_ENTRY_BYTES: usize = 24;
const REFERENCE_BYTES: usize = 8;
const DIGEST_BYTES: usize = 32;
/// A reference's place has so many bits, and its length the others.
const PLACE_BITS: u32 = 37;
const PLACE_MASK: u64 = (1 << PLACE_BITS) - 1;

/// Why bytes are no head of a delta.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// It does not begin with the magic.
    #[error("this is no delta")]
    Magic,
    /// Written in a format that this program does not know.
    #[error(
        "the delta has format {found}, this program reads {FORMAT}: update Drydock on this machine first"
    )]
    NewerFormat {
        /// The format it says it has.
        found: u16,
    },
    /// A reserved field is not zero, or a length breaks a bound.
    #[error("the delta breaks a rule: {0}")]
    Rule(String),
    /// Its length is not what its counts say.
    #[error("the delta's head has {found} bytes where its counts say {wanted}")]
    Length {
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        wanted: u64,
    },
    /// It makes something else, or out of something else.
    #[error("the delta makes {artifact} out of {base}, which is not what was asked for")]
    Other {
        /// What it makes.
        artifact: Digest,
        /// Out of what.
        base: Digest,
    },
}

/// The first half of the SHA-256 of a segment's bytes, which are compared with it before they are written.
/// The artifact as a whole is proven by its whole digest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SegmentId([u8; 16]);

impl SegmentId {
    /// The id of a segment with these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&Digest::of(bytes).as_bytes()[..16]);
        Self(id)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A range of the old image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// Where it begins, in bytes.
    pub at: u64,
    /// Its length in bytes, 1 to [`MAX_REFERENCE_BYTES`].
    pub bytes: u32,
}

/// Where a segment's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// They stand in the old image from this byte on.
    Copy {
        /// The first byte.
        at: u64,
    },
    /// They are in a frame.
    Frame(SegmentFrame),
}

/// A frame of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFrame {
    /// Bytes that are stored, 1 to [`MAX_STORED_BYTES`].
    pub stored_bytes: u32,
    /// The SHA-256 of what is stored.
    pub digest: Digest,
    /// What it is compressed on the ground of, one range after another; there may be none.
    pub references: Vec<Reference>,
}

/// One piece of the new image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// What it comes to.
    pub id: SegmentId,
    /// What it is made of.
    pub source: Source,
}

/// A head that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaHead {
    /// The digest of the artifact that is made.
    pub artifact: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The digest of the artifact that it is made out of.
    pub base: Digest,
    /// Its size in bytes.
    pub base_size: u64,
    /// The segments in order.
    pub segments: Vec<Segment>,
}

fn rule<T>(text: String) -> Result<T, DeltaError> {
    Err(DeltaError::Rule(text))
}

/// The segments of an image of that many bytes.
fn segment_count(size: u64) -> u64 {
    size.div_ceil(u64::from(SEGMENT_BYTES))
}

/// A reader that was told before how much there is; zeros where that was wrong.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk::<N>() else {
            return [0; N];
        };
        self.0 = rest;
        *field
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn digest(&mut self) -> Digest {
        Digest::from_bytes(self.take())
    }
}

impl DeltaHead {
    /// Reads a head: magic, format, bounds, exact length, and that every range lies in the old image.
    ///
    /// # Errors
    /// See [`DeltaError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DeltaError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(DeltaError::Magic);
        }
        let length = |wanted: u64| DeltaError::Length {
            found: bytes.len() as u64,
            wanted,
        };
        let (header, body) = bytes
            .split_at_checked(HEADER_BYTES)
            .ok_or_else(|| length(HEADER_BYTES as u64))?;
        let mut header = Fields(&header[MAGIC.len()..]);
        let format = header.u16();
        if format != FORMAT {
            return Err(DeltaError::NewerFormat { found: format });
        }
        let reserved = header.u16();
        let [count, references, frames, also_reserved] = [(); 4].map(|()| header.u32());
        let [size, base_size] = [(); 2].map(|()| header.u64());
        let [artifact, base] = [(); 2].map(|()| header.digest());
        if reserved != 0 || also_reserved != 0 {
            return rule("a reserved field is not zero".to_owned());
        }
        if size == 0 || size.max(base_size) > MAX_ARTIFACT_BYTES || u64::from(count) != segment_count(size) {
            return rule(format!("{count} segments for {size} bytes out of {base_size}"));
        }
        let wanted = [
            (HEADER_BYTES, 1),
            (SEGMENT_ENTRY_BYTES, count),
            (REFERENCE_BYTES, references),
            (DIGEST_BYTES, frames),
        ];
        let wanted = wanted
            .map(|(each, count)| each as u64 * u64::from(count))
            .iter()
            .sum();
        if bytes.len() as u64 != wanted || wanted > MAX_HEAD_BYTES {
            return Err(length(wanted));
        }
        let mut head = Self {
            artifact,
            size,
            base,
            base_size,
            segments: Vec::with_capacity(count as usize),
        };
        let (entries, body) = body.split_at(count as usize * SEGMENT_ENTRY_BYTES);
        let (ranges, digests) = body.split_at(references as usize * REFERENCE_BYTES);
        let [mut entries, mut ranges, mut digests] = [entries, ranges, digests].map(Fields);
        for _ in 0..count {
            let segment = head.read_segment(&mut entries, &mut ranges, &mut digests)?;
            head.segments.push(segment);
        }
        if !ranges.0.is_empty() || !digests.0.is_empty() {
            return rule("there are more ranges or digests than its segments have".to_owned());
        }
        Ok(head)
    }

    fn read_segment(
        &self,
        entries: &mut Fields<'_>,
        ranges: &mut Fields<'_>,
        digests: &mut Fields<'_>,
    ) -> Result<Segment, DeltaError> {
        let id = SegmentId(entries.take());
        let (stored_bytes, count, reserved) = (entries.u32(), usize::from(entries.u16()), entries.u16());
        if reserved != 0 || count > MAX_REFERENCES || stored_bytes > MAX_STORED_BYTES {
            return rule(format!("a segment of {stored_bytes} bytes and {count} ranges"));
        }
        let is_frame = stored_bytes > 0;
        if ranges.0.len() < count * REFERENCE_BYTES || (is_frame && digests.0.is_empty()) {
            return rule("there are fewer ranges or digests than its segments have".to_owned());
        }
        let references: Vec<Reference> = (0..count)
            .map(|_| {
                let word = ranges.u64();
                Reference {
                    at: word & PLACE_MASK,
                    // 27 bits are left.
                    bytes: (word >> PLACE_BITS) as u32,
                }
            })
            .collect();
        let in_base =
            |range: &Reference| range.bytes > 0 && range.at + u64::from(range.bytes) <= self.base_size;
        let all: u64 = references.iter().map(|range| u64::from(range.bytes)).sum();
        if !references.iter().all(in_base) || all > u64::from(MAX_REFERENCE_BYTES) {
            return rule(format!("a segment out of {all} bytes of {}", self.base_size));
        }
        let source = match references.as_slice() {
            _ if is_frame => Source::Frame(SegmentFrame {
                stored_bytes,
                digest: digests.digest(),
                references,
            }),
            [whole] if whole.bytes == self.segment_bytes(self.segments.len()) => {
                Source::Copy { at: whole.at }
            }
            _ => return rule(format!("a copy of {all} bytes out of {count} ranges")),
        };
        Ok(Segment { id, source })
    }

    /// The stored form.
    ///
    /// # Errors
    /// What a reader would refuse.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DeltaError> {
        let (mut entries, mut ranges, mut digests) = (Vec::new(), Vec::new(), Vec::new());
        for (place, segment) in self.segments.iter().enumerate() {
            let whole;
            let (stored_bytes, references) = match &segment.source {
                Source::Copy { at } => {
                    let bytes = self.segment_bytes(place);
                    whole = [Reference { at: *at, bytes }];
                    (0, &whole[..])
                }
                Source::Frame(frame) => {
                    digests.extend_from_slice(frame.digest.as_bytes());
                    (frame.stored_bytes, &frame.references[..])
                }
            };
            entries.extend_from_slice(&segment.id.0);
            entries.extend_from_slice(&stored_bytes.to_le_bytes());
            // More than fit are refused below, as are more than are allowed.
            let count = u16::try_from(references.len()).unwrap_or(u16::MAX);
            entries.extend_from_slice(&count.to_le_bytes());
            entries.extend_from_slice(&[0; 2]);
            for range in references {
                let word = (range.at & PLACE_MASK) | u64::from(range.bytes) << PLACE_BITS;
                ranges.extend_from_slice(&word.to_le_bytes());
            }
        }
        let counts = [
            entries.len() / SEGMENT_ENTRY_BYTES,
            ranges.len() / REFERENCE_BYTES,
            digests.len() / DIGEST_BYTES,
            0,
        ];
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        for count in counts {
            bytes.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        }
        for size in [self.size, self.base_size] {
            bytes.extend_from_slice(&size.to_le_bytes());
        }
        for digest in [self.artifact, self.base] {
            bytes.extend_from_slice(digest.as_bytes());
        }
        for table in [entries, ranges, digests] {
            bytes.extend_from_slice(&table);
        }
        Self::parse(&bytes).map(|read| {
            debug_assert_eq!(read, *self);
            bytes
        })
    }

    /// The bytes of the segment at that place.
    #[must_use]
    pub fn segment_bytes(&self, place: usize) -> u32 {
        let begin = place as u64 * u64::from(SEGMENT_BYTES);
        // The lower one of both fits.
        self.size.saturating_sub(begin).min(u64::from(SEGMENT_BYTES)) as u32
    }

    /// The bytes of all frames, which follow the head.
    #[must_use]
    pub fn frames_bytes(&self) -> u64 {
        let stored = self.segments.iter().map(|segment| match &segment.source {
            Source::Copy { .. } => 0,
            Source::Frame(frame) => u64::from(frame.stored_bytes),
        });
        stored.sum()
    }

    /// That this makes the one artifact out of the other.
    ///
    /// # Errors
    /// It does not.
    pub fn check(&self, artifact: (&Digest, u64), base: (&Digest, u64)) -> Result<(), DeltaError> {
        if (&self.artifact, self.size) == artifact && (&self.base, self.base_size) == base {
            return Ok(());
        }
        Err(DeltaError::Other {
            artifact: self.artifact,
            base: self.base,
        })
    }
}
