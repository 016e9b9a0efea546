//! What the loader would see and do, before anything is written: both slots' bits, and everything else
//! that the loader would choose among. Pure but for the table it was made from.

use super::bits::{BootBits, Loader, NIBBLE_MAX};
use super::boot::BootError;
use super::commit::BitsChange;
use super::slots::{SlotName, Slots};
use super::table::Table;

/// The bits of both slots.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub a: BootBits,
    pub b: BootBits,
}

impl Pair {
    pub(super) fn get(self, slot: SlotName) -> BootBits {
        match slot {
            SlotName::A => self.a,
            SlotName::B => self.b,
        }
    }

    pub(super) fn set(self, slot: SlotName, bits: BootBits) -> Self {
        match slot {
            SlotName::A => Self { a: bits, ..self },
            SlotName::B => Self { b: bits, ..self },
        }
    }
}

/// Two priorities above everything that is none of ours.
pub(super) struct Levels {
    pub low: u8,
    pub high: u8,
}

/// What the loader sees. Two of them look at every partition of the boot partitions' types, ours or not
/// (a KERN-C, say); `gptpriority` is asked in grub.cfg about the slots' partitions alone.
#[derive(Clone)]
pub(super) struct View {
    loader: Loader,
    pub table: Table,
    candidates: Vec<(u32, BootBits)>,
    /// Where the slots are in `candidates`.
    a: usize,
    b: usize,
}

impl View {
    pub(super) fn new(loader: Loader, table: Table, slots: &Slots) -> Self {
        let types = [slots.a.boot.type_guid, slots.b.boot.type_guid];
        let partitions = table.partitions();
        let ours = [slots.a.boot.number, slots.b.boot.number];
        let seen: Vec<_> = partitions
            .into_iter()
            .filter(|p| match loader {
                Loader::GptPrio | Loader::Vboot => types.contains(&p.type_guid),
                Loader::GptPriority => ours.contains(&p.number),
            })
            .collect();
        // Both boot partitions come from this table, so both are among those of their own types.
        let index = |number: u32| seen.iter().position(|p| p.number == number).unwrap_or_default();
        let (a, b) = (index(slots.a.boot.number), index(slots.b.boot.number));
        let candidates = seen
            .iter()
            .map(|p| (p.number, BootBits::from_attributes(p.attributes)))
            .collect();
        Self {
            loader,
            table,
            candidates,
            a,
            b,
        }
    }

    pub(super) fn pair(&self) -> Pair {
        Pair {
            a: self.candidates[self.a].1,
            b: self.candidates[self.b].1,
        }
    }

    pub(super) fn with(&self, pair: Pair) -> Self {
        let mut after = self.clone();
        after.candidates[self.a].1 = pair.a;
        after.candidates[self.b].1 = pair.b;
        after
    }

    /// The table's changes that give the slots these bits.
    pub(super) fn changes(&self, pair: Pair) -> [BitsChange; 2] {
        [
            BitsChange {
                partition: self.candidates[self.a].0,
                bits: pair.a,
            },
            BitsChange {
                partition: self.candidates[self.b].0,
                bits: pair.b,
            },
        ]
    }

    fn next_index(&self) -> Option<usize> {
        let bits: Vec<BootBits> = self.candidates.iter().map(|(_, bits)| *bits).collect();
        self.loader.next(&bits)
    }

    pub(super) fn next(&self) -> Option<SlotName> {
        match self.next_index()? {
            index if index == self.a => Some(SlotName::A),
            index if index == self.b => Some(SlotName::B),
            _ => None,
        }
    }

    pub(super) fn next_in_words(&self) -> String {
        match (self.next(), self.next_index()) {
            (Some(slot), _) => format!("slot {slot}"),
            (None, Some(index)) => format!("partition {}", self.candidates[index].0),
            (None, None) => "nothing".to_owned(),
        }
    }

    pub(super) fn check_target(
        &self,
        operation: &'static str,
        target: SlotName,
        running: SlotName,
    ) -> Result<(), BootError> {
        if target == running {
            return Err(BootError::TargetIsRunning { operation, target });
        }
        if !self.pair().get(running).successful {
            return Err(BootError::RunningNotGood {
                operation,
                running,
                target,
            });
        }
        Ok(())
    }

    pub(super) fn levels(&self) -> Result<Levels, BootError> {
        let foreign = self
            .candidates
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != self.a && *i != self.b);
        let highest = foreign
            .filter(|(_, (_, bits))| self.loader.bootable(*bits))
            .map(|(_, (number, bits))| (bits.priority, *number))
            .max();
        match highest {
            Some((priority, partition)) if priority > NIBBLE_MAX - 2 => {
                Err(BootError::ForeignPriority { partition, priority })
            }
            Some((priority, _)) => Ok(Levels {
                low: priority + 1,
                high: priority + 2,
            }),
            None => Ok(Levels { low: 1, high: 2 }),
        }
    }
}
