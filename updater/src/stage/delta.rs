//! An artifact out of the running slot and the delta that was made for just this pair of releases: segment by
//! segment in their order, each compared with its id before it is written. One thread reads ahead of the
//! other what segments are made out of. Where the running slot turns out to be another than the delta was
//! made for, it is said, and the artifact is put together from chunks.

use std::ops::Range;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use drydock_images::chunk::{FrameError, Part};
use drydock_images::delta::{
    DeltaArtifact, Ground, Reference, Segment, SegmentDecoder, SegmentError, SegmentFrame, SegmentId, Source,
};
use drydock_images::{Artifact, Hasher, Repository};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio_util::sync::CancellationToken;

use super::StageError;
use super::ahead::pieces;
use super::drain::{Drain, Put};
use super::plan::{Copies, Ranges};
use super::seed::{Seed, Seeds, Side};
use super::segments::Segments;
use super::standing::{Expected, Kin, Standing};
use super::supply::pass_on;
use super::write::Counter;

/// After so many frames in a row that do not stand in the target no more are looked for: a staging that was
/// cut off left those from the first on.
const MISSES_UNTIL_NONE: u32 = 4;

const UNREADABLE: &str = "the running slot cannot be read";

/// Where a delta is fetched from.
#[derive(Clone)]
pub(super) struct DeltaSupplier {
    pub repository: Repository,
    pub artifact: Artifact,
    pub described: DeltaArtifact,
    pub segments: Arc<Segments>,
}

/// Stored bytes of a delta's frames, from that place on.
pub(super) type Fetched = (u64, Bytes);

/// Which frames stand in the target already, and what is fetched.
#[derive(Debug)]
pub(super) struct DeltaPlan {
    /// By segment; of copies it is not asked.
    stands: Vec<bool>,
    pub ranges: Vec<Range<u64>>,
    /// The first copies of each kind, and where they belong.
    first: [Option<(u64, Segment)>; 2],
}

impl DeltaSupplier {
    /// Plans the artifact: looks at what stands in the target. Blocks.
    ///
    /// # Errors
    /// See [`Segments::group`].
    pub(super) fn plan(&self, mut target: Seed) -> Result<DeltaPlan, StageError> {
        let (mut misses, mut stands, mut first) = (0, Vec::new(), [None, None]);
        let (mut ranges, mut at, mut stored_at) = (Ranges::default(), 0, 0);
        for number in 0.. {
            let group = self.segments.group(number)?;
            if group.is_empty() {
                break;
            }
            for segment in group {
                let begin = at;
                at += u64::from(segment.bytes);
                let frame = match &segment.source {
                    Source::Frame(frame) => frame,
                    Source::Copy { at: from } => {
                        first[Kin::of(begin, *from) as usize].get_or_insert_with(|| (begin, segment.clone()));
                        stands.push(false);
                        continue;
                    }
                };
                let found = (misses < MISSES_UNTIL_NONE).then(|| target.read(begin, segment.bytes as usize));
                // What cannot be read does not stand; it is written, and the read-back judges.
                let right = matches!(found, Some(Ok(Some(found))) if SegmentId::of(found) == segment.id);
                misses = if right { 0 } else { misses + 1 };
                let end = stored_at + u64::from(frame.stored_bytes);
                if !right {
                    ranges.push(Part::Front, stored_at..end);
                }
                stored_at = end;
                stands.push(right);
            }
        }
        let ranges = ranges.in_order().into_iter().map(|(_, range)| range).collect();
        Ok(DeltaPlan {
            stands,
            ranges,
            first,
        })
    }

