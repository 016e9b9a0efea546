//! The guard's socket: one JSON request per line, one JSON answer per line.

use serde::{Deserialize, Serialize};

use crate::event::{ArmRequest, GoodRequest, Verdict};
use crate::status::GuardStatus;

/// The longest request or answer, its line feed included.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// What the agent or root asks of the guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "camelCase")]
pub enum Request {
    Status,
    Arm(ArmRequest),
    /// The same, of a release that was good here before; without metadata.
    Rollback(ArmRequest),
    Disarm {
        attempt: String,
    },
    Reboot {
        attempt: String,
    },
    Verdict(Verdict),
    /// Runs the required checks first.
    MarkGood(GoodRequest),
    Forgive {
        attempts: Vec<String>,
    },
}

/// What the guard answers, after the journal was written and the effect performed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "camelCase")]
pub enum Reply {
    /// Done, and how it stands now.
    Done(Box<GuardStatus>),
    /// Not done. `code` is for programs, `text` for people.
    Refused { code: String, text: String },
}
