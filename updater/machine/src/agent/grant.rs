//! Steps 8 and 9: does a grant hold? Each condition of the protocol is one refusal.

use std::time::Duration;

use jiff::Timestamp;

use super::{Facts, Order};
use crate::event::Word;
use crate::journal::Origin;
use crate::status::PhaseName;

/// The longest that a grant may last, whatever its `notAfter` says (a server's clock may be wrong).
const LONGEST: Duration = Duration::from_secs(600);

/// Why a grant does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantRefusal {
    #[error("the object holds no grant")]
    NoGrant,
    #[error("the grant is for attempt {grant}, in dock is {dock}")]
    OtherAttempt { grant: String, dock: String },
    #[error("the grant is for node UID {grant}, the object belongs to {owner}")]
    OtherNode { grant: String, owner: String },
    #[error("the grant is for boot {grant}, this is boot {this}")]
    OtherBoot { grant: String, this: String },
    #[error("the grant is for release {grant}, staged is {staged}, in dock is {dock}")]
    OtherRelease {
        grant: String,
        staged: String,
        dock: String,
    },
    #[error("the grant was over at {not_after}, the API server's clock says {date}")]
    Over { not_after: Timestamp, date: Timestamp },
    #[error("the guard does not answer, so nothing is armed")]
    NoGuard,
    #[error("attempt {0} was used or ended before")]
    Spent(String),
    #[error("the coordinator said goBack for attempt {0}")]
    GoBack(String),
    #[error("release {0} failed on this node before")]
    FailedHere(String),
    #[error(
        "the configuration has fields that this Drydock does not know; nothing is armed until they are removed"
    )]
    Config,
}

impl GrantRefusal {
    /// A short word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoGrant => "NoGrant",
            Self::OtherAttempt { .. } => "GrantOtherAttempt",
            Self::OtherNode { .. } => "GrantOtherNode",
            Self::OtherBoot { .. } => "GrantOtherBoot",
            Self::OtherRelease { .. } => "GrantOtherRelease",
            Self::Over { .. } => "GrantOver",
            Self::NoGuard => "NoGuard",
            Self::Spent(_) => "AttemptSpent",
            Self::GoBack(_) => "CoordinatorGoBack",
            Self::FailedHere(_) => "FailedHere",
            Self::Config => "ConfigUnknownFields",
        }
    }
}

/// A `Date` header says whole seconds: the server's clock may have been this much further.
const DATE_STEP: Duration = Duration::from_secs(1);

/// Everything of step 8 but the read-back. `date` is the `Date` header of the answer that brought `order`.
/// What is left of the grant, counted from before that answer was asked for, is at most ten minutes.
///
/// # Errors
/// The first condition that does not hold.
pub fn check_grant(order: &Order, facts: &Facts, date: Timestamp) -> Result<Duration, GrantRefusal> {
    let grant = order.grant.as_ref().ok_or(GrantRefusal::NoGrant)?;
    let dock = order.dock.as_ref();
    let docked = dock.map(|dock| dock.attempt.clone()).unwrap_or_default();
    if grant.attempt != docked || grant.attempt.is_empty() {
        return Err(GrantRefusal::OtherAttempt {
            grant: grant.attempt.clone(),
            dock: docked,
        });
    }
    let owner = order.owner_uid.clone().unwrap_or_default();
    if grant.node_uid != owner || owner.is_empty() {
        return Err(GrantRefusal::OtherNode {
            grant: grant.node_uid.clone(),
            owner,
        });
    }
    if grant.boot_id != facts.boot_id {
        return Err(GrantRefusal::OtherBoot {
            grant: grant.boot_id.clone(),
            this: facts.boot_id.clone(),
        });
    }
    let in_dock = dock.map(|dock| dock.digest.clone()).unwrap_or_default();
    let staged = facts.staged.clone().unwrap_or_else(|| "nothing".to_owned());
    if grant.digest != in_dock || grant.digest != staged {
        return Err(GrantRefusal::OtherRelease {
            grant: grant.digest.clone(),
            staged,
            dock: in_dock,
        });
    }
    let left = grant.not_after.duration_since(date);
    let left = Duration::try_from(left).unwrap_or_default();
    let left = left.saturating_sub(DATE_STEP).min(LONGEST);
    if left.is_zero() {
        return Err(GrantRefusal::Over {
            not_after: grant.not_after,
            date,
        });
    }
    if order
        .verdict
        .as_ref()
        .is_some_and(|v| v.attempt == grant.attempt && v.word == Word::GoBack)
    {
        return Err(GrantRefusal::GoBack(grant.attempt.clone()));
    }
    if facts.config_unknown {
        return Err(GrantRefusal::Config);
    }
    if facts.has_failed(&grant.digest) || order.failed.contains(&grant.digest) {
        return Err(GrantRefusal::FailedHere(grant.digest.clone()));
    }
    let guard = facts.guard.as_ref().ok_or(GrantRefusal::NoGuard)?;
    // `Used` in this boot: the guard died between writing it and the call, and may be asked again.
    let asked_again = guard.attempt.as_ref().is_some_and(|current| {
        current.attempt == grant.attempt
            && current.phase == PhaseName::Used
            && current.origin == Origin::Cluster
    });
    if guard.spent.contains(&grant.attempt) && !asked_again {
        return Err(GrantRefusal::Spent(grant.attempt.clone()));
    }
    Ok(left)
}