    /// Sends what the plan says is fetched; ends when it is sent, or when nobody wants it any more.
    ///
    /// # Errors
    /// What cannot be fetched.
    pub(super) async fn send(
        &self,
        ranges: Vec<Range<u64>>,
        counter: &Counter,
        to: &Sender<Fetched>,
    ) -> Result<(), StageError> {
        let fetches = ranges.into_iter().map(|range| {
            let of = self.clone();
            async move {
                let at = range.start;
                let stored = of
                    .repository
                    .delta_range(&of.artifact, &of.described, range)
                    .await?;
                Ok((at, stored))
            }
        });
        pass_on(fetches, &self.repository, to, |(at, stored): Fetched| {
            counter.wire(stored.len() as u64);
            (at, stored)
        })
        .await
    }

    pub(super) fn unfit(&self, why: &dyn std::fmt::Display) -> Fit {
        Fit::Not(format!("the delta of {} does not fit: {why}", self.artifact.name))
    }
}

/// Whether an artifact could be made by its delta.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Whole,
    /// Why not. What was written is right nevertheless.
    Not(String),
}

/// The bytes of the running slot that a reference is to, in pieces that fit a buffer; what is packed is read at
/// once.
fn wanted(reference: &Reference) -> Vec<Range<u64>> {
    let all = reference.at..reference.at + u64::from(reference.bytes);
    match reference.packed {
        Some(_) => vec![all],
        None => pieces(all).collect(),
    }
}

/// Puts an artifact together. See the module.
pub(super) struct DeltaAssembly<'a> {
    of: &'a DeltaSupplier,
    plan: &'a DeltaPlan,
    seeds: Seeds,
    standing: Standing,
    runtime: Handle,
    supply: Receiver<Fetched>,
    counter: &'a Counter,
    cancel: &'a CancellationToken,
    /// Of the supply, what is not used up: where it begins, and the bytes.
    stored: Fetched,
    decoder: SegmentDecoder,
    /// What a segment is made out of.
    ground: Ground,
    next: Next,
}

/// The next group of segments, the number of its first one, and where that belongs.
#[derive(Default)]
struct Next {
    group: usize,
    segment: usize,
    at: u64,
}

/// Some segments that are read ahead together.
struct Group {
    segments: Vec<Segment>,
    /// What of that which they copy is looked for in the target first.
    stand: Expected,
}

impl<'a> DeltaAssembly<'a> {
    pub(super) fn new(
        (of, plan): (&'a DeltaSupplier, &'a DeltaPlan),
        seeds: Seeds,
        (runtime, supply): (Handle, Receiver<Fetched>),
        (counter, cancel): (&'a Counter, &'a CancellationToken),
    ) -> Self {
        Self {
            of,
            plan,
            seeds,
            standing: Standing::default(),
            runtime,
            supply,
            counter,
            cancel,
            stored: (0, Bytes::new()),
            decoder: SegmentDecoder::new(of.segments.header().packing),
            ground: Ground::default(),
            next: Next::default(),
        }
    }

    /// Puts the whole artifact out of the running slot, or as much as fits. Blocks.
    ///
    /// # Errors
    /// The supply ended early; a cancellation; what the drain says.
    pub(super) fn run(mut self, drain: &mut Drain) -> Result<Fit, StageError> {
        thread::scope(move |scope| {
            self.seeds.read_ahead(scope);
            self.put_all(drain)
        })
    }

    /// The next segments, of which the reader is told what they are made out of; none behind the last.
    fn foresee(&mut self) -> Result<Group, StageError> {
        let segments = self.of.segments.group(self.next.group)?;
        let stand = self.standing.expected();
        let mut copies = Copies::default();
        for segment in &segments {
            let own = self.next.at..self.next.at + u64::from(segment.bytes);
            let (side, places): (_, Vec<_>) = match &segment.source {
                Source::Frame(frame) if !self.plan.stands[self.next.segment] => {
                    let references = frame.references.iter();
                    (Side::Running, references.flat_map(wanted).collect())
                }
                Source::Copy { at } if !stand.of(Kin::of(self.next.at, *at)) => {
                    let old = *at..*at + u64::from(segment.bytes);
                    (Side::Running, pieces(old).collect())
                }
                Source::Frame(_) | Source::Copy { .. } => (Side::Target, pieces(own.clone()).collect()),
            };
            places.into_iter().for_each(|place| copies.push(side, place));
            self.next.segment += 1;
            self.next.at = own.end;
        }
        self.next.group += 1;
        self.seeds.foresee(copies.in_order());
        Ok(Group { segments, stand })
    }

