//! The whole story on a real Kubernetes with real nodes: `cargo demo --real`, and a test. What is told, and
//! what is seen at its end, is in `docs/real-nodes.md`.

mod accidents;
mod berths;
mod diary;
mod pods;
mod replicas;
mod report;
mod story;

use std::path::Path;

use anyhow::Context as _;

pub use berths::{Berths, NODES, VERSIONS, Yard};
pub use report::{Bad, Report};
pub use story::Story;

use crate::demo::Screen;
use crate::realcluster::Binaries;
use crate::realnode::{End, NodeImages, find_programs};

/// Makes ready what the story is told with, in `folder`. None, if this machine lacks something; that was
/// said on standard error.
///
/// # Errors
/// When a build fails, and, with `CI=true`, instead of none. Blocks for minutes the first time.
pub fn yard(folder: &Path, say: &mut dyn FnMut(&str)) -> anyhow::Result<Option<Yard>> {
    if let Some(lack) = NodeImages::lacking() {
        anyhow::ensure!(
            std::env::var("CI").as_deref() != Ok("true"),
            "no real nodes here: {lack}; in CI nothing is skipped"
        );
        say("################ SKIPPED: no real nodes here ################");
        say(&format!(
            "{lack}. Nothing was tested on real nodes (see docs/real-nodes.md)."
        ));
        return Ok(None);
    }
    let Some(binaries) = Binaries::find()? else {
        return Ok(None);
    };
    let Some(programs) = find_programs()? else {
        return Ok(None);
    };
    let images = match NodeImages::made_before() {
        Some(images) => images,
        None => NodeImages::make(&programs, folder, say)?,
    };
    Ok(Some(Yard {
        binaries,
        programs,
        images,
        folder: folder.to_owned(),
    }))
}

/// Tells all of it. The cluster stays up until the story is dropped or stopped.
///
/// # Errors
/// If anything is not as it must be; with the last words of everybody.
pub async fn tell(yard: Yard, screen: &mut dyn Screen) -> anyhow::Result<(Story, Report)> {
    let mut story = Story::begin(yard, screen).await?;
    let told = all_acts(&mut story, screen).await;
    screen.close();
    let report = story.report();
    match told {
        Ok(()) => Ok((story, report)),
        Err(error) => {
            println!("{}", report.text());
            let tails = story.berths.tails();
            story.berths.stop().await.context("end the cluster")?;
            Err(error.context(tails))
        }
    }
}

async fn all_acts(story: &mut Story, screen: &mut dyn Screen) -> anyhow::Result<()> {
    let good = story.good_release(screen).await?;
    let fails = ("HealthCheck", End::Reboot);
    story
        .bad_release(
            2,
            "it boots, but its health check fails",
            fails.clone(),
            &good,
            screen,
        )
        .await?;
    let hangs = ("NeverStarted", End::Watchdog);
    story
        .bad_release(3, "it hangs before userspace", hangs, &good, screen)
        .await?;
    story.agents_as_pods(&good, screen).await?;
    story
        .bad_release(4, "its containerd does not start", fails, &good, screen)
        .await
}
