//! What staging takes of memory when the images are long. They lie in the slots themselves while they are
//! published, so the disk takes no more than its two slots.
//!
//! Of a real system: the image again and again, each time under another mask, so that no two of its copies
//! have a chunk in common and all of them pack as the image does. Made up: every block of 4 KiB is another
//! one, and a new one stands in every [`NEW_ONE_IN`], so that hardly a list of chunks is in both releases. So
//! nearly every page is fetched and looked through, chunk by chunk.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use drydock_integration::cluster::FileServer;

use super::disk::{LoopDisk, Slot};
use super::measure::{Bench, mib, sha256sum};
use super::releases::{Images, PAIRS, PLAIN, Release, Releases};
use super::sheet::Sheet;

const BLOCK_BYTES: usize = 4096;
const KERNEL_BYTES: u64 = 8 << 20;
/// Lists have 16 chunks at the least, and 80 on average.
const NEW_ONE_IN: u64 = 24;
/// The new release has the blocks of the old one in their order, but begins with another.
const MOVED_BLOCKS: u64 = 5000;

/// What long images are made of.
pub enum Content {
    MadeUp,
    /// The roots of two releases.
    Of([PathBuf; 2]),
}

/// Makes the images, publishes them, and stages the second over the first.
pub async fn run(folder: &Path, content: &Content, gib: u64, with_delta: bool) -> anyhow::Result<()> {
    let root_bytes = gib << 30;
    let disk = LoopDisk::attach_with(&folder.join("disk.img"), KERNEL_BYTES, root_bytes).await?;
    println!("{disk}");
    let mut named = Vec::new();
    for (place, (name, slot)) in [("base", Slot::A), ("patch", Slot::B)].into_iter().enumerate() {
        let images = Images {
            kernel: disk.partition(slot, "kernel")?.to_owned(),
            root: disk.partition(slot, "root")?.to_owned(),
        };
        for (artifact, bytes) in [("kernel", KERNEL_BYTES), ("root", root_bytes)] {
            let node = disk.partition(slot, artifact)?.to_owned();
            let of = match content {
                Content::Of(roots) if artifact == "root" => Some(roots[place].clone()),
                _ => None,
            };
            let write = move || match of {
                Some(image) => repeat(&image, &node, bytes),
                None => make_up(&node, bytes, slot),
            };
            tokio::task::spawn_blocking(write).await??;
        }
        named.push((name, images));
    }
    let releases = Releases::publish(folder, &named, with_delta).await?;
    for release in &releases.all {
        println!("{release}");
    }
    for delta in &releases.deltas {
        println!("{delta}");
    }
    let patch = releases.all.last().context("two releases were to be made")?;
    let wanted = sums(&disk, patch).await?;

    let server = FileServer::start(&releases.served).await?;
    let bench = Bench::new(folder, disk, server, &releases.root)?;
    println!("adopt: {}", bench.updater(PLAIN, &["adopt"]).await?);
    let mut ways = vec![
        ("one sequential read", None),
        ("all fetched", Some((PLAIN, &["--fetch-all"][..]))),
        ("from base", Some((PLAIN, &[][..]))),
        ("the same release again", Some((PLAIN, &[][..]))),
    ];
    if with_delta {
        ways.push(("by its delta", Some((PAIRS, &[]))));
    }
    let mut sheet = Sheet::default();
    for (what, way) in ways {
        let run = match way {
            None => {
                bench.disk.forget().await?;
                bench
                    .measure(bench.disk.read(Slot::B, "root", root_bytes)?)
                    .await?
            }
            Some((repository, how)) => {
                if what != "the same release again" {
                    bench.disk.wear(Slot::B).await?;
                }
                let run = bench.stage(repository, patch, how).await?;
                ensure!(wanted == sums(&bench.disk, patch).await?, "slot B is wrong");
                run
            }
        };
        println!("{:28} {run}", format!("{what}:"));
        sheet.add(what, run);
    }
    let made_of = match content {
        Content::MadeUp => "made up".to_owned(),
        Content::Of([base, _]) => format!("{} again and again", base.display()),
    };
    println!("{}", sheet.print(&format!("{made_of}, {gib} GiB"), patch));
    Ok(())
}

/// The digests of what is in slot B.
async fn sums(disk: &LoopDisk, of: &Release) -> anyhow::Result<Vec<String>> {
    disk.forget().await?;
    let mut sums = Vec::new();
    for (_, node) in of.images.all() {
        sums.push(sha256sum(node, u64::MAX >> 1).await?);
    }
    Ok(sums)
}

/// What is done to a device, for errors.
fn filling(node: &Path, bytes: u64) -> impl Fn() -> String {
    move || format!("filling {} ({:.0} MiB)", node.display(), mib(bytes))
}

/// The image again and again until the device has so many bytes; the first time as it is.
fn repeat(image: &Path, node: &Path, bytes: u64) -> anyhow::Result<()> {
    let failed = filling(node, bytes);
    let mut device = OpenOptions::new().write(true).open(node).with_context(&failed)?;
    let mut piece = vec![0; 4 << 20];
    let (mut left, mut mask) = (bytes, 0u8);
    while left > 0 {
        let from = File::open(image).with_context(|| format!("reading {}", image.display()))?;
        let mut from = from.take(left);
        loop {
            let read = from.read(&mut piece).with_context(&failed)?;
            if read == 0 {
                break;
            }
            piece[..read].iter_mut().for_each(|byte| *byte ^= mask);
            device.write_all(&piece[..read]).with_context(&failed)?;
            left -= read as u64;
        }
        mask = mask
            .checked_add(1)
            .context("an image is too short for so many GiB")?;
    }
    device.sync_all().with_context(&failed)
}

fn make_up(node: &Path, bytes: u64, slot: Slot) -> anyhow::Result<()> {
    let failed = filling(node, bytes);
    let file = OpenOptions::new().write(true).open(node).with_context(&failed)?;
    let blocks = bytes / BLOCK_BYTES as u64;
    let mut writer = BufWriter::with_capacity(4 << 20, &file);
    for place in 0..blocks {
        let words = match slot {
            Slot::A => [place, 1],
            Slot::B if place % NEW_ONE_IN == 0 => [place, 2],
            Slot::B => [(place + MOVED_BLOCKS) % blocks, 1],
        };
        let mut block = [0; BLOCK_BYTES];
        for piece in block.chunks_exact_mut(16) {
            piece[..8].copy_from_slice(&words[0].to_le_bytes());
            piece[8..].copy_from_slice(&words[1].to_le_bytes());
        }
        writer.write_all(&block).with_context(&failed)?;
    }
    writer.flush().with_context(&failed)?;
    drop(writer);
    // The mark of ext4, by which an image is cut into blocks.
    (&file).seek(SeekFrom::Start(1080)).with_context(&failed)?;
    (&file).write_all(&[0x53, 0xEF]).with_context(&failed)?;
    file.sync_all().with_context(&failed)
}
