//! A disk as a COS-like node has it, on a loop device: slots A and B of kernel and root. Detached when it
//! is dropped. Writes to the device that it made itself and to nothing else.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use drydock_updater::disk::gate::OpenGate;
use drydock_updater::disk::layout::DiskLayout;
use drydock_updater::disk::{Access, Device, Table};
use tokio::process::Command;

use super::releases::Images;

/// Room that a partition has beyond the larger image, in bytes.
const SLACK_BYTES: u64 = 4 << 20;
/// What a worn slot is filled with: in no image a whole chunk of it.
const WORN: u8 = 0xFF;
const PIECE_BYTES: usize = 4 << 20;

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    A,
    B,
}

/// See the module.
pub struct LoopDisk {
    pub node: PathBuf,
    /// By label: number and device node.
    partitions: BTreeMap<String, (u32, PathBuf)>,
    bytes: u64,
}

impl LoopDisk {
    /// Makes the disk in the file `image` and attaches it. Its slots take any of `images`.
    pub async fn attach(image: &Path, images: &[&Images]) -> anyhow::Result<Self> {
        let mut longest = BTreeMap::new();
        for (name, path) in images.iter().flat_map(|images| images.all()) {
            let bytes = path.metadata().with_context(|| path.display().to_string())?.len();
            let longest: &mut u64 = longest.entry(name).or_default();
            *longest = bytes.max(*longest);
        }
        let room = |name: &str| longest.get(name).copied().unwrap_or_default() + SLACK_BYTES;
        Self::attach_with(image, room("kernel"), room("root")).await
    }

    /// As [`LoopDisk::attach`], with slots of that size.
    pub async fn attach_with(image: &Path, kernel_bytes: u64, root_bytes: u64) -> anyhow::Result<Self> {
        let layout = DiskLayout::cos_like(1, kernel_bytes, root_bytes, 1 << 20);
        layout
            .create(image)
            .with_context(|| format!("making {}", image.display()))?;
        // Past the cache of the file below, so that reads and writes are those of a disk, where it can be.
        let attach = ["--find", "--show", "--partscan", "--direct-io=on"].map(OsString::from);
        let shown = command("losetup", attach.into_iter().chain([image.into()])).await?;
        let mut disk = Self {
            node: shown.trim().into(),
            partitions: BTreeMap::new(),
            bytes: layout.total_bytes(),
        };
        disk.show_partitions().await?;
        Ok(disk)
    }

    /// A kernel need not know GPT; what it does not show it is told.
    async fn show_partitions(&mut self) -> anyhow::Result<()> {
        let device = Device::open(&self.node, Access::ReadOnly, Arc::new(OpenGate))?;
        for partition in Table::read(&device)?.partitions() {
            let mut node = self.node.clone().into_os_string();
            node.push(format!("p{}", partition.number));
            let node = PathBuf::from(node);
            if !node.exists() {
                let sectors = [partition.start_bytes / 512, partition.len_bytes / 512];
                let place = [u64::from(partition.number), sectors[0], sectors[1]];
                let place = place.map(|number| number.to_string().into());
                command("addpart", [self.node.clone().into()].into_iter().chain(place)).await?;
            }
            ensure!(
                node.exists(),
                "{} did not come; is /dev a devtmpfs?",
                node.display()
            );
            self.partitions
                .insert(partition.label.clone(), (partition.number, node));
        }
        Ok(())
    }

    /// The device node that holds an artifact.
    pub fn partition(&self, slot: Slot, artifact: &str) -> anyhow::Result<&Path> {
        let kind = if artifact == "kernel" { "KERN" } else { "ROOT" };
        let label = format!("{kind}-{slot:?}");
        let (_, node) = self
            .partitions
            .get(&label)
            .with_context(|| format!("no partition {label}"))?;
        Ok(node)
    }

    /// `dd` of an image onto its partition, flushed, past the cache.
    pub fn dd(&self, slot: Slot, artifact: &str, image: &Path) -> Vec<OsString> {
        let named = |name: &str, path: &Path| {
            let mut word = OsString::from(name);
            word.push(path);
            word
        };
        let to = self.partition(slot, artifact).unwrap_or(Path::new("missing"));
        let mut words = vec!["dd".into(), named("if=", image), named("of=", to)];
        words.extend(["bs=4M", "oflag=direct", "conv=fsync", "status=none"].map(OsString::from));
        words
    }

