//! Write gates that fall shut: of a process that is told to stop, and of what may be done for a time alone.

use std::io;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::disk::gate::{WriteEvent, WriteGate};

/// Passes everything to the gate within, until it is cancelled.
pub struct UntilCancelled {
    within: Arc<dyn WriteGate>,
    cancel: CancellationToken,
}

impl UntilCancelled {
    #[must_use]
    pub fn new(within: Arc<dyn WriteGate>, cancel: CancellationToken) -> Self {
        Self { within, cancel }
    }
}

impl WriteGate for UntilCancelled {
    fn before(&self, event: &WriteEvent<'_>) -> io::Result<()> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::new(
                io::ErrorKind::Interrupted,
                "the process is stopping",
            ));
        }
        self.within.before(event)
    }

    fn after(&self, event: &WriteEvent<'_>) -> io::Result<()> {
        self.within.after(event)
    }
}

/// Passes everything to the gate within, until `is_over` says so: what a grant allows, it does not allow
/// after its end, however long the disk or its lock was waited for.
pub struct UntilOver<F> {
    within: Arc<dyn WriteGate>,
    is_over: F,
}

impl<F: Fn() -> bool + Send + Sync> UntilOver<F> {
    #[must_use]
    pub fn new(within: Arc<dyn WriteGate>, is_over: F) -> Self {
        Self { within, is_over }
    }
}

impl<F: Fn() -> bool + Send + Sync> WriteGate for UntilOver<F> {
    fn before(&self, event: &WriteEvent<'_>) -> io::Result<()> {
        if (self.is_over)() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the grant is over"));
        }
        self.within.before(event)
    }

    fn after(&self, event: &WriteEvent<'_>) -> io::Result<()> {
        self.within.after(event)
    }
}
