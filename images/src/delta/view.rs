//! An image in which what is packed is unpacked: where its bytes are looked for, and what a node must read to
//! have them.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::packed::{PackedFrame, read, unpack};
use crate::chunk::MAX_ARTIFACT_BYTES;

/// Bytes that stand as they are are referred to in pieces of so many, where something like the new stands in
/// them, ...
const LIKE_BYTES: u64 = 128 * 1024;
/// ... with so many before and behind.
const AROUND_BYTES: u64 = 4 * 1024;
/// An image is gone through in pieces of so many bytes.
const PIECE_BYTES: u64 = 16 << 20;

/// See the module.
pub(super) struct View {
    /// Bytes of the image.
    image_bytes: u64,
    /// Frames in order, and where in the view the content of each begins.
    frames: Vec<(PackedFrame, u64)>,
    /// Bytes of the view.
    bytes: u64,
}

/// Some bytes of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stretch {
    Verbatim(Range<u64>),
    Packed(PackedFrame),
}

impl View {
    /// An image of that many bytes with those frames, in order; as it is where that would be too much.
    pub fn new(image_bytes: u64, frames: &[PackedFrame]) -> Self {
        let mut view = Self {
            image_bytes,
            frames: Vec::with_capacity(frames.len()),
            bytes: 0,
        };
        let mut end = 0;
        for frame in frames {
            view.bytes += frame.at - end;
            view.frames.push((*frame, view.bytes));
            view.bytes += u64::from(frame.content);
            end = frame.end();
        }
        view.bytes += image_bytes - end;
        if view.bytes > MAX_ARTIFACT_BYTES {
            return Self::new(image_bytes, &[]);
        }
        view
    }

    /// Bytes of the view.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All of the image in order, each piece with where it begins in the view.
    pub fn stretches(&self) -> Vec<(u64, Stretch)> {
        let mut stretches = Vec::new();
        let verbatim = |mut view_at: u64, gap: Range<u64>, into: &mut Vec<_>| {
            let mut at = gap.start;
            while at < gap.end {
                let end = gap.end.min(at + PIECE_BYTES);
                into.push((view_at, Stretch::Verbatim(at..end)));
                view_at += end - at;
                at = end;
            }
        };
        let mut end = 0;
        for (frame, view_at) in &self.frames {
            verbatim(view_at - (frame.at - end), end..frame.at, &mut stretches);
            stretches.push((*view_at, Stretch::Packed(*frame)));
            end = frame.end();
        }
        verbatim(
            self.bytes - (self.image_bytes - end),
            end..self.image_bytes,
            &mut stretches,
        );
        stretches
    }

    /// The frame that a place of the view is in, or the bytes between two frames: where they begin in the
    /// view, and which they are.
    fn stretch(&self, place: u64) -> (u64, Stretch) {
        let next = self.frames.partition_point(|(_, view_at)| *view_at <= place);
        let (gap_at, gap_from) = match next.checked_sub(1).map(|last| &self.frames[last]) {
            Some((frame, view_at)) if place < view_at + u64::from(frame.content) => {
                return (*view_at, Stretch::Packed(*frame));
            }
            Some((frame, view_at)) => (view_at + u64::from(frame.content), frame.end()),
            None => (0, 0),
        };
        let gap_to = self
            .frames
            .get(next)
            .map_or(self.image_bytes, |(frame, _)| frame.at);
        (gap_at, Stretch::Verbatim(gap_from..gap_to))
    }

    /// The piece that a place of the view is in, as the place where it begins.
    pub fn piece(&self, place: u64) -> u64 {
        match self.stretch(place) {
            (view_at, Stretch::Packed(_)) => view_at,
            (view_at, Stretch::Verbatim(_)) => view_at + (place - view_at) / LIKE_BYTES * LIKE_BYTES,
        }
    }

    /// What there is to read for the piece that begins at that place of the view.
    pub fn around(&self, piece: u64) -> Stretch {
        match self.stretch(piece) {
            (_, packed @ Stretch::Packed(_)) => packed,
            (view_at, Stretch::Verbatim(gap)) => {
                let at = gap.start + (piece - view_at);
                let from = at.saturating_sub(AROUND_BYTES).max(gap.start);
                Stretch::Verbatim(from..(at + LIKE_BYTES + AROUND_BYTES).min(gap.end))
            }
        }
    }
}

/// The content of some bytes of an image, at most [`PIECE_BYTES`] of them.
pub(super) fn content(file: &File, stretch: &Stretch) -> io::Result<Vec<u8>> {
    match stretch {
        Stretch::Packed(frame) => unpack(&read(file, frame)?, frame),
        Stretch::Verbatim(range) => {
            let mut content = vec![0; (range.end - range.start) as usize];
            file.read_exact_at(&mut content, range.start)?;
            Ok(content)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::ChunkId;

    const fn frame(at: u64, bytes: u32, content: u32) -> PackedFrame {
        PackedFrame {
            at,
            bytes,
            content,
            id: ChunkId::ZEROS,
        }
    }

    #[test]
    fn every_place_of_a_view_is_in_the_piece_that_is_read_for_it() {
        const SIZE: u64 = 40 << 20;
        let frames = [
            frame(0, 100, 5000),
            frame(100, 50, 3000),
            frame(400, 1000, 131_072),
            frame(30 << 20, 10_000, 131_072),
            frame(SIZE - 7, 7, 1024),
        ];
        for frames in [&frames[..], &frames[1..4], &[]] {
            let view = View::new(SIZE, frames);
            let grown: u64 = frames
                .iter()
                .map(|frame| u64::from(frame.content - frame.bytes))
                .sum();
            assert_eq!(view.bytes(), SIZE + grown);
            let (mut at, mut image_at) = (0, 0);
            for (view_at, stretch) in view.stretches() {
                assert_eq!(view_at, at);
                let (range, bytes) = match &stretch {
                    Stretch::Packed(frame) => (frame.at..frame.end(), u64::from(frame.content)),
                    Stretch::Verbatim(range) => (range.clone(), range.end - range.start),
                };
                assert_eq!(range.start, image_at);
                // Where it begins, inside, and where it ends.
                for place in [at, at + bytes / 2, at + bytes - 1] {
                    let piece = view.piece(place);
                    assert!(piece <= place && view.piece(piece) == piece);
                    match (view.around(piece), &stretch) {
                        (Stretch::Packed(found), Stretch::Packed(frame)) => assert_eq!(found, *frame),
                        (Stretch::Verbatim(found), Stretch::Verbatim(range)) => {
                            assert!(found.contains(&(range.start + (place - at))), "{found:?}");
                            assert!(found.end - found.start <= LIKE_BYTES + 2 * AROUND_BYTES);
                        }
                        (found, wanted) => panic!("{found:?} for {wanted:?}"),
                    }
                }
                (at, image_at) = (at + bytes, range.end);
            }
            assert_eq!((at, image_at), (view.bytes(), SIZE));
        }
    }

    #[test]
    fn a_view_that_would_be_too_long_is_the_image() {
        let most = MAX_ARTIFACT_BYTES;
        assert_eq!(View::new(most, &[frame(0, 10, 11)]).bytes(), most);
        assert_eq!(View::new(most - 1, &[frame(0, 10, 11)]).bytes(), most);
    }
}
