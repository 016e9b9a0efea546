//! What the guard tells about itself: its answer to `Status`, and what the agent reports from.

use serde::{Deserialize, Serialize};

use crate::journal::{Checks, CommittedRelease, EndState, Ended, FailedDigest, Journal, Origin, Phase};
use crate::seen::{Seen, Slot, SlotSeen};

/// How far the loader helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuardKind {
    /// The loader counts tries: also a kernel that never reaches userspace is left again.
    #[serde(rename = "full")]
    Full,
    /// The loader counts nothing: protection begins where the guard starts.
    #[serde(rename = "userspace only")]
    UserspaceOnly,
}

/// What an attempt looks like from outside; the values of `status.attempt.state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttemptState {
    Armed,
    Trying,
    GoingBack,
    Committed,
    Failed,
    Unconfirmed,
    NotTried,
    Stuck,
}

impl AttemptState {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Armed => "Armed",
            Self::Trying => "Trying",
            Self::GoingBack => "GoingBack",
            Self::Committed => "Committed",
            Self::Failed => "Failed",
            Self::Unconfirmed => "Unconfirmed",
            Self::NotTried => "NotTried",
            Self::Stuck => "Stuck",
        }
    }
}

/// Where exactly the guard is with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PhaseName {
    /// Written down, and maybe not yet in the partition table.
    Arming,
    Armed,
    /// The reboot was called.
    Used,
    /// On trial, the required checks are not through.
    Checking,
    /// On trial (or stuck), the checks passed, the coordinator's word is waited for.
    Confirming,
    /// Decided; the partition table does not hold it yet.
    Committing,
    GoingBack,
    /// Over; the partition table does not hold it yet, or a called reboot may still come.
    Disarming,
    Stuck,
    /// Over.
    Ended,
}

/// An attempt, as reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptReport {
    pub attempt: String,
    pub digest: String,
    pub origin: Origin,
    pub state: AttemptState,
    pub phase: PhaseName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The coordinator's confirm for this boot was heard.
    #[serde(default)]
    pub confirmed: bool,
    /// The name is spent: it is never armed (again).
    #[serde(default)]
    pub spent: bool,
}

/// One slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotStatus {
    pub name: Slot,
    #[serde(flatten)]
    pub seen: SlotSeen,
}

/// All that the guard has to tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuardStatus {
    pub boot_id: String,
    pub kind: GuardKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Slot>,
    /// What the running slot was proven to hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_digest: Option<String>,
    pub slots: Vec<SlotStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Slot>,
    /// The attempt under way, or the last one that was not forgiven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptReport>,
    /// Names that are never armed again.
    #[serde(default)]
    pub spent: Vec<String>,
    #[serde(default)]
    pub failed: Vec<FailedDigest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<CommittedRelease>,
    /// What is wrong and for whom to mend: config, journal, disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

impl GuardStatus {
    /// From the journal and what is seen.
    #[must_use]
    pub fn new(journal: &Journal, seen: &Seen, problems: Vec<String>) -> Self {
        let ended = journal.ended.iter().map(|ended| ended.attempt.clone());
        let current = journal.current.iter().map(|attempt| attempt.name.clone());
        let current = current.filter(|name| journal.is_spent(name));
        Self {
            boot_id: seen.boot_id.clone(),
            kind: if seen.loader_counts {
                GuardKind::Full
            } else {
                GuardKind::UserspaceOnly
            },
            running: seen.running,
            running_digest: seen.running_digest.clone(),
            slots: Slot::BOTH
                .map(|name| SlotStatus {
                    name,
                    seen: seen.slot(name).clone(),
                })
                .to_vec(),
            next: seen.next,
            attempt: AttemptReport::of(journal, &seen.boot_id),
            spent: ended.chain(current).collect(),
            failed: journal.failed.clone(),
            floor: journal.floor.clone(),
            committed: journal.committed.clone(),
            problems,
        }
    }

