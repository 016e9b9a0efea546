//! What the coordinator may do and not do, and what people may.

use std::sync::Arc;
use std::time::Duration;

use drydock_integration::realcluster::{ControlPlane, Identity};
use serde_json::{Value, json};

use crate::agents::halt;
use crate::requests::{ask, get, post, until};
use crate::tools::{
    DIGEST, DRYDOCK, NODES, SOON, SYSTEM, Tries, admin, coordinator as coordinator_client, sink, upgrades,
};

const BY_COORDINATOR: &str = "NodeUpgrades are made, and their spec is written, by the coordinator alone; use `kubectl drydock cancel`";

pub async fn coordinator(cluster: Arc<ControlPlane>) {
    let name = "berth-5";
    upgrades(&cluster, &[name]).await;
    let client = coordinator_client(&cluster).await;
    let admin = admin(&cluster).await;
    let tries = Tries {
        who: "coordinator",
        client: &client,
    };
    let node = format!("{NODES}/{name}");
    let upgrade = format!("{DRYDOCK}/nodeupgrades/{name}");

    let mut object = get(&client, &upgrade).await.clean();
    object["spec"]["stage"] = json!(true);
    tries
        .done("spec of a NodeUpgrade", ("PUT", &upgrade), Some(object))
        .await;
    let cordon = json!({
        "metadata": {"annotations": {"drydock.dev/dock": "a1-1-0"}}, "spec": {"unschedulable": true},
    });
    tries
        .done(
            "cordon a Node with drydock.dev/dock",
            ("PATCH", &node),
            Some(cordon),
        )
        .await;
    let uncordon = json!({
        "metadata": {"annotations": {"drydock.dev/dock": null}}, "spec": {"unschedulable": null},
    });
    tries
        .done(
            "uncordon it, and take the mark away",
            ("PATCH", &node),
            Some(uncordon),
        )
        .await;
    let halts = format!("{DRYDOCK}/releasehalts");
    tries
        .done("make a ReleaseHalt", ("POST", &halts), Some(halt()))
        .await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "cargo"},
        "spec": {"nodeName": name, "containers": [{"name": "c", "image": "c"}]},
    });
    let pods = "/api/v1/namespaces/default/pods";
    post(&admin, pods, &pod).await.clean();
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "cargo"},
        "deleteOptions": {"gracePeriodSeconds": 0}});
    tries
        .done(
            "evict a pod",
            ("POST", &format!("{pods}/cargo/eviction")),
            Some(eviction),
        )
        .await;

    let one = format!("{halts}/{}", DIGEST.replace(':', "-"));
    let node_status = format!("{node}/status");
    let upgrade_status = format!("{upgrade}/status");
    let metadata = |field: &str, value: Value| json!({"metadata": {field: value}});
    let taint = json!([{"key": "k", "value": "v", "effect": "NoExecute"}]);
    let annotations = "of a Node's annotations the coordinator writes those under drydock.dev/ alone";
    let others = "of a Node's metadata the coordinator writes annotations under drydock.dev/ alone";
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": "other", "uid": "u"}]);
    let refused: &[(&str, &str, &str, Option<Value>, &str)] = &[
        (
            "label a Node",
            "PATCH",
            &node,
            Some(metadata("labels", json!({"x": "y"}))),
            others,
        ),
        (
            "give a Node a finalizer",
            "PATCH",
            &node,
            Some(metadata("finalizers", json!(["x.example/y"]))),
            others,
        ),
        (
            "give a Node an owner",
            "PATCH",
            &node,
            Some(metadata("ownerReferences", owner)),
            others,
        ),
        (
            "taint a Node",
            "PATCH",
            &node,
            Some(json!({"spec": {"taints": taint}})),
            "of a Node's spec the coordinator writes unschedulable alone",
        ),
        (
            "another annotation of a Node",
            "PATCH",
            &node,
            Some(metadata("annotations", json!({"x": "y"}))),
            annotations,
        ),
        (
            "one that only begins alike",
            "PATCH",
            &node,
            Some(metadata("annotations", json!({"drydock.development/x": "y"}))),
            annotations,
        ),
        (
            "make a Node",
            "POST",
            NODES,
            Some(json!({"metadata": {"name": "new"}})),
            "cannot create resource \"nodes\"",
        ),
        (
            "delete a Node",
            "DELETE",
            &node,
            None,
            "cannot delete resource \"nodes\"",
        ),
        (
            "status of a Node",
            "PATCH",
            &node_status,
            Some(json!({"status": {"phase": "Running"}})),
            "cannot patch resource \"nodes/status\"",
        ),
        (
            "status of a NodeUpgrade",
            "PATCH",
            &upgrade_status,
            Some(json!({"status": {"protocol": 1}})),
            "cannot patch resource \"nodeupgrades/status\"",
        ),
        (
            "delete a NodeUpgrade",
            "DELETE",
            &upgrade,
            None,
            "cannot delete resource \"nodeupgrades\"",
        ),
        (
            "delete a ReleaseHalt",
            "DELETE",
            &one,
            None,
            "cannot delete resource \"releasehalts\"",
        ),
        (
            "change a ReleaseHalt",
            "PATCH",
            &one,
            Some(json!({"spec": {"reason": "none"}})),
            "cannot patch resource",
        ),
        (
            "make an UpgradePolicy",
            "POST",
            &format!("{DRYDOCK}/upgradepolicies"),
            Some(json!({})),
            "cannot create resource",
        ),
        (
            "delete a pod",
            "DELETE",
            "/api/v1/namespaces/default/pods/any",
            None,
            "cannot delete resource \"pods\"",
        ),
        (
            "list Secrets",
            "GET",
            "/api/v1/secrets",
            None,
            "cannot list resource \"secrets\"",
        ),
        (
            "a Secret of its own namespace",
            "GET",
            &format!("/api/v1/namespaces/{SYSTEM}/secrets/x"),
            None,
            "cannot get resource \"secrets\"",
        ),
        (
            "a ConfigMap elsewhere",
            "GET",
            "/api/v1/namespaces/kube-system/configmaps/x",
            None,
            "cannot get resource \"configmaps\"",
        ),
        (
            "a Lease elsewhere",
            "GET",
            "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x",
            None,
            "cannot get resource \"leases\"",
        ),
        (
            "give itself rights",
            "PATCH",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/drydock-coordinator",
            Some(json!({"rules": []})),
            "cannot patch resource \"clusterroles\"",
        ),
        (
            "take a policy away",
            "DELETE",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/drydock-coordinator-on-nodes",
            None,
            "cannot delete resource",
        ),
    ];
    for (what, method, path, body, says) in refused {
        tries
            .refused(what, (method, path), body.clone(), (403, says))
            .await;
    }
}

