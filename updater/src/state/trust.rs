//! The trust store's writes, behind the same gate as all others. What the store means is the business
//! of `drydock-images`.

use std::fmt;
use std::io;
use std::sync::Arc;

use drydock_images::{StoreStep, StoreWatch, StoreWrite};

use crate::disk::gate::{WriteEvent, WriteGate, WriteKind};

/// Passes each write of a trust store to a gate.
#[derive(Clone)]
pub struct TrustGate(Arc<dyn WriteGate>);

impl TrustGate {
    /// A watch that asks this gate.
    #[must_use]
    pub fn new(gate: Arc<dyn WriteGate>) -> Self {
        Self(gate)
    }
}

impl fmt::Debug for TrustGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustGate").finish_non_exhaustive()
    }
}

fn event<'a>(write: &StoreWrite<'a>) -> WriteEvent<'a> {
    WriteEvent {
        kind: match write.step {
            StoreStep::Write => WriteKind::FileWrite,
            StoreStep::Flush => WriteKind::FileSync,
            StoreStep::Rename => WriteKind::Rename,
            StoreStep::FlushNames => WriteKind::DirSync,
        },
        path: write.path,
        from: write.from,
        offset: 0,
        len: write.len,
    }
}

impl StoreWatch for TrustGate {
    fn before(&self, write: &StoreWrite<'_>) -> io::Result<()> {
        self.0.before(&event(write))
    }

    fn after(&self, write: &StoreWrite<'_>) -> io::Result<()> {
        self.0.after(&event(write))
    }
}
