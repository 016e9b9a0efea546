//! An artifact out of the running slot and the delta that was made for just this pair of releases: segment by
//! segment in their order, each compared with its id before it is written. One thread reads ahead of the
//! other what segments are made out of. Where the running slot turns out to be another than the delta was
//! made for, it is said, and the artifact is put together from chunks.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver as Reads, SyncSender, sync_channel};
use std::thread;

use bytes::Bytes;
use drydock_images::chunk::{FrameError, Part};
use drydock_images::delta::{
    DeltaArtifact, DeltaHead, Segment, SegmentDecoder, SegmentError, SegmentFrame, SegmentId, Source,
};
use drydock_images::{Artifact, Repository};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::StageError;
use super::drain::{Drain, Put};
use super::plan::Ranges;
use super::seed::Seed;
use super::write::Counter;

/// After so many frames in a row that do not stand in the target no more are looked for: a staging that was
/// cut off left those from the first on.
const MISSES_UNTIL_NONE: u32 = 4;
/// Segments whose old content waits to be used.
const READ_AHEAD: usize = 1;

/// Where a delta is fetched from.
#[derive(Clone)]
pub(super) struct DeltaSupplier {
    pub repository: Repository,
    pub artifact: Artifact,
    pub described: DeltaArtifact,
    pub head: Arc<DeltaHead>,
    pub at_once: usize,
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
        for (place, (at, bytes, segment)) in segments(&self.head).enumerate() {
            debug_assert_eq!(place, stands.len());
            let Source::Frame(frame) = &segment.source else {
                stands.push(false);
                continue;
            };
            let found = (misses < MISSES_UNTIL_NONE).then(|| target.read(at, bytes as usize));
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
        let fetches = ranges.into_iter().map(|range| self.fetch(range));
        let mut fetched = stream::iter(fetches).buffered(self.at_once.max(1));
        while let Some((at, stored)) = fetched.try_next().await? {
            counter.wire(stored.len() as u64);
            if to.send((at, stored)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// On a task of its own, which goes on while nobody asks for the outcome.
    async fn fetch(&self, range: Range<u64>) -> Result<Fetched, StageError> {
        let (supplier, at) = (self.clone(), range.start);
        let task = tokio::spawn(async move {
            let Self {
                repository,
                artifact,
                described,
                ..
            } = &supplier;
            repository.delta_range(artifact, described, range).await
        });
        let stored = AbortOnDropHandle::new(task)
            .await
            .map_err(|error| StageError::Stopped(error.to_string()))??;
        Ok((at, stored))
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

fn segments(head: &DeltaHead) -> impl Iterator<Item = (u64, u32, &Segment)> {
    let mut at = 0;
    head.segments.iter().enumerate().map(move |(place, segment)| {
        let (begin, bytes) = (at, head.segment_bytes(place));
        at += u64::from(bytes);
        (begin, bytes, segment)
    })
}

/// What a segment is made out of, as the running slot has it; None where it cannot be read.
type Old = Option<Vec<u8>>;

/// Puts an artifact together. See the module.
pub(super) struct DeltaAssembly<'a> {
    pub of: &'a DeltaSupplier,
    pub plan: &'a DeltaPlan,
    pub running: Seed,
    /// What stands in the target while it is not overwritten yet.
    pub target: Seed,
    pub runtime: Handle,
    pub supply: Receiver<Fetched>,
    pub counter: &'a Counter,
    pub cancel: &'a CancellationToken,
}

impl DeltaAssembly<'_> {
    /// Puts the whole artifact, or as much as fits. Blocks.
    ///
    /// # Errors
    /// What was fetched is not what was signed; the supply ended early; a cancellation; what the drain says.
    pub(super) fn run(self, drain: &mut Drain) -> Result<Fit, StageError> {
        let (to, reads) = sync_channel(READ_AHEAD);
        let (give_back, spare) = sync_channel(READ_AHEAD + 2);
        let Self {
            of, plan, running, ..
        } = self;
        let putting = Putting {
            of,
            plan,
            target: self.target,
            runtime: self.runtime,
            supply: self.supply,
            counter: self.counter,
            cancel: self.cancel,
            stored: (0, Bytes::new()),
            decoder: SegmentDecoder::default(),
        };
        thread::scope(|scope| {
            let reading = scope.spawn(move || read_ahead(&of.head, plan, running, &to, &spare));
            let done = putting.run(&reads, &give_back, drain);
            // The reader ends when nobody takes what it reads.
            drop((reads, give_back));
            match reading.join() {
                Ok(()) => done,
                Err(_) => Err(StageError::Stopped("the reading thread panicked".to_owned())),
            }
        })
    }
}

/// Reads what segments are made out of, in their order.
fn read_ahead(
    head: &DeltaHead,
    plan: &DeltaPlan,
    mut running: Seed,
    to: &SyncSender<Old>,
    spare: &Reads<Vec<u8>>,
) {
    for (place, (_, bytes, segment)) in segments(head).enumerate() {
        let mut old = spare.try_recv().unwrap_or_default();
        old.clear();
        let mut read = |at: u64, bytes: u32| match running.read(at, bytes as usize) {
            Ok(Some(found)) => {
                old.extend_from_slice(found);
                true
            }
            // A running slot that cannot be read only means that more is fetched.
            Ok(None) | Err(_) => false,
        };
        let all = match &segment.source {
            Source::Copy { at } => read(*at, bytes),
            Source::Frame(_) if plan.stands[place] => true,
            Source::Frame(frame) => frame.references.iter().all(|range| read(range.at, range.bytes)),
        };
        if to.send(all.then_some(old)).is_err() {
            return;
        }
    }
}

struct Putting<'a> {
    of: &'a DeltaSupplier,
    plan: &'a DeltaPlan,
    target: Seed,
    runtime: Handle,
    supply: Receiver<Fetched>,
    counter: &'a Counter,
    cancel: &'a CancellationToken,
    /// Of the supply, what is not used up: where it begins, and the bytes.
    stored: Fetched,
    decoder: SegmentDecoder,
}

impl Putting<'_> {
    fn run(
        mut self,
        reads: &Reads<Old>,
        give_back: &SyncSender<Vec<u8>>,
        drain: &mut Drain,
    ) -> Result<Fit, StageError> {
        let (of, mut stored_at) = (self.of, 0);
        for (place, (at, bytes, segment)) in segments(&of.head).enumerate() {
            if self.cancel.is_cancelled() {
                return Err(StageError::Cancelled);
            }
            let Ok(old) = reads.recv() else {
                return Err(StageError::Stopped("the reading thread ended".to_owned()));
            };
            let Some(old) = old else {
                return Ok(of.unfit(&"the running slot cannot be read"));
            };
            let fit = match &segment.source {
                Source::Copy { .. } => self.copy(segment.id, &old, drain)?,
                Source::Frame(frame) => {
                    let begin = stored_at;
                    stored_at += u64::from(frame.stored_bytes);
                    let stands = self.plan.stands[place];
                    if stands && self.put_standing(at, bytes, segment.id, drain)? {
                        Fit::Whole
                    } else if stands {
                        of.unfit(&"what stood in the target does not any more")
                    } else {
                        self.frame(begin, (segment.id, bytes), frame, &old, drain)?
                    }
                }
            };
            if fit != Fit::Whole {
                return Ok(fit);
            }
            // A reader that has ended needs none.
            let _ = give_back.try_send(old);
        }
        Ok(Fit::Whole)
    }

    fn copy(&mut self, wanted: SegmentId, old: &[u8], drain: &mut Drain) -> Result<Fit, StageError> {
        if SegmentId::of(old) != wanted {
            return Ok(self.of.unfit(&SegmentError::Other { wanted }));
        }
        drain.put(old, Put::Fresh)?;
        self.counter.reused(old.len() as u64);
        Ok(Fit::Whole)
    }

    fn put_standing(
        &mut self,
        at: u64,
        bytes: u32,
        wanted: SegmentId,
        drain: &mut Drain,
    ) -> Result<bool, StageError> {
        let Ok(Some(found)) = self.target.read(at, bytes as usize) else {
            return Ok(false);
        };
        if SegmentId::of(found) != wanted {
            return Ok(false);
        }
        drain.put(found, Put::Standing)?;
        self.counter.reused(u64::from(bytes));
        Ok(true)
    }

    fn frame(
        &mut self,
        begin: u64,
        (wanted, bytes): (SegmentId, u32),
        frame: &SegmentFrame,
        old: &[u8],
        drain: &mut Drain,
    ) -> Result<Fit, StageError> {
        let stored = self.supplied(begin, frame)?;
        let decoded = match self.decoder.decode(wanted, bytes, frame, &stored, old) {
            // Another mirror may have it as it was signed.
            Err(SegmentError::Frame(FrameError::Digest { .. })) => {
                self.counter.wire(u64::from(frame.stored_bytes));
                let again =
                    self.of
                        .repository
                        .delta_frame(&self.of.artifact, &self.of.described, begin, frame);
                match self.runtime.block_on(again) {
                    Ok(again) => self.decoder.decode(wanted, bytes, frame, &again, old),
                    Err(error) => return Ok(self.of.unfit(&error)),
                }
            }
            decoded => decoded,
        };
        match decoded {
            Ok(content) => {
                drain.put(content, Put::Fresh)?;
                self.counter.fetched(u64::from(bytes));
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
