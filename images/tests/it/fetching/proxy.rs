//! Proxies from the environment, which is the environment of a program that the test starts, never the
//! test's own.

use std::path::Path;

use url::Url;

use super::wire::{Reply, Seen, Wire};
use crate::support::Fixture;

/// A proxy that knows one host, which is a folder.
async fn proxy(dir: std::path::PathBuf) -> Wire {
    Wire::serve(move |seen: &Seen, _| {
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

/// Whether `verify` finds all well, and what it says.
async fn verify(root: &Path, repo: &str, environment: &[(&str, &str)]) -> (bool, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_drydock-images"));
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command
        .args(["verify", "--repo", repo, "--root"])
        .arg(root)
        .envs(environment.iter().copied());
    let output = command.output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_from_the_environment_is_used_but_never_for_this_machine() {
    let fixture = Fixture::new().await;
    let built = fixture.build("1.0", 1).await;
    let mut request = fixture.publish_request(&built.path);
    // The program reads the machine's clock.
    request.signing.now = jiff::Timestamp::now();
    drydock_images::publish::publish(request).await.unwrap();
    let root = fixture.keys().join("1.root.json");

    // The host does not exist: only the proxy knows it.
    let through = proxy(fixture.repo()).await;
    let address = through.url.as_str();
    let host = "http://releases.test/";
    let (ok, said) = verify(&root, host, &[("HTTP_PROXY", address)]).await;
    assert!(ok, "{said}");
    let seen = through.seen();
    assert!(
        !seen.is_empty() && seen.iter().all(|seen| seen.target.starts_with(host)),
        "{seen:?}"
    );

    let before = seen.len();
    let direct = proxy_free(&fixture).await;
    let (ok, said) = verify(&root, direct.url.as_str(), &[("HTTP_PROXY", address)]).await;
    assert!(ok, "{said}");
    assert_eq!(
        through.seen().len(),
        before,
        "loopback was asked through the proxy"
    );

    // By an https URL the proxy is asked to connect; this one cannot, and nobody goes around it.
    let host = "https://releases.test/";
    let environment = [("HTTPS_PROXY", address)];
    let asked = tokio::time::timeout(
        std::time::Duration::from_secs(60),
        verify(&root, host, &environment),
    );
    let (ok, said) = asked.await.unwrap();
    assert!(!ok, "{said}");
    let seen = through.seen();
    assert!(seen.len() > before, "the proxy was not asked: {said}");
    assert_eq!(seen[before].target, "releases.test:443");
}

/// The repository itself, on this machine.
async fn proxy_free(fixture: &Fixture) -> Wire {
    let dir = fixture.repo();
    Wire::serve(
        move |seen, _| match std::fs::read(dir.join(seen.target.trim_start_matches('/'))) {
            Ok(bytes) => Reply::whole(&bytes),
            Err(_) => Reply::status("404 Not Found").header("Content-Length", 0),
        },
    )
    .await
}
