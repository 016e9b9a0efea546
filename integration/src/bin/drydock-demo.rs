//! `cargo demo`: see `drydock_integration::demo`. Exit code 0 only if every check held.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser as _;
use drydock_integration::demo::{
    DemoOptions, LiveScreen, PlainScreen, Screen, Story, StoryImages, Verdict, judge, print,
};
use drydock_integration::realstory;

fn main() -> ExitCode {
    let options = DemoOptions::parse();
    // The story is the output; with DRYDOCK_LOG=debug what the parts say to each other goes to stderr.
    let filter = tracing_subscriber::EnvFilter::try_from_env("DRYDOCK_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match tell(&options) {
        Ok(Verdict::AllHeld) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nthe demo ended early: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn tell(options: &DemoOptions) -> anyhow::Result<Verdict> {
    let parent = options.folder.clone().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::Builder::new()
        .prefix("drydock-demo-")
        .tempdir_in(&parent)
        .with_context(|| {
            format!(
                "no folder for temporary files can be made in {}; name another with --folder",
                parent.display()
            )
        })?;
    if options.real {
        return tell_on_real_nodes(options, folder);
    }
    check_room(folder.path(), options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let told = runtime.block_on(async {
        let (story, verdict) = tokio::select! {
            told = story(options, folder.path()) => told?,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("stopped by Ctrl-C"),
        };
        if options.keep {
            keep(&story, folder.path()).await?;
        }
        story.cluster.shutdown().await;
        Ok(verdict)
    });
    // Threads that still read an image must not keep the folder from going.
    runtime.shutdown_timeout(Duration::from_secs(2));
    folder.close().context("removing the temporary folder")?;
    told
}

/// What images, chunks and disks of three real nodes take.
const REAL_MIB: u64 = 8 << 10;

fn tell_on_real_nodes(options: &DemoOptions, folder: tempfile::TempDir) -> anyhow::Result<Verdict> {
    check_free(folder.path(), REAL_MIB << 20)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let told = runtime.block_on(async {
        let (story, report) = tokio::select! {
            told = real_story(screen(options), folder.path().to_owned()) => told?,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("stopped by Ctrl-C"),
        };
        println!("\n{}", report.text());
        let verdict = if report.all_held() {
            println!("Every check held.");
            Verdict::AllHeld
        } else {
            println!("NOT every check held.");
            Verdict::Failed
        };
        if options.keep {
            stay_up(&story.berths.kubeconfig().await?, realstory::NODES[0]).await?;
        }
        story.berths.stop().await?;
        Ok(verdict)
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    folder.close().context("removing the temporary folder")?;
    told
}

async fn real_story(
    mut screen: Box<dyn Screen>,
    folder: PathBuf,
) -> anyhow::Result<(realstory::Story, realstory::Report)> {
    let made = tokio::task::spawn_blocking(move || {
        let yard = realstory::yard(&folder, &mut |line| screen.say(line));
        (yard, screen)
    });
    let (yard, mut screen) = made.await?;
    let yard = yard?.context("this machine lacks what real nodes take; it is named above")?;
    realstory::tell(yard, screen.as_mut()).await
}

fn screen(options: &DemoOptions) -> Box<dyn Screen> {
    if options.plain || !std::io::stdout().is_terminal() {
        Box::new(PlainScreen::default())
    } else {
        Box::new(LiveScreen::default())
    }
}

/// Images, their chunks, and two slots per node.
fn check_room(folder: &Path, options: &DemoOptions) -> anyhow::Result<()> {
    let image = match (&options.artifact_v1, &options.artifact_v2) {
        (Some(v1), Some(v2)) => {
            let len = |path: &Path| {
                let meta =
                    std::fs::metadata(path).with_context(|| format!("the image {}", path.display()))?;
                anyhow::Ok(meta.len())
            };
            len(v1)?.max(len(v2)?)
        }
        _ => u64::from(options.image_mib) << 20,
    };
    check_free(folder, image * (2 * u64::from(options.nodes) + 9) + (64 << 20))
}

fn check_free(folder: &Path, needed: u64) -> anyhow::Result<()> {
    let stat = nix::sys::statvfs::statvfs(folder).context("asking how much room is left")?;
    let free = stat.blocks_available() * stat.fragment_size();
    anyhow::ensure!(
        free >= needed,
        "{} has {} MiB left, and the demo needs about {} MiB there: name another folder with --folder, or make \
         the images smaller with --image-mib",
        folder.display(),
        free >> 20,
        needed >> 20
    );
    Ok(())
}

async fn story(options: &DemoOptions, folder: &Path) -> anyhow::Result<(Story, Verdict)> {
    let begun = Instant::now();
    let mut screen = screen(options);
    let images = images(options, folder).await?;
    let mut story = Story::begin(folder, images, usize::from(options.nodes), screen.as_mut()).await?;
    story.good_release(screen.as_mut()).await?;
    story.bad_release(screen.as_mut()).await?;
    screen.close();
    let report = story.cluster.eye.finish(&[]);
    println!("\n{}", print(&report));
    let verdict = judge(&report);
    match verdict {
        Verdict::AllHeld => println!("Every check held. {} s.", begun.elapsed().as_secs()),
        Verdict::Failed => println!("NOT every check held, or one was never made."),
    }
    Ok((story, verdict))
}

async fn images(options: &DemoOptions, folder: &Path) -> anyhow::Result<StoryImages> {
    let folder = folder.join("images");
    std::fs::create_dir_all(&folder)?;
    let bytes = u64::from(options.image_mib) << 20;
    let (v1, v2) = (options.artifact_v1.clone(), options.artifact_v2.clone());
    let made = tokio::task::spawn_blocking(move || match (v1, v2) {
        (Some(v1), Some(v2)) => StoryImages::from_files(&folder, &v1, &v2),
        _ => StoryImages::from_host(&folder, bytes),
    });
    made.await?
}

async fn keep(story: &Story, folder: &Path) -> anyhow::Result<()> {
    let kubeconfig = folder.join("kubeconfig");
    std::fs::write(&kubeconfig, story.cluster.api.kubeconfig("admin"))?;
    stay_up(&kubeconfig, "node-1").await
}

async fn stay_up(kubeconfig: &Path, node: &str) -> anyhow::Result<()> {
    println!(
        "\nThe cluster stays up until Ctrl-C. In another terminal:\n\n  \
         export KUBECONFIG={}\n  \
         kubectl get nodes -o wide\n  \
         kubectl get upgradepolicies,nodeupgrades,releasehalts\n  \
         cargo run --quiet --bin kubectl-drydock -- status\n  \
         cargo run --quiet --bin kubectl-drydock -- explain {node}\n\n\
         (With kubectl-drydock on the PATH, `kubectl drydock status` is the same.)\n",
        kubeconfig.display()
    );
    tokio::signal::ctrl_c().await.context("waiting for Ctrl-C")
}
