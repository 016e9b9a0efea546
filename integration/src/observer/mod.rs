//! The observer: sees every write to the API and every write to a disk, and checks what must never
//! happen. It shares no decision with the code that it watches: it knows the releases from their build,
//! the windows from whoever opened them, and the slots from reading the disks. It changes nothing.
//!
//! [`Observer`] is pure: events and the time go in, counts and findings come out. What gathers the
//! events is in `cluster`.

mod api;
mod disk;
mod report;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::firmware::Bits;

pub use report::{Finding, Invariant, Report, Tally};
use world::World;

/// A slot of a node, as the observer names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotId {
    /// The first.
    A,
    /// The second.
    B,
}

impl SlotId {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl std::fmt::Display for SlotId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// A release as it was built, and what its system does.
#[derive(Debug, Clone)]
pub struct KnownRelease {
    /// Its digest, `sha256:HEX`.
    pub digest: String,
    /// Its version.
    pub version: String,
    /// Whether the system in it passes its checks.
    pub healthy: bool,
}

/// Who is who.
#[derive(Debug, Clone, Default)]
pub struct Cast {
    /// The users that coordinators write as.
    pub coordinators: Vec<String>,
    /// The user that each node's agent writes as, and the node.
    pub agents: BTreeMap<String, String>,
}

/// What the observer knows beforehand, from others than the code under test.
#[derive(Debug, Clone, Default)]
pub struct Knowledge {
    /// Who is who.
    pub cast: Cast,
    /// Every release that was built.
    pub releases: Vec<KnownRelease>,
    /// For each policy: when nodes may be disrupted (start, end). A policy that is not here may at any
    /// time.
    pub windows: BTreeMap<String, Vec<(Timestamp, Timestamp)>>,
    /// When nothing may be disrupted.
    pub freezes: Vec<(Timestamp, Timestamp)>,
    /// What changed less than this ago need not have been seen by a coordinator yet.
    pub grace: Duration,
}

/// A write to the API that took effect.
#[derive(Debug, Clone)]
pub struct ApiWrite {
    /// Who.
    pub user: String,
    /// The plural of the resource.
    pub resource: String,
    /// `status`, `eviction` or empty.
    pub subresource: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// The object before; none when it is new.
    pub before: Option<Arc<Value>>,
    /// The object after; none when it is gone.
    pub after: Option<Arc<Value>>,
}

/// What a slot was found to hold, by hashing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Every artifact of this release (its digest).
    Release(String),
    /// Nothing that was ever built.
    Unknown,
}

/// Where a write to a disk went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Into a partition of this slot.
    Slot(SlotId),
    /// Into one of the two copies of the partition table.
    Table,
    /// Anywhere else, or across a border.
    Elsewhere,
}

/// The partition table of a node, as read from its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableView {
    /// The loader's bits of slot A.
    pub a: Bits,
    /// The loader's bits of slot B.
    pub b: Bits,
    /// How many of the two copies are whole.
    pub whole_copies: u8,
    /// The slot that the loader would boot now.
    pub next: Option<SlotId>,
    /// A hash of all that is in the table but these bits.
    pub rest: String,
}

