//! Proxies from the environment, which is the environment of a program that the test starts, never the
//! test's own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::Notify;
use url::Url;

use super::wire::{Reply, Seen, Wire};
use crate::support::Fixture;

/// A proxy that knows one host, which is a folder, and connects to none, but tells of it.
async fn proxy(dir: PathBuf, connects: Arc<Notify>) -> Wire {
    Wire::serve(move |seen: &Seen, _| {
        if seen.target == "releases.test:443" {
            connects.notify_one();
            return Reply::status("502 Bad Gateway");
        }
        let Ok(url) = Url::parse(&seen.target) else {
            return Reply::status("400 Bad Request");
        };
        match std::fs::read(dir.join(url.path().trim_start_matches('/'))) {
            Ok(bytes) => Reply::whole(&bytes),
            Err(_) => Reply::status("404 Not Found").header("Content-Length", 0),
        }
    })
    .await
}

fn verify(root: &Path, repo: &str, environment: (&str, &str)) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drydock-images"));
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command
        .args(["verify", "--repo", repo, "--root"])
        .arg(root)
        .env(environment.0, environment.1)
        .kill_on_drop(true);
    command
}

/// Whether all is well, and what was said.
async fn ended(mut command: Command) -> (bool, String) {
    let output = command.output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// Publishes a release that the program, which reads the machine's clock, finds current.
async fn publish(fixture: &Fixture) {
    let built = fixture.build("1.0", 1).await;
    let mut request = fixture.publish_request(&built.path);
    request.signing.now = jiff::Timestamp::now();
    drydock_images::publish::publish(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_from_the_environment_is_used_but_never_for_this_machine() {
    let fixture = Fixture::new().await;
    publish(&fixture).await;
    let root = fixture.keys().join("1.root.json");
    let through = proxy(fixture.repo(), Arc::default()).await;
    let environment = ("HTTP_PROXY", through.url.as_str());

    // The host does not exist: only the proxy knows it.
    let host = "http://releases.test/";
    let (ok, said) = ended(verify(&root, host, environment)).await;
    assert!(ok, "{said}");
    let seen = through.seen();
    assert!(
        !seen.is_empty() && seen.iter().all(|seen| seen.target.starts_with(host)),
        "{seen:?}"
    );

    // It has only paths, where a proxy is asked for URLs.
    let dir = fixture.repo();
    let direct =
        Wire::serve(
            move |seen, _| match std::fs::read(dir.join(seen.target.trim_start_matches('/'))) {
                Ok(bytes) => Reply::whole(&bytes),
                Err(_) => Reply::status("404 Not Found").header("Content-Length", 0),
            },
        )
        .await;
    let (ok, said) = ended(verify(&root, direct.url.as_str(), environment)).await;
    assert!(ok, "{said}");
    assert_eq!(
        through.seen().len(),
        seen.len(),
        "loopback was asked through the proxy"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn for_https_a_proxy_is_asked_to_connect() {
    let fixture = Fixture::new().await;
    publish(&fixture).await;
    let root = fixture.keys().join("1.root.json");
    let connects = Arc::new(Notify::new());
    let through = proxy(fixture.repo(), Arc::clone(&connects)).await;
    let environment = ("HTTPS_PROXY", through.url.as_str());
    let mut program = verify(&root, "https://releases.test/", environment)
        .spawn()
        .unwrap();
    let asked = tokio::time::timeout(Duration::from_secs(60), connects.notified()).await;
    assert!(asked.is_ok(), "the proxy was not asked");
    program.kill().await.unwrap();
}
