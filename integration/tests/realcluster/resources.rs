//! Drydock's resources, as the real server takes and judges them.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use drydock_integration::realcluster::{ControlPlane, Identity};
use serde_json::{Value, json};

use crate::requests::{ask, get, post, until};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const DRYDOCK: &str = "/apis/drydock.dev/v1alpha1";
pub const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What `drydock-coordinator crds` prints is taken by `kubectl apply --server-side`, first as a dry run,
/// then for real.
pub async fn crds(cluster: Arc<ControlPlane>) {
    let admin = cluster.client(&Identity::Admin).await.unwrap();
    for crd in drydock_api::crds() {
        let body = serde_json::to_value(&crd).unwrap();
        let dry = post(
            &admin,
            &format!("{CRDS}?dryRun=All&fieldValidation=Strict"),
            &body,
        )
        .await;
        dry.clean();
    }
    let kubeconfig = cluster.folder().join("admin.kubeconfig");
    std::fs::write(&kubeconfig, cluster.kubeconfig(&Identity::Admin).await.unwrap()).unwrap();
    let apply = |flags: &'static [&'static str]| {
        let (kubectl, kubeconfig) = (cluster.kubectl().to_owned(), kubeconfig.clone());
        tokio::task::spawn_blocking(move || {
            let mut child = Command::new(kubectl)
                .arg("--kubeconfig")
                .arg(kubeconfig)
                .args(["apply", "--server-side", "--validate=strict", "-f", "-"])
                .args(flags)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut manifest = Vec::new();
            drydock_coordinator::command::crds::main(&mut manifest).unwrap();
            child.stdin.take().unwrap().write_all(&manifest).unwrap();
            child.wait_with_output().unwrap()
        })
    };
    for flags in [&["--dry-run=server"][..], &[]] {
        let output = apply(flags).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty(),
            "{flags:?}: {output:?}"
        );
    }
    for crd in drydock_api::crds() {
        let path = format!("{CRDS}/{}", crd.metadata.name.unwrap());
        let condition = |body: &Value, kind: &str| {
            let conditions = body["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            conditions
                .iter()
                .any(|one| one["type"] == kind && one["status"] == "True")
        };
        let made = until(
            Duration::from_secs(30),
            || get(&admin, &path),
            |answer| condition(&answer.body, "Established"),
        )
        .await
        .clean();
        assert!(condition(&made, "NamesAccepted"), "{made:#}");
        assert!(!condition(&made, "NonStructuralSchema"), "{made:#}");
    }
    // Established comes a moment before every path is served.
    for plural in [
        "imagerepositories",
        "upgradepolicies",
        "nodeupgrades",
        "releasehalts",
    ] {
        let path = format!("{DRYDOCK}/{plural}");
        until(
            Duration::from_secs(30),
            || get(&admin, &path),
            |answer| answer.code == 200,
        )
        .await;
    }

    // A warning would have been seen: this one is.
    let mut odd = policy("odd", &json!({"channel": "stable"}));
    odd["spec"]["widnows"] = json!([]);
    let answer = post(&admin, &format!("{DRYDOCK}/upgradepolicies?dryRun=All"), &odd).await;
    assert!(
        answer.warnings.iter().any(|text| text.contains("spec.widnows")),
        "{answer:#?}"
    );
}

fn policy(name: &str, release: &Value) -> Value {
    json!({
        "apiVersion": "drydock.dev/v1alpha1", "kind": "UpgradePolicy", "metadata": {"name": name},
        "spec": {"repository": "harbor", "release": release},
    })
}

fn node_upgrade(name: &str, term: i64) -> Value {
    json!({
        "apiVersion": "drydock.dev/v1alpha1", "kind": "NodeUpgrade", "metadata": {"name": name},
        "spec": {"dock": {
            "policy": "workers", "attempt": "a5-77-0", "term": term, "step": "Asked",
            "since": "2026-11-02T22:00:00Z", "digest": DIGEST, "nodeUid": "u", "bootId": "b",
            "deadlines": {"drain": "30m", "health": "30m", "confirmWait": "15m"},
        }},
    })
}

