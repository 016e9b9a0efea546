//! Which fields the main endpoint and `/status` let through, and the generations that follow.

use serde_json::{Value, json};

use super::talk::{Talk, pod, running};

const PARTS: [&str; 6] = [
    "/metadata/labels",
    "/metadata/annotations",
    "/metadata/finalizers",
    "/metadata/generation",
    "/spec/unschedulable",
    "/status/phase",
];

/// Asks for metadata, spec and status in one patch.
fn everything(spec: Value, status: Value) -> Value {
    json!({
        "metadata": {"labels": {"l": "x"}, "annotations": {"a": "x"}, "finalizers": ["example.com/x"]},
        "spec": spec, "status": status,
    })
}

pub async fn nodes(t: Talk) {
    let node = t.node().await;
    let path = format!("/api/v1/nodes/{node}");
    let status = json!({"phase": "Running", "nodeInfo": {"bootID": "b", "machineID": "m", "systemUUID": "", "kernelVersion": "", "osImage": "", "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "", "architecture": ""}});
    let body = everything(json!({"unschedulable": true}), status);
    let parts = [&PARTS[..], &["/status/nodeInfo/bootID", "/spec/podCIDR"]].concat();
    t.parts(
        "status",
        &t.merge(&format!("{path}/status"), body.clone()).await,
        &parts,
    );
    t.parts("main", &t.merge(&path, body).await, &parts);
    let gone = json!({"metadata": {"finalizers": null}});
    t.parts(
        "status takes no finalizers",
        &t.merge(&format!("{path}/status"), gone.clone()).await,
        &parts,
    );
    t.merge(&path, gone).await.ok();
    let mut stale = t.get(&path).await.ok();
    t.merge(&path, json!({"metadata": {"labels": {"l": "y"}}}))
        .await
        .ok();
    stale["status"]["phase"] = json!("Pending");
    t.expect(
        "an old version",
        409,
        t.put(&format!("{path}/status"), stale).await,
    );
    t.parts(
        "get status",
        &t.get(&format!("{path}/status")).await,
        &["/kind", "/metadata/name"],
    );
    let bare = t
        .post(
            "/api/v1/nodes",
            json!({"metadata": {"name": "statuses-bare"}, "status": {"phase": "Running"}}),
        )
        .await;
    t.parts("created with a status", &bare, &["/status/phase"]);
    t.parts("taints of a new node", &bare, &["/spec/taints"]);
    let config =
        json!({"spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"], "providerID": "a://b"}});
    t.parts(
        "spec set once",
        &t.merge("/api/v1/nodes/statuses-bare", config).await,
        &["/spec/providerID"],
    );
    let other = json!({"spec": {"providerID": "a://c"}});
    t.told(
        "and not again",
        t.merge("/api/v1/nodes/statuses-bare", other).await,
    );
}

pub async fn pods(t: Talk) {
    let node = t.node().await;
    let made = t.post(&t.core("pods"), pod("p", &node)).await;
    t.parts(
        "made",
        &made,
        &[
            "/status/phase",
            "/status/qosClass",
            "/metadata/generation",
            "/spec/restartPolicy",
            "/spec/terminationGracePeriodSeconds",
            "/spec/schedulerName",
            "/spec/dnsPolicy",
        ],
    );
    t.parts("default tolerations", &made, &["/spec/tolerations"]);
    let p = t.core("pods/p");
    let body = everything(json!({"activeDeadlineSeconds": 50}), running());
    let parts = [
        &PARTS[..],
        &["/spec/activeDeadlineSeconds", "/status/conditions/0/type"],
    ]
    .concat();
    t.parts(
        "status",
        &t.merge(&format!("{p}/status"), body.clone()).await,
        &parts,
    );
    let body = everything(json!({"activeDeadlineSeconds": 50}), json!({"phase": "Failed"}));
    t.parts("main", &t.merge(&p, body).await, &parts);
    t.merge(&p, json!({"metadata": {"finalizers": null}})).await.ok();
    for (step, spec) in [
        ("another node", json!({"nodeName": "other"})),
        ("another policy", json!({"restartPolicy": "Never"})),
        (
            "another image",
            json!({"containers": [{"name": "c", "image": "busybox:2"}]}),
        ),
        (
            "more containers",
            json!({"containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]}),
        ),
        (
            "another grace period",
            json!({"terminationGracePeriodSeconds": 5}),
        ),
    ] {
        let answer = t.merge(&p, json!({"spec": spec})).await;
        // The message shows the whole spec.
        t.note(
            step,
            json!([
                answer.code,
                answer.body["reason"],
                answer.body["details"]["causes"][0]["reason"],
                answer.body["details"]["causes"][0]["field"]
            ]),
        );
    }
    for (step, spec) in [
        ("no containers", json!({"containers": []})),
        ("no image", json!({"containers": [{"name": "c"}]})),
        ("no name", json!({"containers": [{"image": "c"}]})),
        (
            "two of a name",
            json!({"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]}),
        ),
        (
            "a wrong name",
            json!({"containers": [{"name": "C_", "image": "i"}]}),
        ),
    ] {
        let body = json!({"metadata": {"name": "wrong"}, "spec": spec});
        t.told(step, t.post(&t.core("pods?dryRun=All"), body).await);
    }
    let mut unbound = pod("u", "");
    unbound["spec"] = json!({"containers": [{"name": "c", "image": "i"}], "schedulerName": "nobody"});
    t.post(&t.core("pods"), unbound).await.ok();
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "u"}, "target": {"kind": "Node", "name": node}});
    t.expect(
        "binding",
        201,
        t.post(&t.core("pods/u/binding"), binding.clone()).await,
    );
    t.told("binding again", t.post(&t.core("pods/u/binding"), binding).await);
    let bound = t.get(&t.core("pods/u")).await;
    t.note(
        "bound",
        json!([
            bound.body["spec"]["nodeName"],
            bound.body["status"]["conditions"][0]["type"]
        ]),
    );
}

pub async fn budgets(t: Talk) {
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "none"}}}, "status": {"currentHealthy": 7}});
    let made = t.post(&t.pdb(""), budget).await;
    t.parts("made", &made, &["/metadata/generation", "/status", "/spec"]);
    t.until("its status", &t.pdb("/b"), |a| {
        a.body["status"]["observedGeneration"] == 1
    })
    .await;
    let parts = ["/metadata/generation", "/metadata/labels", "/spec/minAvailable"];
    let body = everything(json!({"minAvailable": 2}), json!({"currentHealthy": 9}));
    t.parts("status", &t.merge(&t.pdb("/b/status"), body).await, &parts);
    t.parts(
        "main",
        &t.merge(&t.pdb("/b"), json!({"spec": {"minAvailable": 2}})).await,
        &parts,
    );
    t.parts(
        "metadata alone",
        &t.merge(&t.pdb("/b"), json!({"metadata": {"labels": {"m": "x"}}}))
            .await,
        &parts,
    );
    for (step, spec) in [
        ("both", json!({"minAvailable": 1, "maxUnavailable": 1})),
        ("below nothing", json!({"minAvailable": -1})),
        ("above all", json!({"minAvailable": "101%"})),
        ("no percentage", json!({"minAvailable": "half"})),
        ("neither", json!({})),
        (
            "a wrong policy",
            json!({"minAvailable": 1, "unhealthyPodEvictionPolicy": "Sometimes"}),
        ),
        (
            "a wrong selector",
            json!({"minAvailable": 1, "selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
        ),
    ] {
        let body = json!({"metadata": {"name": "wrong"}, "spec": spec});
        let mut told = t.post(&format!("{}?dryRun=All", t.pdb("")), body).await.outcome();
        if step == "both" {
            // The words show the whole spec, as the server holds it.
            told = json!([told["code"], told["reason"], told["causes"][0]["field"]]);
        }
        t.note(step, told);
    }
    let put = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1}});
    t.told("a replace without a version", t.put(&t.pdb("/b"), put).await);
}

