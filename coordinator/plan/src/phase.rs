//! The phase of a node that people see, computed from its objects.

use std::fmt;

/// Where a node is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Nothing is to be done, or nothing is known yet.
    Idle,
    /// The wish is being written into the other slot.
    Staging,
    /// The wish lies verified in the other slot.
    Staged,
    /// It has a place in dock; its agent is asked.
    Asked,
    /// Cordoned; nothing was evicted yet.
    Cordoned,
    /// Pods are being evicted.
    Draining,
    /// All pods that must go are gone.
    Drained,
    /// It may arm and reboot.
    Granted,
    /// The slot is read back and armed.
    Arming,
    /// Going down, or not up yet, by the agent's word, the Node's or its boot ID.
    Rebooting,
    /// A trial boot: local checks.
    Checking,
    /// A trial boot: the cluster's word is waited for.
    Confirming,
    /// The guard goes back.
    GoingBack,
    /// The grant is being taken back.
    TakingBack,
    /// It has not come back by its deadline.
    NotBack,
    /// It is up, but neither committed nor back by its deadline.
    Undecided,
    /// The slot is marked good; the cordon is still there.
    Committed,
    /// The outcome is recorded, the cordon is being taken away.
    Leaving,
    /// Committed and uncordoned; it has to stay Ready for a while.
    Soaking,
}

impl Phase {
    /// Its stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Staging => "Staging",
            Self::Staged => "Staged",
            Self::Asked => "Asked",
            Self::Cordoned => "Cordoned",
            Self::Draining => "Draining",
            Self::Drained => "Drained",
            Self::Granted => "Granted",
            Self::Arming => "Arming",
            Self::Rebooting => "Rebooting",
            Self::Checking => "Checking",
            Self::Confirming => "Confirming",
            Self::GoingBack => "GoingBack",
            Self::TakingBack => "TakingBack",
            Self::NotBack => "NotBack",
            Self::Undecided => "Undecided",
            Self::Committed => "Committed",
            Self::Leaving => "Leaving",
            Self::Soaking => "Soaking",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