    /// A sequential read of the first bytes of a partition, past the cache.
    pub fn read(&self, slot: Slot, artifact: &str, bytes: u64) -> anyhow::Result<Vec<OsString>> {
        let mut from = OsString::from("if=");
        from.push(self.partition(slot, artifact)?);
        let mut words = vec!["dd".into(), from, format!("count={bytes}").into()];
        let rest = ["of=/dev/null", "bs=4M", "iflag=direct,count_bytes", "status=none"];
        words.extend(rest.map(OsString::from));
        Ok(words)
    }

    /// Puts images into a slot.
    pub async fn put(&self, slot: Slot, images: &Images) -> anyhow::Result<()> {
        for (artifact, image) in images.all() {
            let mut words = self.dd(slot, artifact, image).into_iter();
            let program = words.next().unwrap_or_default();
            command(&program.to_string_lossy(), words).await?;
        }
        Ok(())
    }

    /// Makes every byte of a slot wrong, with all its blocks in use, as a slot has after years.
    pub async fn wear(&self, slot: Slot) -> anyhow::Result<()> {
        for artifact in ["kernel", "root"] {
            let node = self.partition(slot, artifact)?.to_owned();
            tokio::task::spawn_blocking(move || fill(&node)).await??;
        }
        self.forget().await
    }

    /// Drops what the kernel remembers of the device's content.
    pub async fn forget(&self) -> anyhow::Result<()> {
        let nodes = self.partitions.values().map(|(_, node)| node.clone());
        let all = nodes.chain([self.node.clone()]).map(OsString::from);
        command("blockdev", [OsString::from("--flushbufs")].into_iter().chain(all)).await?;
        Ok(())
    }

    /// Bytes that the device read and wrote since it was attached.
    pub fn moved_bytes(&self) -> anyhow::Result<(u64, u64)> {
        let name = self.node.file_name().unwrap_or_default().to_string_lossy();
        let text = std::fs::read_to_string(format!("/sys/block/{name}/stat"))?;
        // Documentation/block/stat.rst: sectors of 512 bytes are the third and the seventh number.
        let sectors = |at: usize| {
            text.split_whitespace()
                .nth(at)
                .and_then(|word| word.parse::<u64>().ok())
        };
        let moved = sectors(2).zip(sectors(6));
        moved
            .map(|(read, written)| (read * 512, written * 512))
            .context("the kernel counts nothing")
    }
}

fn fill(node: &Path) -> anyhow::Result<()> {
    let to = OpenOptions::new().write(true).open(node)?;
    let mut left = partition_bytes(&to)?;
    let piece = vec![WORN; PIECE_BYTES];
    let mut writer = &to;
    while left > 0 {
        let now = left.min(PIECE_BYTES as u64);
        writer.write_all(&piece[..usize::try_from(now)?])?;
        left -= now;
    }
    to.sync_all()
        .with_context(|| format!("filling {}", node.display()))
}

fn partition_bytes(mut of: &File) -> anyhow::Result<u64> {
    use std::io::{Seek as _, SeekFrom};
    let bytes = of.seek(SeekFrom::End(0))?;
    of.rewind()?;
    Ok(bytes)
}

/// Runs a program to its end; what it printed.
pub async fn command(program: &str, arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<String> {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let done = Command::new(program)
        .args(&arguments)
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("starting {program}"))?;
    let words = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{program} {arguments:?} failed: {words}");
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

impl fmt::Display for LoopDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.node.file_name().unwrap_or_default().to_string_lossy();
        let direct = std::fs::read_to_string(format!("/sys/block/{name}/loop/dio"));
        let past = match direct.as_deref().map(str::trim) {
            Ok("1") => "past the page cache of the file below",
            Ok(_) | Err(_) => "through the page cache of the file below",
        };
        write!(
            f,
            "disk:        {} of {} bytes, {past}",
            self.node.display(),
            self.bytes
        )
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let node = self.node.as_os_str();
        for (number, _) in self.partitions.values() {
            let number = OsString::from(number.to_string());
            if !succeeds_soon("delpart", &[node, &number]) {
                eprintln!(
                    "{}: partition {} is still shown",
                    self.node.display(),
                    number.display()
                );
            }
        }
        if !succeeds_soon("losetup", &[OsStr::new("--detach"), node]) {
            eprintln!("{0} is still attached: losetup --detach {0}", self.node.display());
        }
    }
}

/// A process that was killed a moment ago may still hold a partition open.
fn succeeds_soon(program: &str, words: &[&OsStr]) -> bool {
    (0..50).any(|tries| {
        if tries > 0 {
            std::thread::sleep(Duration::from_millis(100));
        }
        let done = std::process::Command::new(program)
            .args(words)
            .stderr(std::process::Stdio::null())
            .status();
        done.is_ok_and(|status| status.success())
    })
}
