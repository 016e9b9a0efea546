//! Whether what comes next stands in the target already: the release before the running one is there, or what a
//! staging that was cut off has written. What stands need not be read from the running slot and is not written.
//! It comes in long stretches, between which nothing stands; so each group of pieces is guessed from those
//! before it, and where nothing is expected a look at a few bytes now and then is all that it costs.

use super::seed::{Seeds, Side};

/// So many bytes are compared when nothing is expected. Too few to prove anything, which they need not.
const LOOK_BYTES: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Standing {
    expected: bool,
    /// Of this group.
    stood: u32,
    missed: u32,
    has_looked: bool,
    /// What the target has at the place that was looked at last.
    there: (u64, Vec<u8>),
}

impl Standing {
    /// Whether the target is asked before the running slot for what a later group copies.
    pub(super) fn is_expected(&self) -> bool {
        self.expected
    }

    /// A piece stood there, or did not.
    pub(super) fn saw(&mut self, stood: bool) {
        let count = if stood { &mut self.stood } else { &mut self.missed };
        *count += 1;
    }

    /// What is put next belongs there: looks what the target has, if nothing of this group was looked for.
    pub(super) fn look(&mut self, seeds: &mut Seeds, at: u64) {
        if self.has_looked || self.stood + self.missed > 0 {
            return;
        }
        self.has_looked = true;
        if let Ok(Some(there)) = seeds.read(Side::Target, at, LOOK_BYTES) {
            self.there = (at, there.to_vec());
        }
    }

    /// These bytes are put at that place.
    pub(super) fn compare(&mut self, at: u64, bytes: &[u8]) {
        let (looked_at, there) = std::mem::take(&mut self.there);
        // One value stands in many places.
        let says_something = there.iter().any(|byte| Some(byte) != there.first());
        if says_something && looked_at == at && bytes.len() >= there.len() {
            self.saw(bytes.starts_with(&there));
        }
    }

    /// The next group begins. One about which nothing is known goes on like the one before it.
    pub(super) fn end_group(&mut self) {
        if self.stood + self.missed > 0 {
            self.expected = self.stood > self.missed;
        }
        (self.stood, self.missed, self.has_looked) = (0, 0, false);
    }
}
