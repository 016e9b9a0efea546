//! Counts what guard and agent of one node write, and kills one of them at one write. It counts only
//! once it is set, so that the installation of the node is no part of the sweep.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use drydock_updater::disk::gate::WriteEvent;

use crate::node::{Kind, Saboteur, Side};

/// A write that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedWrite {
    /// The process.
    pub kind: Kind,
    /// What it was, for people.
    pub what: String,
}

/// See the module.
#[derive(Default)]
pub struct DiskTrap {
    node: String,
    at: Option<(Kind, u64, Side)>,
    set: AtomicBool,
    sprung: AtomicBool,
    counts: Mutex<BTreeMap<Kind, u64>>,
    seen: Mutex<Vec<RecordedWrite>>,
}

impl DiskTrap {
    /// A trap on this node, at the n-th write of a process; without one it only counts.
    #[must_use]
    pub fn new(node: &str, at: Option<(Kind, u64, Side)>) -> Self {
        Self {
            node: node.to_owned(),
            at,
            ..Self::default()
        }
    }

    /// Begins to count.
    pub fn set(&self) {
        self.set.store(true, Ordering::SeqCst);
    }

    /// Did the write come?
    #[must_use]
    pub fn sprung(&self) -> bool {
        self.sprung.load(Ordering::SeqCst)
    }

    /// What was counted.
    #[must_use]
    pub fn seen(&self) -> Vec<RecordedWrite> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Saboteur for DiskTrap {
    fn dies(&self, node: &str, kind: Kind, side: Side, event: &WriteEvent<'_>) -> bool {
        if node != self.node || !self.set.load(Ordering::SeqCst) || self.sprung() {
            return false;
        }
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(kind).or_insert(0);
        if side == Side::Before {
            *count += 1;
            let name = event.path.file_name().unwrap_or_default().to_string_lossy();
            let what = format!("{:?} {name} +{} {} bytes", event.kind, event.offset, event.len);
            self.seen
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(RecordedWrite { kind, what });
        }
        if self.at != Some((kind, *count, side)) {
            return false;
        }
        self.sprung.store(true, Ordering::SeqCst);
        true
    }
}
