//! The head of a delta: what each segment is made of, as bounded binary tables. Frames follow it in the order
//! of their segments, and segments have lengths alone, so they can neither overlap nor leave gaps.

mod read;

use std::fmt;

use bytes::Bytes;
use zstd::zstd_safe;

use self::read::{Fields, Rows};
use super::MAX_HEAD_BYTES;
use crate::chunk::MAX_ARTIFACT_BYTES;
use crate::digest::Digest;

/// The first bytes of every delta.
const MAGIC: [u8; 8] = *b"DRYDOCKD";
/// The format that is written and read.
const FORMAT: u16 = 2;
/// Bytes before the first segment.
const HEADER_BYTES: usize = 116;
/// Bytes of each run, and of each reference.
const RUN_BYTES: usize = 8;
const REFERENCE_BYTES: usize = 8;
/// Bytes of each entry of the tables: segments, runs, references, ids, digests of frames.
const ENTRY_BYTES: [usize; 5] = [28, RUN_BYTES, REFERENCE_BYTES, 16, 32];
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
        Self::from(Digest::of(bytes))
    }
}

impl From<Digest> for SegmentId {
    /// The id of a segment whose bytes have this digest.
    fn from(digest: Digest) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&digest.as_bytes()[..16]);
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

impl Segment {
    /// The bytes of its frame as it is stored; none of a copy.
    #[must_use]
    pub const fn stored_bytes(&self) -> u32 {
        match &self.source {
            Source::Copy { .. } => 0,
            Source::Frame(frame) => frame.stored_bytes,
        }
    }
}

/// What a delta makes, and out of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaHeader {
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
}

/// A head that was checked, as it is stored: segments take four times as much memory when they are read, so
/// they are read one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaHead {
    header: DeltaHeader,
    counts: Counts,
    frames_bytes: u64,
    bytes: Bytes,
}

/// The entries of each table: segments, runs, references, ids, digests of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts([u32; 5]);

impl Counts {
    /// Bytes before the tables where they are kept alone.
    const BYTES: usize = 5 * 4;

    fn read(fields: &mut Fields<'_>) -> Self {
        Self([(); 5].map(|()| fields.u32()))
    }

    fn to_bytes(self) -> impl Iterator<Item = u8> {
        self.0.into_iter().flat_map(u32::to_le_bytes)
    }

    /// The bytes of all tables together.
    fn tables_bytes(self) -> u64 {
        let tables = self.0.into_iter().zip(ENTRY_BYTES);
        tables.map(|(count, each)| u64::from(count) * each as u64).sum()
    }

    /// Of whole tables; more than fit are refused when they are read, as are more than are allowed.
    fn of(tables: &[Vec<u8>; 5]) -> Self {
        let mut counts = [0; 5];
        for ((count, table), each) in counts.iter_mut().zip(tables).zip(ENTRY_BYTES) {
            *count = u32::try_from(table.len() / each).unwrap_or(u32::MAX);
        }
        Self(counts)
    }
}

fn rule<T>(text: String) -> Result<T, DeltaError> {
    Err(DeltaError::Rule(text))
}

