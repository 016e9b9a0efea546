//! What an agent may do and not do, by either of its identities.

use std::sync::Arc;
use std::time::Duration;

use drydock_integration::realcluster::{ControlPlane, Identity};
use kube::Client;
use serde_json::{Value, json};

use crate::requests::{ask, get, post, until};
use crate::tools::{AGENT, AGENTS, DIGEST, DRYDOCK, NODES, SOON, Tries, admin, sink, upgrades};

const OWN_STATUS_ALONE: &str = "the status of a NodeUpgrade is written by the agent of that node alone";
const NOT_BY_NODES: &str =
    "annotations under drydock.dev/ are written by the coordinator and by people, not by nodes";

fn upgrade(name: &str) -> String {
    format!("{DRYDOCK}/nodeupgrades/{name}")
}

fn report() -> Option<Value> {
    Some(json!({"status": {"protocol": 1}}))
}

fn annotation(key: &str) -> Option<Value> {
    Some(json!({"metadata": {"annotations": {key: "x"}}}))
}

pub fn halt() -> Value {
    json!({
        "apiVersion": "drydock.dev/v1alpha1", "kind": "ReleaseHalt",
        "metadata": {"name": DIGEST.replace(':', "-")},
        "spec": {"digest": DIGEST, "reason": "it does not boot", "by": "jane", "at": "2026-11-02T22:00:00Z"},
    })
}

/// What is so for both identities: `own` is the agent's node, `other` another.
async fn both(cluster: &ControlPlane, who: &str, identity: &Identity, (own, other): (&str, &str)) {
    let client = cluster.client(identity).await.unwrap();
    let (path, other_path) = (format!("{}/status", upgrade(own)), upgrade(other));
    // The right may be younger than what the authorizer knows.
    let body = report().unwrap();
    until(
        SOON,
        || ask(&client, "PATCH", &path, Some(&body)),
        |answer| answer.code == 200,
    )
    .await;
    let tries = Tries { who, client: &client };
    tries
        .done("status of its own NodeUpgrade", ("PATCH", &path), report())
        .await;
    tries
        .done("read another's NodeUpgrade", ("GET", &other_path), None)
        .await;
    let others = format!("{other_path}/status");
    tries
        .refused(
            "status of another's NodeUpgrade",
            ("PATCH", &others),
            report(),
            (403, OWN_STATUS_ALONE),
        )
        .await;
    let stage = Some(json!({"spec": {"stage": true}}));
    tries
        .refused(
            "spec of its own NodeUpgrade",
            ("PATCH", &upgrade(own)),
            stage,
            (403, "cannot patch resource \"nodeupgrades\""),
        )
        .await;
    let made = Some(crate::tools::node_upgrade("new", "u"));
    let all = format!("{DRYDOCK}/nodeupgrades");
    tries
        .refused(
            "make a NodeUpgrade",
            ("POST", &all),
            made,
            (403, "cannot create resource"),
        )
        .await;
    tries
        .refused(
            "delete its own NodeUpgrade",
            ("DELETE", &upgrade(own)),
            None,
            (403, "cannot delete resource"),
        )
        .await;
    let halts = format!("{DRYDOCK}/releasehalts");
    tries
        .refused(
            "make a ReleaseHalt",
            ("POST", &halts),
            Some(halt()),
            (403, "cannot create resource"),
        )
        .await;
    let one = format!("{halts}/{}", DIGEST.replace(':', "-"));
    tries
        .refused(
            "delete a ReleaseHalt",
            ("DELETE", &one),
            None,
            (403, "cannot delete resource"),
        )
        .await;
    let policy = Some(json!({"spec": {"paused": true}}));
    tries
        .refused(
            "change an UpgradePolicy",
            ("PATCH", &format!("{DRYDOCK}/upgradepolicies/any")),
            policy,
            (403, "cannot patch resource"),
        )
        .await;
    let mut config = cluster.config(identity).await.unwrap();
    config.auth_info.impersonate = Some(format!("system:node:{other}"));
    let as_other = Tries {
        who,
        client: &Client::try_from(config).unwrap(),
    };
    as_other
        .refused(
            "another's status as that node (impersonation)",
            ("PATCH", &others),
            report(),
            (403, "impersonate"),
        )
        .await;
}

