//! The crash sweep: one node's whole way from one release to the next, again and again, each time with
//! one writer killed at one of its writes, the power of the node cut at one of its writes, the leader
//! frozen at one of its writes, or all statuses wiped or all policies and NodeUpgrades deleted at one
//! phase. It judges by the observer and by how things stand at the end; it decides nothing and mends
//! nothing.

mod accident;
mod case;
mod course;
mod end;
mod fleet;
mod scenery;
mod trap;

pub use case::{Case, Group, Phase, Writer};
pub use course::{Ended, run};
pub use fleet::{Tally, folder, run_all, run_one};
pub use scenery::Scenery;
pub use trap::{DiskTrap, RecordedWrite, Spring, StoreTrap};

use std::collections::BTreeMap;

use crate::node::{Loss, Side};

/// How many cases run at a time where nothing else is said: they wait more than they compute.
pub const AT_ONCE: usize = 10;

/// What a run without faults writes: what there is to sweep over.
#[derive(Debug, Clone, Default)]
pub struct Baseline {
    /// Writes to the API by writer and kind.
    pub api: BTreeMap<(Writer, Group), u64>,
    /// Writes to the disk and to the state partition, in order, by process.
    pub disk: Vec<RecordedWrite>,
    /// Writes of the leader to its trust store.
    pub store: u64,
    /// Phases, in the order in which they were first seen.
    pub phases: Vec<Phase>,
}

/// How many cases of a kind that only the clock makes (renewed leases, events) are enough.
const CLOCKED: u64 = 2;
/// Writes of one replacement of the leader's trust store; how many replacements there are, the clock says.
const STORE_WRITES: u64 = 4;

impl Baseline {
    /// Every case of the sweep.
    #[must_use]
    pub fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for ((writer, group), count) in &self.api {
            let count = if group.is_clocked() {
                (*count).min(CLOCKED)
            } else {
                *count
            };
            for nth in 1..=count {
                for side in [Side::Before, Side::After] {
                    cases.push(Case::Api {
                        writer: *writer,
                        group: group.clone(),
                        nth,
                        side,
                    });
                }
                if *writer == Writer::Coordinator && !group.is_clocked() {
                    cases.push(Case::OldLeader {
                        group: group.clone(),
                        nth,
                    });
                }
            }
        }
        for nth in 1..=self.store.min(STORE_WRITES) {
            for side in [Side::Before, Side::After] {
                cases.push(Case::Store { nth, side });
            }
        }
        let mut seen = BTreeMap::new();
        for write in &self.disk {
            let nth = seen
                .entry(write.kind)
                .and_modify(|nth| *nth += 1)
                .or_insert(1_u64);
            for side in [Side::Before, Side::After] {
                cases.push(Case::Disk {
                    kind: write.kind,
                    nth: *nth,
                    side,
                });
            }
            for loss in [Loss::All, Loss::Seeded(*nth)] {
                cases.push(Case::Power {
                    kind: write.kind,
                    nth: *nth,
                    loss,
                });
            }
        }
        for phase in &self.phases {
            for kill_leader in [false, true] {
                cases.push(Case::Wipe {
                    phase: phase.clone(),
                    kill_leader,
                });
                cases.push(Case::Reapply {
                    phase: phase.clone(),
                    kill_leader,
                });
            }
        }
        cases
    }
}
