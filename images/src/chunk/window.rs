//! The last bytes of an image while it is read or built in order, which the next frame may refer back to.

/// Bytes gathered before the oldest are dropped, beyond what must be kept.
const SLACK_BYTES: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub struct Window {
    bytes: Vec<u8>,
    keep_bytes: usize,
}

impl Window {
    /// A window of `keep_bytes` before the first byte of an image.
    #[must_use]
    pub fn new(keep_bytes: u32) -> Self {
        let keep_bytes = keep_bytes as usize;
        Self {
            bytes: Vec::with_capacity(keep_bytes + SLACK_BYTES),
            keep_bytes,
        }
    }

    /// The last bytes: as many as are kept, fewer at the start of the image.
    #[must_use]
    pub fn last(&self) -> &[u8] {
        &self.bytes[self.bytes.len().saturating_sub(self.keep_bytes)..]
    }

    /// The image goes on with these bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.keep_bytes == 0 {
            return;
        }
        let bytes = &bytes[bytes.len().saturating_sub(self.keep_bytes)..];
        if self.bytes.len() + bytes.len() > self.keep_bytes + SLACK_BYTES {
            let drop = self.bytes.len().saturating_sub(self.keep_bytes);
            self.bytes.copy_within(drop.., 0);
            self.bytes.truncate(self.bytes.len() - drop);
        }
        self.bytes.extend_from_slice(bytes);
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
