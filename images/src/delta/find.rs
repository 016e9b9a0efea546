//! What a segment of a new image is made of: where its chunks stand in the old image, and where something
//! like the rest of it stands.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use zstd::zstd_safe;

use super::MAX_REFERENCE_BYTES;
use super::head::{Reference, Segment, SegmentFrame, SegmentId, Source};
use super::segment::SegmentDecoder;
use super::similar::Anchors;
use crate::chunk::frame::encode_large_frame;
use crate::chunk::{Chunk, ChunkId};
use crate::digest::Digest;

/// The old image is referred to in pieces of so many bytes, where something like the new stands in them, ...
const LIKE_BYTES: u64 = 128 * 1024;
/// ... with so many before and behind.
const AROUND_BYTES: u64 = 4 * 1024;
/// A piece is referred to if it has about so many bytes of the new that no better piece has: each costs the
/// node a read, and the compressor room.
const LEAST_LIKE_BYTES: usize = 2048;
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
    content: Vec<u8>,
    /// The chunks that it consists of; the first and the last may lie across its ends.
    pieces: Vec<Piece>,
}

impl Wanted {
    pub fn new(at: u64, content: Vec<u8>, pieces: Vec<Piece>) -> Self {
        Self { at, content, pieces }
    }

    /// The part of a chunk that is inside: from where to where.
    fn inside(&self, piece: &Piece) -> (usize, usize) {
        let end = self.at + self.content.len() as u64;
        // All of this is inside of the content.
        let place = |at: u64| (at.clamp(self.at, end) - self.at) as usize;
        (place(piece.at), place(piece.end()))
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
    size: u64,
    /// Sorted.
    chunks: Vec<(ChunkId, u64)>,
    anchors: Anchors,
}

impl Old {
    pub fn new(file: File, size: u64, pieces: Vec<Piece>, anchors: Anchors) -> Self {
        let solid = pieces
            .into_iter()
            .filter(|piece| piece.chunk.id != ChunkId::ZEROS);
        let mut chunks: Vec<_> = solid.map(|piece| (piece.chunk.id, piece.at)).collect();
        chunks.sort_unstable();
        Self {
            file,
            size,
            chunks,
            anchors,
        }
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
        let mut expected = wanted.pieces.first().map_or(0, |piece| piece.at);
        for piece in &wanted.pieces {
            let (from, to) = wanted.inside(piece);
            if piece.chunk.id == ChunkId::ZEROS {
                continue;
            }
            let Some(stands) = self.place(&piece.chunk.id, expected) else {
                match compared.new.last_mut() {
                    Some(last) if last.1 == from => last.1 = to,
                    _ => compared.new.push((from, to)),
                }
                continue;
            };
            expected = stands + u64::from(piece.chunk.length);
            // A chunk that lies across the segment's begin is there from later on.
            let at = stands + (wanted.at + from as u64).saturating_sub(piece.at);
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

    /// A segment, and what is stored of it.
    ///
    /// # Errors
    /// Of reading the old image; of zstd.
    pub fn segment(
        &self,
        wanted: &Wanted,
        context: &mut zstd_safe::CCtx<'_>,
        decoder: &mut SegmentDecoder,
        level: i32,
    ) -> io::Result<(Segment, Vec<u8>)> {
        let content = &wanted.content;
        let (id, compared) = (SegmentId::of(content), self.compare(wanted));
        if let [all] = compared.moved.as_slice()
            && all.bytes == content.len()
        {
            let mut found = vec![0; content.len()];
            self.file.read_exact_at(&mut found, all.at)?;
            if found == *content {
                let source = Source::Copy { at: all.at };
                return Ok((Segment { id, source }, Vec::new()));
            }
        }
        let references = self.references(content, &compared);
        let ground = read(&self.file, &references)?;
        let stored = encode_large_frame(context, content, &ground, level)?;
        let frame = SegmentFrame {
            // At most MAX_STORED_BYTES, which a head is checked for, as it is for the segment's length.
            stored_bytes: stored.len() as u32,
            digest: Digest::of(&stored),
            references,
        };
        decoder
            .decode(id, content.len() as u32, &frame, &stored, &ground)
            .map_err(io::Error::other)?;
        let source = Source::Frame(frame);
        Ok((Segment { id, source }, stored))
    }

    /// What a segment refers to: all that moved, and what is most like the rest, as far as it is worth it and
    /// allowed.
    fn references(&self, content: &[u8], compared: &Compared) -> Vec<Reference> {
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
                like.add(place / LIKE_BYTES, from + at);
            });
        }
        for piece in like.best(LEAST_LIKE_BYTES / self.anchors.spacing_bytes()) {
            let from = (piece * LIKE_BYTES).saturating_sub(AROUND_BYTES);
            let to = ((piece + 1) * LIKE_BYTES + AROUND_BYTES).min(self.size);
            // Those that overlap take less than this.
            let Some(left) = room.checked_sub(to - from) else {
                break;
            };
            room = left;
            ranges.push((from, to));
        }
        merge(ranges)
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
    let reference = |(at, to): (u64, u64)| Reference {
        at,
        // All together have at most MAX_REFERENCE_BYTES.
        bytes: (to - at) as u32,
    };
    merged.into_iter().map(reference).collect()
}

fn read(file: &File, references: &[Reference]) -> io::Result<Vec<u8>> {
    let mut ground = vec![0; references.iter().map(|range| range.bytes as usize).sum()];
    let mut left = ground.as_mut_slice();
    for range in references {
        let (into, behind) = left.split_at_mut(range.bytes as usize);
        file.read_exact_at(into, range.at)?;
        left = behind;
    }
    Ok(ground)
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
