//! Boot control: which slot the loader takes next, and the five changes that Drydock makes to that.
//!
//! Every change is one write of the partition table, checked before it is made: what the loader would
//! boot after it must be what was asked for (S5, S14). Whether a change is *wanted* is decided elsewhere.

use std::sync::Arc;

use serde::Serialize;

use super::bits::{BootBits, Loader};
use super::device::Device;
use super::error::DiskError;
use super::gate::WriteGate;
use super::slots::{SlotName, SlotSelectors, Slots};
use super::table::{GptHealth, Table};
use super::view::{Pair, View};

/// Boots that a slot on trial gets where the loader counts them.
pub const TRIAL_TRIES: u8 = 2;

/// Why boot control did nothing.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error(transparent)]
    Disk(#[from] DiskError),

    #[error(
        "refused to {operation}: slot {target} is the running one, and the target is always the other slot"
    )]
    TargetIsRunning {
        operation: &'static str,
        target: SlotName,
    },

    #[error(
        "refused to {operation}: the running slot {running} is not marked good, so slot {target} may be the only \
         way back. Let the trial end; if none is under way, mark this system good by `drydock-updater adopt` (or \
         `mark-good`, if it is known to be right)"
    )]
    RunningNotGood {
        operation: &'static str,
        running: SlotName,
        target: SlotName,
    },

    #[error(
        "refused to {operation}: after it the loader would boot {would_boot}, not slot {wanted}. Look at the boot \
         bits with `drydock-updater status`"
    )]
    WouldNotBoot {
        operation: &'static str,
        wanted: SlotName,
        would_boot: String,
    },

    #[error(
        "going back to slot {to} refused: it is not marked good and bootable (priority {}, successful {}), so \
         this system stays. Install a release into slot {to} first",
        bits.priority, bits.successful
    )]
    NoWayBack { to: SlotName, bits: BootBits },

    #[error(
        "partition {partition} is none of the slots' but has boot priority {priority}, which leaves no higher one \
         for a slot; lower it with `cgpt add -i {partition} -P 0`"
    )]
    ForeignPriority { partition: u32, priority: u8 },
}

/// What becomes of a slot that was armed and is not to be booted after all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Disarmed {
    /// It was never marked good: it cannot be booted until it is armed again.
    Unbootable,
    /// It was the verified way back before it was armed (an ordered roll back), and is that again.
    WayBack,
}

/// What the loader reads, as it stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootState {
    pub a: BootBits,
    pub b: BootBits,
    /// The slot that is booted next; `None` if it would be no slot of ours.
    pub next: Option<SlotName>,
    /// May the loader boot it at all?
    pub bootable_a: bool,
    pub bootable_b: bool,
    pub loader: Loader,
    pub health: GptHealth,
}

impl BootState {
    #[must_use]
    pub fn bits(&self, slot: SlotName) -> BootBits {
        match slot {
            SlotName::A => self.a,
            SlotName::B => self.b,
        }
    }

    #[must_use]
    pub fn bootable(&self, slot: SlotName) -> bool {
        match slot {
            SlotName::A => self.bootable_a,
            SlotName::B => self.bootable_b,
        }
    }
}

/// The changes that Drydock makes to what is booted next. Each is on the medium when it returns, is done
/// whole or not at all, and writes nothing when it already stands so. All are blocking.
pub trait BootControl: Send + Sync {
    /// # Errors
    /// [`BootError::Disk`].
    fn state(&self) -> Result<BootState, BootError>;

    /// `target` can no longer be booted; before any byte of it is overwritten.
    ///
    /// # Errors
    /// Refused if `target` runs, if `running` is not marked good, or if `running` would not be booted.
    fn make_unbootable(&self, target: SlotName, running: SlotName) -> Result<(), BootError>;

    /// `target` is booted next, on trial; `running` stays good and bootable behind it.
    ///
    /// # Errors
    /// As [`BootControl::make_unbootable`], and if the loader would not take it.
    fn arm(&self, target: SlotName, running: SlotName) -> Result<(), BootError>;

    /// `running` is booted next, not `target`, which was armed.
    ///
    /// # Errors
    /// As [`BootControl::make_unbootable`].
    fn disarm(&self, target: SlotName, running: SlotName, becomes: Disarmed) -> Result<(), BootError>;

    /// `slot` is good: priority, successful and tries are written together, and it is booted next.
    ///
    /// # Errors
    /// If the loader would boot something else all the same.
    fn mark_good(&self, slot: SlotName) -> Result<(), BootError>;

    /// `to`, which is good, is booted next instead of `running`. A `running` that is not good cannot be
    /// booted any more.
    ///
    /// # Errors
    /// [`BootError::NoWayBack`] if `to` is not good and bootable.
    fn go_back(&self, to: SlotName, running: SlotName) -> Result<(), BootError>;
}

/// Boot control by the GPT attributes of the slots' boot partitions.
#[derive(Debug, Clone)]
pub struct GptBootControl {
    device: Device,
    loader: Loader,
    a: SlotSelectors,
    b: SlotSelectors,
}

