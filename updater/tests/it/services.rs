//! Guard and agent as a service manager meets them: their unit files, `READY=1`, SIGTERM, and a
//! configuration with a field that they do not know.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::real_node::RealNode;

/// A second or so; the machines that run tests are busy.
const SOON: Duration = Duration::from_secs(5);

/// An agent whose cluster does not answer.
const KUBERNETES: &str = r#"
[kubernetes]
kubeconfig = "DIR/kubeconfig"
"#;

fn with_cluster(node: &RealNode) {
    let dir = node.path("");
    let dir = dir.to_str().unwrap().trim_end_matches('/');
    node.configure(|text| text + &KUBERNETES.replace("DIR", dir));
    let kubeconfig = r#"{"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}]}"#;
    fs::write(node.path("kubeconfig"), kubeconfig).unwrap();
}

#[test]
fn the_unit_files_are_those_of_the_docs_and_systemd_takes_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_to_string(root.join("../docs/updater.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_drydock-updater");
    let mut units = Vec::new();
    for name in ["drydock-guard.service", "drydock-agent.service"] {
        let text = fs::read_to_string(root.join("systemd").join(name)).unwrap();
        assert!(
            docs.contains(&format!("```ini\n{text}```")),
            "docs/updater.md shows another {name}"
        );
        // The program is not installed here, and systemd looks whether it is there.
        assert!(text.contains("\nType=notify\nExecStart=/usr/bin/drydock-updater "));
        let unit = folder.path().join(name);
        fs::write(&unit, text.replace("/usr/bin/drydock-updater", program)).unwrap();
        units.push(unit);
    }
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(&units)
        .output();
    let Ok(verified) = verified else {
        eprintln!("SKIPPED in part: there is no systemd-analyze here (Debian's package systemd)");
        return;
    };
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn guard_and_agent_say_that_they_are_ready_and_end_soon_after_sigterm() {
    let node = RealNode::installed();
    node.does(&["adopt"]);
    with_cluster(&node);
    let guard = node.start("guard");
    assert!(guard.told.contains("STATUS=guarding"), "{}", guard.told);
    let agent = node.start("agent");
    assert!(agent.told.contains("STATUS=following orders"), "{}", agent.told);
    assert!(node.does(&["status"]).contains("guard      runs"));
    // The agent has no cluster, and goes on asking for it.
    agent.until_it_says("watching the own NodeUpgrade");
    assert!(
        !agent.log().contains('\u{1b}'),
        "colours in a log: {:?}",
        agent.log()
    );
    for service in [agent, guard] {
        let (ended, took) = service.stop();
        assert!(ended.success() && took < SOON, "{ended} after {took:?}");
    }
    assert!(node.does(&["status"]).contains("guard      does not answer"));
}

#[test]
fn a_guard_whose_check_hangs_ends_soon_after_sigterm_and_starts_again() {
    let node = RealNode::installed();
    let begun = node.path("check-began");
    let hang = format!("[\"sh\", \"-c\", \"touch {}; exec sleep 600\"]", begun.display());
    node.configure(|text| text.replace("[\"true\"]", &hang));
    let guard = node.start("guard");
    let good = r#"{"request": "markGood", "attempt": "root-1", "digest": "unknown"}"#;
    std::thread::scope(|threads| {
        let asked = threads.spawn(|| node.try_to_ask(good));
        while !begun.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let (ended, took) = guard.stop();
        assert!(ended.success() && took < SOON, "{ended} after {took:?}");
        // Nobody was told that anything was marked good, and nothing was.
        assert_eq!(asked.join().unwrap().unwrap_or_default(), "");
    });
    assert!(
        node.does(&["status"])
            .contains("slot A: unknown content, not marked good")
    );
    drop(node.start("guard"));
}

#[test]
fn with_an_unknown_field_guard_and_agent_start_and_say_so() {
    let node = RealNode::installed();
    node.does(&["adopt"]);
    with_cluster(&node);
    let text = fs::read_to_string(node.path("updater.toml")).unwrap();
    node.configure(|_| text.replace("[health]", "[health]\nconfrim_wait = \"1s\""));
    for service in ["guard", "agent"] {
        let running = node.start(service);
        running.until_it_says("health.confrim_wait");
        if service == "guard" {
            let status = node.ask(r#"{"request": "status"}"#);
            assert!(status.contains("health.confrim_wait"), "{status}");
            assert!(status.contains("nothing is staged"), "{status}");
        }
        running.stop();
    }
}

#[test]
fn the_guard_refuses_to_arm_the_slot_that_runs() {
    let node = RealNode::installed();
    node.does(&["adopt"]);
    let guard = node.start("guard");
    let before = node.fingerprint(crate::real_node::Part::All);
    let digest = node.release("1.1");
    let arm = format!(
        r#"{{"request": "arm", "attempt": "root-1", "digest": "{digest}", "origin": "root", "target": "A", "confirmWaitMs": 1000}}"#
    );
    let said = node.ask(&arm);
    assert!(
        said.contains("slot A is the running one; only the other slot can be armed"),
        "{said}"
    );
    assert_eq!(before, node.fingerprint(crate::real_node::Part::All));
    drop(guard);
}
