//! Counts what guard and agent of one node write to disk and state, and what the leader writes to its
//! trust store, and at one write kills the writer or cuts the node's power. It counts only once it is
//! set, so that the installation of the node is no part of the sweep.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use drydock_images::{StoreWatch, StoreWrite};
use drydock_updater::disk::gate::WriteEvent;

use crate::cluster::StoreSaboteur;
use crate::node::{Fate, Kind, Loss, Saboteur, Side};

/// A write that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedWrite {
    /// The process.
    pub kind: Kind,
    /// What it was, for people.
    pub what: String,
}

/// Where a trap springs, and what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spring {
    /// Whose write.
    pub kind: Kind,
    /// Which of its writes, from 1.
    pub nth: u64,
    /// On which side of it.
    pub side: Side,
    /// None: the writer is killed. Otherwise the power goes, and this is lost.
    pub loss: Option<Loss>,
}

/// See the module.
#[derive(Default)]
pub struct DiskTrap {
    node: String,
    at: Option<Spring>,
    set: AtomicBool,
    sprung: AtomicBool,
    counts: Mutex<BTreeMap<Kind, u64>>,
    seen: Mutex<Vec<RecordedWrite>>,
}

impl DiskTrap {
    /// A trap on this node; without a spring it only counts.
    #[must_use]
    pub fn new(node: &str, at: Option<Spring>) -> Self {
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
    fn fate(&self, node: &str, kind: Kind, side: Side, event: &WriteEvent<'_>) -> Fate {
        if node != self.node || !self.set.load(Ordering::SeqCst) || self.sprung() {
            return Fate::Lives;
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
        let here = |at: &Spring| (at.kind, at.nth, at.side) == (kind, *count, side);
        let Some(spring) = self.at.filter(here) else {
            return Fate::Lives;
        };
        self.sprung.store(true, Ordering::SeqCst);
        spring.loss.map_or(Fate::Dies, Fate::PowerCut)
    }

    fn may_cut_power(&self, node: &str) -> bool {
        node == self.node && self.at.is_some_and(|at| at.loss.is_some())
    }
}

/// The same for the trust store of the one replica that leads at first.
#[derive(Debug, Default)]
pub struct StoreTrap {
    replica: String,
    at: Option<(u64, Side)>,
    set: AtomicBool,
    sprung: AtomicBool,
    count: AtomicU64,
}

impl StoreTrap {
    /// A trap for this replica; without a place it only counts.
    #[must_use]
    pub fn new(replica: &str, at: Option<(u64, Side)>) -> Self {
        Self {
            replica: replica.to_owned(),
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

    /// How many were counted.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    fn passes(&self, side: Side) -> io::Result<()> {
        let dead = || Err(io::Error::other("the coordinator was killed"));
        if self.sprung() {
            return dead();
        }
        if !self.set.load(Ordering::SeqCst) {
            return Ok(());
        }
        if side == Side::Before {
            self.count.fetch_add(1, Ordering::SeqCst);
        }
        if self.at != Some((self.seen(), side)) {
            return Ok(());
        }
        self.sprung.store(true, Ordering::SeqCst);
        dead()
    }
}

/// What a replica's store is watched by.
#[derive(Debug)]
struct Watched(Arc<StoreTrap>);

impl StoreWatch for Watched {
    fn before(&self, _: &StoreWrite<'_>) -> io::Result<()> {
        self.0.passes(Side::Before)
    }

    fn after(&self, _: &StoreWrite<'_>) -> io::Result<()> {
        self.0.passes(Side::After)
    }
}

/// Hands the trap to the replica that it is for; the others' stores are not watched.
#[derive(Debug)]
pub(super) struct StoreTraps(pub Arc<StoreTrap>);

impl StoreSaboteur for StoreTraps {
    fn of(&self, replica: &str) -> Arc<dyn StoreWatch> {
        if replica == self.0.replica {
            Arc::new(Watched(Arc::clone(&self.0)))
        } else {
            Arc::new(drydock_images::Unwatched)
        }
    }
}
