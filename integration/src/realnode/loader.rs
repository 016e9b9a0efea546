//! What a board's firmware does before the kernel runs: choose a slot by the disk's boot bits, and take the
//! kernel out of that slot.

use std::fs::{self, File};
use std::io::{Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use uuid::Uuid;

use crate::firmware::{Bits, Entry, Gpt, LoaderKind, boot};
use crate::node::kernel_type;
use crate::observer::SlotId;

/// No file of a kernel partition is longer.
const MAX_BYTES: u64 = 64 << 20;
/// What a kernel partition holds, as a tar archive.
const PARTS: [&str; 3] = ["vmlinuz", "initrd.img", "cmdline"];

/// A kernel, ready to be started.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The slot that was chosen.
    pub slot: SlotId,
    /// Its bits before the loader took a try off.
    pub bits: Bits,
    /// The kernel.
    pub vmlinuz: PathBuf,
    /// Its first file system.
    pub initrd: PathBuf,
    /// Its command line, with the root and the slot of this boot.
    pub cmdline: String,
}

/// One power-on of the machine `name`: its slot is chosen, and the kernel's files are written into `folder`.
///
/// # Errors
/// If nothing on the disk may be booted, or the chosen slot holds no kernel.
pub fn load(disk: &Path, folder: &Path, name: &str) -> anyhow::Result<Loaded> {
    let booted = boot(disk, LoaderKind::Vboot, kernel_type(disk)?)?;
    let slot = match booted.entry.label.as_str() {
        "KERN-A" => SlotId::A,
        "KERN-B" => SlotId::B,
        other => anyhow::bail!("the loader chose the partition {other}, which is no slot's"),
    };
    unpack(disk, &booted.entry, folder)
        .with_context(|| format!("the kernel in {} of {}", booted.entry.label, disk.display()))?;
    let gpt = Gpt::read(disk, 512)?;
    let root_label = format!("ROOT-{slot:?}");
    let root = gpt
        .by_label(&root_label)
        .with_context(|| format!("{} has no partition {root_label}", disk.display()))?;
    let written = fs::read_to_string(folder.join("cmdline")).context("the kernel's command line")?;
    let guid = Uuid::from_bytes_le(root.guid);
    Ok(Loaded {
        slot,
        bits: booted.entry.bits(),
        vmlinuz: folder.join("vmlinuz"),
        initrd: folder.join("initrd.img"),
        cmdline: format!(
            "{} root=PARTUUID={guid} drydock.slot={slot:?} systemd.hostname={name}",
            written.trim()
        ),
    })
}

fn unpack(disk: &Path, entry: &Entry, folder: &Path) -> anyhow::Result<()> {
    let mut file = File::open(disk)?;
    file.seek(SeekFrom::Start(entry.start_bytes))?;
    let mut archive = tar::Archive::new(file.take(entry.len_bytes));
    let mut files = archive.entries()?;
    for part in PARTS {
        let found = files.next().with_context(|| format!("it ends before {part}"))??;
        let path = found.path()?.into_owned();
        anyhow::ensure!(
            path.as_os_str() == part && found.size() <= MAX_BYTES,
            "where {part} should be there is {} of {} bytes",
            path.display(),
            found.size()
        );
        let mut out = File::create(folder.join(part))?;
        std::io::copy(&mut found.take(MAX_BYTES), &mut out)?;
    }
    Ok(())
}