impl GptBootControl {
    #[must_use]
    pub fn new(device: Device, loader: Loader, a: SlotSelectors, b: SlotSelectors) -> Self {
        Self { device, loader, a, b }
    }

    /// The same behind another gate.
    #[must_use]
    pub fn behind(&self, gate: Arc<dyn WriteGate>) -> Self {
        Self {
            device: self.device.behind(gate),
            ..self.clone()
        }
    }

    /// The table as it is now, and both slots on it.
    ///
    /// # Errors
    /// As [`Table::read`] and [`Slots::find`].
    pub fn read(&self) -> Result<(Table, Slots), DiskError> {
        let table = Table::read(&self.device)?;
        let slots = Slots::find(&self.device, &table, &self.a, &self.b)?;
        Ok((table, slots))
    }

    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    fn view(&self) -> Result<View, BootError> {
        let (table, slots) = self.read()?;
        Ok(View::new(self.loader, table, &slots))
    }

    /// Reads, lets `plan` decide on the new bits, checks that `wanted` would be booted, and writes.
    fn change(
        &self,
        operation: &'static str,
        wanted: SlotName,
        plan: impl FnOnce(&View) -> Result<Pair, BootError>,
    ) -> Result<(), BootError> {
        let _lock = self
            .device
            .raw()
            .lock_table()
            .map_err(DiskError::io("lock", self.device.path()))?;
        let view = self.view()?;
        let pair = plan(&view)?;
        let after = view.with(pair);
        if after.next() != Some(wanted) {
            return Err(BootError::WouldNotBoot {
                operation,
                wanted,
                would_boot: after.next_in_words(),
            });
        }
        view.table.commit(&self.device, &view.changes(pair))?;
        Ok(())
    }
}

impl BootControl for GptBootControl {
    fn state(&self) -> Result<BootState, BootError> {
        let view = self.view()?;
        let pair = view.pair();
        Ok(BootState {
            a: pair.a,
            b: pair.b,
            next: view.next(),
            bootable_a: self.loader.bootable(pair.a),
            bootable_b: self.loader.bootable(pair.b),
            loader: self.loader,
            health: view.table.health().clone(),
        })
    }

    fn make_unbootable(&self, target: SlotName, running: SlotName) -> Result<(), BootError> {
        let operation = "write the other slot";
        self.change(operation, running, |view| {
            view.check_target(operation, target, running)?;
            Ok(view.pair().set(target, BootBits::UNBOOTABLE))
        })
    }

    fn arm(&self, target: SlotName, running: SlotName) -> Result<(), BootError> {
        let operation = "arm the other slot";
        self.change(operation, target, |view| {
            view.check_target(operation, target, running)?;
            let levels = view.levels()?;
            let tries = if self.loader.counts_tries() {
                TRIAL_TRIES
            } else {
                0
            };
            let trial = BootBits {
                priority: levels.high,
                tries,
                successful: false,
            };
            let way_back = BootBits {
                priority: levels.low,
                ..view.pair().get(running)
            };
            Ok(view.pair().set(target, trial).set(running, way_back))
        })
    }

    fn disarm(&self, target: SlotName, running: SlotName, becomes: Disarmed) -> Result<(), BootError> {
        let operation = "disarm the other slot";
        self.change(operation, running, |view| {
            view.check_target(operation, target, running)?;
            let levels = view.levels()?;
            let bits = match becomes {
                Disarmed::Unbootable => BootBits::UNBOOTABLE,
                Disarmed::WayBack => BootBits {
                    priority: levels.low,
                    tries: 0,
                    successful: true,
                },
            };
            let good = BootBits {
                priority: levels.high,
                ..view.pair().get(running)
            };
            Ok(view.pair().set(target, bits).set(running, good))
        })
    }

    fn mark_good(&self, slot: SlotName) -> Result<(), BootError> {
        self.change("mark the running slot good", slot, |view| {
            let levels = view.levels()?;
            let good = BootBits {
                priority: levels.high,
                tries: 0,
                successful: true,
            };
            let mut other = view.pair().get(slot.other());
            other.priority = other.priority.min(levels.low);
            Ok(view.pair().set(slot, good).set(slot.other(), other))
        })
    }

    fn go_back(&self, to: SlotName, running: SlotName) -> Result<(), BootError> {
        let operation = "go back";
        self.change(operation, to, |view| {
            if to == running {
                return Err(BootError::TargetIsRunning {
                    operation,
                    target: to,
                });
            }
            let bits = view.pair().get(to);
            if !bits.successful || !self.loader.bootable(bits) {
                return Err(BootError::NoWayBack { to, bits });
            }
            let levels = view.levels()?;
            let left = view.pair().get(running);
            let left = if left.successful {
                BootBits {
                    priority: left.priority.min(levels.low),
                    ..left
                }
            } else {
                BootBits::UNBOOTABLE
            };
            let back = BootBits {
                priority: levels.high,
                tries: 0,
                successful: true,
            };
            Ok(view.pair().set(to, back).set(running, left))
        })
    }
}
