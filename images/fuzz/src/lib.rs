//! How the inputs of targets that need more than one piece are laid out: what the fuzzer cuts up is what
//! `seeds` put together.

use drydock_images::Digest;
use drydock_images::chunk::{Frame, Part};

/// The front of `data` as a little-endian number, and the rest; a short front is filled up with zeros.
fn number(data: &[u8]) -> (u32, &[u8]) {
    let (front, rest) = data.split_at(data.len().min(4));
    let mut bytes = [0; 4];
    bytes[..front.len()].copy_from_slice(front);
    (u32::from_le_bytes(bytes), rest)
}

/// `length` bytes of `data`, or what is left after going round, and the rest.
fn piece(data: &[u8], length: u32) -> (&[u8], &[u8]) {
    data.split_at(length as usize % (data.len() + 1))
}

/// What a page would say of these stored bytes, whatever they are: a signer's mistake.
#[must_use]
pub fn signed_by_mistake(stored: &[u8], content_bytes: u32) -> Frame {
    Frame {
        part: Part::Front,
        first_chunk: 0,
        chunks: 1,
        // The inputs of a fuzzer are far shorter.
        stored_bytes: stored.len() as u32,
        content_bytes,
        digest: Digest::of(stored),
    }
}

/// A stored frame, what a page says of it, and the ground that it is unpacked on.
#[derive(Debug, Clone, Copy)]
pub struct FrameInput<'a> {
    /// How many bytes it should hold.
    pub content_bytes: u32,
    /// The bytes of the image before it.
    pub before: &'a [u8],
    /// What is stored.
    pub stored: &'a [u8],
}

impl<'a> FrameInput<'a> {
    /// Cuts an input up.
    #[must_use]
    pub fn split(data: &'a [u8]) -> Self {
        let (content_bytes, data) = number(data);
        let (before_bytes, data) = number(data);
        let (before, stored) = piece(data, before_bytes);
        Self {
            content_bytes,
            before,
            stored,
        }
    }

    /// The input that is cut up like this.
    #[must_use]
    pub fn join(&self) -> Vec<u8> {
        let numbers = [self.content_bytes, self.before.len() as u32].map(u32::to_le_bytes);
        [&numbers.concat(), self.before, self.stored].concat()
    }
}

/// A page and the frames that are stored for it, on the ground that the image has before it.
#[derive(Debug, Clone, Copy)]
pub struct RebuildInput<'a> {
    /// How far frames refer back.
    pub window_bytes: u32,
    /// The stored page.
    pub page: &'a [u8],
    /// The bytes of the image before it.
    pub before: &'a [u8],
    /// What is stored, one frame after another.
    pub stored: &'a [u8],
}

impl<'a> RebuildInput<'a> {
    /// Cuts an input up.
    #[must_use]
    pub fn split(data: &'a [u8]) -> Self {
        let (window_bytes, data) = number(data);
        let (page_bytes, data) = number(data);
        let (before_bytes, data) = number(data);
        let (page, data) = piece(data, page_bytes);
        let (before, stored) = piece(data, before_bytes);
        Self {
            window_bytes,
            page,
            before,
            stored,
        }
    }

    /// The input that is cut up like this.
    #[must_use]
    pub fn join(&self) -> Vec<u8> {
        let (page, before) = (self.page.len() as u32, self.before.len() as u32);
        let numbers = [self.window_bytes, page, before].map(u32::to_le_bytes);
        [&numbers.concat(), self.page, self.before, self.stored].concat()
    }
}
