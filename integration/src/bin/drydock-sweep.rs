//! `drydock-sweep`: the whole crash sweep with progress, or one case of it by its name.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use clap::Parser;
use drydock_integration::node::Behaviour;
use drydock_integration::sweep::{Case, Ended, Scenery, run};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// One node's whole upgrade, again for every write that anybody makes, with the writer killed there.
#[derive(Parser)]
#[command(name = "drydock-sweep", version)]
struct Options {
    /// Run this case alone, as often as `--times` says: `agent/disk/17/after`.
    #[arg(long)]
    case: Option<Case>,
    /// How often.
    #[arg(long, default_value_t = 1)]
    times: u32,
    /// Sweep over a release that boots but is not healthy.
    #[arg(long)]
    bad: bool,
    /// How many cases run at a time.
    #[arg(long, default_value_t = 6)]
    at_once: usize,
    /// Run every n-th case only.
    #[arg(long, default_value_t = 1)]
    every: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let options = Options::parse();
    let folder = tempfile::tempdir().context("making a temporary folder")?;
    let behaviour = if options.bad {
        Behaviour::UnhealthyCheck
    } else {
        Behaviour::Healthy
    };
    let scenery = Scenery::prepare(folder.path(), behaviour)?;
    let cases = match &options.case {
        Some(case) => (0..options.times).map(|_| case.clone()).collect(),
        None => {
            let baseline = one(&scenery, &Case::Baseline).await?;
            anyhow::ensure!(
                baseline.wrong.is_empty(),
                "without any fault: {:#?}",
                baseline.wrong
            );
            for ((writer, group), count) in &baseline.baseline.api {
                println!("{count:4} writes to the API: {writer:?} {group}");
            }
            println!(
                "{:4} writes to disk and state by guard and agent",
                baseline.baseline.disk.len()
            );
            println!(
                "{:4} phases; one run takes {:.1?}",
                baseline.baseline.phases.len(),
                baseline.took
            );
            baseline
                .baseline
                .cases()
                .into_iter()
                .step_by(options.every.max(1))
                .collect::<Vec<_>>()
        }
    };
    sweep(&scenery, cases, &options).await
}

async fn one(scenery: &Scenery, case: &Case) -> anyhow::Result<Ended> {
    let folder = tempfile::tempdir().context("making a temporary folder")?;
    run(folder.path(), scenery, case).await
}

async fn sweep(scenery: &Scenery, cases: Vec<Case>, options: &Options) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let total = cases.len();
    let room = Arc::new(Semaphore::new(options.at_once.max(1)));
    let mut running = JoinSet::new();
    for case in cases {
        let (room, scenery) = (room.clone(), scenery.clone());
        running.spawn(async move {
            let _place = room.acquire_owned().await;
            let ended = one(&scenery, &case).await;
            (case, ended)
        });
    }
    let (mut done, mut reached, mut bad) = (0, 0, 0);
    while let Some(ended) = running.join_next().await {
        let (case, ended) = ended.context("a case panicked")?;
        done += 1;
        let (was_reached, wrong) = match ended {
            Ok(ended) => (ended.reached, ended.wrong),
            Err(error) => (false, vec![format!("{error:#}")]),
        };
        reached += usize::from(was_reached);
        if !was_reached {
            println!("not reached: {case}");
        }
        if !wrong.is_empty() {
            bad += 1;
            println!(
                "WRONG  {case}\n       again: drydock-sweep {}--case '{case}'",
                if options.bad { "--bad " } else { "" }
            );
            wrong.iter().for_each(|line| println!("       {line}"));
        }
        if done % 25 == 0 {
            println!("{done} of {total} cases, {bad} wrong, {:.0?}", begun.elapsed());
        }
    }
    println!(
        "{total} cases, {reached} reached, {bad} wrong, {:.0?}",
        begun.elapsed()
    );
    Ok(if bad == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