    fn put_all(mut self, drain: &mut Drain) -> Result<Fit, StageError> {
        let (mut at, mut stored_at, mut place) = (0, 0, 0);
        self.look_at_first();
        let mut group = self.foresee()?;
        while !group.segments.is_empty() {
            // The reader is always told of a group before the one in front of it is put.
            let next = self.foresee()?;
            for segment in &group.segments {
                if self.cancel.is_cancelled() {
                    return Err(StageError::Cancelled);
                }
                let fit = self.put((place, at, stored_at), segment, group.stand, drain)?;
                if fit != Fit::Whole {
                    return Ok(fit);
                }
                place += 1;
                at += u64::from(segment.bytes);
                stored_at += u64::from(segment.stored_bytes());
            }
            self.standing.end_group();
            group = next;
        }
        Ok(Fit::Whole)
    }

    /// Whether the first copy of each kind stands in the target.
    fn look_at_first(&mut self) {
        for kin in [Kin::SamePlace, Kin::Elsewhere] {
            if let Some((at, segment)) = &self.plan.first[kin as usize] {
                let stands = self.read_standing(*at, segment);
                self.standing.saw(kin, stands);
            }
        }
        self.standing.end_group();
    }

    /// Puts the segment with that number, which is at `at` of the image and has its frame at `stored_at`.
    fn put(
        &mut self,
        (place, at, stored_at): (usize, u64, u64),
        segment: &Segment,
        stand: Expected,
        drain: &mut Drain,
    ) -> Result<Fit, StageError> {
        match &segment.source {
            Source::Copy { at: from } => {
                let kin = Kin::of(at, *from);
                if stand.of(kin) {
                    let stands = self.read_standing(at, segment);
                    self.standing.saw(kin, stands);
                    if stands {
                        return self.put_standing(segment, drain);
                    }
                }
                self.standing.look(kin, &mut self.seeds, at);
                self.copy((at, *from), segment, drain)
            }
            Source::Frame(_) if self.plan.stands[place] => {
                if self.read_standing(at, segment) {
                    return self.put_standing(segment, drain);
                }
                Ok(self.of.unfit(&"what stood in the target does not any more"))
            }
            Source::Frame(frame) => {
                self.standing.look(Kin::Elsewhere, &mut self.seeds, at);
                match self.read_ground(&frame.references) {
                    Fit::Whole => self.frame((at, stored_at), segment, frame, drain),
                    unfit @ Fit::Not(_) => Ok(unfit),
                }
            }
        }
    }

    fn copy(
        &mut self,
        (at, from): (u64, u64),
        segment: &Segment,
        drain: &mut Drain,
    ) -> Result<Fit, StageError> {
        match self.read_segment(Side::Running, from, segment) {
            Some(true) => {}
            Some(false) => return Ok(self.of.unfit(&SegmentError::Other { wanted: segment.id })),
            None => return Ok(self.of.unfit(&UNREADABLE)),
        }
        let old = self.ground.bytes();
        self.standing.compare(Kin::of(at, from), at, old);
        drain.put(old, Put::Fresh)?;
        self.counter.reused(u64::from(segment.bytes));
        Ok(Fit::Whole)
    }

    /// Reads what a segment is made out of. A running slot that cannot be read only means that more is fetched.
    fn read_ground(&mut self, references: &[Reference]) -> Fit {
        self.ground.clear();
        for reference in references {
            for piece in wanted(reference) {
                // At most MAX_REFERENCE_BYTES.
                let len = (piece.end - piece.start) as usize;
                let Ok(Some(old)) = self.seeds.read(Side::Running, piece.start, len) else {
                    return self.of.unfit(&UNREADABLE);
                };
                if let Err(error) = self.ground.add(reference, old) {
                    return self.of.unfit(&error);
                }
            }
        }
        Fit::Whole
    }

