//! Runs the cases against both servers, compares what they told, and prints the table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drydock_integration::realcluster::Binaries;
use futures::StreamExt as _;
use serde_json::Value;

use super::Case;
use super::differences::{DIFFERENCES, Difference};
use super::subject::{Server, Subject};
use super::talk::Talk;
use super::transcript::Transcript;

/// Cases at one time on one server.
const AT_ONCE: usize = 6;
/// For one case, on a machine that is busy with other things.
const CASE_PATIENCE: Duration = Duration::from_secs(150);

/// What became of one case on one server.
struct Outcome {
    failure: Option<String>,
    steps: Vec<(String, Value)>,
}

type Outcomes = BTreeMap<&'static str, Outcome>;

/// All of it; panics if anything is not as declared.
pub fn run(cases: &'static [Case], last: &'static [Case]) {
    let binaries = Binaries::find().unwrap();
    if binaries.is_none() {
        say("the contract is asked of the embedded API ALONE: nothing compares it with a real server");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let started = Instant::now();
    let (embedded, real) = runtime.block_on(async {
        let kubectl = binaries.as_ref().map(|b| b.kubectl.clone()).or_else(installed);
        if kubectl.is_none() {
            say("no kubectl here: its cases are SKIPPED");
        }
        let embedded = async {
            let subject = Subject::embedded(kubectl).await;
            all(subject, cases, last).await
        };
        let real = async {
            match binaries {
                None => None,
                Some(binaries) => {
                    let subject = Subject::real(binaries).await;
                    Some(all(subject, cases, last).await)
                }
            }
        };
        tokio::join!(embedded, real)
    });
    let names: Vec<_> = cases.iter().chain(last).map(|case| case.name).collect();
    let report = Report::of(&names, &embedded, real.as_ref());
    println!("{}", report.table);
    println!("contract: {:.1} s", started.elapsed().as_secs_f64());
    if let Some(file) = std::env::var_os("DRYDOCK_CONTRACT_TABLE") {
        std::fs::write(file, &report.table).unwrap();
    }
    assert!(report.wrong.is_empty(), "{}", report.wrong.join("\n\n"));
}

fn say(line: &str) {
    use std::io::Write as _;
    // To the stream itself: the test harness keeps what the print macros write.
    let _ = writeln!(std::io::stderr().lock(), "################ contract: {line}");
}

fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|folder| folder.join("kubectl"));
    found.into_iter().find(|file| file.is_file())
}

async fn all(subject: Arc<Subject>, cases: &'static [Case], last: &'static [Case]) -> Outcomes {
    let wanted = std::env::var("DRYDOCK_CONTRACT_CASES").unwrap_or_default();
    let is_wanted = |case: &&Case| case.name.contains(&wanted);
    let mut outcomes: Outcomes = futures::stream::iter(cases.iter().filter(is_wanted))
        .map(|case| one(subject.clone(), case))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    for case in last.iter().filter(is_wanted) {
        outcomes.extend([one(subject.clone(), case).await]);
    }
    // The kubelet's task has a client of its own; everybody else is done.
    if let Some(Subject {
        server: Server::Real(cluster),
        ..
    }) = Arc::into_inner(subject)
    {
        cluster.stop().await.unwrap();
    }
    outcomes
}

async fn one(subject: Arc<Subject>, case: &'static Case) -> (&'static str, Outcome) {
    let transcript = Transcript::default();
    let (name, where_to) = (subject.name(), transcript.clone());
    let running = tokio::spawn(tokio::time::timeout(CASE_PATIENCE, async move {
        let talk = Talk::begin(subject, case.name, where_to).await;
        (case.run)(talk).await;
    }));
    let failure = match running.await {
        Ok(Ok(())) => None,
        Ok(Err(_)) => Some("not done in time".to_owned()),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => Some(
                panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
                    .unwrap_or_else(|| "a panic".to_owned()),
            ),
            Err(error) => Some(error.to_string()),
        },
    };
    if let Some(failure) = &failure {
        println!("{name} {} FAILED: {failure}", case.name);
    }
    let steps = transcript.steps();
    (case.name, Outcome { failure, steps })
}

/// The table, and what is wrong.
struct Report {
    table: String,
    wrong: Vec<String>,
}

impl Report {
    fn of(names: &[&'static str], embedded: &Outcomes, real: Option<&Outcomes>) -> Report {
        let mut table = String::from("| case | steps | embedded | real | |\n|---|---|---|---|---|\n");
        let mut wrong = Vec::new();
        for &name in names {
            let Some(ours) = embedded.get(name) else { continue };
            let theirs = real.and_then(|real| real.get(name));
            let held = |outcome: Option<&Outcome>| match outcome {
                None => "not asked",
                Some(Outcome { failure: None, .. }) => "holds",
                Some(_) => "FAILED",
            };
            for (server, outcome) in [("embedded", Some(ours)), ("real", theirs)] {
                if let Some(failure) = outcome.and_then(|o| o.failure.as_ref()) {
                    wrong.push(format!("{name} failed on the {server} server: {failure}"));
                }
            }
            let verdict = match theirs {
                Some(theirs) if ours.failure.is_none() && theirs.failure.is_none() => {
                    compare(name, ours, theirs, &mut wrong)
                }
                Some(_) | None => "not compared".to_owned(),
            };
            let steps = ours.steps.len();
            writeln!(
                table,
                "| {name} | {steps} | {} | {} | {verdict} |",
                held(Some(ours)),
                held(theirs)
            )
            .unwrap();
        }
        for Difference { case, step, .. } in DIFFERENCES {
            if !names.contains(case) {
                wrong.push(format!(
                    "{case}/{step}: declared as a difference of a case that is not there"
                ));
            }
        }
        Report { table, wrong }
    }
}

/// What to say of this case; what is not as declared goes to `wrong`.
fn compare(name: &str, ours: &Outcome, theirs: &Outcome, wrong: &mut Vec<String>) -> String {
    let ours: BTreeMap<_, _> = ours.steps.iter().cloned().collect();
    let theirs: BTreeMap<_, _> = theirs.steps.iter().cloned().collect();
    let steps: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let declared = |step: &str| DIFFERENCES.iter().find(|d| d.case == name && d.step == step);
    let (mut known, mut differ) = (Vec::new(), Vec::new());
    for &step in &steps {
        match (ours.get(step) == theirs.get(step), declared(step)) {
            (true, None) => {}
            (false, Some(difference)) => known.push(format!("{step} ({})", difference.reason)),
            (false, None) => {
                differ.push(step.as_str());
                let show = |told: Option<&Value>| told.map_or("(no such step)".to_owned(), Value::to_string);
                wrong.push(format!(
                    "{name}/{step} DIFFERS\n  embedded: {}\n  real:     {}",
                    show(ours.get(step)),
                    show(theirs.get(step))
                ));
            }
            (true, Some(_)) => wrong.push(format!(
                "{name}/{step} is declared as a difference and does not differ: strike it"
            )),
        }
    }
    for difference in DIFFERENCES.iter().filter(|d| d.case == name) {
        if !steps.iter().any(|step| *step == difference.step) {
            wrong.push(format!("{name}/{}: no such step any more", difference.step));
        }
    }
    match (differ.is_empty(), known.is_empty()) {
        (true, true) => "agree".to_owned(),
        (true, false) => format!("known difference: {}", known.join("; ")),
        (false, _) => format!("DIFFERS: {}", differ.join(", ")),
    }
}
