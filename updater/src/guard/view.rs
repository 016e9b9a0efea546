//! What the loader reads and what the slot records say, read anew each time. Changes nothing.

use drydock_machine::{Slot, SlotSeen};

use super::effects::machine_slot;
use crate::disk::{BootControl, SlotName};
use crate::node::OpenNode;
use crate::state::{SlotRecord, SlotRecords};

/// A node's slots.
#[derive(Debug)]
pub struct NodeView {
    node: OpenNode,
    records: SlotRecords,
}

/// Both slots at one moment.
#[derive(Debug, Clone)]
pub struct SlotBits {
    pub a: SlotSeen,
    pub b: SlotSeen,
    pub next: Option<Slot>,
    /// What is wrong with the partition table, though it works.
    pub table_problem: Option<String>,
}

impl NodeView {
    #[must_use]
    pub fn new(node: OpenNode) -> Self {
        Self {
            records: SlotRecords::new(&node.state),
            node,
        }
    }

    #[must_use]
    pub fn node(&self) -> &OpenNode {
        &self.node
    }

    #[must_use]
    pub fn records(&self) -> &SlotRecords {
        &self.records
    }

    /// The record of a slot, if there is one that can be read. Blocks.
    #[must_use]
    pub fn record(&self, slot: SlotName) -> Option<SlotRecord> {
        self.records.peek(slot).ok()?.split().0
    }

    /// Blocks.
    ///
    /// # Errors
    /// The partition table cannot be read, in words.
    pub fn bits(&self) -> Result<SlotBits, String> {
        let state = self.node.control.state().map_err(|error| error.to_string())?;
        let seen = |slot: SlotName| {
            let bits = state.bits(slot);
            SlotSeen {
                priority: bits.priority,
                tries: bits.tries,
                successful: bits.successful,
                bootable: state.bootable(slot),
                record: self.record(slot).map(|record| record.release.to_string()),
            }
        };
        Ok(SlotBits {
            a: seen(SlotName::A),
            b: seen(SlotName::B),
            next: state.next.map(machine_slot),
            table_problem: state.health.problem(),
        })
    }
}
