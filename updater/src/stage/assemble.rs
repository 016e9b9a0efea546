//! An artifact in the order of its bytes, put together from what the plan says: the running slot, the
//! target itself, zeros, and what was fetched. Nothing is passed on that was not hashed: copies by their
//! ids, frames before they are unpacked. What turns out not to be held after all is fetched. Blocks.

use std::ops::Range;
use std::thread;

use bytes::Bytes;
use drydock_images::chunk::{
    Chunk, ChunkId, ChunkList, Frame, FrameError, Page, PageRef, Part, Rebuilder, check_chunks,
};
use drydock_images::{Artifact, Repository, TrustError};
use tokio::runtime::Handle;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

use super::StageError;
use super::drain::{Drain, Put};
use super::held::{Held, HeldBuilder, Keeping};
use super::pages::Pages;
use super::plan::{PagePlan, Source, chunks_of, copied};
use super::seed::Seed;
use super::write::Counter;

/// What the fetching side sends, in the order in which it is needed.
pub(super) enum Supply {
    /// What the next pages are made of, and what of the running slot is copied for them.
    Plans(Vec<(PageRef, PagePlan)>, Vec<Range<u64>>),
    /// Stored bytes of a part of the pack, from that place on.
    Stored(Part, u64, Bytes),
}

/// Fetches what no plan foresaw.
pub(super) struct Remote {
    pub runtime: Handle,
    pub repository: Repository,
    pub artifact: Artifact,
}

impl Remote {
    fn what(&self) -> String {
        format!(
            "the pack of {} in repository {}",
            self.artifact.name,
            self.repository.name()
        )
    }

    fn page(&self, named: &PageRef) -> Result<Page, StageError> {
        let fetched = self.repository.pages(&self.artifact, std::slice::from_ref(named));
        let page = self.runtime.block_on(fetched)?.pop();
        page.ok_or_else(|| StageError::Stopped("a page was asked for and none came".to_owned()))
    }

    fn frame(&self, at: u64, frame: &Frame) -> Result<Bytes, StageError> {
        let fetched = self.repository.frame(&self.artifact, at, frame);
        Ok(self.runtime.block_on(fetched)?)
    }
}

/// See the module.
pub(super) struct Assembly<'a> {
    pages: &'a Pages,
    held: &'a Held,
    running: Seed,
    target: Seed,
    remote: Remote,
    supply: Receiver<Supply>,
    counter: &'a Counter,
    cancel: &'a CancellationToken,
    rebuilder: Rebuilder,
    /// What the target holds in the end.
    made: HeldBuilder<'a>,
    /// Where the page begins in the image that is put.
    page_at: u64,
    /// Of the supply, what is not used up of each part: where it begins, and the bytes.
    stored: [(u64, Bytes); 2],
    piece: Vec<u8>,
}

impl<'a> Assembly<'a> {
    /// `target` reads what stands in the target while it is not overwritten yet.
    pub(super) fn new(
        pages: &'a Pages,
        held: &'a Held,
        (running, target): (Seed, Seed),
        (remote, supply): (Remote, Receiver<Supply>),
        keeping: Keeping<'a>,
        told: (&'a Counter, &'a CancellationToken),
    ) -> Self {
        let (counter, cancel) = told;
        Self {
            pages,
            held,
            running,
            target,
            remote,
            supply,
            counter,
            cancel,
            rebuilder: Rebuilder::new(pages.window_bytes()),
            made: HeldBuilder::in_file(keeping),
            page_at: 0,
            stored: [(0, Bytes::new()), (0, Bytes::new())],
            piece: Vec::new(),
        }
    }

