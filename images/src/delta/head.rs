//! The head of a delta: what each segment is made of, as bounded binary tables. Frames follow it in the order
//! of their segments, and segments have lengths alone, so they can neither overlap nor leave gaps.

mod read;

use std::fmt;

use zstd::zstd_safe;

use self::read::{Fields, Tables, read_segment};
use super::MAX_HEAD_BYTES;
use crate::chunk::MAX_ARTIFACT_BYTES;
use crate::digest::Digest;

/// The first bytes of every delta.
const MAGIC: [u8; 8] = *b"DRYDOCKD";
/// The format that is written and read.
const FORMAT: u16 = 2;
/// Bytes before the first segment.
const HEADER_BYTES: usize = 116;
/// Bytes of each segment, of each run, of each reference, of each id, and of each frame's digest.
const SEGMENT_ENTRY_BYTES: usize = 28;
const RUN_BYTES: usize = 8;
const REFERENCE_BYTES: usize = 8;
const ID_BYTES: usize = 16;
const DIGEST_BYTES: usize = 32;
/// A reference's place has so many bits, its length the others but one.
const PLACE_BITS: u32 = 37;
const PLACE_MASK: u64 = (1 << PLACE_BITS) - 1;
/// Set where a reference is to what is packed in the old image.
const UNPACKED_BIT: u64 = 1 << 63;
/// The levels of zstd that something can be packed at.
const LEVELS: std::ops::RangeInclusive<u16> = 1..=22;

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
    /// Only the zstd that packed the new image packs it again byte for byte.
    #[error("the delta packs with zstd {wanted}, this program has {found}")]
    OtherZstd {
        /// Its version number, as zstd counts.
        wanted: u32,
        /// That of this program.
        found: u32,
    },
}

/// The first half of the SHA-256 of a segment's bytes, which are compared with it before they are written, or
/// of a packed reference's, which are before they are unpacked. The artifact as a whole is proven by its whole
/// digest.
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
    /// Where there is an id, it is that of these bytes, which are whole zstd frames one after another, and what
    /// is referred to is their content.
    pub packed: Option<SegmentId>,
}

impl Reference {
    /// A reference to bytes as they stand there.
    #[must_use]
    pub const fn to(at: u64, bytes: u32) -> Self {
        Self {
            at,
            bytes,
            packed: None,
        }
    }
}

/// A piece of a segment in which something is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// So many bytes of the content stand in the image as they are.
    pub verbatim: u32,
    /// So many behind them are packed as one zstd frame; 0 for none, which only the last run has.
    pub packed: u32,
}

/// How a delta's segments are packed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// The level of zstd, 1 to 22.
    pub level: u16,
    /// zstd's version number.
    pub zstd_version: u32,
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
    /// What of its content is packed again; none if it is the segment as it is.
    pub runs: Vec<Run>,
}

impl SegmentFrame {
    /// The bytes of its content, for a segment of that many bytes.
    #[must_use]
    pub fn content_bytes(&self, segment_bytes: u32) -> u64 {
        if self.runs.is_empty() {
            return u64::from(segment_bytes);
        }
        let runs = self.runs.iter();
        runs.map(|run| u64::from(run.verbatim) + u64::from(run.packed))
            .sum()
    }
}

/// One piece of the new image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// What it comes to.
    pub id: SegmentId,
    /// The bytes of the image that it has, 1 to [`SEGMENT_BYTES`].
    pub bytes: u32,
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
    /// How what is packed is packed, if anything is.
    pub packing: Option<Packing>,
    /// The segments in order.
    pub segments: Vec<Segment>,
}

