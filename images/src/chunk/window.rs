//! The last bytes of an image while it is read or built in order, which the next frame may refer back to.

use super::MAX_FRAME_CONTENT_BYTES;

/// See the module.
#[derive(Debug)]
pub struct Window {
    /// What was gathered, and room behind it.
    memory: Vec<u8>,
    end: usize,
    keep_bytes: usize,
}

impl Window {
    /// A window of `keep_bytes` before the first byte of an image.
    #[must_use]
    pub fn new(keep_bytes: u32) -> Self {
        let keep_bytes = keep_bytes as usize;
        let most_at_once = keep_bytes.max(MAX_FRAME_CONTENT_BYTES as usize);
        Self {
            // Twice that, so that what is kept is moved seldom.
            memory: vec![0; keep_bytes + 2 * most_at_once],
            end: 0,
            keep_bytes,
        }
    }

    /// The last bytes: as many as are kept, fewer at the start of the image.
    #[must_use]
    pub fn last(&self) -> &[u8] {
        &self.memory[self.end.saturating_sub(self.keep_bytes)..self.end]
    }

    /// The last bytes, and right behind them room for the next ones: a frame, or as much as is kept. They are
    /// part of the image once [`Window::grew`] says so.
    pub(super) fn with_room(&mut self, bytes: usize) -> (&[u8], &mut [u8]) {
        if self.end + bytes > self.memory.len() {
            let drop = self.end.saturating_sub(self.keep_bytes);
            self.memory.copy_within(drop..self.end, 0);
            self.end -= drop;
        }
        let (front, room) = self.memory.split_at_mut(self.end);
        (
            &front[self.end.saturating_sub(self.keep_bytes)..],
            &mut room[..bytes],
        )
    }

    /// The image goes on with so many bytes of the room; they are given back.
    pub(super) fn grew(&mut self, bytes: usize) -> &[u8] {
        let from = self.end;
        self.end += bytes;
        &self.memory[from..self.end]
    }

    /// The image goes on with these bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(self.keep_bytes)..];
        self.with_room(bytes.len()).1.copy_from_slice(bytes);
        self.grew(bytes.len());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::chunk::cut::tests::noise;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_last_bytes_are_those_of_the_whole(
            keep in 0u32..5000, pieces in prop::collection::vec(0usize..1_500_000, 1..6),
        ) {
            let (mut window, mut whole) = (Window::new(keep), Vec::new());
            for (seed, length) in pieces.into_iter().enumerate() {
                let piece = noise(seed as u64, length);
                window.push(&piece);
                whole.extend_from_slice(&piece);
                prop_assert_eq!(window.last(), &whole[whole.len().saturating_sub(keep as usize)..]);
            }
        }
    }
}
