//! How long work says how far it is. It only tells; it never changes what is done.

use std::fmt;
use std::sync::Arc;

/// A function that is told how many more bytes are done, from any thread.
#[derive(Clone)]
pub struct Progress(Option<Arc<dyn Fn(u64) + Send + Sync>>);

impl Progress {
    /// Tells nobody.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Tells `told`.
    pub fn new(told: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(told)))
    }

    /// Says that `bytes` more are done.
    pub fn advance(&self, bytes: u64) {
        if let Some(told) = &self.0 {
            told(bytes);
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Progress(..)"
        } else {
            "Progress(none)"
        })
    }
}
