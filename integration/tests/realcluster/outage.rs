//! The control plane as a whole: it comes up, goes away and comes back.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use drydock_integration::realcluster::{ControlPlane, Identity};
use serde_json::{Value, json};

use crate::requests::{get, post, until};

pub async fn ready(cluster: Arc<ControlPlane>) {
    let admin = cluster.client(&Identity::Admin).await.unwrap();
    assert_eq!(get(&admin, "/readyz").await.clean(), json!("ok"));
    let kubeconfig = cluster.folder().join("version.kubeconfig");
    std::fs::write(&kubeconfig, cluster.kubeconfig(&Identity::Admin).await.unwrap()).unwrap();
    let kubectl = cluster.kubectl().to_owned();
    let output = tokio::task::spawn_blocking(move || {
        Command::new(kubectl)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["version", "--output=json"])
            .output()
            .unwrap()
    });
    let output = output.await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let versions: Value = serde_json::from_slice(&output.stdout).unwrap();
    // Clients compare these numbers; a build that forgets to set them calls itself v0.0.0.
    let server = &versions["serverVersion"];
    let minor = server["minor"].as_str().unwrap();
    let minor: u32 = minor.trim_end_matches('+').parse().unwrap();
    assert!(server["major"] == "1" && minor >= 33, "{versions:#}");
    assert_eq!(
        server["minor"], versions["clientVersion"]["minor"],
        "{versions:#}"
    );
}

pub async fn outage(cluster: Arc<ControlPlane>) {
    let admin = cluster.client(&Identity::Admin).await.unwrap();
    let note = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "note"}});
    let path = "/api/v1/namespaces/default/configmaps";
    post(&admin, path, &note).await.clean();
    let before = cluster.process_ids();

    let asked = tokio::time::Instant::now();
    cluster.stop_api_server().await.unwrap();
    println!(
        "the API server was gone after {:.1} s",
        asked.elapsed().as_secs_f64()
    );
    let started = tokio::time::Instant::now();
    let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
    admin.request_text(request).await.unwrap_err();
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "an outage must be noticed at once"
    );
    cluster.stop_api_server().await.unwrap_err();

    cluster.start_api_server().await.unwrap();
    println!(
        "the API server was back after {:.1} s",
        started.elapsed().as_secs_f64()
    );
    let path = format!("{path}/note");
    get(&admin, &path).await.clean();
    let after = cluster.process_ids();
    let changed: Vec<_> = before
        .keys()
        .filter(|name| before[*name] != after[*name])
        .collect();
    assert_eq!(changed, [&"kube-apiserver"]);

    // The controllers have found it again: they give a new namespace its service account.
    if after.contains_key("kube-controller-manager") {
        let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "after"}});
        post(&admin, "/api/v1/namespaces", &space).await.clean();
        let path = "/api/v1/namespaces/after/serviceaccounts/default";
        until(
            Duration::from_secs(60),
            || get(&admin, path),
            |answer| answer.code == 200,
        )
        .await;
    }
}