    /// Whether a segment stands in its place of the target, and was read.
    fn read_standing(&mut self, at: u64, segment: &Segment) -> bool {
        // What cannot be read does not stand; it is written, and the read-back judges.
        self.read_segment(Side::Target, at, segment) == Some(true)
    }

    /// Reads what a slot has at that place, in the pieces that the reader was told of; whether that is the
    /// segment, if it can be read. Each piece is hashed when it is there, while the next ones are read.
    fn read_segment(&mut self, side: Side, at: u64, segment: &Segment) -> Option<bool> {
        self.ground.clear();
        let reference = Reference::to(at, segment.bytes);
        let mut hasher = Hasher::new();
        for piece in wanted(&reference) {
            let len = (piece.end - piece.start) as usize;
            let read = self.seeds.read(side, piece.start, len).ok()??;
            hasher.update(read);
            self.ground.add(&reference, read).ok()?;
        }
        Some(SegmentId::from(hasher.finish()) == segment.id)
    }

    /// Puts a segment that was just read in its place.
    fn put_standing(&mut self, segment: &Segment, drain: &mut Drain) -> Result<Fit, StageError> {
        drain.put(self.ground.bytes(), Put::Standing)?;
        self.counter.reused(u64::from(segment.bytes));
        Ok(Fit::Whole)
    }

    fn frame(
        &mut self,
        (at, begin): (u64, u64),
        segment: &Segment,
        frame: &SegmentFrame,
        drain: &mut Drain,
    ) -> Result<Fit, StageError> {
        let stored = self.supplied(begin, frame)?;
        let old = &mut self.ground;
        let decoded = match self.decoder.decode(segment, frame, &stored, old) {
            // Another mirror may have it as it was signed.
            Err(SegmentError::Frame(FrameError::Digest { .. })) => {
                self.counter.wire(u64::from(frame.stored_bytes));
                let again =
                    self.of
                        .repository
                        .delta_frame(&self.of.artifact, &self.of.described, begin, frame);
                match self.runtime.block_on(again) {
                    Ok(again) => self.decoder.decode(segment, frame, &again, old),
                    Err(error) => return Ok(self.of.unfit(&error)),
                }
            }
            decoded => decoded,
        };
        match decoded {
            Ok(content) => {
                self.standing.compare(Kin::Elsewhere, at, content);
                drain.put(content, Put::Fresh)?;
                // What is not in the frame the running slot had.
                let bytes = segment.bytes;
                let referred = if frame.references.is_empty() {
                    0
                } else {
                    bytes.saturating_sub(frame.stored_bytes)
                };
                self.counter.reused(u64::from(referred));
                self.counter.fetched(u64::from(bytes - referred));
                Ok(Fit::Whole)
            }
            // The frame is as it was signed, so it is the old content that is not.
            Err(error) => Ok(self.of.unfit(&error)),
        }
    }

    /// The stored bytes of a frame out of the supply, whose ranges come in the order of the frames.
    fn supplied(&mut self, begin: u64, frame: &SegmentFrame) -> Result<Bytes, StageError> {
        let end = begin + u64::from(frame.stored_bytes);
        loop {
            let (held_at, held) = &self.stored;
            if begin >= *held_at && end <= held_at + held.len() as u64 {
                // Both are inside of what is held, which is memory.
                let from = (begin - held_at) as usize;
                return Ok(held.slice(from..from + frame.stored_bytes as usize));
            }
            self.stored = self.supply.blocking_recv().ok_or_else(|| {
                StageError::Stopped("what was planned to be fetched did not come".to_owned())
            })?;
        }
    }
}
