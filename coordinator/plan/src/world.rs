//! A snapshot of the world: all that a plan is made from. Nothing here reads a clock or talks to a server;
//! the shell fills it.
//!
//! What the shell must keep for a plan to be safe: every object in a `World` is at least as new as the
//! shell's own last write to it (put the answer of a write over the cache until the watch has caught up).
//! What another process wrote meanwhile is caught by the resourceVersions that the actions carry.

use std::{collections::BTreeMap, time::Duration};

use drydock_api::{NodeUpgrade, ReleaseHalt, UpgradePolicy};
use jiff::{SignedDuration, Timestamp};

use crate::{node::NodeView, pod::DrainView, version::Version};

/// All that a plan is made from.
#[derive(Debug, Clone)]
pub struct World {
    /// The instant of the plan, by the coordinator's clock.
    pub now: Timestamp,
    /// The term of this leader.
    pub term: i64,
    /// Lengths of time that are no policy's.
    pub timings: Timings,
    /// What is known of the connection to the API server.
    pub api: ApiHealth,
    /// The coordinator itself.
    pub me: Myself,
    /// Policies by name, whole, with resourceVersion.
    pub policies: BTreeMap<String, UpgradePolicy>,
    /// All Nodes by name.
    pub nodes: BTreeMap<String, NodeView>,
    /// NodeUpgrades by name (the Node's name), whole.
    pub upgrades: BTreeMap<String, NodeUpgrade>,
    /// ReleaseHalts by digest (`sha256:HEX`).
    pub halts: BTreeMap<String, ReleaseHalt>,
    /// What was read of the ImageRepositories, by name.
    pub repositories: BTreeMap<String, RepositoryView>,
    /// The pods of nodes in dock, by Node name. A node in dock that is not in here was not listed yet.
    pub drains: BTreeMap<String, DrainView>,
}

/// Lengths of time that are no policy's. `Default` is what `docs/PROTOCOL.md` says; a simulation shortens
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// In which the agent must answer the question.
    pub question: Duration,
    /// Longest life of a grant.
    pub grant: Duration,
    /// Longer than a shutdown may take: after `notAfter` a grant counts as out for this long.
    pub margin: Duration,
    /// How long a silent agent is not asked again, unless it writes.
    pub silent_hold: Duration,
    /// First pause after an attempt that ended without a reboot; each further one doubles it.
    pub pause_base: Duration,
    /// Longest such pause.
    pub pause_cap: Duration,
    /// A watch that has shown neither event nor bookmark for this long is stale.
    pub stale: Duration,
    /// Largest difference between the coordinator's clock and the API server's Date.
    pub skew: Duration,
    /// Oldest list of pods, read from the server, that a grant may be written on.
    pub fresh_list: Duration,
    /// Pause between two evictions of the same pod.
    pub evict_again: Duration,
    /// How long a node that comes up after its deadline may take to become Ready before it is sent back.
    pub late_grace: Duration,
    /// How many pods of one node are asked to go in one plan.
    pub evict_at_once: usize,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            question: Duration::from_secs(60),
            grant: Duration::from_secs(600),
            margin: Duration::from_secs(300),
            silent_hold: Duration::from_secs(3600),
            pause_base: Duration::from_secs(300),
            pause_cap: Duration::from_secs(6 * 3600),
            stale: Duration::from_secs(120),
            skew: Duration::from_secs(30),
            fresh_list: Duration::from_secs(15),
            evict_again: Duration::from_secs(5),
            late_grace: Duration::from_secs(300),
            evict_at_once: 10,
        }
    }
}

/// What is known of the connection to the API server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApiHealth {
    /// The oldest of the API servers' versions, as `/version` says it: `v1.34.2`.
    pub server_version: Option<String>,
    /// Every watch the world was made from, with the instant of its last event or bookmark. None: it has
    /// never been in step.
    pub watches: BTreeMap<String, Option<Timestamp>>,
    /// The coordinator's clock minus the server's Date. None: not measured.
    pub skew: Option<SignedDuration>,
    /// When the API server could not be reached, lately: half-open, the last one may end at `now`. What is
    /// older than a day may be left out.
    pub outages: Vec<(Timestamp, Timestamp)>,
}

/// The coordinator itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Myself {
    /// The Node that this replica runs on, where known.
    pub node: Option<String>,
    /// Another Ready replica runs on another Node.
    pub other_replica: bool,
}

/// What was read of one ImageRepository.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RepositoryView {
    /// Its URL.
    pub url: String,
    /// Its metadata was read and verified.
    pub loaded: bool,
    /// The last error, for people. None in one that was not `loaded`: the first try has not ended yet.
    pub error: Option<String>,
    /// When the first of its metadata roles expires.
    pub expires: Option<Timestamp>,
    /// Channels by name: releases from the oldest to the newest.
    pub channels: BTreeMap<String, Vec<ChannelRelease>>,
    /// Every release that the metadata lists, by digest.
    pub releases: BTreeMap<String, ReleaseView>,
}

impl RepositoryView {
    /// Whether a try to read it has ended, well or not.
    #[must_use]
    pub fn looked(&self) -> bool {
        self.loaded || self.error.is_some()
    }
}

/// A release's place in a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelRelease {
    /// `sha256:HEX`.
    pub digest: String,
    /// Since when it is in the channel.
    pub published_at: Option<Timestamp>,
    /// It was taken out again.
    pub withdrawn: bool,
    /// No node may jump over it.
    pub stepping_stone: bool,
}

/// What a release's manifest and advisory say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseView {
    /// Its version.
    pub version: Version,
    /// The oldest version that may upgrade to it.
    pub min_from: Option<Version>,
    /// Once it was marked good, no lower version than this is taken.
    pub floor: Option<Version>,
    /// The kubelet it carries: `v1.34.2`.
    pub kubelet: Option<String>,
    /// It declares a guard.
    pub guard: bool,
    /// Formats of shared state, by piece.
    pub state: BTreeMap<String, StateFormat>,
    /// Its advisory names a CVE.
    pub security: bool,
}

/// What a release does with one piece of shared state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateFormat {
    /// The format it writes.
    pub writes: u32,
    /// The oldest format it reads.
    pub reads_from: u32,
}
