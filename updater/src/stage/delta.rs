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
    DeltaArtifact, DeltaHead, Ground, Reference, Segment, SegmentDecoder, SegmentError, SegmentFrame,
    SegmentId, Source,
};
use drydock_images::{Artifact, Repository};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio_util::sync::CancellationToken;

use super::StageError;
use super::ahead::pieces;
use super::drain::{Drain, Put};
use super::plan::{Copies, Ranges};
use super::seed::Seed;
use super::supply::pass_on;
use super::write::Counter;

/// After so many frames in a row that do not stand in the target no more are looked for: a staging that was
/// cut off left those from the first on.
const MISSES_UNTIL_NONE: u32 = 4;

/// The reader is told of so many segments at a time.
const SEGMENTS_FORESEEN: usize = 32;

const UNREADABLE: &str = "the running slot cannot be read";

/// Where a delta is fetched from.
#[derive(Clone)]
pub(super) struct DeltaSupplier {
    pub repository: Repository,
    pub artifact: Artifact,
    pub described: DeltaArtifact,
    pub head: Arc<DeltaHead>,
}

/// Stored bytes of a delta's frames, from that place on.
pub(super) type Fetched = (u64, Bytes);

/// Which frames stand in the target already, and what is fetched.
#[derive(Debug)]
pub(super) struct DeltaPlan {
    /// By segment; of copies it is not asked.
    stands: Vec<bool>,
    pub ranges: Vec<Range<u64>>,
}

impl DeltaSupplier {
    /// Plans the artifact: looks at what stands in the target. Blocks.
    pub(super) fn plan(&self, mut target: Seed) -> DeltaPlan {
        let mut misses = 0;
        let mut stands = Vec::with_capacity(self.head.segments.len());
        let (mut ranges, mut stored_at) = (Ranges::default(), 0);
        for (at, segment) in segments(&self.head) {
            let Source::Frame(frame) = &segment.source else {
                stands.push(false);
                continue;
            };
            let found = (misses < MISSES_UNTIL_NONE).then(|| target.read(at, segment.bytes as usize));
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
        let ranges = ranges.in_order().into_iter().map(|(_, range)| range).collect();
        DeltaPlan { stands, ranges }
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

/// The segments, and where each begins.
fn segments(head: &DeltaHead) -> impl Iterator<Item = (u64, &Segment)> {
    let mut at = 0;
    head.segments.iter().map(move |segment| {
        let begin = at;
        at += u64::from(segment.bytes);
        (begin, segment)
    })
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
    running: Seed,
    /// What stands in the target while it is not overwritten yet.
    target: Seed,
    runtime: Handle,
    supply: Receiver<Fetched>,
    counter: &'a Counter,
    cancel: &'a CancellationToken,
    /// Of the supply, what is not used up: where it begins, and the bytes.
    stored: Fetched,
    decoder: SegmentDecoder,
    /// What a segment is made out of.
    ground: Ground,
    /// The segments before this one were told to the reader.
    foreseen: usize,
}

impl<'a> DeltaAssembly<'a> {
    pub(super) fn new(
        (of, plan): (&'a DeltaSupplier, &'a DeltaPlan),
        (running, target): (Seed, Seed),
        (runtime, supply): (Handle, Receiver<Fetched>),
        (counter, cancel): (&'a Counter, &'a CancellationToken),
    ) -> Self {
        Self {
            of,
            plan,
            running,
            target,
            runtime,
            supply,
            counter,
            cancel,
            stored: (0, Bytes::new()),
            decoder: SegmentDecoder::new(of.head.packing),
            ground: Ground::default(),
            foreseen: 0,
        }
    }

    /// Puts the whole artifact out of the running slot, or as much as fits. Blocks.
    ///
    /// # Errors
    /// The supply ended early; a cancellation; what the drain says.
    pub(super) fn run(mut self, drain: &mut Drain) -> Result<Fit, StageError> {
        thread::scope(move |scope| {
            self.running.read_ahead(scope);
            self.put_all(drain)
        })
    }

    /// Tells the reader what the segments behind this one are made out of, some at a time.
    fn foresee(&mut self, place: usize) {
        if place + SEGMENTS_FORESEEN / 2 < self.foreseen {
            return;
        }
        let mut copies = Copies::default();
        let next = segments(&self.of.head).enumerate().skip(self.foreseen);
        for (place, (_, segment)) in next.take(SEGMENTS_FORESEEN) {
            let copied;
            let references = match &segment.source {
                _ if self.plan.stands[place] => continue,
                Source::Copy { at } => {
                    copied = [Reference::to(*at, segment.bytes)];
                    &copied[..]
                }
                Source::Frame(frame) => &frame.references[..],
            };
            let pieces = references.iter().flat_map(wanted);
            pieces.for_each(|piece| copies.push(piece));
        }
        self.foreseen += SEGMENTS_FORESEEN;
        self.running.foresee(copies.in_order());
    }

    fn put_all(mut self, drain: &mut Drain) -> Result<Fit, StageError> {
        let (of, mut stored_at) = (self.of, 0);
        for (place, (at, segment)) in segments(&of.head).enumerate() {
            if self.cancel.is_cancelled() {
                return Err(StageError::Cancelled);
            }
            self.foresee(place);
            let fit = match &segment.source {
                Source::Copy { at } => self.copy(*at, segment, drain)?,
                Source::Frame(frame) => {
                    let begin = stored_at;
                    stored_at += u64::from(frame.stored_bytes);
                    if self.plan.stands[place] {
                        self.put_standing(at, segment, drain)?
                    } else {
                        match self.read_ground(&frame.references) {
                            Fit::Whole => self.frame(begin, segment, frame, drain)?,
                            unfit @ Fit::Not(_) => unfit,
                        }
                    }
                }
            };
            if fit != Fit::Whole {
                return Ok(fit);
            }
        }
        Ok(Fit::Whole)
    }

    fn copy(&mut self, at: u64, segment: &Segment, drain: &mut Drain) -> Result<Fit, StageError> {
        // In the pieces that the reader was told of.
        let fit = self.read_ground(&[Reference::to(at, segment.bytes)]);
        if fit != Fit::Whole {
            return Ok(fit);
        }
        let (old, wanted) = (self.ground.bytes(), segment.id);
        if SegmentId::of(old) != wanted {
            return Ok(self.of.unfit(&SegmentError::Other { wanted }));
        }
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
                let Ok(Some(old)) = self.running.read(piece.start, (piece.end - piece.start) as usize) else {
                    return self.of.unfit(&UNREADABLE);
                };
                if let Err(error) = self.ground.add(reference, old) {
                    return self.of.unfit(&error);
                }
            }
        }
        Fit::Whole
    }

    fn put_standing(&mut self, at: u64, segment: &Segment, drain: &mut Drain) -> Result<Fit, StageError> {
        match self.target.read(at, segment.bytes as usize) {
            Ok(Some(found)) if SegmentId::of(found) == segment.id => {
                drain.put(found, Put::Standing)?;
                self.counter.reused(u64::from(segment.bytes));
                Ok(Fit::Whole)
            }
            Ok(_) | Err(_) => Ok(self.of.unfit(&"what stood in the target does not any more")),
        }
    }

    fn frame(
        &mut self,
        begin: u64,
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
