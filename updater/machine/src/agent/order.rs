//! What the node's NodeUpgrade says, in the machine's own words (the wire types are `drydock-api`'s).

use std::time::Duration;

use jiff::Timestamp;

use crate::event::Verdict;

/// One object, as read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order {
    /// `metadata.uid` and `metadata.generation`.
    pub uid: String,
    pub generation: i64,
    /// UID of the Node that owns the object.
    pub owner_uid: Option<String>,
    pub wish: Option<Wish>,
    pub stage: bool,
    pub dock: Option<Asked>,
    pub grant: Option<Grant>,
    pub verdict: Option<Verdict>,
    /// Attempts that a person forgave.
    pub forgiven: Vec<String>,
    /// Digests that the coordinator has recorded as failed on this node, and that were not forgiven.
    pub failed: Vec<String>,
}

/// The release this node should come to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub repository: String,
    pub url: String,
    pub digest: String,
    pub version: String,
    pub allow_downgrade: bool,
}

/// The attempt that holds a place in dock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub attempt: String,
    pub digest: String,
}

/// Leave to arm and reboot once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub attempt: String,
    pub node_uid: String,
    pub boot_id: String,
    pub digest: String,
    /// By the API server's clock.
    pub not_after: Timestamp,
    pub confirm_wait: Duration,
}
