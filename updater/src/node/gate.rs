//! The write gate of a process that can be told to stop: after that it writes nothing more.

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