    /// Puts the whole artifact, and gives what it holds, to be kept when that was proven.
    ///
    /// # Errors
    /// What was fetched is not what was signed; the supply ended early; a cancellation; what the drain says.
    pub(super) fn run(mut self, drain: &mut Drain) -> Result<HeldBuilder<'a>, StageError> {
        thread::scope(move |scope| {
            self.running.read_ahead(scope);
            self.all(drain)
        })
    }

    fn all(mut self, drain: &mut Drain) -> Result<HeldBuilder<'a>, StageError> {
        let mut left = self.pages.count();
        while left > 0 {
            let plans = match self.supply.blocking_recv() {
                Some(Supply::Plans(plans, copies)) => {
                    self.running.foresee(copies);
                    plans
                }
                // The rest of a range whose frames were not needed after all.
                Some(Supply::Stored(..)) => continue,
                None => return Err(ended_early()),
            };
            left = left.saturating_sub(plans.len());
            for (named, plan) in plans {
                if self.cancel.is_cancelled() {
                    return Err(StageError::Cancelled);
                }
                self.page(&named, plan, drain)?;
            }
        }
        Ok(self.made)
    }

    fn page(&mut self, named: &PageRef, plan: PagePlan, drain: &mut Drain) -> Result<(), StageError> {
        self.page_at = named.offset;
        match plan {
            PagePlan::Copy { from } => {
                if self.copy(named, from, drain)? {
                    return Ok(());
                }
                let page = self.remote.page(named)?;
                self.counter.wire(u64::from(named.page_bytes));
                let frames = vec![Source::Running; page.frames().len()];
                self.pieces(named, &page, &frames, drain)
            }
            PagePlan::Pieces { page, frames } => self.pieces(named, &page, &frames, drain),
        }
    }

    /// Copies all of a page from the running slot, if it is there: the list that the copy itself is cut
    /// into must be the page's.
    fn copy(&mut self, named: &PageRef, from: u64, drain: &mut Drain) -> Result<bool, StageError> {
        let pieces: Vec<_> = copied(from, named).collect();
        let bytes = if let [whole] = pieces.as_slice() {
            read(&mut self.running, whole)
        } else {
            self.piece.clear();
            self.piece.reserve_exact(named.image_bytes as usize);
            let put_together = pieces.iter().try_for_each(|piece| {
                self.piece.extend_from_slice(read(&mut self.running, piece)?);
                Some(())
            });
            put_together.map(|()| self.piece.as_slice())
        };
        let Some(bytes) = bytes else {
            return Ok(false);
        };
        let list = ChunkList::of(bytes, self.pages.cuts());
        if list.id() != named.list {
            return Ok(false);
        }
        self.made.list(named.offset, named.list, list.chunks());
        self.rebuilder.known(bytes);
        drain.put(bytes, Put::Fresh)?;
        self.counter.reused(u64::from(named.image_bytes));
        Ok(true)
    }

    fn pieces(
        &mut self,
        named: &PageRef,
        page: &Page,
        sources: &[Source],
        drain: &mut Drain,
    ) -> Result<(), StageError> {
        self.made.list(named.offset, named.list, page.list().chunks());
        let chunks: Vec<Chunk> = page.list().chunks().collect();
        let mut frames = page.frames().iter().zip(sources);
        let (mut next, mut at, mut stored_at) = (0, named.offset, named.frames_at);
        while let Some(chunk) = chunks.get(next) {
            if chunk.id == ChunkId::ZEROS {
                drain.put(self.rebuilder.zeros(chunk.length), Put::Fresh)?;
                self.counter.reused(u64::from(chunk.length));
                (next, at) = (next + 1, at + u64::from(chunk.length));
                continue;
            }
            // A page's frames hold just the chunks that are no zeros, which was checked when it was read.
            let Some((frame, source)) = frames.next() else {
                break;
            };
            let place = &mut stored_at[frame.part as usize];
            self.frame(at, *place, &chunks_of(page, frame), frame, *source, drain)?;
            next += usize::from(frame.chunks);
            at += u64::from(frame.content_bytes);
            *place += u64::from(frame.stored_bytes);
        }
        Ok(())
    }

    fn frame(
        &mut self,
        at: u64,
        stored_at: u64,
        chunks: &[Chunk],
        frame: &Frame,
        source: Source,
        drain: &mut Drain,
    ) -> Result<(), StageError> {
        let found = match source {
            Source::Running => self.copy_running(chunks).then_some(Put::Fresh),
            Source::Target => self.copy_standing(at, chunks, frame).then_some(Put::Standing),
            Source::Fetch => None,
        };
        if let Some(put) = found {
            self.rebuilder.known(&self.piece);
            drain.put(&self.piece, put)?;
            self.counter.reused(u64::from(frame.content_bytes));
            return Ok(());
        }
        let stored = match source {
            Source::Fetch => self.supplied(stored_at, frame)?,
            Source::Running | Source::Target => {
                self.counter.wire(u64::from(frame.stored_bytes));
                self.remote.frame(stored_at, frame)?
            }
        };
        let content = match self.rebuilder.frame(&stored, frame) {
            // Another mirror may have it as it was signed.
            Err(FrameError::Digest { .. }) => {
                self.counter.wire(u64::from(frame.stored_bytes));
                let again = self.remote.frame(stored_at, frame)?;
                self.rebuilder.frame(&again, frame)
            }
            content => content,
        };
        let content = content.map_err(|error| TrustError::frame(&self.remote.what(), &error))?;
        drain.put(content, Put::Fresh)?;
        self.counter.fetched(u64::from(frame.content_bytes));
        Ok(())
    }

    /// Fills `piece` with these chunks of the running slot; whether they are there and right.
    fn copy_running(&mut self, chunks: &[Chunk]) -> bool {
        self.piece.clear();
        chunks.iter().all(|chunk| {
            self.held.chunk(&chunk.id, self.page_at).any(|place| {
                let Ok(Some(bytes)) = self.running.read(place, chunk.length as usize) else {
                    return false;
                };
                let right = ChunkId::of(bytes) == chunk.id;
                if right {
                    self.piece.extend_from_slice(bytes);
                }
                right
            })
        })
    }

    /// Fills `piece` with what stands in the target at this place; whether it is right.
    fn copy_standing(&mut self, at: u64, chunks: &[Chunk], frame: &Frame) -> bool {
        let Ok(Some(bytes)) = self.target.read(at, frame.content_bytes as usize) else {
            return false;
        };
        self.piece.clear();
        self.piece.extend_from_slice(bytes);
        check_chunks(bytes, chunks).is_ok()
    }

    /// The stored bytes of a frame out of the supply, whose ranges come in the order of the frames.
    fn supplied(&mut self, stored_at: u64, frame: &Frame) -> Result<Bytes, StageError> {
        let end = stored_at + u64::from(frame.stored_bytes);
        let part = frame.part as usize;
        loop {
            let (held_at, held) = &self.stored[part];
            if stored_at >= *held_at && end <= held_at + held.len() as u64 {
                // Both are inside of what is held, which is memory.
                let from = (stored_at - held_at) as usize;
                return Ok(held.slice(from..from + frame.stored_bytes as usize));
            }
            // Ranges come in the order in which they are needed first, so of the other part there is nothing
            // that is still needed before this one.
            match self.supply.blocking_recv() {
                Some(Supply::Stored(part, at, bytes)) => self.stored[part as usize] = (at, bytes),
                Some(Supply::Plans(..)) | None => return Err(ended_early()),
            }
        }
    }
}

/// A running slot that cannot be read only means that more is fetched.
fn read<'a>(running: &'a mut Seed, place: &Range<u64>) -> Option<&'a [u8]> {
    let len = usize::try_from(place.end - place.start).ok()?;
    running.read(place.start, len).ok()?
}

fn ended_early() -> StageError {
    StageError::Stopped("what was planned to be fetched did not come".to_owned())
}
