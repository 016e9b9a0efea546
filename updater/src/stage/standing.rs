//! Whether what comes next stands in the target already: the release before the running one is there, or what a
//! staging that was cut off has written. What stands need not be read from the running slot and is not written.
//! It comes in long stretches, between which nothing stands; so each group of pieces is guessed from those
//! before it, and where nothing is expected a look at a few bytes now and then is all that it costs.
//!
//! What the running slot has in the same place is guessed apart from all else: an older release has that in
//! the target where it has nothing of what moved, and pieces of both kinds alternate.

use super::seed::{Seeds, Side};

/// So many bytes are compared when nothing is expected. Too few to prove anything, which they need not.
const LOOK_BYTES: usize = 4096;

/// Where the running slot has what belongs at a place of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kin {
    SamePlace,
    Elsewhere,
}

impl Kin {
    /// Of what belongs at `place`, and is copied from there.
    pub(super) fn of(place: u64, from: u64) -> Self {
        if from == place {
            Self::SamePlace
        } else {
            Self::Elsewhere
        }
    }
}

/// What is expected to stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Expected([bool; 2]);

impl Expected {
    pub(super) fn of(self, kin: Kin) -> bool {
        self.0[kin as usize]
    }

    /// Of zeros, which everything has around it.
    pub(super) fn any(self) -> bool {
        self.0.contains(&true)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Standing([Guess; 2]);

#[derive(Debug, Default)]
struct Guess {
    /// None: nothing is known of this kind.
    expected: Option<bool>,
    /// Of this group.
    stood: u32,
    missed: u32,
    has_looked: bool,
    /// What the target has at the place that was looked at last.
    there: (u64, Vec<u8>),
}

impl Standing {
    /// Whether the target is asked before the running slot for what a later group copies.
    pub(super) fn expected(&self) -> Expected {
        let [same, other] = self.0.each_ref().map(|guess| guess.expected);
        // For want of anything better a kind is guessed like the other.
        Expected([same.or(other), other.or(same)].map(Option::unwrap_or_default))
    }

    /// A piece stood there, or did not.
    pub(super) fn saw(&mut self, kin: Kin, stood: bool) {
        let guess = &mut self.0[kin as usize];
        let count = if stood {
            &mut guess.stood
        } else {
            &mut guess.missed
        };
        *count += 1;
    }

    /// What is put next belongs there: looks what the target has, if nothing of this kind and group was looked
    /// for.
    pub(super) fn look(&mut self, kin: Kin, seeds: &mut Seeds, at: u64) {
        let guess = &mut self.0[kin as usize];
        if guess.has_looked || guess.stood + guess.missed > 0 {
            return;
        }
        guess.has_looked = true;
        if let Ok(Some(there)) = seeds.read(Side::Target, at, LOOK_BYTES) {
            guess.there = (at, there.to_vec());
        }
    }

    /// These bytes are put at that place.
    pub(super) fn compare(&mut self, kin: Kin, at: u64, bytes: &[u8]) {
        let (looked_at, there) = std::mem::take(&mut self.0[kin as usize].there);
        // One value stands in many places.
        let says_something = there.iter().any(|byte| Some(byte) != there.first());
        if says_something && looked_at == at && bytes.len() >= there.len() {
            self.saw(kin, bytes.starts_with(&there));
        }
    }

    /// The next group begins. One about which nothing is known goes on like the one before it.
    pub(super) fn end_group(&mut self) {
        for guess in &mut self.0 {
            if guess.stood + guess.missed > 0 {
                guess.expected = Some(guess.stood > guess.missed);
            }
            (guess.stood, guess.missed, guess.has_looked) = (0, 0, false);
        }
    }
}
