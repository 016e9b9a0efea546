//! The boot bits of a partition's GPT attributes, and how the three loaders that know them choose.
//! Pure: no disk here.
//!
//! Sources: the ChromeOS disk format (bits 48-56), vboot's `cgptlib`, ChromiumOS GRUB's
//! `gptpriority`, Flatcar's and Bottlerocket's GRUB `gptprio.next`.

use serde::{Deserialize, Serialize};

const PRIORITY_SHIFT: u32 = 48;
const TRIES_SHIFT: u32 = 52;
const SUCCESSFUL_SHIFT: u32 = 56;
const NIBBLE: u64 = 0xf;

/// The bits that Drydock may change: 48 to 56. All others stay as they are.
pub const BOOT_BITS_MASK: u64 =
    (NIBBLE << PRIORITY_SHIFT) | (NIBBLE << TRIES_SHIFT) | (1 << SUCCESSFUL_SHIFT);

/// The highest value that priority and tries can hold.
pub const NIBBLE_MAX: u8 = 15;

/// Priority, tries and successful of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BootBits {
    /// 0 to 15; 15 is tried first, 0 is never booted.
    pub priority: u8,
    /// 0 to 15; boots that the loader still gives it.
    pub tries: u8,
    /// Marked good.
    pub successful: bool,
}

impl BootBits {
    /// Not bootable by any of the loaders while another slot is.
    pub const UNBOOTABLE: Self = Self {
        priority: 0,
        tries: 0,
        successful: false,
    };

    #[must_use]
    pub fn from_attributes(attributes: u64) -> Self {
        // Masked to four bits each, so both fit.
        Self {
            priority: ((attributes >> PRIORITY_SHIFT) & NIBBLE) as u8,
            tries: ((attributes >> TRIES_SHIFT) & NIBBLE) as u8,
            successful: attributes >> SUCCESSFUL_SHIFT & 1 == 1,
        }
    }

    /// `attributes` with these bits in place of its own; all others as they were.
    #[must_use]
    pub fn apply_to(self, attributes: u64) -> u64 {
        (attributes & !BOOT_BITS_MASK)
            | (u64::from(self.priority.min(NIBBLE_MAX)) << PRIORITY_SHIFT)
            | (u64::from(self.tries.min(NIBBLE_MAX)) << TRIES_SHIFT)
            | (u64::from(self.successful) << SUCCESSFUL_SHIFT)
    }
}

/// Which loader reads the bits on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loader {
    /// GRUB's `gptprio.next` (Flatcar, Bottlerocket): takes a try off at each boot, good or not.
    GptPrio,
    /// ChromeOS firmware: takes a try off what is not good; at the last one the priority goes too.
    Vboot,
    /// ChromiumOS GRUB's `gptpriority` (COS): the priority alone; counts and writes nothing.
    GptPriority,
}

impl Loader {
    /// Does the loader count tries, so that it gives up by itself on a system that never comes up?
    #[must_use]
    pub fn counts_tries(self) -> bool {
        match self {
            Self::GptPrio | Self::Vboot => true,
            Self::GptPriority => false,
        }
    }

    /// May this partition be booted at all?
    #[must_use]
    pub fn bootable(self, bits: BootBits) -> bool {
        let alive = match self {
            Self::GptPrio | Self::Vboot => bits.tries > 0 || bits.successful,
            Self::GptPriority => true,
        };
        bits.priority > 0 && alive
    }

    /// Which of `candidates` (in the order of the partition table) is booted next, by its index.
    #[must_use]
    pub fn next(self, candidates: &[BootBits]) -> Option<usize> {
        let mut best: Option<(usize, u8)> = None;
        for (index, bits) in candidates.iter().enumerate() {
            let better = best.is_none_or(|(_, priority)| bits.priority > priority);
            if better && self.bootable(*bits) {
                best = Some((index, bits.priority));
            }
        }
        best.map(|(index, _)| index)
    }

    /// One boot: which index is booted, and what the loader writes before it jumps there.
    #[must_use]
    pub fn boot(self, candidates: &mut [BootBits]) -> Option<usize> {
        let index = self.next(candidates)?;
        let bits = candidates.get_mut(index)?;
        match self {
            Self::GptPrio => bits.tries = bits.tries.saturating_sub(1),
            Self::Vboot => {
                if !bits.successful {
                    if bits.tries > 1 {
                        bits.tries -= 1;
                    } else {
                        bits.tries = 0;
                        bits.priority = 0;
                    }
                }
            }
            Self::GptPriority => {}
        }
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn bits(priority: u8, tries: u8, successful: bool) -> BootBits {
        BootBits {
            priority,
            tries,
            successful,
        }
    }

    #[test]
    fn other_bits_of_the_attributes_stay() {
        for other in [0, 1, 1 << 57, !BOOT_BITS_MASK, u64::MAX] {
            for wanted in [
                BootBits::UNBOOTABLE,
                bits(15, 15, true),
                bits(2, 0, true),
                bits(1, 2, false),
            ] {
                let written = wanted.apply_to(other);
                assert_eq!(BootBits::from_attributes(written), wanted);
                assert_eq!(written & !BOOT_BITS_MASK, other & !BOOT_BITS_MASK);
            }
        }
    }

    #[test]
    fn each_loader_spends_two_tries_in_its_own_way() {
        let good = bits(1, 0, true);
        let table = [
            (Loader::GptPrio, [Some(1), Some(1), Some(0)], bits(2, 0, false)),
            (Loader::Vboot, [Some(1), Some(1), Some(0)], bits(0, 0, false)),
            (
                Loader::GptPriority,
                [Some(1), Some(1), Some(1)],
                bits(2, 2, false),
            ),
        ];
        for (loader, boots, left) in table {
            let mut candidates = [good, bits(2, 2, false)];
            for expected in boots {
                assert_eq!(loader.boot(&mut candidates), expected, "{loader:?}");
            }
            assert_eq!(candidates, [good, left], "{loader:?}");
        }
    }

    #[test]
    fn on_a_tie_the_first_partition_is_booted_and_without_a_bootable_one_none() {
        for loader in [Loader::GptPrio, Loader::Vboot, Loader::GptPriority] {
            assert_eq!(loader.next(&[bits(3, 0, true), bits(3, 0, true)]), Some(0));
            assert_eq!(loader.next(&[BootBits::UNBOOTABLE, bits(0, 2, true)]), None);
        }
        assert_eq!(
            Loader::GptPrio.next(&[bits(3, 0, false), bits(1, 0, true)]),
            Some(1)
        );
        assert_eq!(
            Loader::GptPriority.next(&[bits(3, 0, false), bits(1, 0, true)]),
            Some(0)
        );
    }
}
