//! The real kubectl against the embedded API. Where kubectl is not installed the test says so and
//! passes: that is a machine without it, not a defect.

use std::process::Stdio;
use std::time::Duration;

use drydock_integration::apiserver::{ApiServer, ServerConfig};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use super::{custom, running};

struct Kubectl {
    home: tempfile::TempDir,
}

impl Kubectl {
    fn new(server: &ApiServer) -> Kubectl {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("config"), server.kubeconfig("admin")).unwrap();
        Kubectl { home }
    }

    fn command(&self, args: &str) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(args.split_whitespace())
            .env("KUBECONFIG", self.home.path().join("config"))
            .env("HOME", self.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Run with this input; the outcome and both outputs together.
    async fn try_run(&self, args: &str, input: &str) -> (bool, String) {
        let mut child = self.command(args).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let done = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await;
        let output = done
            .unwrap_or_else(|_| panic!("kubectl {args}: not in time"))
            .unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    async fn run(&self, args: &str, input: &str) -> String {
        let (ok, text) = self.try_run(args, input).await;
        assert!(ok, "kubectl {args}: {text}");
        text
    }
}

async fn is_installed() -> bool {
    let found = Command::new("kubectl")
        .args(["version", "--client"])
        .output()
        .await;
    let is_there = found.is_ok_and(|o| o.status.success());
    if !is_there {
        eprintln!("SKIPPED: kubectl is not installed, so nothing was tried with it");
    }
    is_there
}

async fn cluster() -> (ApiServer, Kubectl) {
    let config = ServerConfig {
        pod_grace_cap: Some(Duration::from_millis(50)),
        ..ServerConfig::default()
    };
    let server = ApiServer::start(config).await.unwrap();
    for name in ["n1", "n2"] {
        let mut node = super::node(name);
        node["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}], "capacity": {"cpu": "4"}, "allocatable": {"cpu": "4"}});
        server.put(node).unwrap();
    }
    let kubectl = Kubectl::new(&server);
    (server, kubectl)
}

#[tokio::test]
async fn kubectl_reads_describes_creates_applies_and_waits() {
    if !is_installed().await {
        return;
    }
    let (server, kubectl) = cluster().await;
    let nodes = kubectl.run("get nodes -o wide", "").await;
    assert!(
        nodes.starts_with("NAME") && nodes.contains("n1") && nodes.contains("Ready"),
        "{nodes}"
    );
    server.put(running("web", "n1")).unwrap();
    assert!(kubectl.run("get pods -A", "").await.contains("Running"));
    assert!(kubectl.run("describe node n1", "").await.contains("web"));
    assert!(kubectl.run("describe pod web", "").await.contains("busybox:1"));
    let map = super::config_map("settings", "1").to_string();
    assert!(
        kubectl
            .run("create -f -", &map)
            .await
            .contains("configmap/settings created")
    );
    assert!(!kubectl.try_run("create -f -", &map).await.0, "it is there");
    assert!(
        kubectl
            .run("api-resources", "")
            .await
            .contains("poddisruptionbudgets")
    );

    let crd = custom::crd().to_string();
    assert!(
        kubectl
            .run("apply -f -", &crd)
            .await
            .contains("nodeupgrades.drydock.dev created")
    );
    kubectl
        .run(
            "wait --for=condition=Established crd/nodeupgrades.drydock.dev --timeout=20s",
            "",
        )
        .await;
    let mut upgrade = custom::upgrade("n1");
    assert!(
        kubectl
            .run("apply -f -", &upgrade.to_string())
            .await
            .contains("nodeupgrade.drydock.dev/n1 created")
    );
    assert!(
        kubectl
            .run("apply -f -", &upgrade.to_string())
            .await
            .contains("unchanged")
    );
    upgrade["spec"]["count"] = json!(3);
    assert!(
        kubectl
            .run("apply -f -", &upgrade.to_string())
            .await
            .contains("configured")
    );
    assert_eq!(
        server.get("drydock.dev", "nodeupgrades", "", "n1").unwrap()["spec"]["count"],
        3
    );
    upgrade["spec"].as_object_mut().unwrap().remove("count");
    kubectl.run("apply -f -", &upgrade.to_string()).await;
    assert_eq!(
        server.get("drydock.dev", "nodeupgrades", "", "n1").unwrap()["spec"].get("count"),
        None
    );
    upgrade["spec"]["mistake"] = json!(1);
    let (ok, text) = kubectl.try_run("apply -f -", &upgrade.to_string()).await;
    assert!(!ok && text.contains("unknown field \"spec.mistake\""), "{text}");
    assert!(kubectl.run("get nu", "").await.contains("MODE"));
    assert!(
        kubectl
            .run("describe nodeupgrade n1", "")
            .await
            .contains("sha256:aa")
    );
    assert!(
        kubectl
            .run("explain nodeupgrade.spec.mode", "")
            .await
            .contains("Slow")
    );
    kubectl.run("label node n1 pool=b --overwrite", "").await;
    kubectl.run("annotate node n1 drydock.dev/ask=cancel", "").await;
    assert_eq!(
        server.get("", "nodes", "", "n1").unwrap()["metadata"]["annotations"]["drydock.dev/ask"],
        "cancel"
    );
    assert!(kubectl.run("delete nodeupgrade n1", "").await.contains("deleted"));
    kubectl
        .run("wait --for=delete nodeupgrade/n1 --timeout=20s", "")
        .await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    assert!(
        kubectl
            .run("apply -f -", &budget.to_string())
            .await
            .contains("created")
    );
    // kubectl always sends a budget's selector (its merge strategy is "replace"), so that it says
    // "configured"; the server sees that nothing changed.
    let version = |server: &ApiServer| {
        server
            .get("policy", "poddisruptionbudgets", "default", "b")
            .unwrap()["metadata"]["resourceVersion"]
            .clone()
    };
    let before = version(&server);
    kubectl.run("apply -f -", &budget.to_string()).await;
    assert_eq!(version(&server), before);
    assert!(kubectl.run("version", "").await.contains("v1.36."));
}

#[tokio::test]
async fn kubectl_watches() {
    if !is_installed().await {
        return;
    }
    let (server, kubectl) = cluster().await;
    let mut child = kubectl.command("get nodes -w").spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.push(lines.next_line().await.unwrap().expect("the first list"));
    }
    server.put(super::node("n3")).unwrap();
    let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line())
        .await
        .expect("in time")
        .unwrap()
        .unwrap();
    assert!(line.starts_with("n3"), "{line}");
    child.kill().await.unwrap();
}

