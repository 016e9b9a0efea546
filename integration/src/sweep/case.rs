//! One case of the sweep, and its name: what a person types to run it again.

use std::fmt;
use std::str::FromStr;

use crate::node::{Kind, Loss, Side};

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
    /// The leader is killed at a write of its trust store.
    Store {
        /// Which of its writes, from 1.
        nth: u64,
        /// On which side of it.
        side: Side,
    },
    /// The whole node loses its power right after a process's write to disk or state partition.
    Power {
        /// Which process writes.
        kind: Kind,
        /// Which of its writes, from 1.
        nth: u64,
        /// What is lost of that which was not flushed.
        loss: Loss,
    },
    /// The leader is frozen at a write; it thaws, and the write arrives, when another leads.
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

fn process(kind: Kind) -> &'static str {
    match kind {
        Kind::Guard => "guard",
        Kind::Agent => "agent",
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
            Self::Disk { kind, nth, side: at } => write!(f, "{}/disk/{nth}/{}", process(*kind), side(*at)),
            Self::Store { nth, side: at } => write!(f, "coordinator/disk/{nth}/{}", side(*at)),
            Self::Power { kind, nth, loss } => {
                write!(f, "power/{}/{nth}/", process(*kind))?;
                match loss {
                    Loss::All => f.write_str("lost"),
                    Loss::Seeded(seed) => write!(f, "torn-{seed}"),
                }
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

fn writer_of(text: &str) -> Option<Writer> {
    match text {
        "coordinator" => Some(Writer::Coordinator),
        "agent" => Some(Writer::Agent),
        _ => None,
    }
}

fn kind_of(text: &str) -> Option<Kind> {
    match text {
        "guard" => Some(Kind::Guard),
        "agent" => Some(Kind::Agent),
        _ => None,
    }
}

fn group_of(text: &str) -> Option<Group> {
    let (verb, resource, subresource) = three(text)?;
    Some(Group {
        verb,
        resource,
        subresource,
    })
}

fn phase_of(text: &str) -> Option<Phase> {
    let (step, agent, attempt) = three(text)?;
    Some(Phase { step, agent, attempt })
}

fn side_of(text: &str) -> Option<Side> {
    match text {
        "before" => Some(Side::Before),
        "after" => Some(Side::After),
        _ => None,
    }
}

fn kills_leader(text: &str) -> Option<bool> {
    match text {
        "alone" => Some(false),
        "and-leader" => Some(true),
        _ => None,
    }
}

fn loss_of(text: &str) -> Option<Loss> {
    match text {
        "lost" => Some(Loss::All),
        _ => Some(Loss::Seeded(text.strip_prefix("torn-")?.parse().ok()?)),
    }
}

fn parsed(text: &str) -> Option<Case> {
    let parts: Vec<&str> = text.split('/').collect();
    Some(match parts.as_slice() {
        ["baseline"] => Case::Baseline,
        ["power", kind, nth, loss] => Case::Power {
            kind: kind_of(kind)?,
            nth: nth.parse().ok()?,
            loss: loss_of(loss)?,
        },
        [who, "api", group, nth, side] => Case::Api {
            writer: writer_of(who)?,
            group: group_of(group)?,
            nth: nth.parse().ok()?,
            side: side_of(side)?,
        },
        ["coordinator", "disk", nth, side] => Case::Store {
            nth: nth.parse().ok()?,
            side: side_of(side)?,
        },
        [who, "disk", nth, side] => Case::Disk {
            kind: kind_of(who)?,
            nth: nth.parse().ok()?,
            side: side_of(side)?,
        },
        ["old-leader", group, nth] => Case::OldLeader {
            group: group_of(group)?,
            nth: nth.parse().ok()?,
        },
        ["wipe", phase, who] => Case::Wipe {
            phase: phase_of(phase)?,
            kill_leader: kills_leader(who)?,
        },
        ["reapply", phase, who] => Case::Reapply {
            phase: phase_of(phase)?,
            kill_leader: kills_leader(who)?,
        },
        _ => return None,
    })
}

impl FromStr for Case {
    type Err = CaseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parsed(text).ok_or_else(|| CaseError(text.chars().take(120).collect()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_name_that_is_printed_is_read_and_others_are_not() {
        for name in [
            "baseline",
            "coordinator/api/update:nodeupgrades:/7/before",
            "agent/api/patch:nodeupgrades:status/1/after",
            "guard/disk/12/after",
            "coordinator/disk/2/before",
            "power/agent/17/lost",
            "power/guard/3/torn-5",
            "old-leader/update:upgradepolicies:status/2",
            "wipe/Granted:Rebooting:Armed/and-leader",
            "reapply/-:Idle:-/alone",
        ] {
            assert_eq!(name.parse::<Case>().unwrap().to_string(), name);
        }
        for name in [
            "",
            "guard/api/update:nodes:/1/after",
            "power/agent/x/lost",
            "power/agent/1/torn",
            "wipe/a:b/alone",
        ] {
            let error = name.parse::<Case>().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
