//! What can happen to the guard, what it then does, and why it refuses. One closed enum each.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::journal::{Journal, Origin};
use crate::millis;
use crate::seen::Slot;

/// Leave to arm a slot: under a grant, or root's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArmRequest {
    pub attempt: String,
    /// What the target slot was just read back to hold.
    pub digest: String,
    /// [`Origin::Lost`] is refused.
    pub origin: Origin,
    pub target: Slot,
    /// What is left of the grant; none for root's own.
    #[serde(rename = "remainingMs", with = "millis::maybe", default)]
    pub remaining: Option<Duration>,
    /// When that was left, in time since boot, which guard and agent count alike; on the way here some of it
    /// passed. None, of an agent that does not say: when the guard hears it.
    #[serde(rename = "countedAtMs", with = "millis::maybe", default)]
    pub counted_at: Option<Duration>,
    #[serde(rename = "confirmWaitMs", with = "millis")]
    pub confirm_wait: Duration,
    /// The node's floor once this release is marked good: the higher of its own and the journal's.
    #[serde(default)]
    pub floor: Option<String>,
}

/// Root says that the running slot is good; whoever sends it has seen the local checks pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GoodRequest {
    /// A name that was never used before.
    pub attempt: String,
    /// What the running slot was proven to hold, or `unknown`.
    pub digest: String,
    /// As in [`ArmRequest`].
    #[serde(default)]
    pub floor: Option<String>,
}

/// The coordinator's word on one trial boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    pub attempt: String,
    pub boot_id: String,
    pub digest: String,
    pub word: Word,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Word {
    Confirm,
    GoBack,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The guard's process began.
    Started,
    /// Time passed.
    Tick,
    Arm(ArmRequest),
    Disarm {
        attempt: String,
    },
    Reboot {
        attempt: String,
    },
    Verdict(Verdict),
    /// The running slot was hashed; the confirm wait does not count that time.
    Identified {
        took: Duration,
    },
    ChecksPassed,
    ChecksFailed {
        text: String,
    },
    /// Attempts that a person forgave.
    Forgive {
        attempts: Vec<String>,
    },
    MarkGood(GoodRequest),
    EffectDone(Effect),
    EffectFailed {
        effect: Effect,
        text: String,
    },
    /// Not performed: its [`latest`](crate::latest) had come.
    TooLate(Effect),
}

/// What the shell has to do, after the journal was written. Each may be done twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// `target` is booted next, on trial.
    ArmSlot {
        target: Slot,
        running: Slot,
    },
    /// `running` is booted next; `target` is the way back again if `was_good`, else cannot be booted.
    Disarm {
        target: Slot,
        running: Slot,
        was_good: bool,
    },
    /// `slot`, which runs, is good.
    MarkGood {
        slot: Slot,
    },
    /// `to`, which is good, is booted next instead of `running`.
    GoBack {
        to: Slot,
        running: Slot,
    },
    Reboot,
    /// Run the required checks; the outcome is an event.
    RunChecks,
}

/// What came of an event.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Step {
    /// To be written (and flushed) before any effect, if it differs from the one given.
    pub journal: Journal,
    /// At most one: what follows from it follows from its [`Event::EffectDone`].
    pub effect: Option<Effect>,
    /// Why a request was not followed.
    pub refused: Option<Refusal>,
}

/// Why the guard did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "which slot runs cannot be told from the kernel's command line; correct `slots` in the configuration"
    )]
    RunningUnknown,
    #[error("slot {0} is the running one; only the other slot can be armed")]
    TargetIsRunning(Slot),
    #[error(
        "the running slot {0} is not marked good, so there would be no way back; let the trial end, or run \
         `drydock-updater mark-good`"
    )]
    RunningNotGood(Slot),
    #[error("attempt {0} was used or ended before; a name is taken once")]
    AttemptSpent(String),
    #[error("attempt {0} is under way; wait for its end, or run `drydock-updater disarm`")]
    Busy(String),
    #[error("release {0} failed on this node before; `drydock-updater forgive` lets it be tried again")]
    FailedHere(String),
    #[error("slot {slot} holds {found}, not {wanted}; stage it again")]
    OtherContent {
        slot: Slot,
        wanted: String,
        found: String,
    },
    #[error("the grant of attempt {0} is over")]
    GrantOver(String),
    #[error("attempt {0} is not armed in the partition table; arm it first")]
    NotArmed(String),
    #[error("no attempt called {0} is under way")]
    NoSuchAttempt(String),
    #[error("the verdict is for boot {verdict}, this is boot {this}: ignored")]
    OtherBoot { verdict: String, this: String },
    #[error("the verdict is for release {verdict}, on trial is {this}: ignored")]
    OtherRelease { verdict: String, this: String },
    #[error("attempt {0} is not on trial in this boot, or its end was decided already")]
    NotOnTrial(String),
}

impl Refusal {
    /// A short word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::RunningUnknown => "RunningUnknown",
            Self::TargetIsRunning(_) => "TargetIsRunning",
            Self::RunningNotGood(_) => "RunningNotGood",
            Self::AttemptSpent(_) => "AttemptSpent",
            Self::Busy(_) => "Busy",
            Self::FailedHere(_) => "FailedHere",
            Self::OtherContent { .. } => "OtherContent",
            Self::GrantOver(_) => "GrantOver",
            Self::NotArmed(_) => "NotArmed",
            Self::NoSuchAttempt(_) => "NoSuchAttempt",
            Self::OtherBoot { .. } => "OtherBoot",
            Self::OtherRelease { .. } => "OtherRelease",
            Self::NotOnTrial(_) => "NotOnTrial",
        }
    }
}
