//! The write path of a node on real images: `base` is adopted in slot A of a disk on a loop device,
//! the next release is staged into slot B over http, and what then stands in the partition is compared with
//! the image by sha256sum. Measures time, memory and bytes, in turn with `dd` of the same image.
//!
//! `integration/benches/real-images.sh` has the images made and starts this. Needs root.

mod disk;
mod measure;
mod releases;
mod sheet;

use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use drydock_integration::cluster::FileServer;
use tokio::signal::unix::{SignalKind, signal};

use disk::{LoopDisk, Slot};
use measure::{Bench, Run};
use releases::{Images, Release, Releases};
use sheet::Sheet;

/// Stage real images onto a loop device and say what it took.
#[derive(Debug, Parser)]
struct Options {
    /// The folder with base.*, hotfix.* and patch.*, as release-images.sh makes it.
    #[arg(long)]
    images: PathBuf,
    /// Which release is staged over base: hotfix or patch.
    #[arg(long, default_value = "patch")]
    release: String,
    /// As which file system: ext4, squashfs, erofs or lz4.erofs.
    #[arg(long)]
    file_system: String,
    /// How often each measurement is made.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    // Whichever ends first, everything below is dropped: children, loop device, temporary folder.
    tokio::select! {
        done = run(&options) => done,
        _ = tokio::signal::ctrl_c() => bail!("stopped by Ctrl-C"),
        _ = terminate.recv() => bail!("stopped by SIGTERM"),
        _ = hang_up.recv() => bail!("stopped by SIGHUP"),
    }
}

async fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "loop devices need root");
    ensure!(options.rounds > 0, "--rounds is at least 1");
    // Beside the images, which were put where there is room.
    let folder = tempfile::Builder::new()
        .prefix(".bench-")
        .tempdir_in(&options.images)
        .with_context(|| format!("making a folder in {}", options.images.display()))?;
    let [before, after] = ["base", options.release.as_str()].map(|name| Images::of(options, name));
    let releases = Releases::publish(folder.path(), &[(&before, "1"), (&after, "2")]).await?;
    for release in &releases.all {
        println!("{release}");
    }
    let [first, second] = releases.all.as_slice() else {
        bail!("two releases were to be made");
    };

    let server = FileServer::start(&releases.repository).await?;
    let disk = LoopDisk::attach(&folder.path().join("disk.img"), &[&before, &after]).await?;
    println!("{disk}");
    let bench = Bench::new(folder.path(), disk, server, &releases.root)?;

    bench.disk.put(Slot::A, &before).await?;
    let adopt = bench.updater(&["adopt"]).await?;
    println!("adopt:       {adopt}");
    bench.ensure_holds(Slot::A, first).await?;
    let estimate = bench.estimate().await?;
    println!("check:       {estimate}");

    let mut sheet = Sheet::default();
    for round in 1..=options.rounds {
        let runs = [
            ("dd", bench.dd(second).await?),
            ("stage", bench.stage_into_worn(second).await?),
            ("stage again", bench.stage_again(second).await?),
        ];
        println!("round {round}:     {}", load()?);
        for (what, run) in runs {
            println!("round {round}, {:12} {run}", format!("{what}:"));
            sheet.add(what, run);
        }
    }
    let digests = bench.ensure_holds(Slot::B, second).await?;
    print!("\n{digests}\n{}", sheet.print(&options.file_system, second));
    Ok(())
}

/// What else this machine does: times mean little where much runs beside.
fn load() -> anyhow::Result<String> {
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let last_minute = load.split(' ').next().unwrap_or_default();
    let processors = std::thread::available_parallelism()?;
    Ok(format!("load average {last_minute} on {processors} processors"))
}

impl Bench {
    /// The peer: the same bytes onto the same partition, without a check of anything.
    async fn dd(&self, release: &Release) -> anyhow::Result<Run> {
        self.disk.wear(Slot::B).await?;
        let run = self
            .measure(self.disk.dd(Slot::B, "root", &release.images.root))
            .await?;
        let kernel = self
            .measure(self.disk.dd(Slot::B, "kernel", &release.images.kernel))
            .await?;
        self.ensure_holds(Slot::B, release).await?;
        Ok(run.then(&kernel))
    }

    /// Into a slot of which no byte is right, all blocks of it in use.
    async fn stage_into_worn(&self, release: &Release) -> anyhow::Result<Run> {
        self.disk.wear(Slot::B).await?;
        self.stage_again(release).await
    }

    /// Into the slot as it is.
    async fn stage_again(&self, release: &Release) -> anyhow::Result<Run> {
        self.disk.forget().await?;
        let run = self.updater(&["stage", "--channel", releases::CHANNEL]).await?;
        self.ensure_holds(Slot::B, release).await?;
        Ok(run)
    }
}
