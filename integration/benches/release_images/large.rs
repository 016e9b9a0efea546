//! What staging takes of memory when the images are long. They are made up, and lie in the slots themselves
//! while they are published, so the disk takes no more than its two slots: every block of 4 KiB is another
//! one, and a new one stands in every [`NEW_ONE_IN`], so that hardly a list of chunks is in both releases. So
//! nearly every page is fetched and looked through, chunk by chunk.

use std::fs::OpenOptions;
use std::io::{BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::Path;

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

/// Makes the images, publishes them, and stages the second over the first.
pub async fn run(folder: &Path, gib: u64, with_delta: bool) -> anyhow::Result<()> {
    let root_bytes = gib << 30;
    let disk = LoopDisk::attach_with(&folder.join("disk.img"), KERNEL_BYTES, root_bytes).await?;
    println!("{disk}");
    let mut named = Vec::new();
    for (name, slot) in [("base", Slot::A), ("patch", Slot::B)] {
        let images = Images {
            kernel: disk.partition(slot, "kernel")?.to_owned(),
            root: disk.partition(slot, "root")?.to_owned(),
        };
        for (artifact, bytes) in [("kernel", KERNEL_BYTES), ("root", root_bytes)] {
            let node = disk.partition(slot, artifact)?.to_owned();
            tokio::task::spawn_blocking(move || write(&node, bytes, slot)).await??;
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
    println!("{}", sheet.print(&format!("made up, {gib} GiB"), patch));
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

fn write(node: &Path, bytes: u64, slot: Slot) -> anyhow::Result<()> {
    let failed = || format!("filling {} ({:.0} MiB)", node.display(), mib(bytes));
    let file = OpenOptions::new().write(true).open(node).with_context(failed)?;
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
        writer.write_all(&block).with_context(failed)?;
    }
    writer.flush().with_context(failed)?;
    drop(writer);
    // The mark of ext4, by which an image is cut into blocks.
    (&file).seek(SeekFrom::Start(1080)).with_context(failed)?;
    (&file).write_all(&[0x53, 0xEF]).with_context(failed)?;
    file.sync_all().with_context(failed)
}