pub async fn kubelets(cluster: Arc<ControlPlane>) {
    let (own, other) = ("berth-1", "berth-2");
    upgrades(&cluster, &[own, other]).await;
    let (who, identity) = ("kubelet of berth-1", Identity::node(own));
    both(&cluster, who, &identity, (own, other)).await;

    let client = cluster.client(&identity).await.unwrap();
    let tries = Tries { who, client: &client };
    let (path, other_path) = (format!("{NODES}/{own}"), format!("{NODES}/{other}"));
    let heartbeat = json!({"status": {"conditions": [{
        "type": "Ready", "status": "True", "lastHeartbeatTime": jiff::Timestamp::now(),
    }]}});
    tries
        .done(
            "heartbeat of its own Node",
            ("PATCH", &format!("{path}/status")),
            Some(heartbeat),
        )
        .await;
    tries
        .done(
            "another annotation of its own Node",
            ("PATCH", &path),
            annotation("csi.example/nodeid"),
        )
        .await;
    for (what, path) in [
        ("drydock.dev/dock of its own Node", path.clone()),
        ("the same by nodes/status", format!("{path}/status")),
    ] {
        tries
            .refused(
                what,
                ("PATCH", &path),
                annotation("drydock.dev/dock"),
                (403, NOT_BY_NODES),
            )
            .await;
    }
    // A mark that is there may not be taken away either.
    let admin = admin(&cluster).await;
    let mark = annotation("drydock.dev/ask");
    ask(&admin, "PATCH", &path, mark.as_ref()).await.clean();
    let gone = json!({"metadata": {"annotations": {"drydock.dev/ask": null}}});
    tries
        .refused(
            "take a mark off its own Node",
            ("PATCH", &path),
            Some(gone.clone()),
            (403, NOT_BY_NODES),
        )
        .await;
    let heartbeat = json!({"status": {"phase": "Running"}});
    tries
        .done(
            "heartbeat of its own Node with marks",
            ("PATCH", &format!("{path}/status")),
            Some(heartbeat),
        )
        .await;
    ask(&admin, "PATCH", &path, Some(&gone)).await.clean();
    tries
        .refused(
            "another's Node",
            ("PATCH", &other_path),
            annotation("x"),
            (403, "is not allowed to modify node"),
        )
        .await;
    tries
        .refused(
            "a Secret of no pod of its own",
            ("GET", "/api/v1/namespaces/kube-system/secrets/any"),
            None,
            (403, "no relationship found between node"),
        )
        .await;
    tries
        .refused("list Secrets", ("GET", "/api/v1/secrets"), None, (403, "secrets"))
        .await;
    sink(&admin, &[own, other]).await;
}

/// A pod of the agents' ServiceAccount on this node, as the DaemonSet makes it.
async fn agent_pod(admin: &Client, on: &str) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("agent-{on}")},
        "spec": {"nodeName": on, "serviceAccountName": AGENT,
            "containers": [{"name": "agent", "image": "agent"}]},
    });
    post(admin, &format!("/api/v1/namespaces/{AGENTS}/pods"), &pod)
        .await
        .clean();
}

pub async fn pods(cluster: Arc<ControlPlane>) {
    let (own, other) = ("berth-3", "berth-4");
    let admin = admin(&cluster).await;
    upgrades(&cluster, &[own, other, "berth-1"]).await;
    agent_pod(&admin, own).await;
    let (who, identity) = (
        "token of the agent's pod on berth-3",
        Identity::pod(AGENTS, AGENT, "agent-berth-3"),
    );
    both(&cluster, who, &identity, (own, other)).await;

    let client = cluster.client(&identity).await.unwrap();
    let tries = Tries { who, client: &client };
    let path = format!("{NODES}/{own}");
    for (what, method, path, says) in [
        (
            "read its own Node",
            "GET",
            path.as_str(),
            "cannot get resource \"nodes\"",
        ),
        ("list Nodes", "GET", NODES, "cannot list resource \"nodes\""),
        (
            "list Secrets",
            "GET",
            "/api/v1/secrets",
            "cannot list resource \"secrets\"",
        ),
        (
            "list pods",
            "GET",
            "/api/v1/pods",
            "cannot list resource \"pods\"",
        ),
    ] {
        tries.refused(what, (method, path), None, (403, says)).await;
    }
    tries
        .refused(
            "change its own Node",
            ("PATCH", &path),
            annotation("x"),
            (403, "cannot patch resource \"nodes\""),
        )
        .await;

    let unbound = cluster
        .client(&Identity::service_account(AGENTS, AGENT))
        .await
        .unwrap();
    let tries = Tries {
        who: "token of the agent's account, of no pod",
        client: &unbound,
    };
    let status = format!("{}/status", upgrade(own));
    tries
        .refused(
            "status of a NodeUpgrade",
            ("PATCH", &status),
            report(),
            (403, OWN_STATUS_ALONE),
        )
        .await;

    // Where agents are pods, a kubelet has no part in this.
    let kubelet = cluster.client(&Identity::node("berth-1")).await.unwrap();
    let theirs = format!("{}/status", upgrade("berth-1"));
    let body = report().unwrap();
    until(
        SOON,
        || ask(&kubelet, "PATCH", &theirs, Some(&body)),
        |answer| answer.code == 403,
    )
    .await;
    let tries = Tries {
        who: "kubelet of berth-1, agents as pods",
        client: &kubelet,
    };
    tries
        .refused(
            "status of its own NodeUpgrade",
            ("PATCH", &theirs),
            report(),
            (403, "cannot patch resource \"nodeupgrades/status\""),
        )
        .await;

    let now = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
    let pod = format!("/api/v1/namespaces/{AGENTS}/pods/agent-berth-3");
    ask(&admin, "DELETE", &pod, Some(&now)).await.clean();
    let deleted = std::time::Instant::now();
    let path = upgrade(own);
    until(
        Duration::from_secs(20),
        || get(&client, &path),
        |answer| answer.code == 401,
    )
    .await;
    println!(
        "the token of a deleted pod was refused after {:.1} s",
        deleted.elapsed().as_secs_f64()
    );
    let tries = Tries {
        who: "token of a pod that was deleted",
        client: &client,
    };
    tries
        .refused(
            "status of its own NodeUpgrade",
            ("PATCH", &status),
            report(),
            (401, "Unauthorized"),
        )
        .await;
    sink(&admin, &[own, other, "berth-1"]).await;
}