impl DeltaHead {
    /// Reads a head: magic, format, bounds, exact length, and that every range lies in the old image.
    ///
    /// # Errors
    /// See [`DeltaError`].
    pub fn parse(bytes: Bytes) -> Result<Self, DeltaError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(DeltaError::Magic);
        }
        let length = |wanted: u64| DeltaError::Length {
            found: bytes.len() as u64,
            wanted,
        };
        let (fields, tables) = bytes
            .split_at_checked(HEADER_BYTES)
            .ok_or_else(|| length(HEADER_BYTES as u64))?;
        let mut fields = Fields(&fields[MAGIC.len()..]);
        let format = fields.u16();
        if format != FORMAT {
            return Err(DeltaError::NewerFormat { found: format });
        }
        let level = fields.u16();
        let counts = Counts::read(&mut fields);
        let zstd_version = fields.u32();
        let [size, base_size] = [(); 2].map(|()| fields.u64());
        let [artifact, base] = [(); 2].map(|()| fields.digest());
        let [_, runs, ..] = counts.0;
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
        let wanted = HEADER_BYTES as u64 + counts.tables_bytes();
        if bytes.len() as u64 != wanted || wanted > MAX_HEAD_BYTES {
            return Err(length(wanted));
        }
        let (mut covered, mut frames_bytes) = (0, 0);
        let mut rows = Rows::new(counts, tables, base_size);
        for segment in &mut rows {
            let segment = segment?;
            covered += u64::from(segment.bytes);
            frames_bytes += u64::from(segment.stored_bytes());
        }
        if covered != size {
            return rule(format!("segments of {covered} bytes for {size}"));
        }
        rows.check_used_up()?;
        let header = DeltaHeader {
            artifact,
            size,
            base,
            base_size,
            packing,
        };
        Ok(Self {
            header,
            counts,
            frames_bytes,
            bytes,
        })
    }

    /// A head of these segments.
    ///
    /// # Errors
    /// What a reader would refuse.
    pub fn new(header: &DeltaHeader, segments: &[Segment]) -> Result<Self, DeltaError> {
        let (counts, tables) = tables_of(segments);
        let (level, zstd_version) = match header.packing {
            Some(packing) => (packing.level, packing.zstd_version),
            None => (0, 0),
        };
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&level.to_le_bytes());
        bytes.extend(counts.to_bytes());
        bytes.extend_from_slice(&zstd_version.to_le_bytes());
        for size in [header.size, header.base_size] {
            bytes.extend_from_slice(&size.to_le_bytes());
        }
        for digest in [header.artifact, header.base] {
            bytes.extend_from_slice(digest.as_bytes());
        }
        bytes.extend(tables.concat());
        let head = Self::parse(bytes.into())?;
        debug_assert!(head.header == *header && head.segments().eq(segments.iter().cloned()));
        Ok(head)
    }

    /// The stored form.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What is made, and out of what.
    #[must_use]
    pub const fn header(&self) -> &DeltaHeader {
        &self.header
    }

    /// The segments in order.
    pub fn segments(&self) -> impl Iterator<Item = Segment> {
        let rows = Rows::new(self.counts, &self.bytes[HEADER_BYTES..], self.header.base_size);
        // All were read before.
        rows.map_while(Result::ok)
    }

    /// The bytes of all frames, which follow the head.
    #[must_use]
    pub const fn frames_bytes(&self) -> u64 {
        self.frames_bytes
    }

    /// That this makes the one artifact out of the other.
    ///
    /// # Errors
    /// It does not.
    pub fn check(&self, artifact: (&Digest, u64), base: (&Digest, u64)) -> Result<(), DeltaError> {
        let header = &self.header;
        if (&header.artifact, header.size) == artifact && (&header.base, header.base_size) == base {
            return Ok(());
        }
        Err(DeltaError::Other {
            artifact: header.artifact,
            base: header.base,
        })
    }

    /// That this program packs what it packs byte for byte as it was.
    ///
    /// # Errors
    /// Its zstd is another one.
    pub fn check_packing(&self) -> Result<(), DeltaError> {
        let found = zstd_safe::version_number();
        match self.header.packing {
            Some(packing) if packing.zstd_version != found => Err(DeltaError::OtherZstd {
                wanted: packing.zstd_version,
                found,
            }),
            _ => Ok(()),
        }
    }
}

/// Some segments of a head in a row, in tables of their own: for whoever does not keep all of them in memory.
#[must_use]
pub fn segments_to_bytes(segments: &[Segment]) -> Vec<u8> {
    let (counts, tables) = tables_of(segments);
    counts.to_bytes().chain(tables.concat()).collect()
}

/// What [`segments_to_bytes`] made, of a head with an old image of that many bytes.
///
/// # Errors
/// It is something else.
pub fn segments_from_bytes(bytes: &[u8], base_size: u64) -> Result<Vec<Segment>, DeltaError> {
    let length = |wanted: u64| DeltaError::Length {
        found: bytes.len() as u64,
        wanted,
    };
    let (counts, tables) = bytes
        .split_at_checked(Counts::BYTES)
        .ok_or_else(|| length(Counts::BYTES as u64))?;
    let counts = Counts::read(&mut Fields(counts));
    let wanted = Counts::BYTES as u64 + counts.tables_bytes();
    if bytes.len() as u64 != wanted {
        return Err(length(wanted));
    }
    let mut rows = Rows::new(counts, tables, base_size);
    let segments = (&mut rows).collect::<Result<_, _>>()?;
    rows.check_used_up()?;
    Ok(segments)
}

fn tables_of(segments: &[Segment]) -> (Counts, [Vec<u8>; 5]) {
    let [mut entries, mut runs, mut ranges, mut ids, mut digests] = [(); 5].map(|()| Vec::new());
    for segment in segments {
        let whole;
        let (references, segment_runs) = match &segment.source {
            Source::Copy { at } => {
                whole = [Reference::to(*at, segment.bytes)];
                (&whole[..], &[][..])
            }
            Source::Frame(frame) => {
                digests.extend_from_slice(frame.digest.as_bytes());
                (&frame.references[..], &frame.runs[..])
            }
        };
        entries.extend_from_slice(&segment.id.0);
        entries.extend_from_slice(&segment.bytes.to_le_bytes());
        entries.extend_from_slice(&segment.stored_bytes().to_le_bytes());
        for count in [references.len(), segment_runs.len()] {
            // More than fit are refused when they are read, as are more than are allowed.
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
    let tables = [entries, runs, ranges, ids, digests];
    (Counts::of(&tables), tables)
}
