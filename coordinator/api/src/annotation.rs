//! The annotations that Drydock keeps on Nodes, and how their values are written.

use std::{fmt, str::FromStr};

/// Annotation of a Node in dock: a [`DockMark`]. Written and taken away together with
/// `spec.unschedulable`, in one patch.
pub const DOCK: &str = "drydock.dev/dock";

/// Annotation of a Node in dock: the term of the leader that last took the attempt over (a number).
pub const TERM: &str = "drydock.dev/term";

/// Annotation that a person's command leaves on a Node: an [`Ask`]. The coordinator copies it to the
/// NodeUpgrade's spec and takes it off.
pub const ASK: &str = "drydock.dev/ask";

/// The record of a cordon: which attempt of which policy holds the node, and whether the node was
/// unschedulable before (then it stays so at the end).
///
/// Written as `ATTEMPT policy=NAME` or `ATTEMPT policy=NAME kept`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockMark {
    /// The attempt that holds the node.
    pub attempt: String,
    /// The policy that took it.
    pub policy: String,
    /// The node was unschedulable when it was taken: at the end the mark alone is taken away.
    pub kept: bool,
}

/// An annotation's value that nobody of Drydock's wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the annotation's value `{0}` is not of Drydock's form; nothing is done with that node until it is mended or removed"
)]
pub struct MarkError(String);

impl fmt::Display for DockMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} policy={}", self.attempt, self.policy)?;
        if self.kept { f.write_str(" kept") } else { Ok(()) }
    }
}

impl FromStr for DockMark {
    type Err = MarkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || MarkError(text.chars().take(80).collect());
        let mut words = text.split(' ');
        let attempt = words.next().filter(|w| !w.is_empty()).ok_or_else(bad)?;
        let policy = words
            .next()
            .and_then(|w| w.strip_prefix("policy="))
            .filter(|w| !w.is_empty())
            .ok_or_else(bad)?;
        let kept = match words.next() {
            None => false,
            Some("kept") => true,
            Some(_) => return Err(bad()),
        };
        if words.next().is_some() {
            return Err(bad());
        }
        Ok(Self {
            attempt: attempt.to_owned(),
            policy: policy.to_owned(),
            kept,
        })
    }
}

/// What a person asked of one node.
///
/// Written as `forgive sha256:HEX`, `cancel ATTEMPT` or `release ATTEMPT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Attempts of this release digest that failed here count no more.
    Forgive { digest: String },
    /// End this attempt if it was not yet granted; take it back if it was.
    Cancel { attempt: String },
    /// Let the node go as it is: uncordon, free its place.
    Release { attempt: String },
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forgive { digest } => write!(f, "forgive {digest}"),
            Self::Cancel { attempt } => write!(f, "cancel {attempt}"),
            Self::Release { attempt } => write!(f, "release {attempt}"),
        }
    }
}

impl FromStr for Ask {
    type Err = MarkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || MarkError(text.chars().take(80).collect());
        let (verb, what) = text.split_once(' ').ok_or_else(bad)?;
        if what.is_empty() || what.contains(' ') {
            return Err(bad());
        }
        let what = what.to_owned();
        match verb {
            "forgive" => Ok(Self::Forgive { digest: what }),
            "cancel" => Ok(Self::Cancel { attempt: what }),
            "release" => Ok(Self::Release { attempt: what }),
            _ => Err(bad()),
        }
    }
}
