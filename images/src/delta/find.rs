//! What a segment of a new image is made of: where its chunks stand in the old image, and where something
//! like the rest of it stands.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use zstd::zstd_safe;

use super::MAX_REFERENCE_BYTES;
use super::ground::Ground;
use super::head::{Packing, Reference, Run, Segment, SegmentFrame, SegmentId, Source};
use super::packed::{PackedFrame, read, unpack};
use super::segment::{SegmentDecoder, pack_frame};
use super::similar::Anchors;
use super::view::{Stretch, View};
use crate::chunk::frame::encode_large_frame;
use crate::chunk::{Chunk, ChunkId};
use crate::digest::Digest;

/// A piece is referred to if it has about so many bytes of the new that no better piece has: each costs the
/// node a read, and the compressor room.
const LEAST_LIKE_BYTES: usize = 2048;
/// What is packed is referred to in pieces of at most so many bytes, if it is more than one frame.
const TOGETHER_BYTES: usize = 256 << 10;
/// Of the places of a chunk so many are looked at for the best.
const MAX_PLACES: usize = 64;

/// A chunk of an image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// Where it begins.
    pub at: u64,
    pub chunk: Chunk,
}

impl Piece {
    pub fn end(&self) -> u64 {
        self.at + u64::from(self.chunk.length)
    }
}

/// What of a segment stands in the old image.
#[derive(Debug, Clone, Copy)]
struct Moved {
    /// Where in the segment.
    from: usize,
    bytes: usize,
    /// Where in the old image.
    at: u64,
}

/// A segment to be made.
#[derive(Debug)]
pub(super) struct Wanted {
    at: u64,
    /// As it stands in the image.
    image: Vec<u8>,
    content: Vec<u8>,
    /// What of it is unpacked, and in its content.
    frames: Vec<PackedFrame>,
    runs: Vec<Run>,
    parts: Vec<Part>,
}

/// Some of a segment's content: in the image, a chunk or what is inside of the segment of it; or unpacked.
#[derive(Debug)]
struct Part {
    /// From where to where.
    from: usize,
    to: usize,
    /// The chunk, and how many of its bytes are before the part.
    of: Option<(Chunk, u64)>,
}

impl Wanted {
    /// The segment that stands at that place of an image which has those chunks, with those frames of it
    /// unpacked. The first and the last chunk may lie across its ends.
    ///
    /// # Errors
    /// A frame that cannot be unpacked.
    pub fn new(at: u64, image: Vec<u8>, chunks: &[Piece], frames: Vec<PackedFrame>) -> io::Result<Self> {
        let end = at + image.len() as u64;
        let mut wanted = Self {
            at,
            image,
            content: Vec::new(),
            frames: Vec::new(),
            runs: Vec::new(),
            parts: Vec::new(),
        };
        let mut next = at;
        for frame in &frames {
            let verbatim = wanted.verbatim(next, frame.at, chunks);
            // All of it is inside.
            let packed = &wanted.image[(frame.at - at) as usize..(frame.end() - at) as usize];
            let content = unpack(packed, frame)?;
            let from = wanted.content.len();
            wanted.content.extend_from_slice(&content);
            wanted.parts.push(Part {
                from,
                to: wanted.content.len(),
                of: None,
            });
            wanted.runs.push(Run {
                verbatim,
                packed: frame.content,
            });
            next = frame.end();
        }
        let verbatim = wanted.verbatim(next, end, chunks);
        if verbatim > 0 && !frames.is_empty() {
            wanted.runs.push(Run { verbatim, packed: 0 });
        }
        wanted.frames = frames;
        Ok(wanted)
    }

    /// Adds what stands between these places of the image, and gives its length.
    fn verbatim(&mut self, from: u64, to: u64, chunks: &[Piece]) -> u32 {
        // Where a place of the image is in the content.
        let content_at = self.content.len();
        let place = |at: u64| content_at + (at.clamp(from, to) - from) as usize;
        let first = chunks.partition_point(|chunk| chunk.end() <= from);
        let inside = chunks[first..].iter().take_while(|chunk| chunk.at < to);
        self.parts.extend(inside.map(|piece| Part {
            from: place(piece.at),
            to: place(piece.end()),
            of: Some((piece.chunk, from.saturating_sub(piece.at))),
        }));
        let image = (from - self.at) as usize..(to - self.at) as usize;
        self.content.extend_from_slice(&self.image[image]);
        // At most SEGMENT_BYTES.
        (to - from) as u32
    }

