//! What was checked, how often, and what was found.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;

/// Findings kept per invariant; more are only counted.
const KEPT: usize = 20;

/// What must never happen; the numbers are those of `docs/ARCHITECTURE.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// Only the slot that is not running is written.
    S1,
    /// Only what the signed release says is armed.
    S2,
    /// Armed and rebooted only under a valid grant.
    S3,
    /// Marked good only after both checks.
    S4,
    /// Always boots something verified.
    S5,
    /// A bad release goes nowhere again.
    S6,
    /// The limit of unavailable nodes.
    S7,
    /// Windows and freezes.
    S8,
    /// Budgets of pods; no force.
    S9,
    /// Cordons come and go with Drydock's own.
    S10,
    /// An agent touches its own node alone.
    S12,
    /// The way back stays.
    S14,
}

impl Invariant {
    /// All that are checked.
    pub const ALL: [Self; 12] = [
        Self::S1,
        Self::S2,
        Self::S3,
        Self::S4,
        Self::S5,
        Self::S6,
        Self::S7,
        Self::S8,
        Self::S9,
        Self::S10,
        Self::S12,
        Self::S14,
    ];

    /// What it says, in a few words.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::S1 => "only the slot that is not running was written",
            Self::S2 => "what was armed is byte for byte the signed release",
            Self::S3 => "no arming and no reboot without a valid grant",
            Self::S4 => "marked good only after local checks and the cluster's word",
            Self::S5 => "every node could boot something verified at any time",
            Self::S6 => "a release that failed was given to nobody again",
            Self::S7 => "never more nodes out of service than the policy allows",
            Self::S8 => "nothing was disrupted outside the maintenance window",
            Self::S9 => "PodDisruptionBudgets held; no pod was forced away",
            Self::S10 => "nothing left cordoned, nobody else's cordon removed",
            Self::S12 => "each agent wrote its own NodeUpgrade's status alone",
            Self::S14 => "the way back was never given up too early",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::S1 => "S1",
            Self::S2 => "S2",
            Self::S3 => "S3",
            Self::S4 => "S4",
            Self::S5 => "S5",
            Self::S6 => "S6",
            Self::S7 => "S7",
            Self::S8 => "S8",
            Self::S9 => "S9",
            Self::S10 => "S10",
            Self::S12 => "S12",
            Self::S14 => "S14",
        })
    }
}

/// A violation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// When it was seen.
    pub at: Timestamp,
    /// What does not hold.
    pub invariant: Invariant,
    /// What was seen.
    pub evidence: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:.3}: {}", self.invariant, self.at, self.evidence)
    }
}

/// How one invariant fared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// How often it was put to the test.
    pub evaluated: u64,
    /// How often it did not hold.
    pub violated: u64,
    /// The first of these.
    pub findings: Vec<Finding>,
}

/// How all invariants fared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    tallies: BTreeMap<Invariant, Tally>,
}

impl Report {
    pub(super) fn note(
        &mut self,
        at: Timestamp,
        invariant: Invariant,
        holds: bool,
        evidence: impl FnOnce() -> String,
    ) {
        let tally = self.tallies.entry(invariant).or_default();
        tally.evaluated += 1;
        if !holds {
            tally.violated += 1;
            if tally.findings.len() < KEPT {
                tally.findings.push(Finding {
                    at,
                    invariant,
                    evidence: evidence(),
                });
            }
        }
    }

    /// How this one fared.
    #[must_use]
    pub fn tally(&self, invariant: Invariant) -> Tally {
        self.tallies.get(&invariant).cloned().unwrap_or_default()
    }

    /// Every violation that was kept, in the order of the invariants.
    #[must_use]
    pub fn findings(&self) -> Vec<&Finding> {
        self.tallies.values().flat_map(|tally| &tally.findings).collect()
    }

    /// Those that were never put to the test: nothing is known of them.
    #[must_use]
    pub fn untested(&self) -> Vec<Invariant> {
        Invariant::ALL
            .into_iter()
            .filter(|invariant| self.tally(*invariant).evaluated == 0)
            .collect()
    }
}
