//! A start that fails says why, tries again only what may succeed, and leaves nothing behind. The programs
//! are scripts: no control plane is needed.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use drydock_integration::realcluster::{Binaries, ControlPlane, Options};

/// Programs of which etcd is this script; each start adds a line with its data folder to `starts`.
fn programs(folder: &Path, etcd: &str) -> Binaries {
    for (name, script) in [
        ("etcd", etcd),
        ("kube-apiserver", "exit 1"),
        ("kubectl", "exit 1"),
    ] {
        let path = folder.join(name);
        let starts = folder.join("starts");
        let text = format!("#!/bin/sh\necho \"$2\" >>{}\n{script}\n", starts.display());
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    Binaries::in_folder(folder, "scripts").unwrap()
}

/// The error of a start with this etcd, and how often it was started.
async fn failing(etcd: &str) -> (String, usize) {
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new(programs(folder.path(), etcd));
    options.patience = Duration::from_secs(3);
    options.keep_logs_in = None;
    let error = ControlPlane::start(options).await.err().expect("it cannot start");
    let starts = std::fs::read_to_string(folder.path().join("starts")).unwrap();
    for line in starts.lines() {
        let data = line.strip_prefix("--data-dir=").unwrap();
        assert!(!Path::new(data).parent().unwrap().exists(), "{data} is left");
    }
    (format!("{error:#}"), starts.lines().count())
}

#[tokio::test]
async fn a_process_that_ends_early_is_named_with_its_last_words() {
    let (error, starts) = failing("echo 'no space left' >&2; exit 7").await;
    assert!(
        error.contains("etcd has ended") && error.contains("no space left"),
        "{error}"
    );
    assert_eq!(starts, 1, "what cannot succeed is not tried again");
}

#[tokio::test]
async fn a_port_that_somebody_took_is_not_the_end() {
    let (error, starts) = failing("echo 'listen tcp: bind: address already in use' >&2; exit 1").await;
    assert!(error.contains("address already in use"), "{error}");
    assert_eq!(starts, 5, "other ports are tried, but not for ever");
}

#[tokio::test]
async fn a_process_that_never_gets_ready_is_given_up_and_ended() {
    let started = Instant::now();
    // What it starts and does not listen to the end goes with it.
    let (error, starts) = failing("trap '' TERM; sleep 600 & echo waiting; wait; wait").await;
    assert!(
        error.contains("etcd is not ready after 3s") && error.contains("etcd | waiting"),
        "{error}"
    );
    assert_eq!(starts, 1);
    assert!(started.elapsed() < Duration::from_secs(60));
}
