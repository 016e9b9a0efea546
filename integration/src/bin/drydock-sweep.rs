//! `drydock-sweep`: the whole crash sweep with progress, or one case of it by its name.

use std::process::ExitCode;

use clap::Parser;
use drydock_integration::node::{Behaviour, Kind};
use drydock_integration::sweep::{AT_ONCE, Case, RecordedWrite, Scenery, folder, run_all, run_one};

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
    /// Say what is written to disk and state in a run without faults, in order, and end.
    #[arg(long)]
    list: bool,
    /// How many cases run at a time.
    #[arg(long, default_value_t = AT_ONCE)]
    at_once: usize,
    /// Run only the cases whose names begin so: `power/`.
    #[arg(long, default_value = "")]
    only: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let options = Options::parse();
    let folder = folder()?;
    let behaviour = if options.bad {
        Behaviour::UnhealthyCheck
    } else {
        Behaviour::Healthy
    };
    let scenery = Scenery::prepare(folder.path(), behaviour)?;
    let cases = match &options.case {
        Some(case) => (0..options.times).map(|_| case.clone()).collect(),
        None => {
            let baseline = run_one(&scenery, &Case::Baseline).await?;
            anyhow::ensure!(
                baseline.wrong.is_empty(),
                "without any fault: {:#?}",
                baseline.wrong
            );
            if options.list {
                list(&baseline.baseline.disk);
                return Ok(ExitCode::SUCCESS);
            }
            for ((writer, group), count) in &baseline.baseline.api {
                println!("{count:4} writes to the API: {writer:?} {group}");
            }
            println!(
                "{:4} writes to disk and state by guard and agent",
                baseline.baseline.disk.len()
            );
            println!(
                "{:4} writes by the leader to its trust store",
                baseline.baseline.store
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
                .filter(|case| case.to_string().starts_with(&options.only))
                .collect::<Vec<_>>()
        }
    };
    sweep(&scenery, cases, &options).await
}

/// Each write under the name that its cases have.
fn list(writes: &[RecordedWrite]) {
    let (mut agent, mut guard) = (0, 0);
    for write in writes {
        let (name, nth) = match write.kind {
            Kind::Agent => ("agent", &mut agent),
            Kind::Guard => ("guard", &mut guard),
        };
        *nth += 1;
        println!("{name}/{nth}: {}", write.what);
    }
}

async fn sweep(scenery: &Scenery, cases: Vec<Case>, options: &Options) -> anyhow::Result<ExitCode> {
    let flag = if options.bad { "--bad " } else { "" };
    let tally = run_all(scenery, cases, options.at_once, |tally, case, ended| {
        if ended.late {
            println!("too late, to be run again alone: {case}");
        } else if !ended.reached {
            println!("not reached: {case}");
        }
        if !ended.late && !ended.wrong.is_empty() {
            println!("WRONG  {case}\n       again: drydock-sweep {flag}--case '{case}'");
            ended.wrong.iter().for_each(|line| println!("       {line}"));
        }
        if tally.done % 25 == 0 {
            println!("{tally}");
        }
    })
    .await?;
    println!("{tally}");
    Ok(if tally.wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