    /// The same segment in which only what is packed again as it was is unpacked.
    fn without_others(self, chunks: &[Piece], tools: &mut Tools) -> io::Result<Self> {
        let (mut right, mut from) = (Vec::new(), 0);
        for (frame, run) in self.frames.iter().zip(&self.runs) {
            from += run.verbatim as usize;
            let content = &self.content[from..from + run.packed as usize];
            from += content.len();
            // All of it is inside.
            let packed = &self.image[(frame.at - self.at) as usize..(frame.end() - self.at) as usize];
            if tools.packs(content, packed) {
                right.push(*frame);
            }
        }
        Self::new(self.at, self.image, chunks, right)
    }
}

/// What of a segment is where in the old image, and what of it is new: neither there nor zeros.
#[derive(Debug, Default)]
struct Compared {
    moved: Vec<Moved>,
    new: Vec<(usize, usize)>,
}

/// An old image, and what is where in it.
pub(super) struct Old {
    file: File,
    view: View,
    /// Sorted.
    chunks: Vec<(ChunkId, u64)>,
    anchors: Anchors,
}

/// What making segments takes, of which each thread has its own.
pub(super) struct Tools {
    context: zstd_safe::CCtx<'static>,
    decoder: SegmentDecoder,
    ground: Ground,
    level: i32,
    packing: Option<Packing>,
}

impl Tools {
    /// For a delta of that level.
    pub fn new(level: i32, packing: Option<Packing>) -> Self {
        Self {
            context: zstd_safe::CCtx::create(),
            decoder: SegmentDecoder::new(packing),
            ground: Ground::default(),
            level,
            packing,
        }
    }

    /// Whether that is what zstd makes of the content.
    fn packs(&mut self, content: &[u8], packed: &[u8]) -> bool {
        let made = self
            .packing
            .map(|packing| pack_frame(&mut self.context, content, i32::from(packing.level)));
        matches!(made, Some(Ok(made)) if made == packed)
    }
}

impl Old {
    /// `anchors` are those of the view.
    pub fn new(file: File, view: View, pieces: Vec<Piece>, anchors: Anchors) -> Self {
        let solid = pieces
            .into_iter()
            .filter(|piece| piece.chunk.id != ChunkId::ZEROS);
        let mut chunks: Vec<_> = solid.map(|piece| (piece.chunk.id, piece.at)).collect();
        chunks.sort_unstable();
        Self {
            file,
            view,
            chunks,
            anchors,
        }
    }

    /// Whether a chunk with that id stands somewhere.
    pub fn has(&self, id: &ChunkId) -> bool {
        self.place(id, 0).is_some()
    }

    /// Where a chunk stands: where it is expected, else nearest to that.
    fn place(&self, id: &ChunkId, expected: u64) -> Option<u64> {
        let first = self.chunks.partition_point(|(held, _)| held < id);
        let same = self.chunks[first..].iter().take_while(|(held, _)| held == id);
        let places = same.take(MAX_PLACES).map(|(_, at)| *at);
        places.min_by_key(|at| at.abs_diff(expected))
    }

    fn compare(&self, wanted: &Wanted) -> Compared {
        let mut compared = Compared::default();
        // Where the next chunk would stand if nothing had changed since the last.
        let mut expected = wanted.at;
        for part in &wanted.parts {
            let (from, to) = (part.from, part.to);
            if part.of.is_some_and(|(chunk, _)| chunk.id == ChunkId::ZEROS) {
                continue;
            }
            let stands = part.of.and_then(|(chunk, before)| {
                let stands = self.place(&chunk.id, expected)?;
                Some((stands, chunk, before))
            });
            let Some((stands, chunk, before)) = stands else {
                match compared.new.last_mut() {
                    Some(last) if last.1 == from => last.1 = to,
                    _ => compared.new.push((from, to)),
                }
                continue;
            };
            expected = stands + u64::from(chunk.length);
            let at = stands + before;
            match compared.moved.last_mut() {
                Some(last) if last.from + last.bytes == from && last.at + last.bytes as u64 == at => {
                    last.bytes += to - from;
                }
                _ => compared.moved.push(Moved {
                    from,
                    bytes: to - from,
                    at,
                }),
            }
        }
        compared
    }

