//! The real kubectl against the embedded API. Where none is installed, or only one that is too old, the one
//! of the real control plane's build is taken; where there is no Go to build that with either, the tests say
//! so and pass, because that is a machine without it and not a defect. With `CI=true` they fail, so that
//! nobody takes a run without kubectl for one with it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use drydock_integration::apiserver::{ApiServer, ServerConfig};
use drydock_integration::realcluster::Binaries;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::{custom, running};

struct Kubectl {
    program: &'static Path,
    home: tempfile::TempDir,
}

impl Kubectl {
    fn new(program: &'static Path, server: &ApiServer) -> Kubectl {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("config"), server.kubeconfig("admin")).unwrap();
        Kubectl { program, home }
    }

    fn command(&self, args: &str) -> Command {
        let mut command = Command::new(self.program);
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

/// Older ones look for `/openapi/v2` before every create and apply, and know no `wait --for=jsonpath`.
const OLDEST_MINOR: u32 = 27;

/// The kubectl to try things with: this machine's own, or the one that comes with the real control plane's
/// build. None: that was said, or, with `CI=true`, is a failure.
async fn program() -> Option<&'static Path> {
    static FOUND: OnceCell<Option<PathBuf>> = OnceCell::const_new();
    FOUND.get_or_init(find).await.as_deref()
}

async fn find() -> Option<PathBuf> {
    let own = PathBuf::from("kubectl");
    let lacks = match minor_version(&own).await {
        Some(minor) if minor >= OLDEST_MINOR => return Some(own),
        Some(minor) => format!("kubectl v1.{minor} is older than v1.{OLDEST_MINOR}"),
        None => "no kubectl".to_owned(),
    };
    let built = tokio::task::spawn_blocking(Binaries::find).await.unwrap();
    match built.unwrap() {
        Some(binaries) => Some(binaries.kubectl),
        None => {
            eprintln!("skipped: {lacks}");
            None
        }
    }
}

async fn minor_version(program: &Path) -> Option<u32> {
    let asked = Command::new(program)
        .args(["version", "--client", "-o", "json"])
        .output();
    let said: Value = serde_json::from_slice(&asked.await.ok()?.stdout).ok()?;
    let minor = said["clientVersion"]["minor"].as_str()?;
    // Some builds write `32+`.
    minor.trim_end_matches('+').parse().ok()
}

async fn cluster(program: &'static Path) -> (ApiServer, Kubectl) {
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
    let kubectl = Kubectl::new(program, &server);
    (server, kubectl)
}

#[tokio::test]
async fn kubectl_reads_describes_creates_applies_and_waits() {
    let Some(program) = program().await else { return };
    let (server, kubectl) = cluster(program).await;
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

/// The lines that a `kubectl` prints while it runs.
struct Lines {
    child: tokio::process::Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Lines {
    fn of(kubectl: &Kubectl, args: &str) -> Lines {
        let mut child = kubectl.command(args).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Lines { child, lines }
    }

    async fn next(&mut self) -> String {
        let line = tokio::time::timeout(Duration::from_secs(30), self.lines.next_line());
        line.await.expect("a line in time").unwrap().expect("it runs on")
    }
}

#[tokio::test]
async fn kubectl_watches() {
    let Some(program) = program().await else { return };
    let (server, kubectl) = cluster(program).await;
    let mut nodes = Lines::of(&kubectl, "get nodes -w");
    for start in ["NAME", "n1", "n2"] {
        let line = nodes.next().await;
        assert!(line.starts_with(start), "{line}");
    }
    server.put(super::node("n3")).unwrap();
    assert!(nodes.next().await.starts_with("n3"));
    kubectl.run("cordon n1", "").await;
    let line = nodes.next().await;
    assert!(
        line.starts_with("n1") && line.contains("Ready,SchedulingDisabled"),
        "{line}"
    );
    nodes.child.kill().await.unwrap();

    // One object, told by name; and from now on without what is there.
    let mut one = Lines::of(&kubectl, "get node n2 -w --no-headers");
    assert!(one.next().await.starts_with("n2"));
    kubectl.run("label node n3 a=b", "").await;
    kubectl.run("cordon n2", "").await;
    let line = one.next().await;
    assert!(line.contains("SchedulingDisabled"), "{line}");
    one.child.kill().await.unwrap();
    server.put(super::config_map("first", "1")).unwrap();
    let mut events = Lines::of(&kubectl, "get configmaps -w --output-watch-events --no-headers");
    assert!(events.next().await.contains(" first "));
    server.put(super::config_map("m", "1")).unwrap();
    kubectl.run("delete configmap m", "").await;
    for kind in ["ADDED", "DELETED"] {
        let line = events.next().await;
        assert!(line.starts_with(kind) && line.contains(" m "), "{line}");
    }
    events.child.kill().await.unwrap();
}

#[tokio::test]
async fn kubectl_waits_for_what_comes_later() {
    let Some(program) = program().await else { return };
    let (server, kubectl) = cluster(program).await;
    server.put(super::node("n3")).unwrap();
    let not_yet = kubectl
        .try_run("wait --for=condition=Ready node/n3 --timeout=1s", "")
        .await;
    assert!(!not_yet.0 && not_yet.1.contains("timed out"), "{}", not_yet.1);
    let waits = |args: &'static str| {
        let mut child = kubectl.command(args);
        tokio::spawn(async move { child.output().await.unwrap() })
    };
    let ready = waits("wait --for=condition=Ready node/n3 --timeout=30s");
    let labelled = waits("wait --for=jsonpath={.metadata.labels.slot}=b node/n3 --timeout=30s");
    let gone = waits("wait --for=delete node/n3 --timeout=30s");
    kubectl.run("label node n3 slot=b", "").await;
    let mut node = Value::clone(&server.get("", "nodes", "", "n3").unwrap());
    node["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    server.put(node).unwrap();
    for wait in [ready, labelled] {
        let output = wait.await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("node/n3 condition met"), "{text}");
    }
    kubectl.run("delete node n3", "").await;
    assert!(gone.await.unwrap().status.success());
}

#[tokio::test]
async fn kubectl_applies_drydocks_own_resources() {
    let Some(program) = program().await else { return };
    let (server, kubectl) = cluster(program).await;
    for crd in drydock_api::crds() {
        let name = crd.metadata.name.clone().unwrap();
        let crd = serde_json::to_string(&crd).unwrap();
        let applied = kubectl.run("apply -f -", &crd).await;
        assert!(applied.contains(&format!("{name} created")), "{applied}");
        assert!(kubectl.run("apply -f -", &crd).await.contains("unchanged"));
        let wait = format!("wait --for=condition=Established crd/{name} --timeout=20s");
        kubectl.run(&wait, "").await;
        let plural = &name[..name.find('.').unwrap()];
        assert!(
            kubectl
                .run(&format!("get {plural}"), "")
                .await
                .contains("No resources found")
        );
        let explained = kubectl.run(&format!("explain {plural}.spec"), "").await;
        assert!(explained.contains("FIELDS"), "{explained}");
    }
    let digest = "ab".repeat(32);
    let name = format!("sha256-{digest}");
    let mut halt = json!({
        "apiVersion": "drydock.dev/v1alpha1", "kind": "ReleaseHalt", "metadata": {"name": name},
        "spec": {"digest": format!("sha256:{digest}"), "version": "1.2.3", "reason": "it hangs", "by": "me", "at": "2026-01-01T00:00:00Z"},
    });
    let refused = kubectl
        .try_run("apply -f -", &{
            let mut wrong = halt.clone();
            wrong["spec"]["mistake"] = json!(1);
            wrong.to_string()
        })
        .await;
    assert!(
        !refused.0 && refused.1.contains("unknown field \"spec.mistake\""),
        "{}",
        refused.1
    );
    for said in ["created", "unchanged"] {
        assert!(kubectl.run("apply -f -", &halt.to_string()).await.contains(said));
    }
    halt["spec"]["reason"] = json!("it hangs at boot");
    assert!(
        kubectl
            .run("apply -f -", &halt.to_string())
            .await
            .contains("configured")
    );
    let table = kubectl.run("get halt", "").await;
    assert!(
        table.contains("VERSION") && table.contains("it hangs at boot"),
        "{table}"
    );
    let described = kubectl.run(&format!("describe releasehalt {name}"), "").await;
    assert!(described.contains("it hangs at boot"), "{described}");
    assert_eq!(server.list("drydock.dev", "releasehalts", "").len(), 1);
}

#[tokio::test]
async fn kubectl_cordons_drains_and_uncordons() {
    let Some(program) = program().await else { return };
    let (server, kubectl) = cluster(program).await;
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
