//! What the guard's shell sees of the node, right before each step. Never remembered: read again.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One of the two slots of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Slot {
    A,
    B,
}

impl Slot {
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The slot that is not this one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// One slot, as the loader and the slot records have it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SlotSeen {
    /// 0 to 15.
    pub priority: u8,
    /// 0 to 15.
    pub tries: u8,
    pub successful: bool,
    /// May the loader boot it at all?
    pub bootable: bool,
    /// Digest in the slot's record; `None` without one.
    pub record: Option<String>,
}

/// The node at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The kernel's boot ID.
    pub boot_id: String,
    /// Which slot runs; `None` where that cannot be told, and then nothing is changed.
    pub running: Option<Slot>,
    /// Digest that the running slot was proven to hold; `None`: not proven (yet).
    pub running_digest: Option<String>,
    pub a: SlotSeen,
    pub b: SlotSeen,
    /// The slot that the loader boots next; `None` if it is neither.
    pub next: Option<Slot>,
    /// Does the loader count tries?
    pub loader_counts: bool,
    /// Are the required checks under way in this process?
    pub checks_running: bool,
    /// Since boot, suspended time included (CLOCK_BOOTTIME).
    pub now: Duration,
}

impl Seen {
    #[must_use]
    pub fn slot(&self, slot: Slot) -> &SlotSeen {
        match slot {
            Slot::A => &self.a,
            Slot::B => &self.b,
        }
    }

    /// Is there a slot beside `slot` that was once marked good and would boot?
    #[must_use]
    pub fn has_way_back_from(&self, slot: Slot) -> bool {
        let other = self.slot(slot.other());
        other.successful && other.bootable
    }
}

/// The spans that the machine counts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long a reboot that was called may take before the guard says that it never came.
    pub shutdown: Duration,
    /// The confirm wait of a trial whose journal was lost.
    pub confirm_wait: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            shutdown: Duration::from_secs(300),
            confirm_wait: Duration::from_secs(900),
        }
    }
}