    /// Where all of a segment stands. Chunks alone do not say: those across its ends may be new for what of
    /// them is outside, and zeros are looked for nowhere.
    fn whole(&self, wanted: &Wanted, compared: &Compared) -> io::Result<Option<u64>> {
        // Of what is unpacked it is not known where in the image it was.
        let moved = if wanted.frames.is_empty() {
            compared.moved.as_slice()
        } else {
            &[]
        };
        let places = [moved.first(), moved.last()].into_iter().flatten();
        let places = places.filter_map(|moved| moved.at.checked_sub(moved.from as u64));
        let mut places: Vec<u64> = places.chain([wanted.at]).collect();
        places.dedup();
        let mut found = vec![0; wanted.image.len()];
        for at in places {
            match self.file.read_exact_at(&mut found, at) {
                Ok(()) if found == wanted.image => return Ok(Some(at)),
                // The old image may be shorter.
                Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(None)
    }

    /// A segment of an image with those chunks, and what is stored of it. What of it cannot be packed again as
    /// it was is left packed.
    ///
    /// # Errors
    /// Of reading the old image; of zstd.
    pub fn segment(
        &self,
        wanted: Wanted,
        chunks: &[Piece],
        tools: &mut Tools,
    ) -> io::Result<(Segment, Vec<u8>)> {
        if let Some(made) = self.try_segment(&wanted, tools)? {
            return Ok(made);
        }
        let wanted = wanted.without_others(chunks, tools)?;
        self.try_segment(&wanted, tools)?
            .ok_or_else(|| io::Error::other("what was compressed is not what it was"))
    }

    /// None: what was made is not the segment.
    fn try_segment(&self, wanted: &Wanted, tools: &mut Tools) -> io::Result<Option<(Segment, Vec<u8>)>> {
        let content = &wanted.content;
        let compared = self.compare(wanted);
        let mut segment = Segment {
            id: SegmentId::of(&wanted.image),
            // At most SEGMENT_BYTES, which a head is checked for, as it is for what is stored.
            bytes: wanted.image.len() as u32,
            source: Source::Copy { at: 0 },
        };
        if let Some(at) = self.whole(wanted, &compared)? {
            segment.source = Source::Copy { at };
            return Ok(Some((segment, Vec::new())));
        }
        let references = self.references(content, &compared)?;
        tools.ground.clear();
        for reference in &references {
            let mut read = vec![0; reference.bytes as usize];
            self.file.read_exact_at(&mut read, reference.at)?;
            tools.ground.add(reference, &read).map_err(io::Error::other)?;
        }
        let ground = &mut tools.ground;
        let stored = encode_large_frame(&mut tools.context, content, ground.bytes(), tools.level)?;
        let frame = SegmentFrame {
            stored_bytes: stored.len() as u32,
            digest: Digest::of(&stored),
            references,
            runs: wanted.runs.clone(),
        };
        if tools.decoder.decode(&segment, &frame, &stored, ground).is_err() {
            return Ok(None);
        }
        segment.source = Source::Frame(frame);
        Ok(Some((segment, stored)))
    }

    /// What a segment refers to: all that moved, and what is most like the rest, as far as it is worth it and
    /// allowed.
    fn references(&self, content: &[u8], compared: &Compared) -> io::Result<Vec<Reference>> {
        let moved = compared.moved.iter();
        let mut ranges: Vec<(u64, u64)> = moved
            .map(|moved| (moved.at, moved.at + moved.bytes as u64))
            .collect();
        // What moved is at most a segment.
        let mut room =
            u64::from(MAX_REFERENCE_BYTES) - ranges.iter().map(|(from, to)| to - from).sum::<u64>();
        let mut like = Like::default();
        for (from, to) in &compared.new {
            self.anchors.places(&content[*from..*to], |place, at| {
                like.add(self.view.piece(place), from + at);
            });
        }
        let mut frames = Vec::new();
        for piece in like.best(LEAST_LIKE_BYTES / self.anchors.spacing_bytes()) {
            let around = self.view.around(piece);
            let bytes = match &around {
                Stretch::Verbatim(range) => range.end - range.start,
                Stretch::Packed(frame) => u64::from(frame.content),
            };
            // Those that overlap take less than this.
            let Some(left) = room.checked_sub(bytes) else {
                break;
            };
            room = left;
            match around {
                Stretch::Verbatim(range) => ranges.push((range.start, range.end)),
                Stretch::Packed(frame) => frames.push(frame),
            }
        }
        let mut references = merge(ranges);
        frames.sort_unstable_by_key(|frame| frame.at);
        let mut left = frames.as_slice();
        while let Some(first) = left.first() {
            // Neighbours together, as far as a node reads them at once.
            let mut packed = read(&self.file, first)?;
            let mut count = 1;
            while let Some(next) = left.get(count)
                && next.at == first.at + packed.len() as u64
                && packed.len() + next.bytes as usize <= TOGETHER_BYTES
            {
                packed.extend_from_slice(&read(&self.file, next)?);
                count += 1;
            }
            left = &left[count..];
            references.push(Reference {
                at: first.at,
                // No more than their content.
                bytes: packed.len() as u32,
                packed: Some(SegmentId::of(&packed)),
            });
        }
        Ok(references)
    }
}

/// Which pieces of the old image have what of the new one.
#[derive(Debug, Default)]
struct Like {
    /// By piece: where in the new each of its anchors stands.
    pieces: HashMap<u64, Vec<usize>>,
}

impl Like {
    fn add(&mut self, piece: u64, at: usize) {
        self.pieces.entry(piece).or_default().push(at);
    }

    /// The best piece, then the one that adds most to it, and so on, as long as one adds `least` anchors, and
    /// one at least.
    fn best(self, least: usize) -> impl Iterator<Item = u64> {
        let least = least.max(1);
        let mut left: BinaryHeap<(usize, Reverse<u64>, Vec<usize>)> = self
            .pieces
            .into_iter()
            .filter(|(_, anchors)| anchors.len() >= least)
            .map(|(piece, anchors)| (anchors.len(), Reverse(piece), anchors))
            .collect();
        let mut found = HashSet::new();
        std::iter::from_fn(move || {
            loop {
                let (count, piece, mut anchors) = left.pop()?;
                anchors.retain(|at| !found.contains(at));
                anchors.dedup();
                if anchors.len() == count {
                    found.extend(anchors);
                    return Some(piece.0);
                }
                // Some of it is in pieces that were chosen since.
                if anchors.len() >= least {
                    left.push((anchors.len(), piece, anchors));
                }
            }
        })
    }
}

/// In their order, without overlaps.
fn merge(mut ranges: Vec<(u64, u64)>) -> Vec<Reference> {
    ranges.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (from, to) in ranges {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    // All together have at most MAX_REFERENCE_BYTES.
    let reference = |(at, to): (u64, u64)| Reference::to(at, (to - at) as u32);
    merged.into_iter().map(reference).collect()
}

#[cfg(test)]
mod tests {
    use super::Like;

    #[test]
    fn a_piece_is_chosen_for_what_no_better_one_has() {
        let mut like = Like::default();
        let pieces: [(u64, &[usize]); 5] = [
            (1, &[0, 1, 2, 3, 4, 5]),
            // All of it is in the best.
            (2, &[1, 2, 3, 4, 5]),
            // Three more than that.
            (3, &[4, 5, 6, 7, 8]),
            // Of the same place twice, which counts once.
            (4, &[9, 9, 9, 10]),
            (5, &[11, 12, 13]),
        ];
        for (piece, places) in pieces {
            places.iter().for_each(|at| like.add(piece, *at));
        }
        assert_eq!(like.best(3).collect::<Vec<_>>(), [1, 3, 5]);
    }
}
