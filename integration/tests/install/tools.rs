//! `kubectl` of the control plane, `kubectl drydock`, and requests whose refusal is looked for.

use std::process::Output;
use std::time::Duration;

use clap::Parser as _;
use drydock_coordinator::kubectl;
use drydock_integration::realcluster::{ControlPlane, Identity};
use kube::Client;
use serde_json::{Value, json};

use crate::requests::{Answer, ask, get, until};

/// A right just given or taken is known when the authorizer's watch has told it; a policy, too.
pub const SOON: Duration = Duration::from_secs(30);
pub const SYSTEM: &str = "drydock-system";
pub const AGENTS: &str = "drydock-system-agents";
pub const COORDINATOR: &str = "drydock-coordinator";
pub const AGENT: &str = "drydock-agent";
pub const DRYDOCK: &str = "/apis/drydock.dev/v1alpha1";
pub const NODES: &str = "/api/v1/nodes";
pub const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// kubectl, as the admin, with this on its standard input.
pub async fn kubectl(cluster: &ControlPlane, words: &[&str], input: String) -> Output {
    cluster.run_kubectl(words, &input).await.unwrap()
}

/// The lines of a kubectl that succeeded and said nothing on standard error: no warning.
pub fn clean(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{told}{said}");
    told.into_owned()
}

/// What `kubectl drydock` printed, and how it ended.
pub async fn drydock(
    cluster: &ControlPlane,
    identity: &Identity,
    words: &[&str],
) -> (String, anyhow::Result<()>) {
    let args = kubectl::Args::parse_from(["kubectl-drydock"].iter().chain(words));
    let config = cluster.config(identity).await.unwrap();
    let mut out = Vec::new();
    let ended = kubectl::run(args, config, &mut out).await;
    (String::from_utf8(out).unwrap(), ended)
}

/// The manifests of an installation, as a person pipes them to kubectl.
pub async fn manifests(cluster: &ControlPlane, words: &[&str]) -> String {
    let words: Vec<&str> = ["install"].iter().chain(words).copied().collect();
    let (text, ended) = drydock(cluster, &Identity::Admin, &words).await;
    ended.unwrap();
    text
}

/// Who tries what, for the table of refusals.
pub struct Tries<'a> {
    pub who: &'a str,
    pub client: &'a Client,
}

impl Tries<'_> {
    fn show(&self, what: &str, answer: &Answer) {
        let said = answer
            .message()
            .split(" is forbidden: ")
            .last()
            .unwrap_or_default();
        println!("| {} | {what} | {} | {said} |", self.who, answer.code);
    }

    /// It is refused with this code and these words.
    pub async fn refused(
        &self,
        what: &str,
        (method, path): (&str, &str),
        body: Option<Value>,
        (code, says): (u16, &str),
    ) {
        let answer = ask(self.client, method, path, body.as_ref()).await;
        self.show(what, &answer);
        assert!(
            answer.code == code && answer.message().contains(says),
            "{}: {what}: {answer:#?}",
            self.who
        );
    }

    /// It is done, without a warning; what the server answered.
    pub async fn done(&self, what: &str, (method, path): (&str, &str), body: Option<Value>) -> Value {
        let answer = ask(self.client, method, path, body.as_ref()).await;
        self.show(what, &answer);
        answer.clean()
    }
}

pub async fn admin(cluster: &ControlPlane) -> Client {
    cluster.client(&Identity::Admin).await.unwrap()
}

/// A Node as a kubelet of this boot registers it; it stays as it is where there is one.
pub async fn node(admin: &Client, name: &str) -> Value {
    let labels = json!({"kubernetes.io/os": "linux"});
    let body = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
    let answer = ask(admin, "POST", NODES, Some(&body)).await;
    assert!([201, 409].contains(&answer.code), "{answer:#?}");
    get(admin, &format!("{NODES}/{name}")).await.clean()
}

/// The NodeUpgrade of this node, as the coordinator makes it; by whom it is made is the caller's.
pub fn node_upgrade(name: &str, node_uid: &str) -> Value {
    json!({
        "apiVersion": "drydock.dev/v1alpha1", "kind": "NodeUpgrade",
        "metadata": {"name": name, "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node_uid},
        ]},
        "spec": {},
    })
}

/// The coordinator, by a token of its ServiceAccount.
pub async fn coordinator(cluster: &ControlPlane) -> Client {
    cluster
        .client(&Identity::service_account(SYSTEM, COORDINATOR))
        .await
        .unwrap()
}

/// Nodes of these names with NodeUpgrades made by the coordinator.
pub async fn upgrades(cluster: &ControlPlane, names: &[&str]) {
    let (admin, coordinator) = (admin(cluster).await, coordinator(cluster).await);
    for name in names {
        let node = node(&admin, name).await;
        let body = node_upgrade(name, node["metadata"]["uid"].as_str().unwrap());
        let path = format!("{DRYDOCK}/nodeupgrades");
        until(
            SOON,
            || ask(&coordinator, "POST", &path, Some(&body)),
            |answer| [201, 409].contains(&answer.code),
        )
        .await;
    }
}

/// These nodes are gone, and nothing of them is left, though no kubelet ends their pods any more.
pub async fn sink(admin: &Client, names: &[&str]) {
    for name in names {
        for path in [
            format!("{DRYDOCK}/nodeupgrades/{name}"),
            format!("{NODES}/{name}"),
        ] {
            let answer = ask(admin, "DELETE", &path, None).await;
            assert!([200, 404].contains(&answer.code), "{answer:#?}");
        }
    }
    let now = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
    for namespace in [SYSTEM, AGENTS, "shop"] {
        let pods = format!("/api/v1/namespaces/{namespace}/pods");
        ask(admin, "DELETE", &pods, Some(&now)).await.clean();
    }
}
