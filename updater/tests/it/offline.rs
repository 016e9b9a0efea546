//! Marking good and going back need nothing from outside: no repository, no root of trust, no metadata that
//! are current, and no clock that is right.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use clap::Parser as _;
use drydock_updater::cli::{Cli, main_with};
use drydock_updater::config::HealthCheck;
use drydock_updater::node::{NodeEnv, Outside};

use crate::real_node::RealNode;

/// Release 1.2 runs in slot B and is good, 1.1 in slot A is the way back; the world outside is gone.
fn cut_off() -> RealNode {
    let node = RealNode::installed();
    node.does(&["adopt"]);
    node.does(&["stage", "--channel", "stable"]);
    node.runs("quiet drydock.slot=B ro");
    node.yard().let_expire();
    let refused = node.run(&["check"]);
    assert!(refused.text.contains("expired at"), "{}", refused.text);
    std::fs::remove_dir_all(node.yard().repository()).unwrap();
    std::fs::remove_dir_all(node.path("keys")).unwrap();
    node.configure(|text| {
        let dir = node.path("repo").display().to_string();
        text.replace(&format!("file://{dir}/"), "https://127.0.0.1:1/")
    });
    node
}

fn next_boot(node: &RealNode) -> String {
    let status = node.does(&["status"]);
    let line = status.lines().find(|line| line.starts_with("next boot"));
    line.unwrap().trim_start_matches("next boot").trim().to_owned()
}

#[test]
fn marking_good_and_going_back_need_no_repository() {
    let node = cut_off();
    node.does(&["mark-good"]);
    assert_eq!(next_boot(&node), "slot B");
    // Without a guard.
    let said = node.does(&["rollback"]);
    assert!(said.contains("slot A is armed with release 1.1"), "{said}");
    assert_eq!(next_boot(&node), "slot A");
    node.does(&["disarm"]);
    assert_eq!(next_boot(&node), "slot B");
    // With one.
    let guard = node.start("guard");
    node.does(&["mark-good"]);
    node.does(&["rollback"]);
    assert_eq!(next_boot(&node), "slot A");
    drop(guard);
}

/// This machine, but for its clock, and it never reboots.
#[derive(Debug)]
struct WrongClock(jiff::Timestamp);

#[async_trait]
impl Outside for WrongClock {
    fn wall(&self) -> jiff::Timestamp {
        self.0
    }
    fn since_boot(&self) -> Duration {
        Duration::from_secs(100)
    }
    fn boot_id(&self) -> io::Result<String> {
        Ok("boot-1".to_owned())
    }
    fn cmdline(&self) -> io::Result<String> {
        Err(io::Error::other("a file is configured in its place"))
    }
    fn image_version(&self) -> Option<String> {
        None
    }
    async fn flush(&self) -> Result<(), String> {
        Ok(())
    }
    async fn reboot(&self) -> Result<(), String> {
        Err("a test reboots nothing".to_owned())
    }
    async fn run_check(&self, _check: &HealthCheck) -> Result<(), String> {
        Ok(())
    }
    fn notify(&self, _status: &str) {}
}

fn at(node: &RealNode, clock: &str, words: &[&str]) -> String {
    let env = NodeEnv {
        outside: Arc::new(WrongClock(clock.parse().unwrap())),
        ..NodeEnv::real()
    };
    let config = node.path("updater.toml");
    let all = ["drydock-updater", "--config", config.to_str().unwrap()];
    let cli = Cli::try_parse_from(all.iter().chain(words)).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let code = runtime.block_on(main_with(cli, env, &mut out, &mut err));
    let said = String::from_utf8([out, err].concat()).unwrap();
    assert_eq!(code, 0, "{clock} {words:?}: {said}");
    said
}

#[test]
fn a_clock_that_is_wrong_by_years_keeps_no_node_from_marking_good_or_going_back() {
    for clock in [
        "1970-01-01T00:00:00Z",
        "2009-07-01T00:00:00Z",
        "2099-12-31T00:00:00Z",
    ] {
        let node = cut_off();
        at(&node, clock, &["mark-good"]);
        at(&node, clock, &["rollback"]);
        assert_eq!(next_boot(&node), "slot A", "{clock}");
        at(&node, clock, &["disarm"]);
        assert_eq!(next_boot(&node), "slot B", "{clock}");
    }
}

#[test]
fn a_repository_that_cannot_be_reached_is_tried_again_with_pauses_and_then_named() {
    let node = RealNode::installed();
    node.does(&["adopt"]);
    node.configure(|text| {
        let dir = node.path("repo").display().to_string();
        text.replace(&format!("file://{dir}/"), "http://127.0.0.1:1/")
    });
    let before = node.fingerprint(crate::real_node::Part::All);
    let begun = Instant::now();
    let said = node.run(&["stage", "--channel", "stable"]);
    // Four pauses that double from half a second, with jitter.
    assert!(begun.elapsed() > Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(said.code, 1, "{}", said.text);
    for words in ["http://127.0.0.1:1/metadata/", "in 5 tries", "check the network"] {
        assert!(said.text.contains(words), "{}", said.text);
    }
    let state = node.fingerprint(crate::real_node::Part::All);
    assert_eq!(before.disk, state.disk);
    assert_eq!(
        node.json(&["stage", "--channel", "stable"])["error"]["code"],
        "Unreachable"
    );
}
