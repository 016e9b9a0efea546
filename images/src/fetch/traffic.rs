//! What transfers cost: requests and bytes. Only counted, never acted on.

use std::sync::atomic::{AtomicU64, Ordering};

/// What came over the wire since a fetcher was made, metadata and what was thrown away included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests that were sent, every try and every redirect; for a folder, files that were opened.
    pub requests: u64,
    /// Bytes of their bodies, without headers.
    pub body_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    requests: AtomicU64,
    body_bytes: AtomicU64,
}

impl Counters {
    pub fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub fn body(&self, bytes: u64) {
        self.body_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn traffic(&self) -> Traffic {
        Traffic {
            requests: self.requests.load(Ordering::Relaxed),
            body_bytes: self.body_bytes.load(Ordering::Relaxed),
        }
    }
}
