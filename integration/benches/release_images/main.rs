//! The write path of a node on images of a real system: a release is adopted in slot A of a disk on a loop
//! device; a hotfix and a patch release are staged into slot B over http, whole and from what slot A has,
//! and what then stands in the partition is compared with the image by sha256sum. Measures time, memory and
//! bytes, in turn with `dd` of the same image.
//!
//! `integration/benches/benchmarks.sh` makes the images and starts this. Needs root.

mod disk;
mod large;
mod measure;
mod releases;
mod sheet;

use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use drydock_integration::cluster::FileServer;
use tokio::signal::unix::{SignalKind, signal};

use disk::{LoopDisk, Slot};
use large::Content;
use measure::{Bench, Run};
use releases::{Images, PAIRS, PLAIN, Release, Releases};
use sheet::Sheet;

/// Stage real images onto a loop device and say what it took.
#[derive(Debug, Parser)]
struct Options {
    /// The folder with base.*, hotfix.* and patch.*, as release-images.sh makes it. Everything is made there.
    #[arg(long)]
    images: PathBuf,
    /// Which of them: ext4, squashfs, erofs or lz4.erofs.
    #[arg(long, required_unless_present = "image_gib")]
    file_system: Option<String>,
    /// Measures memory with images of so many GiB instead: base and patch of that file system again and again,
    /// or made up where none is named. The disk takes twice that, and the releases what they take.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=64))]
    image_gib: Option<u64>,
    /// Of these no delta is made, which would take twice as much again.
    #[arg(long, requires = "image_gib")]
    without_delta: bool,
    /// How often each measurement is made.
    #[arg(long, default_value_t = 3, conflicts_with = "image_gib")]
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
    if let Some(gib) = options.image_gib {
        let content = match &options.file_system {
            Some(kind) => {
                Content::Of(["base", "patch"].map(|name| Images::of(&options.images, kind, name).root))
            }
            None => Content::MadeUp,
        };
        return large::run(folder.path(), &content, gib, !options.without_delta).await;
    }
    let file_system = options.file_system.as_deref().unwrap_or_default();
    let named =
        ["base", "hotfix", "patch"].map(|name| (name, Images::of(&options.images, file_system, name)));
    let releases = Releases::publish(folder.path(), &named, true).await?;
    for release in &releases.all {
        println!("{release}");
    }
    for delta in &releases.deltas {
        println!("{delta}");
    }
    let [base, hotfix, patch] = releases.all.as_slice() else {
        bail!("three releases were to be made");
    };

    let server = FileServer::start(&releases.served).await?;
    let images = named.each_ref().map(|(_, images)| images);
    let disk = LoopDisk::attach(&folder.path().join("disk.img"), &images).await?;
    println!("{disk}");
    let bench = Bench::new(folder.path(), disk, server, &releases.root)?;

    bench.disk.put(Slot::A, &base.images).await?;
    let adopt = bench.updater(PLAIN, &["adopt"]).await?;
    println!("adopt:       {adopt}");
    bench.ensure_holds(Slot::A, base).await?;
    for release in [hotfix, patch] {
        for repository in [PLAIN, PAIRS] {
            println!("check:       {}", bench.estimate(repository, release).await?);
        }
    }
    let first = bench.stage_into_worn(PLAIN, hotfix, &[]).await?;
    println!("the first time, when slot A is read to find out what it has: {first}");

    let has_delta = |release: &Release| releases.deltas.iter().any(|delta| delta.to == release.name);
    let mut sheet = Sheet::default();
    for round in 1..=options.rounds {
        let mut runs = vec![
            ("dd of the patch release", bench.dd(patch).await?),
            ("one sequential read", bench.read(patch).await?),
            (
                "patch release, all fetched",
                bench.stage_into_worn(PLAIN, patch, &["--fetch-all"]).await?,
            ),
            (
                "patch release from base",
                bench.stage_into_worn(PLAIN, patch, &[]).await?,
            ),
        ];
        let by_delta = [
            ("patch release by its delta", patch),
            ("hotfix by its delta", hotfix),
        ];
        for (what, release) in by_delta {
            if has_delta(release) {
                runs.push((what, bench.stage_into_worn(PAIRS, release, &[]).await?));
            }
        }
        // As it is when the release before this one was a hotfix too.
        if has_delta(hotfix) {
            let run = bench.stage_over(base, PAIRS, hotfix).await?;
            runs.push(("hotfix by its delta, over base", run));
        }
        runs.extend([
            (
                "hotfix from base, over base",
                bench.stage_over(base, PLAIN, hotfix).await?,
            ),
            (
                "hotfix from base",
                bench.stage_into_worn(PLAIN, hotfix, &[]).await?,
            ),
            (
                "the same release again",
                bench.stage_again(PLAIN, hotfix, &[]).await?,
            ),
        ]);
        println!("round {round}:     {}", load()?);
        for (what, run) in runs {
            println!("round {round}, {:32} {run}", format!("{what}:"));
            sheet.add(what, run);
        }
    }
    let digests = bench.ensure_holds(Slot::B, hotfix).await?;
    print!("\n{digests}\n{}", sheet.print(file_system, patch));
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

    /// The least that a read-back can take: all bytes of the slot, once, past the cache.
    async fn read(&self, release: &Release) -> anyhow::Result<Run> {
        self.disk.forget().await?;
        let mut whole = Run::default();
        for (artifact, image) in release.images.all() {
            let words = self
                .disk
                .read(Slot::B, artifact, image.metadata()?.len().next_multiple_of(4096))?;
            whole = whole.then(&self.measure(words).await?);
        }
        Ok(whole)
    }

    /// Into a slot of which no byte is right, all blocks of it in use.
    async fn stage_into_worn(
        &self,
        repository: &str,
        release: &Release,
        how: &[&str],
    ) -> anyhow::Result<Run> {
        self.forget_record()?;
        self.disk.wear(Slot::B).await?;
        self.stage_again(repository, release, how).await
    }

    /// Into a slot that holds that release, of which no record says so.
    async fn stage_over(&self, held: &Release, repository: &str, release: &Release) -> anyhow::Result<Run> {
        self.forget_record()?;
        self.disk.put(Slot::B, &held.images).await?;
        self.stage_again(repository, release, &[]).await
    }

    /// Into the slot as it is.
    async fn stage_again(&self, repository: &str, release: &Release, how: &[&str]) -> anyhow::Result<Run> {
        let run = self.stage(repository, release, how).await?;
        self.ensure_holds(Slot::B, release).await?;
        Ok(run)
    }

    /// As [`Bench::stage_again`], and nobody looks at what came of it.
    async fn stage(&self, repository: &str, release: &Release, how: &[&str]) -> anyhow::Result<Run> {
        self.disk.forget().await?;
        let words = ["stage", "--release", &release.digest];
        self.updater(repository, &[&words, how].concat()).await
    }
}
