//! The chart, by the real Helm: without a complaint, taken by the server, and the same installation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use drydock_coordinator::install::{Agents, Installation, chart};
use drydock_integration::realcluster::helm::helm;
use drydock_integration::realcluster::{ControlPlane, Identity};
use serde_json::{Value, json};

use tempfile::TempDir;

use crate::apply::{in_force, left, only_resources};
use crate::requests::{ask, get, until};
use crate::tools::{AGENT, AGENTS, DRYDOCK, NODES, SOON, SYSTEM, admin, clean, kubectl, upgrades};

/// Without it this Helm, which was built without its release flags, renders for Kubernetes 1.20.
const SERVER: &str = "1.36.0";
const KEEP: &str = "helm.sh/resource-policy";

async fn run(helm: &Path, words: Vec<String>, home: &Path) -> Output {
    let mut command = Command::new(helm);
    command.args(words).env("HOME", home).env_remove("KUBECONFIG");
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

/// By kind, namespace and name.
fn by_name(objects: impl IntoIterator<Item = Value>) -> BTreeMap<String, Value> {
    let key = |object: &Value| {
        let meta = &object["metadata"];
        format!("{} {} {}", object["kind"], meta["namespace"], meta["name"])
    };
    objects.into_iter().map(|object| (key(&object), object)).collect()
}

/// Helm and a folder with the chart; none: there is no Go here to build Helm with.
async fn prepare() -> Option<(PathBuf, TempDir, String)> {
    let program = tokio::task::spawn_blocking(helm).await.unwrap().unwrap()?;
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("drydock");
    for file in chart().unwrap() {
        let path = folder.join(&file.path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, file.text).unwrap();
    }
    let at = folder.display().to_string();
    Some((program, home, at))
}

/// A release's whole life: nothing of it is left but the resources, and what they hold.
pub async fn life(cluster: Arc<ControlPlane>) {
    let Some((program, home, at)) = prepare().await else {
        return;
    };
    let kubeconfig = home.path().join("kubeconfig");
    std::fs::write(&kubeconfig, cluster.kubeconfig(&Identity::Admin).await.unwrap()).unwrap();
    let kubeconfig = kubeconfig.display().to_string();
    let helm = async |words: &[&str]| {
        let here = ["--namespace", SYSTEM, "--kubeconfig", &kubeconfig];
        let words = words.iter().chain(&here).map(|&word| word.to_owned());
        let output = run(&program, words.collect(), home.path()).await;
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let told = helm(&[
        "install",
        "drydock",
        &at,
        "--create-namespace",
        "--set",
        "agents.run=unit",
    ])
    .await;
    assert!(told.contains("STATUS: deployed"), "{told}");
    in_force(&cluster).await;
    upgrades(&cluster, &["hull"]).await;
    let admin = admin(&cluster).await;

    let daemon_set = format!("/apis/apps/v1/namespaces/{AGENTS}/daemonsets/{AGENT}");
    for (value, code) in [("daemonset", 200), ("unit", 404)] {
        let set = format!("agents.run={value}");
        helm(&["upgrade", "drydock", &at, "--set", &set]).await;
        let answer = until(SOON, || get(&admin, &daemon_set), |answer| answer.code == code).await;
        assert_eq!(answer.code, code, "{value}: {answer:#?}");
        get(&admin, &format!("{DRYDOCK}/nodeupgrades/hull")).await.clean();
    }

    helm(&["uninstall", "drydock", "--wait"]).await;
    only_resources(&until_left(&cluster).await);
    get(&admin, &format!("{DRYDOCK}/nodeupgrades/hull")).await.clean();
    // What was kept belongs to the next installation of that name.
    helm(&["install", "drydock", &at, "--set", "agents.run=unit"]).await;
    get(&admin, &format!("{DRYDOCK}/nodeupgrades/hull")).await.clean();
    helm(&["uninstall", "drydock", "--wait"]).await;
    for path in [format!("{NODES}/hull"), format!("/api/v1/namespaces/{SYSTEM}")] {
        ask(&admin, "DELETE", &path, None).await.clean();
    }
}

/// What is left once namespaces have gone.
async fn until_left(cluster: &ControlPlane) -> Vec<String> {
    let end = tokio::time::Instant::now() + SOON * 4;
    loop {
        let found = left(cluster).await;
        if found.len() <= 4 || tokio::time::Instant::now() > end {
            return found;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

pub async fn same(cluster: Arc<ControlPlane>) {
    let Some((program, home, at)) = prepare().await else {
        return;
    };
    for (value, agents) in [("unit", Agents::Unit), ("daemonset", Agents::DaemonSet)] {
        let set = format!("agents.run={value}");
        let lint = ["lint", "--strict", &at, "--set", &set, "--kube-version", SERVER]
            .map(str::to_owned)
            .to_vec();
        let said = run(&program, lint, home.path()).await;
        assert!(said.status.success(), "{said:?}");
        let words = [
            "template",
            "drydock",
            &at,
            "--namespace",
            SYSTEM,
            "--set",
            &set,
            "--kube-version",
            SERVER,
        ];
        let said = run(&program, words.map(str::to_owned).to_vec(), home.path()).await;
        let text = clean(&said);
        let rendered = text
            .split("\n---\n")
            .map(|document| serde_saphyr::from_str::<Value>(document).unwrap())
            .filter(|object| !object.is_null())
            .map(|mut object| {
                let annotations = &mut object["metadata"]["annotations"];
                if let Some(all) = annotations.as_object_mut() {
                    let kept = all.remove(KEEP);
                    let is_resource = object["kind"] == "CustomResourceDefinition";
                    assert_eq!(kept, is_resource.then(|| json!("keep")));
                }
                let meta = object["metadata"].as_object_mut().unwrap();
                meta.retain(|key, value| {
                    key != "annotations" || value.as_object().is_some_and(|all| !all.is_empty())
                });
                object
            });
        let installation = Installation {
            agents,
            ..Installation::new(concat!("drydock:", env!("CARGO_PKG_VERSION")))
        };
        let mut ours = installation.manifests();
        ours.retain(|object| !(object["kind"] == "Namespace" && object["metadata"]["name"] == SYSTEM));
        let (ours, theirs) = (by_name(ours), by_name(rendered));
        assert_eq!(
            ours.keys().collect::<Vec<_>>(),
            theirs.keys().collect::<Vec<_>>(),
            "{value}"
        );
        for (name, object) in &ours {
            assert_eq!(*object, theirs[name], "{value}: {name}");
        }
        let words = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
        clean(&kubectl(&cluster, &words, text).await);
    }
}
