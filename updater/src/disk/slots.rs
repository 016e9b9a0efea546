//! The two slots: which partitions of the configured disk belong to which, found by label or GUID and
//! never by number. Only what is found here can ever be written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One of the two slots of a node: the machine's own word for it.
pub use drydock_machine::Slot as SlotName;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::device::Device;
use super::error::DiskError;
use super::table::{Partition, Table};

/// How a partition is named in the configuration: `PARTLABEL=ROOT-A` or `PARTUUID=...`, as in fstab(5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PartitionSelector {
    Label(String),
    Guid(Uuid),
}

impl PartitionSelector {
    fn matches(&self, partition: &Partition) -> bool {
        match self {
            Self::Label(label) => partition.label == *label,
            Self::Guid(guid) => partition.guid == *guid,
        }
    }
}

impl fmt::Display for PartitionSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(label) => write!(f, "PARTLABEL={label}"),
            Self::Guid(guid) => write!(f, "PARTUUID={guid}"),
        }
    }
}

impl From<PartitionSelector> for String {
    fn from(selector: PartitionSelector) -> Self {
        selector.to_string()
    }
}

impl TryFrom<String> for PartitionSelector {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // A GPT name has at most 36 UTF-16 units (UEFI 2.10, table 5-6).
        match text.split_once('=') {
            Some(("PARTLABEL", label)) if (1..=36).contains(&label.encode_utf16().count()) => {
                Ok(Self::Label(label.to_owned()))
            }
            Some(("PARTUUID", guid)) => guid
                .parse()
                .map(Self::Guid)
                .map_err(|_| format!("`{guid}` is not a partition GUID; see `lsblk -o NAME,PARTUUID`")),
            _ => Err(format!(
                "`{text}` names no partition; write `PARTLABEL=NAME` or `PARTUUID=GUID`"
            )),
        }
    }
}

/// One slot, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotSelectors {
    /// The partition whose attributes the loader reads.
    pub boot: PartitionSelector,
    /// Artifact name of a release -> the partition it is written to.
    pub artifacts: BTreeMap<String, PartitionSelector>,
}

/// One slot, as found on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub name: SlotName,
    pub boot: Partition,
    pub artifacts: BTreeMap<String, Partition>,
}

impl Slot {
    /// The partition of one artifact.
    ///
    /// # Errors
    /// [`DiskError::UnknownArtifact`].
    pub fn artifact(&self, name: &str) -> Result<&Partition, DiskError> {
        self.artifacts
            .get(name)
            .ok_or_else(|| DiskError::UnknownArtifact {
                slot: self.name,
                artifact: name.to_owned(),
                configured: self.artifacts.keys().cloned().collect::<Vec<_>>().join(", "),
            })
    }

    fn partitions(&self) -> impl Iterator<Item = &Partition> {
        self.artifacts.values().chain(std::iter::once(&self.boot))
    }
}

/// Both slots, checked against the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots {
    pub a: Slot,
    pub b: Slot,
}

impl Slots {
    /// Finds the configured partitions and checks that writing them can harm no other.
    ///
    /// # Errors
    /// [`DiskError::PartitionNotFound`] and [`DiskError::SlotsDoNotFit`].
    pub fn find(
        device: &Device,
        table: &Table,
        a: &SlotSelectors,
        b: &SlotSelectors,
    ) -> Result<Self, DiskError> {
        let partitions = table.partitions();
        let slots = Self {
            a: find_slot(device, &partitions, SlotName::A, a)?,
            b: find_slot(device, &partitions, SlotName::B, b)?,
        };
        let problem = slots.problem(&partitions);
        problem.map_or(Ok(slots), |problem| {
            Err(DiskError::SlotsDoNotFit {
                path: device.path().to_owned(),
                problem,
            })
        })
    }

    #[must_use]
    pub fn get(&self, name: SlotName) -> &Slot {
        match name {
            SlotName::A => &self.a,
            SlotName::B => &self.b,
        }
    }

    /// The slot that a partition belongs to, by its GUID.
    #[must_use]
    pub fn by_guid(&self, guid: Uuid) -> Option<SlotName> {
        SlotName::BOTH
            .into_iter()
            .find(|name| self.get(*name).partitions().any(|p| p.guid == guid))
    }

    fn problem(&self, all: &[Partition]) -> Option<String> {
        let names = |slot: &Slot| slot.artifacts.keys().cloned().collect::<BTreeSet<_>>();
        if self.a.artifacts.is_empty() {
            return Some("no slot has an artifact".to_owned());
        }
        if names(&self.a) != names(&self.b) {
            return Some(format!(
                "the slots hold different artifacts: A {:?}, B {:?}",
                names(&self.a),
                names(&self.b)
            ));
        }
        let mut owners: BTreeMap<u32, String> = BTreeMap::new();
        for slot in [&self.a, &self.b] {
            for (artifact, partition) in &slot.artifacts {
                let owner = format!("slot {} artifact {artifact}", slot.name);
                if let Some(before) = owners.insert(partition.number, owner.clone()) {
                    return Some(format!("{before} and {owner} are the same partition {partition}"));
                }
            }
        }
        let shares_boot = self.b.partitions().any(|p| p.number == self.a.boot.number)
            || self.a.partitions().any(|p| p.number == self.b.boot.number);
        if shares_boot {
            return Some("a partition carries the boot bits of both slots".to_owned());
        }
        for mine in self.a.partitions().chain(self.b.partitions()) {
            let twin = all.iter().find(|other| {
                other.number != mine.number
                    && (other.guid == mine.guid
                        || (other.start_bytes < mine.start_bytes + mine.len_bytes
                            && mine.start_bytes < other.start_bytes + other.len_bytes))
            });
            if let Some(twin) = twin {
                return Some(format!(
                    "partitions {mine} and {twin} overlap or have the same GUID"
                ));
            }
        }
        None
    }
}

fn find_slot(
    device: &Device,
    partitions: &[Partition],
    name: SlotName,
    selectors: &SlotSelectors,
) -> Result<Slot, DiskError> {
    let find = |role: String, selector: &PartitionSelector| {
        let mut found: Vec<&Partition> = partitions.iter().filter(|p| selector.matches(p)).collect();
        match (found.pop(), found.len()) {
            (Some(one), 0) => Ok(one.clone()),
            (last, more) => Err(DiskError::PartitionNotFound {
                path: device.path().to_owned(),
                slot: name,
                role,
                wanted: selector.to_string(),
                found: more + usize::from(last.is_some()),
                present: partitions
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("; "),
            }),
        }
    };
    let mut artifacts = BTreeMap::new();
    for (artifact, selector) in &selectors.artifacts {
        artifacts.insert(artifact.clone(), find(format!("artifact {artifact}"), selector)?);
    }
    Ok(Slot {
        name,
        boot: find("boot bits".to_owned(), &selectors.boot)?,
        artifacts,
    })
}
