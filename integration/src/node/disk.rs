//! The disk image of a simulated node, and the gate through which the updater writes to it: what the
//! observer sees of the disk comes from here. It never keeps a write from happening unless the node's
//! power is gone.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use drydock_updater::disk::gate::{WriteEvent, WriteGate, WriteKind};
use drydock_updater::disk::layout::DiskLayout;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::catalog::{Catalog, partition_of};
use super::power::{Loss, Power};
use super::process::Kind;
use crate::cluster::Eye;
use crate::firmware::{Gpt, LoaderKind, choose};
use crate::observer::{Content, Place, Seen, SlotId, TableView};

/// Sectors of one copy of the table: header and 128 entries.
const TABLE_SECTORS: u64 = 33;
const SECTOR_BYTES: u64 = 512;
/// Room that a partition has beyond the largest image of the story.
const SLACK_BYTES: u64 = 4 << 20;

/// The images that a new disk has in slot A, and how large a slot has to be.
#[derive(Debug, Clone)]
pub struct FirstImages {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The root's image.
    pub root: PathBuf,
    /// The longest kernel that will ever be written.
    pub kernel_bytes: u64,
    /// The longest root that will ever be written.
    pub root_bytes: u64,
    /// How large the state partition is.
    pub state_bytes: u64,
}

/// Makes the disk of a new node: slot A holds the images and is marked good, slot B is empty.
///
/// # Errors
/// If the disk cannot be written; mostly no room.
pub fn make_disk(path: &Path, seed: u64, images: &FirstImages) -> io::Result<()> {
    let layout = DiskLayout::cos_like(
        seed,
        images.kernel_bytes + SLACK_BYTES,
        images.root_bytes + SLACK_BYTES,
        images.state_bytes,
    );
    layout.create(path)?;
    let gpt = Gpt::read(path, SECTOR_BYTES).map_err(io::Error::other)?;
    let disk = OpenOptions::new().write(true).open(path)?;
    for (artifact, image) in [("kernel", &images.kernel), ("root", &images.root)] {
        let label = partition_of(artifact, SlotId::A);
        let entry = gpt
            .by_label(&label)
            .ok_or_else(|| io::Error::other(format!("no partition {label}")))?;
        let content = std::fs::read(image)?;
        if content.len() as u64 > entry.len_bytes {
            return Err(io::Error::other(format!(
                "{} does not fit its partition",
                image.display()
            )));
        }
        disk.write_all_at(&content, entry.start_bytes)?;
    }
    disk.sync_all()
}

/// The type of the partitions that the loader of such a disk chooses among.
///
/// # Errors
/// If the disk has no such table.
pub fn kernel_type(disk: &Path) -> io::Result<[u8; 16]> {
    let gpt = Gpt::read(disk, SECTOR_BYTES).map_err(io::Error::other)?;
    gpt.by_label("KERN-A")
        .map(|entry| entry.kind)
        .ok_or_else(|| io::Error::other("no KERN-A"))
}

/// The table of a disk as the observer wants it; none if neither copy is whole.
#[must_use]
pub fn table_view(disk: &Path, loader: LoaderKind) -> Option<TableView> {
    let gpt = Gpt::read(disk, SECTOR_BYTES).ok()?;
    let (a, b) = (gpt.by_label("KERN-A")?, gpt.by_label("KERN-B")?);
    let next = choose(loader, &gpt.entries, a.kind);
    let mut rest = Sha256::new();
    for entry in &gpt.entries {
        let loaders_bits = if entry.label.starts_with("KERN-") {
            0x1ff_u64 << 48
        } else {
            0
        };
        rest.update(entry.number.to_le_bytes());
        rest.update(entry.kind);
        rest.update(entry.guid);
        rest.update(&entry.label);
        rest.update(entry.start_bytes.to_le_bytes());
        rest.update(entry.len_bytes.to_le_bytes());
        rest.update((entry.attributes & !loaders_bits).to_le_bytes());
    }
    Some(TableView {
        a: a.bits(),
        b: b.bits(),
        whole_copies: gpt.whole.iter().map(|whole| u8::from(*whole)).sum(),
        next: next.map(|entry| {
            if entry.label == "KERN-A" {
                SlotId::A
            } else {
                SlotId::B
            }
        }),
        rest: hex::encode(rest.finalize()),
    })
}

/// On which side of a write a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The write did not happen.
    Before,
    /// It did, and nothing after it.
    After,
}

/// What becomes of a process at one of its writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Lives,
    /// It is killed.
    Dies,
    /// The whole node loses its power.
    PowerCut(Loss),
}