impl TableView {
    /// The bits of one slot.
    #[must_use]
    pub fn bits(&self, slot: SlotId) -> Bits {
        match slot {
            SlotId::A => self.a,
            SlotId::B => self.b,
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Seen {
    /// A write to the API.
    Api(ApiWrite),
    /// Bytes written to a node's disk by Drydock.
    DeviceWrite {
        /// The node.
        node: String,
        /// Where.
        place: Place,
        /// From the start of the disk.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// A node's partition table changed by Drydock's doing.
    Table {
        /// The node.
        node: String,
        /// As it stands now; none if neither copy can be read.
        table: Option<TableView>,
        /// What the slot that is not running holds.
        other: Content,
    },
    /// A node's loader started a system.
    Booted {
        /// The node.
        node: String,
        /// The new boot ID.
        boot_id: String,
        /// The slot.
        slot: SlotId,
        /// What is in it.
        content: Content,
        /// The table after the loader's own writes.
        table: TableView,
    },
    /// A node's loader found nothing to start.
    Dead {
        /// The node.
        node: String,
        /// What the loader said.
        why: String,
    },
    /// Drydock called for a reboot of a node.
    Rebooting {
        /// The node.
        node: String,
    },
}

/// What the observer remembers of one node beside the API's objects.
#[derive(Debug, Clone, Default)]
struct NodeMemory {
    /// When someone deleted its NodeUpgrade, last.
    lost: Option<Timestamp>,
    boot_id: String,
    running: Option<(SlotId, Content)>,
    table: Option<TableView>,
    /// The last grant and the last verdict that the API showed for this node.
    grant: Option<drydock_api::Grant>,
    verdict: Option<drydock_api::Verdict>,
    /// Since when the Node is out of service for reasons that are not Drydock's own.
    down_since: Option<Timestamp>,
}

/// See the module.
pub struct Observer {
    knowledge: Knowledge,
    world: World,
    nodes: BTreeMap<String, NodeMemory>,
    /// Since when each halted digest is halted, and whether a coordinator halted it.
    halts: BTreeMap<String, (Timestamp, bool)>,
    report: Report,
}

impl Observer {
    /// An observer that has seen nothing.
    #[must_use]
    pub fn new(knowledge: Knowledge) -> Self {
        Self {
            knowledge,
            world: World::default(),
            nodes: BTreeMap::new(),
            halts: BTreeMap::new(),
            report: Report::default(),
        }
    }

    /// Takes note of one event. Events of the API must come in the order in which they took effect.
    pub fn see(&mut self, now: Timestamp, seen: Seen) {
        match seen {
            Seen::Api(write) => self.see_write(now, &write),
            Seen::DeviceWrite {
                node,
                place,
                offset,
                len,
            } => self.see_device_write(now, &node, place, offset, len),
            Seen::Table { node, table, other } => self.see_table(now, &node, table, &other),
            Seen::Booted {
                node,
                boot_id,
                slot,
                content,
                table,
            } => {
                self.see_boot(now, &node, boot_id, slot, content, table);
            }
            Seen::Dead { node, why } => {
                self.check(now, Invariant::S5, false, || {
                    format!("{node} does not boot: {why}")
                });
            }
            Seen::Rebooting { node } => self.see_reboot(now, &node),
        }
    }

    /// Learns of a release that was built later.
    pub fn learn(&mut self, release: KnownRelease) {
        self.knowledge.releases.push(release);
    }

    /// What was checked so far.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The last look, when nothing is under way any more: no node that Drydock gave back is left
    /// cordoned. `kept` are those that someone else had cordoned.
    pub fn finish(&mut self, now: Timestamp, kept: &[&str]) {
        for (name, node) in self.world.of("nodes") {
            let cordoned = world::flag(&node, "/spec/unschedulable");
            let marked = world::mark(&node).is_some();
            let fine = !marked && (!cordoned || kept.contains(&name.as_str()));
            self.check(now, Invariant::S10, fine, || {
                format!("{name} is left behind: cordoned {cordoned}, marked as in dock {marked}")
            });
        }
    }

    fn check(
        &mut self,
        now: Timestamp,
        invariant: Invariant,
        holds: bool,
        evidence: impl FnOnce() -> String,
    ) {
        self.report.note(now, invariant, holds, evidence);
    }

    fn is_coordinator(&self, user: &str) -> bool {
        self.knowledge.cast.coordinators.iter().any(|one| one == user)
    }

    fn release(&self, digest: &str) -> Option<&KnownRelease> {
        self.knowledge
            .releases
            .iter()
            .find(|release| release.digest == digest)
    }

    /// Does the NodeUpgrade hold this grant, or take it back?
    fn grant_is_out(&self, node: &str, grant: &drydock_api::Grant) -> Result<bool, String> {
        let upgrade = self.world.upgrade(node).ok_or("it has no NodeUpgrade")?;
        let dock = upgrade.spec.dock.as_ref().ok_or("it is not in dock")?;
        if dock.attempt != grant.attempt {
            return Err(format!(
                "its last grant is for {}, its attempt is {}",
                grant.attempt, dock.attempt
            ));
        }
        // Between the removal of a grant and the agent's answer the agent may still act on it.
        Ok(match dock.step {
            drydock_api::DockStep::Granted => upgrade.spec.grant.is_some(),
            drydock_api::DockStep::TakingBack => true,
            drydock_api::DockStep::Asked
            | drydock_api::DockStep::Draining
            | drydock_api::DockStep::Leaving => false,
        })
    }

    /// Whether the grant last seen for this node allows arming and rebooting now, and if not, why.
    fn grant_stands(&self, now: Timestamp, node: &str) -> Result<drydock_api::Grant, String> {
        let memory = self.nodes.get(node).ok_or("nothing is known of it")?;
        let grant = memory.grant.clone().ok_or("it never had a grant")?;
        let lost = memory
            .lost
            .is_some_and(|at| now.duration_since(at).unsigned_abs() <= self.knowledge.grace);
        let out = if lost {
            // Someone deleted the NodeUpgrade, not Drydock: no agent can look later than right before
            // it acts, so what it looked at just before counts as out. One that acts later did not look.
            true
        } else {
            self.grant_is_out(node, &grant)?
        };
        if !out {
            return Err("no grant is out".to_owned());
        }
        if grant.boot_id != memory.boot_id {
            return Err(format!(
                "the grant is for boot {}, this is boot {}",
                grant.boot_id, memory.boot_id
            ));
        }
        if now >= grant.not_after {
            return Err(format!("the grant ended at {}", grant.not_after));
        }
        let uid = self
            .world
            .object("nodes", "", node)
            .map(|node| world::text(&node, "/metadata/uid"));
        if uid.as_deref() != Some(grant.node_uid.as_str()) {
            return Err("the grant is for another Node of this name".to_owned());
        }
        Ok(grant)
    }
}
