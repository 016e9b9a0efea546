//! Where each page of an artifact comes from: the running slot as a whole or piece by piece, what stands in
//! the target already, and what is fetched, in few ranges. Pure: it is told what is held and what stands.

use std::ops::Range;

use drydock_images::MAX_RANGE_BYTES;
use drydock_images::chunk::{Chunk, Frame, Page, PageRef, Part};

use super::ahead::{PIECE_BYTES, pieces_of};
use super::held::Held;

/// Bytes that nobody needs are fetched too where that saves a request.
const GAP_BYTES: u64 = 32 * 1024;
/// A page of which more has to be in memory to know it by its list is fetched, and copied chunk by chunk.
pub(super) const MAX_COPIED_BYTES: u32 = 2 << 20;
/// A page that is copied is read in one up to here, since what is read in pieces has to be put together.
const READ_IN_ONE_BYTES: usize = 512 << 10;

/// Where a page comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PagePlan {
    /// The running slot has all that it lists in one piece, at this place.
    Copy { from: u64 },
    /// Frame by frame, in order; runs of zeros are made.
    Pieces { page: Page, frames: Vec<Source> },
}

/// Where the content of a frame comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Chunk by chunk from the running slot.
    Running,
    /// It is right in the target already.
    Target,
    /// Fetched.
    Fetch,
}

/// The pieces in which a page is read that is copied from that place.
pub(super) fn copied(from: u64, named: &PageRef) -> impl Iterator<Item = Range<u64>> {
    let bytes = u64::from(named.image_bytes);
    let step = if bytes <= READ_IN_ONE_BYTES as u64 {
        READ_IN_ONE_BYTES
    } else {
        PIECE_BYTES
    };
    pieces_of(from..from + bytes, step)
}

/// The chunks of a frame.
pub(super) fn chunks_of(page: &Page, frame: &Frame) -> Vec<Chunk> {
    let chunks = page.list().chunks().skip(usize::from(frame.first_chunk));
    chunks.take(usize::from(frame.chunks)).collect()
}

/// Plans a page that was fetched because nobody here has its list. `stands` is asked about a frame by its
/// place in the image, its length and its chunks.
pub(super) fn plan_page(
    named: &PageRef,
    page: Page,
    held: &Held,
    mut stands: impl FnMut(u64, u32, &[Chunk]) -> bool,
) -> PagePlan {
    let lengths: Vec<u32> = page.list().chunks().map(|chunk| chunk.length).collect();
    let mut frames = Vec::with_capacity(page.frames().len());
    for frame in page.frames() {
        let chunks = chunks_of(&page, frame);
        let before: u64 = lengths[..usize::from(frame.first_chunk)]
            .iter()
            .map(|length| u64::from(*length))
            .sum();
        let source = if chunks
            .iter()
            .all(|chunk| held.chunk(&chunk.id, named.offset).next().is_some())
        {
            Source::Running
        } else if stands(named.offset + before, frame.content_bytes, &chunks) {
            Source::Target
        } else {
            Source::Fetch
        };
        frames.push(source);
    }
    PagePlan::Pieces { page, frames }
}

/// Gathers what is wanted of the running slot, in the order in which it is: neighbours are read together.
#[derive(Debug, Default)]
pub(super) struct Copies(Vec<Range<u64>>);

impl Copies {
    /// What a page takes from there.
    pub(super) fn push_page(&mut self, named: &PageRef, plan: &PagePlan, held: &Held) {
        match plan {
            PagePlan::Copy { from } => copied(*from, named).for_each(|piece| self.push(piece)),
            PagePlan::Pieces { page, frames } => {
                let sources = page.frames().iter().zip(frames);
                for (frame, _) in sources.filter(|(_, source)| **source == Source::Running) {
                    for chunk in chunks_of(page, frame) {
                        let place = held.chunk(&chunk.id, named.offset).next();
                        let place = place.map(|at| at..at + u64::from(chunk.length));
                        place.into_iter().for_each(|place| self.push(place));
                    }
                }
            }
        }
    }

    /// A place behind all others in the order in which they are wanted.
    pub(super) fn push(&mut self, place: Range<u64>) {
        match self.0.last_mut() {
            Some(last)
                if (last.start..=last.end + GAP_BYTES).contains(&place.start)
                    && place.end - last.start <= PIECE_BYTES as u64 =>
            {
                last.end = last.end.max(place.end);
            }
            _ => self.0.push(place),
        }
    }

    pub(super) fn in_order(self) -> Vec<Range<u64>> {
        self.0
    }
}

/// Gathers neighbours into ranges, for each part of the pack: none is longer than [`MAX_RANGE_BYTES`] unless
/// one piece alone is, and small gaps are fetched with them.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    /// Each with the number of the piece that it begins with.
    parts: [Vec<(usize, Range<u64>)>; 2],
    pieces: usize,
}

impl Ranges {
    /// Adds a piece behind all others of that part.
    pub(super) fn push(&mut self, part: Part, piece: Range<u64>) {
        self.pieces += 1;
        match self.parts[part as usize].last_mut() {
            Some((_, last))
                if piece.start <= last.end + GAP_BYTES && piece.end - last.start <= MAX_RANGE_BYTES =>
            {
                last.end = piece.end;
            }
            _ => self.parts[part as usize].push((self.pieces, piece)),
        }
    }

    /// The frames of a page that are fetched.
    pub(super) fn push_frames(&mut self, named: &PageRef, plan: &PagePlan) {
        let PagePlan::Pieces { page, frames } = plan else {
            return;
        };
        let mut places = named.frames_at;
        for (frame, source) in page.frames().iter().zip(frames) {
            let at = &mut places[frame.part as usize];
            let end = *at + u64::from(frame.stored_bytes);
            if *source == Source::Fetch {
                self.push(frame.part, *at..end);
            }
            *at = end;
        }
    }

    /// In the order in which they are needed first.
    pub(super) fn in_order(self) -> Vec<(Part, Range<u64>)> {
        let [front, rest] = self.parts;
        let with = |part: Part, ranges: Vec<(usize, Range<u64>)>| {
            ranges.into_iter().map(move |(first, range)| (first, part, range))
        };
        let mut all: Vec<_> = with(Part::Front, front).chain(with(Part::Rest, rest)).collect();
        all.sort_by_key(|(first, _, _)| *first);
        all.into_iter().map(|(_, part, range)| (part, range)).collect()
    }
}
