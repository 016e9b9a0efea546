//! The agent's next act, from its order and what it knows of the node. Asked again after every change.

use super::Order;
use crate::event::{Verdict, Word};
use crate::journal::{FailedDigest, Origin};
use crate::status::{AttemptState, GuardStatus, PhaseName};

/// What the agent knows of its node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    pub boot_id: String,
    /// Proven digest of the running slot; `None`: unknown.
    pub running: Option<String>,
    /// Digest that lies verified in the other slot.
    pub staged: Option<String>,
    /// Digest that is being staged right now.
    pub staging: Option<String>,
    /// `None`: the guard does not answer.
    pub guard: Option<GuardStatus>,
    /// Digests that failed here and were not forgiven: journal and status together.
    pub failed: Vec<FailedDigest>,
    /// The configuration has fields that this build does not know.
    pub config_unknown: bool,
    /// The wish's repository is permitted by the node's own configuration, with the same URL.
    pub permitted: bool,
    /// A grant that was found wanting is not tried again until it changes: its attempt.
    pub given_up: Option<String>,
}

impl Facts {
    /// Did this digest fail here?
    #[must_use]
    pub fn has_failed(&self, digest: &str) -> bool {
        self.failed.iter().any(|failed| failed.digest == digest)
    }
}

/// The next act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Drop these attempts from journal and status.
    Forgive(Vec<String>),
    /// Carry the coordinator's word to the guard.
    Tell(Verdict),
    /// The grant is gone or does not hold any more.
    Disarm { attempt: String },
    /// Check on the server, read the slot back, check again, arm.
    Arm { attempt: String },
    /// Check on the server once more, then reboot (or disarm).
    Reboot { attempt: String },
    /// Write the wish into the other slot.
    Stage,
    /// Stop the staging under way.
    StopStaging,
    /// Nothing.
    Rest,
}

/// Why the wish is not staged though it is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotStaged {
    #[error(
        "the configuration has fields that this Drydock does not know; nothing is staged until they are removed"
    )]
    Config,
    #[error(
        "repository `{name}` with URL {url} is not permitted by this node's configuration; add it under `repositories`"
    )]
    NotPermitted { name: String, url: String },
    #[error("release {0} failed on this node before; `kubectl drydock forgive` lets it be tried again")]
    FailedHere(String),
    #[error("the guard does not answer on its socket; start drydock-guard.service")]
    NoGuard,
    #[error("the running slot is not marked good, so the other one is not overwritten")]
    RunningNotGood,
}

impl NotStaged {
    /// A short word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Config => "ConfigUnknownFields",
            Self::NotPermitted { .. } => "RepositoryNotPermitted",
            Self::FailedHere(_) => "FailedHere",
            Self::NoGuard => "NoGuard",
            Self::RunningNotGood => "RunningNotGood",
        }
    }
}

/// See [`Decision`]; the first that is due.
#[must_use]
pub fn decide(order: &Order, facts: &Facts) -> Decision {
    forgive(order, facts)
        .or_else(|| tell(order, facts))
        .or_else(|| before_reboot(order, facts))
        .or_else(|| arm(order, facts))
        .or_else(|| stage(order, facts))
        .unwrap_or(Decision::Rest)
}

fn forgive(order: &Order, facts: &Facts) -> Option<Decision> {
    let guard = facts.guard.as_ref()?;
    let last = guard
        .attempt
        .iter()
        .filter(|last| last.phase == PhaseName::Ended)
        .map(|last| &last.attempt);
    let counted = facts.failed.iter().map(|failed| &failed.attempt).chain(last);
    let mut due: Vec<String> = counted
        .filter(|name| order.forgiven.contains(name))
        .cloned()
        .collect();
    due.dedup();
    (!due.is_empty()).then_some(Decision::Forgive(due))
}

/// Step 11. What the guard would ignore is not carried to it.
fn tell(order: &Order, facts: &Facts) -> Option<Decision> {
    let verdict = order.verdict.as_ref()?;
    let attempt = facts.guard.as_ref()?.attempt.as_ref()?;
    let ours = attempt.attempt == verdict.attempt || attempt.origin == Origin::Lost;
    let due = match (verdict.word, attempt.state) {
        (Word::Confirm, AttemptState::Trying) => {
            !attempt.confirmed && attempt.phase != PhaseName::Committing && verdict.boot_id == facts.boot_id
        }
        (Word::Confirm, AttemptState::Stuck) => !attempt.confirmed && verdict.boot_id == facts.boot_id,
        (Word::GoBack, AttemptState::Trying) => attempt.phase != PhaseName::Committing,
        (Word::GoBack, AttemptState::Armed) => attempt.phase != PhaseName::Disarming,
        (
            Word::Confirm | Word::GoBack,
            AttemptState::Armed
            | AttemptState::GoingBack
            | AttemptState::Committed
            | AttemptState::Failed
            | AttemptState::Unconfirmed
            | AttemptState::NotTried
            | AttemptState::Stuck,
        ) => false,
    };
    (ours && due).then(|| Decision::Tell(verdict.clone()))
}

