//! The crash sweep: one node's whole way from one release to the next, again and again, each time with
//! one writer killed at one of its writes, one leader asleep at one of its writes, or all statuses wiped
//! or all policies and NodeUpgrades deleted at one phase. It judges by the observer and by how things
//! stand at the end; it decides nothing and mends nothing.

mod case;
mod course;
mod fleet;
mod trap;

pub use case::{Case, Group, Phase, Writer};
pub use course::{Ended, Scenery, run};
pub use fleet::{Tally, run_all, run_one};
pub use trap::{DiskTrap, RecordedWrite};

use std::collections::BTreeMap;

use crate::node::Side;

/// What a run without faults writes: what there is to sweep over.
#[derive(Debug, Clone, Default)]
pub struct Baseline {
    /// Writes to the API by writer and kind.
    pub api: BTreeMap<(Writer, Group), u64>,
    /// Writes to the disk and to the state partition, in order, by process.
    pub disk: Vec<RecordedWrite>,
    /// Phases, in the order in which they were first seen.
    pub phases: Vec<Phase>,
}

/// How many cases of a kind that only the clock makes (renewed leases, events) are enough.
const CLOCKED: u64 = 2;

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