    /// One slot's bits.
    #[must_use]
    pub fn slot(&self, name: Slot) -> Option<&SlotSeen> {
        self.slots
            .iter()
            .find(|slot| slot.name == name)
            .map(|slot| &slot.seen)
    }

    /// Is the running slot marked good?
    #[must_use]
    pub fn running_good(&self) -> Option<bool> {
        Some(self.slot(self.running?)?.successful)
    }
}

impl AttemptReport {
    /// The attempt under way, or the last that was not forgiven.
    #[must_use]
    pub fn of(journal: &Journal, boot_id: &str) -> Option<Self> {
        let last = || {
            journal
                .ended
                .last()
                .filter(|ended| !ended.forgiven)
                .map(Self::ended)
        };
        Self::current(journal, boot_id).or_else(last)
    }

    fn ended(ended: &Ended) -> Self {
        Self {
            attempt: ended.attempt.clone(),
            digest: ended.digest.clone(),
            origin: Origin::Cluster,
            state: match ended.state {
                EndState::Committed => AttemptState::Committed,
                EndState::Failed => AttemptState::Failed,
                EndState::Unconfirmed => AttemptState::Unconfirmed,
                EndState::NotTried => AttemptState::NotTried,
            },
            phase: PhaseName::Ended,
            boot_id: ended.boot_id.clone(),
            code: ended.code.clone(),
            text: ended.text.clone(),
            confirmed: false,
            spent: true,
        }
    }

    fn current(journal: &Journal, this_boot: &str) -> Option<Self> {
        let attempt = journal.current.as_ref()?;
        let trial = attempt.trials.iter().find(|trial| trial.boot_id == this_boot);
        let mut report = Self {
            attempt: attempt.name.clone(),
            digest: attempt.digest.clone(),
            origin: attempt.origin,
            state: AttemptState::Armed,
            phase: PhaseName::Armed,
            boot_id: attempt.trials.last().map(|trial| trial.boot_id.clone()),
            code: None,
            text: None,
            confirmed: trial.is_some_and(|trial| trial.confirmed),
            spent: journal.is_spent(&attempt.name),
        };
        let why = |code: &str, text: &str| (Some(code.to_owned()), Some(text.to_owned()));
        (report.state, report.phase) = match &attempt.phase {
            Phase::Armed { in_table: false } => (AttemptState::Armed, PhaseName::Arming),
            Phase::Armed { in_table: true } => (AttemptState::Armed, PhaseName::Armed),
            Phase::Used => (AttemptState::Armed, PhaseName::Used),
            Phase::Trying => match trial.map(|trial| trial.checks) {
                Some(Checks::Passed) => (AttemptState::Trying, PhaseName::Confirming),
                Some(Checks::Due | Checks::Failed) | None => (AttemptState::Trying, PhaseName::Checking),
            },
            // Reported as Committed only once the partition table holds it.
            Phase::Committed { .. } => (AttemptState::Trying, PhaseName::Committing),
            Phase::GoingBack { code, text, .. } => {
                (report.code, report.text) = why(code, text);
                (AttemptState::GoingBack, PhaseName::GoingBack)
            }
            Phase::Disarming { code, text, .. } => {
                (report.code, report.text) = why(code, text);
                (AttemptState::Armed, PhaseName::Disarming)
            }
            Phase::Stuck { code, text, boot, .. } => {
                (report.code, report.text) = why(code, text);
                report.boot_id = Some(boot.boot_id.clone());
                report.confirmed = boot.confirmed && boot.boot_id == this_boot;
                // With the checks passed it can still be confirmed.
                let passed = boot.checks == Checks::Passed && boot.boot_id == this_boot;
                (
                    AttemptState::Stuck,
                    if passed {
                        PhaseName::Confirming
                    } else {
                        PhaseName::Stuck
                    },
                )
            }
        };
        Some(report)
    }
}