/// Decides, write by write, what becomes of the process that writes.
pub trait Saboteur: Send + Sync {
    /// The fate of this process of this node at this write.
    fn fate(&self, node: &str, kind: Kind, side: Side, event: &WriteEvent<'_>) -> Fate;

    /// Whether it may ever cut the power of this node; to be ready for that costs memory.
    fn may_cut_power(&self, _node: &str) -> bool {
        false
    }
}

/// Lets every process live.
pub struct NoSabotage;

impl Saboteur for NoSabotage {
    fn fate(&self, _: &str, _: Kind, _: Side, _: &WriteEvent<'_>) -> Fate {
        Fate::Lives
    }
}

/// Whose gate it is.
pub struct GateKeeper {
    /// The node.
    pub node: String,
    /// The process.
    pub kind: Kind,
    /// Who may kill it.
    pub saboteur: Arc<dyn Saboteur>,
    /// The node's power, where that may be cut.
    pub power: Option<Arc<Power>>,
}

/// The gate of one process of one boot of a node. After [`NodeGate::cut`] nothing is written any more.
pub struct NodeGate {
    node: String,
    kind: Kind,
    saboteur: Arc<dyn Saboteur>,
    power: Option<Arc<Power>>,
    killed: CancellationToken,
    disk: PathBuf,
    loader: LoaderKind,
    running: SlotId,
    /// First and last byte of each slot's partitions.
    slots: Vec<(SlotId, u64, u64)>,
    disk_bytes: u64,
    eye: Arc<Eye>,
    catalog: Arc<Catalog>,
    dead: AtomicBool,
}

impl NodeGate {
    /// The gate for a boot from `running`.
    ///
    /// # Errors
    /// If the disk cannot be read.
    pub fn new(
        keeper: GateKeeper,
        disk: &Path,
        loader: LoaderKind,
        running: SlotId,
        eye: Arc<Eye>,
        catalog: Arc<Catalog>,
    ) -> io::Result<Self> {
        let gpt = Gpt::read(disk, SECTOR_BYTES).map_err(io::Error::other)?;
        let mut slots = Vec::new();
        for slot in [SlotId::A, SlotId::B] {
            for artifact in ["kernel", "root"] {
                if let Some(entry) = gpt.by_label(&partition_of(artifact, slot)) {
                    slots.push((slot, entry.start_bytes, entry.start_bytes + entry.len_bytes));
                }
            }
        }
        Ok(Self {
            node: keeper.node,
            kind: keeper.kind,
            saboteur: keeper.saboteur,
            power: keeper.power,
            killed: CancellationToken::new(),
            disk: disk.to_owned(),
            loader,
            running,
            slots,
            disk_bytes: std::fs::metadata(disk)?.len(),
            eye,
            catalog,
            dead: AtomicBool::new(false),
        })
    }

    /// The process is dead: every later write fails, and it is told to end.
    pub fn cut(&self) {
        self.dead.store(true, Ordering::SeqCst);
        self.killed.cancel();
    }

    /// Ends when the process is to end.
    #[must_use]
    pub fn killed(&self) -> CancellationToken {
        self.killed.clone()
    }

    /// Whether the process is dead now.
    fn sabotaged(&self, side: Side, event: &WriteEvent<'_>) -> bool {
        match self.saboteur.fate(&self.node, self.kind, side, event) {
            Fate::Lives => return false,
            Fate::Dies => {}
            Fate::PowerCut(loss) => {
                if let Some(power) = &self.power {
                    power.take_away(loss);
                }
            }
        }
        self.cut();
        true
    }

    fn saw(&self, event: &WriteEvent<'_>) -> io::Result<()> {
        if let Some(power) = &self.power {
            power.wrote(event)?;
        }
        if event.kind == WriteKind::DeviceWrite && event.path == self.disk {
            let place = self.place(event.offset, event.len);
            let (node, offset, len) = (self.node.clone(), event.offset, event.len);
            self.eye.note(Seen::DeviceWrite {
                node,
                place,
                offset,
                len,
            });
            if place == Place::Table {
                self.look_at_table();
            }
        }
        Ok(())
    }

    fn end_turn(&self) {
        if let Some(power) = &self.power {
            power.end();
        }
    }

    fn place(&self, offset: u64, len: u64) -> Place {
        let end = offset.saturating_add(len);
        let inside = |from: u64, to: u64| from <= offset && end <= to;
        if let Some((slot, ..)) = self.slots.iter().find(|(_, from, to)| inside(*from, *to)) {
            return Place::Slot(*slot);
        }
        // The protective MBR in sector 0 is nobody's to write.
        let table = TABLE_SECTORS * SECTOR_BYTES;
        let first = inside(SECTOR_BYTES, SECTOR_BYTES + table);
        let second = inside(self.disk_bytes.saturating_sub(table), self.disk_bytes);
        if first || second {
            Place::Table
        } else {
            Place::Elsewhere
        }
    }

    fn look_at_table(&self) {
        let table = table_view(&self.disk, self.loader);
        let other = self.running.other();
        let would_boot_it = table.as_ref().is_some_and(|table| table.next == Some(other));
        let other = if would_boot_it {
            self.catalog.content(&self.disk, other)
        } else {
            Content::Unknown
        };
        self.eye.note(Seen::Table {
            node: self.node.clone(),
            table,
            other,
        });
    }
}

impl WriteGate for NodeGate {
    fn before(&self, event: &WriteEvent<'_>) -> io::Result<()> {
        if let Some(power) = &self.power {
            power.begin()?;
        }
        if self.dead.load(Ordering::SeqCst) || self.sabotaged(Side::Before, event) {
            self.end_turn();
            return Err(io::Error::other("the process was killed"));
        }
        Ok(())
    }

    fn after(&self, event: &WriteEvent<'_>) -> io::Result<()> {
        let seen = self.saw(event);
        let dead = self.sabotaged(Side::After, event);
        self.end_turn();
        seen?;
        if dead {
            return Err(io::Error::other("the process was killed"));
        }
        Ok(())
    }
}
