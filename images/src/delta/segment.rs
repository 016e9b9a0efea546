//! One segment out of its frame and what it refers to. Does no I/O.

use std::thread;

use zstd::zstd_safe;

use super::ground::Ground;
use super::head::{Packing, Run, Segment, SegmentFrame, SegmentId};
use super::{MAX_STORED_BYTES, SEGMENT_BYTES};
use crate::chunk::frame::Described;
use crate::chunk::{Decoder, FrameError};

/// So many threads pack what a segment has at most, ...
const MAX_PACKERS: usize = 2;
/// ... and one, if something has more bytes than this: zstd's tables for it take up to 3 MiB, and twice as much
/// for twice the bytes.
const SMALL_BYTES: u32 = 128 << 10;

/// Why what was made is not the segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// What was fetched is not the frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// What it was made out of is not what it should be.
    #[error("what was made out of the old image is not segment {wanted}")]
    Other {
        /// The segment, or the packed reference, that was wanted.
        wanted: SegmentId,
    },
    /// A reference to packed bytes is to others.
    #[error("what the delta takes for packed in the old image, {wanted}, is not")]
    NotPacked {
        /// The reference.
        wanted: SegmentId,
    },
    /// The unpacked references are too long together.
    #[error("a segment is made out of more than {} bytes", super::MAX_REFERENCE_BYTES)]
    TooMuchGround,
    /// Something is to be packed, and the delta does not say how.
    #[error("a segment is packed, and the delta does not say how")]
    NoPacking,
}

/// Makes segments.
pub struct SegmentDecoder {
    frames: Decoder,
    packing: Option<Packing>,
    segment: Vec<u8>,
}

impl SegmentDecoder {
    /// Makes the segments of a delta that packs in that way.
    #[must_use]
    pub fn new(packing: Option<Packing>) -> Self {
        Self {
            frames: Decoder::default(),
            packing,
            segment: Vec::new(),
        }
    }

    /// A segment, out of its stored frame and what that refers to in the old image, of which nothing may be left
    /// if this succeeds.
    ///
    /// # Errors
    /// The frame is not the one that the head names; what comes out is not the segment, which means that the
    /// old image is another than the delta was made for.
    pub fn decode(
        &mut self,
        segment: &Segment,
        frame: &SegmentFrame,
        stored: &[u8],
        ground: &mut Ground,
    ) -> Result<&[u8], SegmentError> {
        let content_bytes = frame.content_bytes(segment.bytes);
        let described = Described {
            stored_bytes: frame.stored_bytes.min(MAX_STORED_BYTES),
            // The lower one of both fits.
            content_bytes: content_bytes.min(u64::from(SEGMENT_BYTES)) as u32,
            digest: frame.digest,
        };
        let content = self.frames.unpack(stored, &described, ground.bytes())?;
        let made = if frame.runs.is_empty() {
            content
        } else {
            let packing = self.packing.as_ref().ok_or(SegmentError::NoPacking)?;
            // Packing takes as much memory again.
            ground.free();
            pack(packing, content, &frame.runs, &mut self.segment);
            &self.segment
        };
        if SegmentId::of(made) == segment.id {
            Ok(made)
        } else {
            Err(SegmentError::Other { wanted: segment.id })
        }
    }
}

/// A packed piece of a segment's content, or none: zstd failed, which the segment's id shows.
type Packed = Option<Vec<u8>>;

/// Packs what the runs say of the content into `segment`. What zstd cannot pack is left out, so that the segment
/// is another one.
fn pack(packing: &Packing, content: &[u8], runs: &[Run], segment: &mut Vec<u8>) {
    let packers = match runs.iter().map(|run| run.packed).max() {
        Some(most) if most > SMALL_BYTES => 1,
        _ => thread::available_parallelism().map_or(1, |cores| cores.get().min(MAX_PACKERS)),
    };
    let level = i32::from(packing.level);
    let mut left = content;
    let mut pieces: Vec<(&[u8], &[u8], Packed)> = Vec::with_capacity(runs.len());
    for run in runs {
        let (verbatim, behind) = split(left, run.verbatim);
        let (unpacked, behind) = split(behind, run.packed);
        pieces.push((verbatim, unpacked, None));
        left = behind;
    }
    // Neighbours to each, as many bytes as to any other.
    let share = content.len().div_ceil(packers);
    thread::scope(|scope| {
        let mut waiting = pieces.as_mut_slice();
        for number in 1..=packers {
            let mut bytes = 0;
            let is_last = number == packers;
            let taken = waiting.iter().take_while(|(_, unpacked, _)| {
                let is_mine = is_last || bytes < share;
                bytes += unpacked.len();
                is_mine
            });
            let (mine, others) = waiting.split_at_mut(taken.count());
            waiting = others;
            let mut work = move || {
                // Its tables live no longer than this.
                let mut packer = zstd_safe::CCtx::create();
                for (_, unpacked, packed) in mine.iter_mut().filter(|piece| !piece.1.is_empty()) {
                    *packed = pack_frame(&mut packer, unpacked, level).ok();
                }
            };
            // The last part is done right here.
            if waiting.is_empty() {
                return work();
            }
            scope.spawn(work);
        }
    });
    segment.clear();
    for (verbatim, _, packed) in &pieces {
        segment.extend_from_slice(verbatim);
        segment.extend_from_slice(packed.as_deref().unwrap_or_default());
    }
}

fn split(bytes: &[u8], at: u32) -> (&[u8], &[u8]) {
    bytes.split_at_checked(at as usize).unwrap_or((bytes, &[]))
}

/// What zstd makes of these bytes at once, as programs that write file systems call it.
pub(super) fn pack_frame(
    context: &mut zstd_safe::CCtx<'_>,
    content: &[u8],
    level: i32,
) -> Result<Vec<u8>, usize> {
    let mut packed = Vec::with_capacity(zstd_safe::compress_bound(content.len()));
    context.compress(&mut packed, content, level)?;
    Ok(packed)
}
