//! No process outlives who started it, however that one ends.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use drydock_integration::realcluster::process::Keeper;

/// Set for the process that is to die.
const VICTIM: &str = "DRYDOCK_TEST_VICTIM";
const PATIENCE: Duration = Duration::from_secs(20);

/// It is there and no zombie.
pub fn is_running(id: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/stat"));
    status.is_ok_and(|text| {
        text.rsplit(')')
            .next()
            .is_some_and(|rest| !rest.trim_start().starts_with('Z'))
    })
}

fn gone(id: u32) {
    let until = Instant::now() + PATIENCE;
    while is_running(id) {
        assert!(Instant::now() < until, "{id} runs on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Starts a shell that starts something else, and gives the other's process ID once it is known.
fn shell(
    keeper: &Keeper,
    folder: &std::path::Path,
    script: &str,
) -> (drydock_integration::realcluster::process::Process, u32) {
    let log = folder.join("log");
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    let process = keeper.start("shell", command, &log).unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        let text = std::fs::read_to_string(&log).unwrap();
        if let Some((id, _)) = text.split_once('\n') {
            return (process, id.parse().unwrap());
        }
        assert!(Instant::now() < until, "the shell said nothing");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_dropped_process_takes_its_whole_group_along() {
    let folder = tempfile::tempdir().unwrap();
    let keeper = Keeper::new().unwrap();
    // One that ends when asked and leaves a child behind, and one that does not listen.
    for script in [
        "sleep 600 & echo $!; trap 'exit 0' TERM; wait",
        "trap '' TERM; sleep 600 & echo $!; wait; wait",
    ] {
        let _ = std::fs::remove_file(folder.path().join("log"));
        let (process, child) = shell(&keeper, folder.path(), script);
        let leader = process.id();
        assert!(is_running(leader) && is_running(child), "{script}");
        assert!(
            process
                .memory()
                .is_some_and(|memory| memory.peak_bytes >= memory.resident_bytes)
        );
        drop(process);
        gone(leader);
        gone(child);
    }
}

#[test]
fn a_process_dies_with_a_parent_that_is_killed() {
    if std::env::var_os(VICTIM).is_some() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = Keeper::new().unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        let process = keeper
            .start("sleep", command, &folder.path().join("log"))
            .unwrap();
        println!("\nprocess {}", process.id());
        loop {
            std::thread::park();
        }
    }
    let name = "processes::a_process_dies_with_a_parent_that_is_killed";
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let id = BufReader::new(parent.stdout.take().unwrap())
        .lines()
        .find_map(|line| line.unwrap().strip_prefix("process ")?.parse().ok())
        .unwrap();
    let ran = is_running(id);
    parent.kill().unwrap();
    parent.wait().unwrap();
    assert!(ran, "the process was to run until its parent died");
    gone(id);
}