#[tokio::test]
async fn kubectl_cordons_drains_and_uncordons() {
    if !is_installed().await {
        return;
    }
    let (server, kubectl) = cluster().await;
    kubectl.run("cordon n1", "").await;
    assert_eq!(
        server.get("", "nodes", "", "n1").unwrap()["spec"]["unschedulable"],
        true
    );
    assert!(
        kubectl
            .run("get node n1", "")
            .await
            .contains("Ready,SchedulingDisabled")
    );
    kubectl.run("uncordon n1", "").await;
    assert_eq!(
        server.get("", "nodes", "", "n1").unwrap()["spec"].get("unschedulable"),
        None
    );
    let mut pod = running("web", "n1");
    pod["spec"]["terminationGracePeriodSeconds"] = json!(1);
    server.put(pod).unwrap();
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    server.put(budget).unwrap();
    super::eventually(&server, "the budget counts", || {
        server
            .get("policy", "poddisruptionbudgets", "default", "b")
            .filter(|b| b["status"]["currentHealthy"] == 1)
    })
    .await;
    let (ok, text) = kubectl.try_run("drain n1 --force --timeout=2s", "").await;
    assert!(
        !ok && text.contains("Cannot evict pod as it would violate the pod's disruption budget"),
        "{text}"
    );
    server
        .delete("policy", "poddisruptionbudgets", "default", "b")
        .unwrap();
    let drained = kubectl.run("drain n1 --force --timeout=30s", "").await;
    assert!(drained.contains("node/n1 drained"), "{drained}");
    assert!(server.get("", "pods", "default", "web").is_none());
}