pub async fn people(cluster: Arc<ControlPlane>) {
    let name = "berth-6";
    upgrades(&cluster, &[name]).await;
    let admin = admin(&cluster).await;
    let upgrade = format!("{DRYDOCK}/nodeupgrades/{name}");
    let tries = Tries {
        who: "cluster admin",
        client: &admin,
    };
    let stage = || Some(json!({"spec": {"stage": true}}));
    tries
        .refused(
            "spec of a NodeUpgrade",
            ("PATCH", &upgrade),
            stage(),
            (403, BY_COORDINATOR),
        )
        .await;
    let label = Some(json!({"metadata": {"labels": {"berth": "six"}}}));
    tries
        .done("label a NodeUpgrade", ("PATCH", &upgrade), label)
        .await;
    tries
        .refused(
            "status of a NodeUpgrade",
            ("PATCH", &format!("{upgrade}/status")),
            Some(json!({"status": {"protocol": 1}})),
            (403, "by the agent of that node alone"),
        )
        .await;

    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "jane"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "drydock-operator"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}],
    });
    post(
        &admin,
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        &binding,
    )
    .await
    .clean();
    let jane = cluster.client(&Identity::user("jane", &[])).await.unwrap();
    until(SOON, || get(&jane, &upgrade), |answer| answer.code == 200).await;
    let tries = Tries {
        who: "drydock-operator",
        client: &jane,
    };
    tries
        .refused(
            "spec of a NodeUpgrade",
            ("PATCH", &upgrade),
            stage(),
            (403, "cannot patch resource \"nodeupgrades\""),
        )
        .await;
    let cancel = Some(json!({"metadata": {"annotations": {"drydock.dev/ask": "a1"}}}));
    tries
        .done("ask on a Node", ("PATCH", &format!("{NODES}/{name}")), cancel)
        .await;
    let halts = format!("{DRYDOCK}/releasehalts");
    let one = format!("{halts}/{}", DIGEST.replace(':', "-"));
    tries.done("lift a halt", ("DELETE", &one), None).await;
    tries.done("halt a release", ("POST", &halts), Some(halt())).await;
    ask(&jane, "DELETE", &one, None).await.clean();
    ask(
        &admin,
        "DELETE",
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/jane",
        None,
    )
    .await
    .clean();
}

/// The garbage collector, not Drydock, deletes the NodeUpgrade of a Node that is gone.
pub async fn collected(cluster: Arc<ControlPlane>) {
    let name = "berth-7";
    upgrades(&cluster, &[name]).await;
    let admin = admin(&cluster).await;
    ask(&admin, "DELETE", &format!("{NODES}/{name}"), None)
        .await
        .clean();
    let upgrade = format!("{DRYDOCK}/nodeupgrades/{name}");
    let deleted = std::time::Instant::now();
    until(
        Duration::from_secs(120),
        || get(&admin, &upgrade),
        |answer| answer.code == 404,
    )
    .await;
    println!(
        "the NodeUpgrade went {:.1} s after its Node",
        deleted.elapsed().as_secs_f64()
    );
    sink(&admin, &["berth-5", "berth-6"]).await;
}
