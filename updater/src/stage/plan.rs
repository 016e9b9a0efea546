//! Where each page of an artifact comes from: the running slot as a whole or piece by piece, what stands in
//! the target already, and what is fetched, in few ranges. Pure: it is told what is held and what stands.

use std::ops::Range;

use drydock_images::MAX_RANGE_BYTES;
use drydock_images::chunk::{Chunk, ChunkId, Frame, Page, PageRef, Part};

use super::ahead::{PIECE_BYTES, pieces_of};
use super::held::Held;
use super::seed::Side;
use super::standing::{Expected, Kin};

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
    /// Piece by piece, in order.
    Pieces(Pieces),
}

/// A page's chunks, and what they are put together in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pieces {
    pub chunks: Vec<Chunk>,
    pub pieces: Vec<Piece>,
}

/// A frame of a page, or a chunk of zeros, of which there is no frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where it belongs in the image.
    pub place: Range<u64>,
    /// Which chunks of the page.
    pub chunks: Range<usize>,
    /// The frame, and where its content comes from.
    pub frame: Option<(Frame, Source)>,
}

impl Piece {
    /// Of one that the running slot has.
    pub(super) fn kin(&self) -> Option<Kin> {
        match &self.frame {
            Some((_, Source::Running(from))) => Some(from.kin(self.place.start)),
            Some((_, Source::Target | Source::Fetch)) | None => None,
        }
    }
}

/// Where the content of a frame comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// Chunk by chunk from the running slot; what is read there.
    Running(Copies),
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

impl Pieces {
    /// Of a page whose frames come from where `source` says.
    pub(super) fn of(
        named: &PageRef,
        page: &Page,
        mut source: impl FnMut(&Range<u64>, &Frame, &[Chunk]) -> Source,
    ) -> Self {
        let chunks: Vec<Chunk> = page.list().chunks().collect();
        // Many pages wait at a time: none takes more than it needs.
        let zeros = chunks.iter().filter(|chunk| chunk.id == ChunkId::ZEROS).count();
        let mut pieces = Vec::with_capacity(page.frames().len() + zeros);
        let (mut next, mut at) = (0, named.offset);
        let mut frames = page.frames().iter();
        while let Some(chunk) = chunks.get(next) {
            let is_zeros = chunk.id == ChunkId::ZEROS;
            let frame = if is_zeros { None } else { frames.next() };
            let (count, bytes) = match frame {
                Some(frame) => (usize::from(frame.chunks), frame.content_bytes),
                None if is_zeros => (1, chunk.length),
                // A page's frames hold just the chunks that are no zeros, which was checked when it was read.
                None => break,
            };
            let of_piece = next..chunks.len().min(next + count);
            let place = at..at + u64::from(bytes);
            (next, at) = (of_piece.end, place.end);
            let frame = frame.map(|frame| (*frame, source(&place, frame, &chunks[of_piece.clone()])));
            pieces.push(Piece {
                place,
                chunks: of_piece,
                frame,
            });
        }
        Self { chunks, pieces }
    }
}

/// Plans a page that was fetched because nobody here has its list. `stands` is asked about a frame by its
/// place in the image, its length and its chunks.
pub(super) fn plan_page(
    named: &PageRef,
    page: &Page,
    held: &Held,
    mut stands: impl FnMut(u64, u32, &[Chunk]) -> bool,
) -> PagePlan {
    PagePlan::Pieces(Pieces::of(named, page, |place, frame, chunks| {
        let mut places = Copies::default();
        let is_held = chunks.iter().all(|chunk| {
            let found = held.chunk(&chunk.id, named.offset).next();
            let found = found.map(|at| at..at + u64::from(chunk.length));
            found.map(|place| places.push(Side::Running, place)).is_some()
        });
        if is_held {
            places.0.shrink_to_fit();
            Source::Running(places)
        } else if stands(place.start, frame.content_bytes, chunks) {
            Source::Target
        } else {
            Source::Fetch
        }
    }))
}

/// What is read of the slots for these pages; what is not fetched is read in its own place of the target if it
/// is expected there.
pub(super) fn places_of(plans: &[(PageRef, PagePlan)], stand: Expected) -> Vec<(Side, Range<u64>)> {
    let mut all = Copies::default();
    for (named, plan) in plans {
        match plan {
            PagePlan::Copy { from } if stand.of(Kin::of(named.offset, *from)) => {
                copied(named.offset, named).for_each(|piece| all.push(Side::Target, piece));
            }
            PagePlan::Copy { from } => {
                copied(*from, named).for_each(|piece| all.push(Side::Running, piece));
            }
            PagePlan::Pieces(of) => {
                for piece in &of.pieces {
                    match &piece.frame {
                        Some((_, Source::Fetch)) => {}
                        Some((_, Source::Running(from))) if !stand.of(from.kin(piece.place.start)) => {
                            let places = from.0.iter().cloned();
                            places.for_each(|(side, place)| all.push(side, place));
                        }
                        None if !stand.any() => {}
                        Some(_) | None => all.push(Side::Target, piece.place.clone()),
                    }
                }
            }
        }
    }
    all.in_order()
}

/// Gathers what is wanted of the slots, in the order in which it is: neighbours are read together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Copies(Vec<(Side, Range<u64>)>);

impl Copies {
    /// A place behind all others in the order in which they are wanted.
    pub(super) fn push(&mut self, side: Side, place: Range<u64>) {
        match self.0.last_mut() {
            Some((at, last))
                if *at == side
                    && (last.start..=last.end + GAP_BYTES).contains(&place.start)
                    && place.end - last.start <= PIECE_BYTES as u64 =>
            {
                last.end = last.end.max(place.end);
            }
            _ => self.0.push((side, place)),
        }
    }

    pub(super) fn in_order(self) -> Vec<(Side, Range<u64>)> {
        self.0
    }

    /// Of what belongs at that place, and is copied from these.
    pub(super) fn kin(&self, place: u64) -> Kin {
        Kin::of(place, self.0.first().map_or(place, |(_, from)| from.start))
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
        let PagePlan::Pieces(of) = plan else {
            return;
        };
        let mut places = named.frames_at;
        for (frame, source) in of.pieces.iter().filter_map(|piece| piece.frame.as_ref()) {
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
