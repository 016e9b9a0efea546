//! One case of the sweep, and its name: what a person types to run it again.

use std::fmt;
use std::str::FromStr;

use crate::node::{Kind, Side};

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Writer {
    /// The replica that leads.
    Coordinator,
    /// The agent of the node that is upgraded.
    Agent,
}

/// Writes of one kind: `update/nodeupgrades/`, `patch/nodeupgrades/status`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    /// `create`, `update`, `patch` or `delete`.
    pub verb: String,
    /// The plural.
    pub resource: String,
    /// Or empty.
    pub subresource: String,
}

impl Group {
    /// Is it the clock, not the upgrade, that says how many of these there are?
    #[must_use]
    pub fn is_clocked(&self) -> bool {
        matches!(self.resource.as_str(), "leases" | "events" | "imagerepositories")
    }
}

/// How far the node has come: the coordinator's step and the agent's state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Phase {
    /// `spec.dock.step`, or `-`.
    pub step: String,
    /// `status.agentState`, or `-`.
    pub agent: String,
    /// `status.attempt.state`, or `-`.
    pub attempt: String,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Case {
    /// Nothing.
    Baseline,
    /// A writer is killed at a write to the API.
    Api {
        /// Who.
        writer: Writer,
        /// Which kind of write.
        group: Group,
        /// Which of them, from 1.
        nth: u64,
        /// On which side of it.
        side: Side,
    },
    /// A process of the node is killed at a write to disk or state partition.
    Disk {
        /// Which process.
        kind: Kind,
        /// Which of its writes, from 1.
        nth: u64,
        /// On which side of it.
        side: Side,
    },
    /// The leader sleeps at a write; it arrives when another leads.
    OldLeader {
        /// Which kind of write.
        group: Group,
        /// Which of them, from 1.
        nth: u64,
    },
    /// Every status is wiped.
    Wipe {
        /// When this is first seen.
        phase: Phase,
        /// And the leader is killed right after.
        kill_leader: bool,
    },
    /// Every policy and NodeUpgrade is deleted, and the policy applied again.
    Reapply {
        /// When this is first seen.
        phase: Phase,
        /// And the leader is killed right after.
        kill_leader: bool,
    },
}

fn side(side: Side) -> &'static str {
    match side {
        Side::Before => "before",
        Side::After => "after",
    }
}

fn alone(kill_leader: bool) -> &'static str {
    if kill_leader { "and-leader" } else { "alone" }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.verb, self.resource, self.subresource)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.step, self.agent, self.attempt)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Baseline => f.write_str("baseline"),
            Self::Api {
                writer,
                group,
                nth,
                side: at,
            } => {
                let writer = match writer {
                    Writer::Coordinator => "coordinator",
                    Writer::Agent => "agent",
                };
                write!(f, "{writer}/api/{group}/{nth}/{}", side(*at))
            }
            Self::Disk { kind, nth, side: at } => {
                let kind = match kind {
                    Kind::Guard => "guard",
                    Kind::Agent => "agent",
                };
                write!(f, "{kind}/disk/{nth}/{}", side(*at))
            }
            Self::OldLeader { group, nth } => write!(f, "old-leader/{group}/{nth}"),
            Self::Wipe { phase, kill_leader } => write!(f, "wipe/{phase}/{}", alone(*kill_leader)),
            Self::Reapply { phase, kill_leader } => write!(f, "reapply/{phase}/{}", alone(*kill_leader)),
        }
    }
}

/// A text that names no case.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` names no case; a name looks like agent/disk/17/after, as the sweep prints it")]
pub struct CaseError(String);

fn three(text: &str) -> Option<(String, String, String)> {
    let mut parts = text.split(':').map(str::to_owned);
    let three = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some(three)
}

impl FromStr for Case {
    type Err = CaseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        let group = |text: &str| {
            three(text).map(|(verb, resource, subresource)| Group {
                verb,
                resource,
                subresource,
            })
        };
        let phase = |text: &str| three(text).map(|(step, agent, attempt)| Phase { step, agent, attempt });
        let at = |text: &str| match text {
            "before" => Some(Side::Before),
            "after" => Some(Side::After),
            _ => None,
        };
        let with = |text: &str| match text {
            "alone" => Some(false),
            "and-leader" => Some(true),
            _ => None,
        };
        let parsed = match parts.as_slice() {
            ["baseline"] => Some(Self::Baseline),
            [who @ ("coordinator" | "agent"), "api", kind, nth, on] => (|| {
                let writer = if *who == "agent" {
                    Writer::Agent
                } else {
                    Writer::Coordinator
                };
                Some(Self::Api {
                    writer,
                    group: group(kind)?,
                    nth: nth.parse().ok()?,
                    side: at(on)?,
                })
            })(),
            [who @ ("guard" | "agent"), "disk", nth, on] => (|| {
                let kind = if *who == "agent" { Kind::Agent } else { Kind::Guard };
                Some(Self::Disk {
                    kind,
                    nth: nth.parse().ok()?,
                    side: at(on)?,
                })
            })(),
            ["old-leader", kind, nth] => (|| {
                Some(Self::OldLeader {
                    group: group(kind)?,
                    nth: nth.parse().ok()?,
                })
            })(),
            ["wipe", when, who] => (|| {
                Some(Self::Wipe {
                    phase: phase(when)?,
                    kill_leader: with(who)?,
                })
            })(),
            ["reapply", when, who] => (|| {
                Some(Self::Reapply {
                    phase: phase(when)?,
                    kill_leader: with(who)?,
                })
            })(),
            _ => None,
        };
        parsed.ok_or_else(|| CaseError(text.chars().take(120).collect()))
    }
}
