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
use super::plan::{Copies, PagePlan, Pieces, Source, copied, places_of};
use super::seed::{Seeds, Side};
use super::standing::{Expected, Kin, Standing};
use super::write::Counter;

/// Pages of which it is decided together whether they are looked for in the target first; one in tests, whose
/// images are small.
const GROUP_PAGES: usize = if cfg!(test) { 1 } else { 32 };

/// What the fetching side sends, in the order in which it is needed.
pub(super) enum Supply {
    /// What the next pages are made of.
    Plans(Vec<(PageRef, PagePlan)>),
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
    seeds: Seeds,
    standing: Standing,
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
    pub(super) fn new(
        pages: &'a Pages,
        held: &'a Held,
        seeds: Seeds,
        (remote, supply): (Remote, Receiver<Supply>),
        keeping: Keeping<'a>,
        told: (&'a Counter, &'a CancellationToken),
    ) -> Self {
        let (counter, cancel) = told;
        Self {
            pages,
            held,
            seeds,
            standing: Standing::default(),
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
            self.seeds.read_ahead(scope);
            self.all(drain)
        })
    }

    fn all(mut self, drain: &mut Drain) -> Result<HeldBuilder<'a>, StageError> {
        let mut left = self.pages.count();
        let mut is_first = true;
        while left > 0 {
            let plans = match self.supply.blocking_recv() {
                Some(Supply::Plans(plans)) => plans,
                // The rest of a range whose frames were not needed after all.
                Some(Supply::Stored(..)) => continue,
                None => return Err(ended_early()),
            };
            left = left.saturating_sub(plans.len());
            if std::mem::take(&mut is_first) {
                self.look_at_first(&plans);
            }
            let mut groups = plans.chunks(GROUP_PAGES);
            let mut next = groups.next().map(|group| self.foresee(group));
            while let Some((group, stand)) = next {
                // The reader is always told of a group before the one in front of it is put.
                next = groups.next().map(|group| self.foresee(group));
                for (named, plan) in group {
                    if self.cancel.is_cancelled() {
                        return Err(StageError::Cancelled);
                    }
                    self.page(named, plan, stand, drain)?;
                }
                self.standing.end_group();
            }
        }
        Ok(self.made)
    }

    /// Whether the first page, or piece of one, that the running slot has stands in the target; of each kind.
    fn look_at_first(&mut self, plans: &[(PageRef, PagePlan)]) {
        for kin in [Kin::SamePlace, Kin::Elsewhere] {
            let stands = plans.iter().find_map(|(named, plan)| match plan {
                PagePlan::Copy { from } => (Kin::of(named.offset, *from) == kin).then(|| {
                    let place = (Side::Target, named.offset);
                    let there = whole_page(&mut self.seeds, &mut self.piece, place, named);
                    let list = there.map(|bytes| ChunkList::of(bytes, self.pages.cuts()));
                    list.is_some_and(|list| list.id() == named.list)
                }),
                PagePlan::Pieces(of) => {
                    let first = of.pieces.iter().find(|piece| piece.kin() == Some(kin));
                    first.map(|piece| self.copy_standing(&piece.place, &of.chunks[piece.chunks.clone()]))
                }
            });
            if let Some(stands) = stands {
                self.standing.saw(kin, stands);
            }
        }
        self.standing.end_group();
    }

    /// Tells the reader what the pages are made of; what of it is looked for in the target first.
    fn foresee<'p>(&mut self, group: &'p [(PageRef, PagePlan)]) -> (&'p [(PageRef, PagePlan)], Expected) {
        let stand = self.standing.expected();
        self.seeds.foresee(places_of(group, stand));
        (group, stand)
    }

    fn page(
        &mut self,
        named: &PageRef,
        plan: &PagePlan,
        stand: Expected,
        drain: &mut Drain,
    ) -> Result<(), StageError> {
        self.page_at = named.offset;
        match plan {
            PagePlan::Copy { from } => {
                let kin = Kin::of(named.offset, *from);
                if stand.of(kin) {
                    let stands = self.copy(named, (Side::Target, named.offset), drain)?;
                    self.standing.saw(kin, stands);
                    if stands {
                        return Ok(());
                    }
                }
                if self.copy(named, (Side::Running, *from), drain)? {
                    return Ok(());
                }
                let page = self.remote.page(named)?;
                self.counter.wire(u64::from(named.page_bytes));
                let of = Pieces::of(named, &page, |_, _, _| Source::Running(Copies::default()));
                self.pieces(named, &of, Expected::default(), drain)
            }
            PagePlan::Pieces(of) => self.pieces(named, of, stand, drain),
        }
    }

    /// Puts all of a page as it is at that place of a slot, if it is there: the list that the copy itself is
    /// cut into must be the page's.
    fn copy(
        &mut self,
        named: &PageRef,
        (side, at): (Side, u64),
        drain: &mut Drain,
    ) -> Result<bool, StageError> {
        let put = match side {
            Side::Running => Put::Fresh,
            Side::Target => Put::Standing,
        };
        let kin = Kin::of(named.offset, at);
        if put == Put::Fresh {
            self.standing.look(kin, &mut self.seeds, named.offset);
        }
        let Some(bytes) = whole_page(&mut self.seeds, &mut self.piece, (side, at), named) else {
            return Ok(false);
        };
        let list = ChunkList::of(bytes, self.pages.cuts());
        if list.id() != named.list {
            return Ok(false);
        }
        if put == Put::Fresh {
            self.standing.compare(kin, named.offset, bytes);
        }
        self.made.list(named.offset, named.list, list.chunks());
        self.rebuilder.known(bytes);
        drain.put(bytes, put)?;
        self.counter.reused(u64::from(named.image_bytes));
        Ok(true)
    }

    fn pieces(
        &mut self,
        named: &PageRef,
        of: &Pieces,
        stand: Expected,
        drain: &mut Drain,
    ) -> Result<(), StageError> {
        self.made
            .list(named.offset, named.list, of.chunks.iter().copied());
        let mut stored_at = named.frames_at;
        for piece in &of.pieces {
            let chunks = &of.chunks[piece.chunks.clone()];
            let Some((frame, source)) = &piece.frame else {
                self.zeros(&piece.place, chunks, stand, drain)?;
                continue;
            };
            let place = &mut stored_at[frame.part as usize];
            let stored = *place;
            *place += u64::from(frame.stored_bytes);
            self.frame((&piece.place, chunks), (frame, source), stored, stand, drain)?;
        }
        Ok(())
    }

    fn zeros(
        &mut self,
        place: &Range<u64>,
        chunks: &[Chunk],
        stand: Expected,
        drain: &mut Drain,
    ) -> Result<(), StageError> {
        // It is one chunk.
        let length = (place.end - place.start) as u32;
        if stand.any() && self.copy_standing(place, chunks) {
            self.rebuilder.known(&self.piece);
            drain.put(&self.piece, Put::Standing)?;
        } else {
            drain.put(self.rebuilder.zeros(length), Put::Fresh)?;
        }
        self.counter.reused(u64::from(length));
        Ok(())
    }

    fn frame(
        &mut self,
        (place, chunks): (&Range<u64>, &[Chunk]),
        (frame, source): (&Frame, &Source),
        stored_at: u64,
        stand: Expected,
        drain: &mut Drain,
    ) -> Result<(), StageError> {
        let found = match source {
            Source::Running(from) => self.frame_here((place, chunks), from.kin(place.start), stand),
            Source::Target => self.copy_standing(place, chunks).then_some(Put::Standing),
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
            Source::Running(_) | Source::Target => {
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
                let Ok(Some(bytes)) = self.seeds.read(Side::Running, place, chunk.length as usize) else {
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

    /// Fills `piece` with a frame's content that one of the slots should have; which of them has it.
    fn frame_here(
        &mut self,
        (place, chunks): (&Range<u64>, &[Chunk]),
        kin: Kin,
        stand: Expected,
    ) -> Option<Put> {
        if stand.of(kin) {
            let stands = self.copy_standing(place, chunks);
            self.standing.saw(kin, stands);
            if stands {
                return Some(Put::Standing);
            }
        }
        self.standing.look(kin, &mut self.seeds, place.start);
        let is_there = self.copy_running(chunks);
        if is_there {
            self.standing.compare(kin, place.start, &self.piece);
        }
        is_there.then_some(Put::Fresh)
    }

    /// Fills `piece` with what stands in this place of the target; whether it is these chunks.
    fn copy_standing(&mut self, place: &Range<u64>, chunks: &[Chunk]) -> bool {
        let Some(bytes) = read(&mut self.seeds, Side::Target, place) else {
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

/// What is there in the place of a page, put together in `piece` if it is read in several pieces. A slot that
/// cannot be read only means that more is fetched.
fn whole_page<'s>(
    seeds: &'s mut Seeds,
    piece: &'s mut Vec<u8>,
    (side, at): (Side, u64),
    named: &PageRef,
) -> Option<&'s [u8]> {
    let places: Vec<Range<u64>> = copied(at, named).collect();
    if let [whole] = places.as_slice() {
        return read(seeds, side, whole);
    }
    piece.clear();
    piece.reserve_exact(named.image_bytes as usize);
    for place in &places {
        piece.extend_from_slice(read(seeds, side, place)?);
    }
    Some(piece)
}

fn read<'a>(seeds: &'a mut Seeds, side: Side, place: &Range<u64>) -> Option<&'a [u8]> {
    let len = usize::try_from(place.end - place.start).ok()?;
    seeds.read(side, place.start, len).ok()?
}

fn ended_early() -> StageError {
    StageError::Stopped("what was planned to be fetched did not come".to_owned())
}