/// Each rule refuses what it is there for, in the words that the API crate gives it, and nothing else.
pub async fn rules(cluster: Arc<ControlPlane>) {
    let admin = cluster.client(&Identity::Admin).await.unwrap();
    let halt = |name: &str| {
        json!({
            "apiVersion": "drydock.dev/v1alpha1", "kind": "ReleaseHalt", "metadata": {"name": name},
            "spec": {"digest": DIGEST, "reason": "it does not boot", "by": "jane", "at": "2026-11-02T22:00:00Z"},
        })
    };
    let window = |window: Value| {
        let mut policy = policy("w", &json!({"channel": "stable"}));
        policy["spec"]["windows"] = json!([window]);
        policy
    };
    let one = "name exactly one of channel, digest and version";
    let refused = [
        ("upgradepolicies", policy("none", &json!({})), one),
        (
            "upgradepolicies",
            policy("two", &json!({"channel": "stable", "digest": DIGEST})),
            one,
        ),
        (
            "upgradepolicies",
            policy("odd", &json!({"digest": "sha256:12"})),
            "spec.release.digest",
        ),
        (
            "upgradepolicies",
            window(json!({"start": "tomorrow", "duration": "4h"})),
            "spec.windows[0].start",
        ),
        (
            "upgradepolicies",
            window(json!({"start": "2026-11-02T22:00:00", "duration": "4 hours"})),
            "spec.windows[0].duration",
        ),
        (
            "releasehalts",
            halt("bad"),
            "a ReleaseHalt is named after its digest: sha256-HEX",
        ),
    ];
    for (plural, body, message) in refused {
        let answer = post(&admin, &format!("{DRYDOCK}/{plural}"), &body).await;
        assert!(
            answer.code == 422 && answer.message().contains(message),
            "{body:#} {answer:#?}"
        );
    }
    post(
        &admin,
        &format!("{DRYDOCK}/releasehalts"),
        &halt(&DIGEST.replace(':', "-")),
    )
    .await
    .clean();

    // A term may rise or stay, never fall; without a place in dock there is none to keep.
    let path = format!("{DRYDOCK}/nodeupgrades");
    post(&admin, &path, &node_upgrade("n", 5)).await.clean();
    let patch = |spec: Value| {
        let (admin, path) = (admin.clone(), format!("{path}/n"));
        async move { ask(&admin, "PATCH", &path, Some(&json!({"spec": spec}))).await }
    };
    for term in [5, 6] {
        patch(json!({"dock": {"term": term}})).await.clean();
    }
    let fallen = patch(json!({"dock": {"term": 5}})).await;
    let message = "spec.dock.term must not fall: a newer leader has taken this attempt over";
    assert!(
        fallen.code == 422 && fallen.message().contains(message),
        "{fallen:#?}"
    );
    patch(json!({"dock": null})).await.clean();
    patch(json!({"dock": node_upgrade("n", 1)["spec"]["dock"]}))
        .await
        .clean();
    ask(&admin, "DELETE", &format!("{path}/n"), None).await.clean();
}

/// A policy with nothing but what it must have gets the defaults that the types have; statuses are kept.
pub async fn round_trip(cluster: Arc<ControlPlane>) {
    let admin = cluster.client(&Identity::Admin).await.unwrap();
    let path = format!("{DRYDOCK}/upgradepolicies");
    let body = policy("workers", &json!({"channel": "stable"}));
    let made: drydock_api::UpgradePolicy = serde_json::from_value(
        post(&admin, &format!("{path}?fieldValidation=Strict"), &body)
            .await
            .clean(),
    )
    .unwrap();
    let meant: drydock_api::UpgradePolicySpec = serde_json::from_value(body["spec"].clone()).unwrap();
    assert_eq!(made.spec, meant);

    let status = drydock_api::PolicyStatus {
        observed_generation: Some(1),
        term: Some(3),
        dock: vec![drydock_api::DockEntry {
            node: "n".into(),
            uid: "u".into(),
            attempt: "a3-1-0".into(),
            since: "2026-11-02T22:00:00Z".parse().unwrap(),
        }],
        progress: Some("0/1".into()),
        ..drydock_api::PolicyStatus::default()
    };
    let mut written = made.clone();
    written.status = Some(status.clone());
    let written = serde_json::to_value(written).unwrap();
    let path = format!("{path}/workers/status?fieldValidation=Strict");
    let kept: drydock_api::UpgradePolicy =
        serde_json::from_value(ask(&admin, "PUT", &path, Some(&written)).await.clean()).unwrap();
    assert_eq!(kept.status, Some(status));
}
