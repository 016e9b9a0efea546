//! The chart, by the real Helm: without a complaint, taken by the server, and the same installation.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use drydock_coordinator::install::{Agents, Installation, chart};
use drydock_integration::realcluster::ControlPlane;
use drydock_integration::realcluster::helm::helm;
use serde_json::{Value, json};

use crate::tools::{SYSTEM, clean, kubectl};

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

pub async fn same(cluster: Arc<ControlPlane>) {
    let program = tokio::task::spawn_blocking(helm).await.unwrap().unwrap();
    let Some(program) = program else { return };
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("drydock");
    for file in chart().unwrap() {
        let path = folder.join(&file.path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, file.text).unwrap();
    }
    let at = folder.display().to_string();
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