fn rule<T>(text: String) -> Result<T, DeltaError> {
    Err(DeltaError::Rule(text))
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
        let level = header.u16();
        let [count, runs, references, ids, frames, zstd_version] = [(); 6].map(|()| header.u32());
        let [size, base_size] = [(); 2].map(|()| header.u64());
        let [artifact, base] = [(); 2].map(|()| header.digest());
        let packing = match level {
            0 if zstd_version == 0 && runs == 0 => None,
            level if LEVELS.contains(&level) && zstd_version > 0 && runs > 0 => {
                Some(Packing { level, zstd_version })
            }
            _ => return rule(format!("level {level} of zstd {zstd_version} for {runs} runs")),
        };
        if size == 0 || size.max(base_size) > MAX_ARTIFACT_BYTES {
            return rule(format!("{size} bytes out of {base_size}"));
        }
        let wanted = [
            (HEADER_BYTES, 1),
            (SEGMENT_ENTRY_BYTES, count),
            (RUN_BYTES, runs),
            (REFERENCE_BYTES, references),
            (ID_BYTES, ids),
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
            packing,
            segments: Vec::with_capacity(count as usize),
        };
        let mut left = body;
        let mut table = |each: usize, count: u32| {
            // The tables have just these lengths together.
            let (table, behind) = left.split_at(each * count as usize);
            left = behind;
            Fields(table)
        };
        let mut entries = table(SEGMENT_ENTRY_BYTES, count);
        let mut tables = Tables {
            runs: table(RUN_BYTES, runs),
            references: table(REFERENCE_BYTES, references),
            ids: table(ID_BYTES, ids),
            digests: table(DIGEST_BYTES, frames),
        };
        let mut covered = 0;
        for _ in 0..count {
            let segment = read_segment(&mut entries, &mut tables, base_size)?;
            covered += u64::from(segment.bytes);
            head.segments.push(segment);
        }
        if covered != size {
            return rule(format!("segments of {covered} bytes for {size}"));
        }
        if !tables.are_used_up() {
            return rule("there is more in its tables than its segments have".to_owned());
        }
        Ok(head)
    }

    /// The stored form.
    ///
    /// # Errors
    /// What a reader would refuse.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DeltaError> {
        let [mut entries, mut runs, mut ranges, mut ids, mut digests] = [(); 5].map(|()| Vec::new());
        for segment in &self.segments {
            let whole;
            let (stored_bytes, references, segment_runs) = match &segment.source {
                Source::Copy { at } => {
                    whole = [Reference::to(*at, segment.bytes)];
                    (0, &whole[..], &[][..])
                }
                Source::Frame(frame) => {
                    digests.extend_from_slice(frame.digest.as_bytes());
                    (frame.stored_bytes, &frame.references[..], &frame.runs[..])
                }
            };
            entries.extend_from_slice(&segment.id.0);
            entries.extend_from_slice(&segment.bytes.to_le_bytes());
            entries.extend_from_slice(&stored_bytes.to_le_bytes());
            for count in [references.len(), segment_runs.len()] {
                // More than fit are refused below, as are more than are allowed.
                let count = u16::try_from(count).unwrap_or(u16::MAX);
                entries.extend_from_slice(&count.to_le_bytes());
            }
            for run in segment_runs {
                runs.extend_from_slice(&run.verbatim.to_le_bytes());
                runs.extend_from_slice(&run.packed.to_le_bytes());
            }
            for range in references {
                let mut word = (range.at & PLACE_MASK) | u64::from(range.bytes) << PLACE_BITS;
                if let Some(id) = range.packed {
                    word |= UNPACKED_BIT;
                    ids.extend_from_slice(&id.0);
                }
                ranges.extend_from_slice(&word.to_le_bytes());
            }
        }
        let (level, zstd_version) = match self.packing {
            Some(packing) => (packing.level, packing.zstd_version),
            None => (0, 0),
        };
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&level.to_le_bytes());
        for count in [
            entries.len() / SEGMENT_ENTRY_BYTES,
            runs.len() / RUN_BYTES,
            ranges.len() / REFERENCE_BYTES,
            ids.len() / ID_BYTES,
            digests.len() / DIGEST_BYTES,
        ] {
            bytes.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        }
        bytes.extend_from_slice(&zstd_version.to_le_bytes());
        for size in [self.size, self.base_size] {
            bytes.extend_from_slice(&size.to_le_bytes());
        }
        for digest in [self.artifact, self.base] {
            bytes.extend_from_slice(digest.as_bytes());
        }
        for table in [entries, runs, ranges, ids, digests] {
            bytes.extend_from_slice(&table);
        }
        Self::parse(&bytes).map(|read| {
            debug_assert_eq!(read, *self);
            bytes
        })
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

    /// That this program packs what it packs byte for byte as it was.
    ///
    /// # Errors
    /// Its zstd is another one.
    pub fn check_packing(&self) -> Result<(), DeltaError> {
        let found = zstd_safe::version_number();
        match self.packing {
            Some(packing) if packing.zstd_version != found => Err(DeltaError::OtherZstd {
                wanted: packing.zstd_version,
                found,
            }),
            _ => Ok(()),
        }
    }
}