/// Step 9, and the grant taken back before it.
fn before_reboot(order: &Order, facts: &Facts) -> Option<Decision> {
    let attempt = facts.guard.as_ref()?.attempt.as_ref()?;
    if attempt.origin != Origin::Cluster {
        return None;
    }
    let name = attempt.attempt.clone();
    let granted = order.grant.as_ref().is_some_and(|grant| grant.attempt == name);
    let given_up = facts.given_up.as_ref() == Some(&name);
    match attempt.phase {
        PhaseName::Arming | PhaseName::Armed | PhaseName::Used if !granted || given_up => {
            Some(Decision::Disarm { attempt: name })
        }
        PhaseName::Arming => Some(Decision::Arm { attempt: name }),
        PhaseName::Armed | PhaseName::Used => Some(Decision::Reboot { attempt: name }),
        PhaseName::Checking
        | PhaseName::Confirming
        | PhaseName::Committing
        | PhaseName::GoingBack
        | PhaseName::Disarming
        | PhaseName::Stuck
        | PhaseName::Ended => None,
    }
}

fn arm(order: &Order, facts: &Facts) -> Option<Decision> {
    let grant = order.grant.as_ref()?;
    let guard = facts.guard.as_ref()?;
    let busy = guard
        .attempt
        .as_ref()
        .is_some_and(|attempt| attempt.phase != PhaseName::Ended);
    let hopeless = guard.spent.contains(&grant.attempt) || facts.given_up.as_ref() == Some(&grant.attempt);
    (!busy && !hopeless && grant.boot_id == facts.boot_id).then(|| Decision::Arm {
        attempt: grant.attempt.clone(),
    })
}

fn stage(order: &Order, facts: &Facts) -> Option<Decision> {
    let wanted = order.wish.as_ref().filter(|_| order.stage);
    if let Some(staging) = &facts.staging {
        let still = wanted.is_some_and(|wish| wish.digest == *staging) && may_stage(order, facts).is_ok();
        return (!still).then_some(Decision::StopStaging);
    }
    let wish = wanted?;
    let there = facts.running.as_ref() == Some(&wish.digest) || facts.staged.as_ref() == Some(&wish.digest);
    let busy = facts
        .guard
        .as_ref()?
        .attempt
        .as_ref()
        .is_some_and(|a| a.phase != PhaseName::Ended);
    (!there && !busy && order.grant.is_none() && may_stage(order, facts).is_ok()).then_some(Decision::Stage)
}

/// May the wish be written into the other slot at all?
///
/// # Errors
/// The first condition that does not hold.
pub fn may_stage(order: &Order, facts: &Facts) -> Result<(), NotStaged> {
    let Some(wish) = &order.wish else { return Ok(()) };
    if facts.config_unknown {
        return Err(NotStaged::Config);
    }
    if !facts.permitted {
        return Err(NotStaged::NotPermitted {
            name: wish.repository.clone(),
            url: wish.url.clone(),
        });
    }
    if facts.has_failed(&wish.digest) || order.failed.contains(&wish.digest) {
        return Err(NotStaged::FailedHere(wish.digest.clone()));
    }
    let guard = facts.guard.as_ref().ok_or(NotStaged::NoGuard)?;
    if guard.running_good() == Some(true) {
        Ok(())
    } else {
        Err(NotStaged::RunningNotGood)
    }
}

/// The word for `status.agentState`; `arming` while a slot is being read back for a grant.
#[must_use]
pub fn agent_state(order: Option<&Order>, facts: &Facts, arming: Option<&str>) -> &'static str {
    let phase = facts
        .guard
        .as_ref()
        .and_then(|guard| guard.attempt.as_ref())
        .map(|attempt| attempt.phase);
    match phase {
        Some(PhaseName::Arming | PhaseName::Armed | PhaseName::Disarming) => return "Arming",
        Some(PhaseName::Used) => return "Rebooting",
        Some(PhaseName::Checking) => return "Checking",
        Some(PhaseName::Confirming | PhaseName::Committing) => return "Confirming",
        Some(PhaseName::GoingBack) => return "GoingBack",
        Some(PhaseName::Stuck) => return "Error",
        Some(PhaseName::Ended) | None => {}
    }
    if arming.is_some() {
        return "Arming";
    }
    if facts.staging.is_some() {
        return "Staging";
    }
    let wish = order.and_then(|order| order.wish.as_ref());
    match wish {
        Some(wish) if facts.running.as_ref() == Some(&wish.digest) => "Idle",
        Some(wish) if facts.staged.as_ref() == Some(&wish.digest) => "Staged",
        Some(_) if order.is_some_and(|order| order.stage && may_stage(order, facts).is_err()) => "Error",
        _ => "Idle",
    }
}
