//! A write gate that falls shut: of a process that is told to stop, and of what may be done for a time alone.

use std::io;
use std::sync::Arc;

use crate::disk::gate::{WriteEvent, WriteGate};

/// Passes everything to the gate within, until `is_over` says so; then nothing, and says why.
pub struct Until<F> {
    within: Arc<dyn WriteGate>,
    is_over: F,
    why: &'static str,
}

impl<F: Fn() -> bool + Send + Sync> Until<F> {
    #[must_use]
    pub fn new(within: Arc<dyn WriteGate>, is_over: F, why: &'static str) -> Self {
        Self { within, is_over, why }
    }
}

impl<F: Fn() -> bool + Send + Sync> WriteGate for Until<F> {
    fn before(&self, event: &WriteEvent<'_>) -> io::Result<()> {
        if (self.is_over)() {
            return Err(io::Error::other(self.why));
        }
        self.within.before(event)
    }

    fn after(&self, event: &WriteEvent<'_>) -> io::Result<()> {
        self.within.after(event)
    }
}
