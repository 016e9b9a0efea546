//! An image in order from what is stored of it: frames are unpacked on the ground of the bytes before
//! them, zeros are made, and what was copied from elsewhere is taken note of. Does no I/O.

use super::MAX_FRAME_CONTENT_BYTES;
use super::frame::{Decoder, FrameError};
use super::id::ChunkId;
use super::page::{Chunk, Frame, Page};
use super::window::Window;

/// See the module.
pub struct Rebuilder {
    window: Window,
    decoder: Decoder,
    zeros: Vec<u8>,
}

impl Rebuilder {
    /// At the start of an artifact whose frames refer back at most `window_bytes`.
    #[must_use]
    pub fn new(window_bytes: u32) -> Self {
        Self {
            window: Window::new(window_bytes),
            decoder: Decoder::new(),
            zeros: Vec::new(),
        }
    }

    /// The image goes on with so many zeros, which are given back.
    pub fn zeros(&mut self, length: u32) -> &[u8] {
        let length = length as usize;
        self.zeros.resize(length.max(self.zeros.len()), 0);
        self.window.push(&self.zeros[..length]);
        &self.zeros[..length]
    }

    /// The image goes on with these bytes, which the caller has from elsewhere and has proven.
    pub fn known(&mut self, bytes: &[u8]) {
        self.window.push(bytes);
    }

    /// The image goes on with what is in this frame, which is given back.
    ///
    /// # Errors
    /// The stored bytes are not just that frame.
    pub fn frame(&mut self, stored: &[u8], frame: &Frame) -> Result<&[u8], FrameError> {
        // A longer one is refused before it is decoded.
        let room_bytes = frame.content_bytes.min(MAX_FRAME_CONTENT_BYTES) as usize;
        let (before, room) = self.window.with_room(room_bytes);
        self.decoder.decode_into(room, stored, frame, before)?;
        Ok(self.window.grew(room_bytes))
    }

    /// The image goes on with this page, whose frames are stored in `front` and `rest`, one after another.
    /// Every chunk is compared with its id, so that a node that copies by ids gets the same bytes as one
    /// that fetches.
    ///
    /// # Errors
    /// As [`Rebuilder::frame`]; a chunk that is not the one listed.
    pub fn page(
        &mut self,
        page: &Page,
        [front, rest]: [&[u8]; 2],
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), FrameError> {
        let chunks: Vec<Chunk> = page.list().chunks().collect();
        let mut frames = page.frames().iter();
        let (mut at, mut left) = (0, [front, rest]);
        while let Some(chunk) = chunks.get(at) {
            if chunk.id == ChunkId::ZEROS {
                each(self.zeros(chunk.length));
                at += 1;
                continue;
            }
            // A page's frames hold just the chunks that are no zeros, which was checked when it was read.
            let Some(frame) = frames.next() else { break };
            let of_part = &mut left[frame.part as usize];
            let (of_frame, behind) =
                of_part
                    .split_at_checked(frame.stored_bytes as usize)
                    .ok_or(FrameError::Length {
                        found: of_part.len() as u64,
                        wanted: frame.stored_bytes,
                    })?;
            *of_part = behind;
            let content = self.frame(of_frame, frame)?;
            let inside = &chunks[at..at + usize::from(frame.chunks)];
            check_chunks(content, inside)?;
            each(content);
            at += inside.len();
        }
        Ok(())
    }
}

/// That `content` is just these chunks.
///
/// # Errors
/// The first that differs.
pub fn check_chunks(content: &[u8], chunks: &[Chunk]) -> Result<(), FrameError> {
    let mut rest = content;
    for chunk in chunks {
        let (front, behind) = rest
            .split_at_checked(chunk.length as usize)
            .ok_or(FrameError::Chunk { wanted: chunk.id })?;
        if ChunkId::of(front) != chunk.id {
            return Err(FrameError::Chunk { wanted: chunk.id });
        }
        rest = behind;
    }
    Ok(())
}
