//! The journal: all that the guard remembers between boots, in one small file on the state partition.
//! Release N-1 reads what N wrote: unknown fields are kept, a newer major version is set aside as if lost.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::millis;
use crate::seen::Slot;

/// The journal's major version.
pub const JOURNAL_MAJOR: u32 = 1;
/// Attempts that are remembered as over; the oldest go first. Their names are unique for ever, so one
/// that was dropped does not come back.
pub const MAX_ENDED: usize = 32;
/// Digests that are remembered as failed here.
pub const MAX_FAILED: usize = 32;
/// Boots that one attempt gets on its release.
pub const MAX_TRIAL_BOOTS: usize = 2;

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Journal {
    /// [`JOURNAL_MAJOR`].
    pub version: u32,
    /// The attempt under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Attempt>,
    /// Attempts that are over, oldest first; none of their names is taken again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<Ended>,
    /// Digests that Failed here and were not forgiven, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<FailedDigest>,
    /// The highest floor of any release that was marked good here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<String>,
    /// The release that was marked good last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<CommittedRelease>,
    /// Fields of a newer Drydock.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            version: JOURNAL_MAJOR,
            current: None,
            ended: Vec::new(),
            failed: Vec::new(),
            floor: None,
            committed: None,
            other: Map::new(),
        }
    }
}

impl Journal {
    /// Is this attempt's name spent (rebooted for, disarmed, or over in any way)?
    #[must_use]
    pub fn is_spent(&self, attempt: &str) -> bool {
        let current = self
            .current
            .as_ref()
            .is_some_and(|current| current.name == attempt && !matches!(current.phase, Phase::Armed { .. }));
        current || self.ended.iter().any(|ended| ended.attempt == attempt)
    }

    /// Did this digest fail here, and was not forgiven?
    #[must_use]
    pub fn has_failed(&self, digest: &str) -> bool {
        self.failed.iter().any(|failed| failed.digest == digest)
    }

    pub(crate) fn note_end(&mut self, ended: Ended) {
        if ended.state == EndState::Failed {
            self.failed.push(FailedDigest {
                digest: ended.digest.clone(),
                attempt: ended.attempt.clone(),
                code: ended.code.clone().unwrap_or_default(),
            });
            let over = self.failed.len().saturating_sub(MAX_FAILED);
            self.failed.drain(..over);
        }
        self.ended.push(ended);
        let over = self.ended.len().saturating_sub(MAX_ENDED);
        self.ended.drain(..over);
    }
}

/// The release that was marked good last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommittedRelease {
    pub digest: String,
    pub attempt: String,
    pub boot_id: String,
}

/// A digest that Failed here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedDigest {
    pub digest: String,
    pub attempt: String,
    pub code: String,
}

/// Who ordered an attempt, and with it what commits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// A grant: local checks and the coordinator's word commit it.
    Cluster,
    /// Root's own command: local checks alone commit it.
    Root,
    /// A trial boot that the journal knows nothing of (it was lost): a word for this boot and digest
    /// commits it, whatever its attempt is called.
    Lost,
}

/// One attempt at one release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    pub name: String,
    /// `sha256:HEX`, or `unknown` for a lost one.
    pub digest: String,
    pub origin: Origin,
    /// The slot that is armed or on trial.
    pub target: Slot,
    /// It was marked good before it was armed (an ordered roll back), and is that again if not tried.
    pub target_was_good: bool,
    /// The node's floor once this release is marked good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<String>,
    /// The boot in which it was armed.
    pub armed_in: String,
    /// When the grant is over; none for root's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Deadline>,
    /// How long each trial boot waits for the coordinator's word.
    #[serde(rename = "confirmWaitMs", with = "millis")]
    pub confirm_wait: Duration,
    /// Trial boots in which the guard started, at most [`MAX_TRIAL_BOOTS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trials: Vec<TrialBoot>,
    /// The coordinator said goBack: that stands for the whole attempt.
    #[serde(default)]
    pub go_back: bool,
    pub phase: Phase,
    /// Fields of a newer Drydock.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An instant of one boot's monotonic clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deadline {
    pub boot_id: String,
    /// Since that boot.
    #[serde(rename = "atMs", with = "millis")]
    pub at: Duration,
}

/// A trial boot in which the guard started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrialBoot {
    pub boot_id: String,
    /// Guard's first start, since boot.
    #[serde(rename = "startedMs", with = "millis")]
    pub started: Duration,
    /// Time that the confirm wait does not count (the running slot was hashed).
    #[serde(rename = "uncountedMs", with = "millis", default)]
    pub uncounted: Duration,
    pub checks: Checks,
    /// The coordinator confirmed this boot.
    #[serde(default)]
    pub confirmed: bool,
}

/// How far the required checks of one boot have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Checks {
    Due,
    Passed,
    Failed,
}

/// Why a node goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Class {
    Failed,
    Unconfirmed,
}

/// Where an attempt stands; each phase holds only its own data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Phase {
    /// Written before boot control; `in_table` once the partition table was seen to hold it.
    Armed { in_table: bool },
    /// Written right before the reboot call.
    Used,
    /// On trial.
    Trying,
    /// Decided, before boot control and reboot.
    GoingBack {
        class: Class,
        code: String,
        text: String,
    },
    /// Decided in this boot; void if the boot ends before the partition table holds it.
    Committed { boot_id: String },
    /// It is over; boot control may still have the slot armed.
    Disarming {
        state: EndState,
        code: String,
        text: String,
        /// Boot control has it.
        in_table: bool,
        /// A reboot may have been called: not reported as over before this instant of this boot.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hold_until: Option<Deadline>,
    },
    /// It should go back and cannot: no other slot is known to boot.
    Stuck {
        class: Class,
        code: String,
        text: String,
        boot: TrialBoot,
    },
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EndState {
    Committed,
    Failed,
    Unconfirmed,
    NotTried,
}

impl From<Class> for EndState {
    fn from(class: Class) -> Self {
        match class {
            Class::Failed => Self::Failed,
            Class::Unconfirmed => Self::Unconfirmed,
        }
    }
}

/// An attempt that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    pub attempt: String,
    pub digest: String,
    pub state: EndState,
    /// The boot in which that came about: the trial boot, for those that had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// A person forgave it: it is not reported any more, but its name stays taken.
    #[serde(default)]
    pub forgiven: bool,
}