pub async fn generations(t: Talk) {
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    for (kind, plural) in [
        ("Deployment", "deployments"),
        ("ReplicaSet", "replicasets"),
        ("DaemonSet", "daemonsets"),
    ] {
        let mut spec = spec.clone();
        if kind == "DaemonSet" {
            spec.as_object_mut().unwrap().remove("replicas");
        }
        let path = t.of("apps/v1", plural);
        let body = json!({"metadata": {"name": "w"}, "spec": spec, "status": {"observedGeneration": 9}});
        let made = t.post(&path, body).await;
        let parts = [
            "/metadata/generation",
            "/status/observedGeneration",
            "/spec/replicas",
            "/spec/selector",
        ];
        t.parts(&format!("{kind} made"), &made, &parts);
        let one = format!("{path}/w");
        let change = json!({"spec": {"minReadySeconds": 3}, "status": {"observedGeneration": 4}});
        t.parts(
            &format!("{kind} main"),
            &t.merge(&one, change.clone()).await,
            &parts,
        );
        let change = json!({"spec": {"minReadySeconds": 4}, "status": {"observedGeneration": 4}});
        t.parts(
            &format!("{kind} status"),
            &t.merge(&format!("{one}/status"), change).await,
            &parts,
        );
        let label = json!({"metadata": {"labels": {"l": "x"}}});
        t.parts(&format!("{kind} label"), &t.merge(&one, label).await, &parts);
    }
}
