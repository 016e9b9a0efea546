//! `kubectl drydock doctor` on an installation that is whole, and with one thing broken at a time.

use std::sync::Arc;

use drydock_integration::realcluster::{ControlPlane, Identity};
use serde_json::{Value, json};

use crate::requests::ask;
use crate::tools::{SYSTEM, admin, clean, drydock, kubectl, manifests};

/// What the doctor found that is BAD: what, and the text.
async fn bad(cluster: &ControlPlane) -> Vec<(String, String)> {
    let (told, ended) = drydock(cluster, &Identity::Admin, &["doctor", "-o", "json"]).await;
    let found: Vec<Value> = serde_json::from_str(&told).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let bad: Vec<_> = found
        .iter()
        .filter(|one| one["verdict"] == "BAD")
        .map(|one| (text(&one["what"]), text(&one["text"])))
        .collect();
    assert_eq!(ended.is_err(), !bad.is_empty(), "{told}");
    bad
}

async fn mend(cluster: &ControlPlane) {
    let text = manifests(cluster, &["--agents", "daemon-set"]).await;
    clean(&kubectl(cluster, &["apply", "-f", "-"], text).await);
}

pub async fn finds(cluster: Arc<ControlPlane>) {
    let admin = admin(&cluster).await;
    // No node, so no pod runs; nothing else is wrong.
    let names = |found: &[(String, String)]| found.iter().map(|(what, _)| what.clone()).collect::<Vec<_>>();
    let fresh = bad(&cluster).await;
    assert_eq!(names(&fresh), ["coordinator", "leader"], "{fresh:#?}");
    assert!(fresh[1].1.contains("nobody has ever led"), "{fresh:#?}");

    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let admission = "/apis/admissionregistration.k8s.io/v1";
    let more = json!({"rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["*"]}]});
    let off = json!({"spec": {"validationActions": ["Audit"]}});
    let open = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}});
    let broken = [
        (
            "DELETE",
            format!("{admission}/validatingadmissionpolicybindings/drydock-status-of-own-node"),
            None,
            "ValidatingAdmissionPolicyBinding drydock-status-of-own-node",
            "is missing",
        ),
        (
            "DELETE",
            format!("{rbac}/namespaces/default/rolebindings/drydock-coordinator-events"),
            None,
            "RoleBinding drydock-coordinator-events",
            "is missing",
        ),
        (
            "PATCH",
            format!("{rbac}/clusterroles/drydock-coordinator"),
            Some(more),
            "ClusterRole drydock-coordinator",
            "rules is not as this version has it",
        ),
        (
            "PATCH",
            format!("{admission}/validatingadmissionpolicybindings/drydock-spec-by-coordinator"),
            Some(off),
            "ValidatingAdmissionPolicyBinding drydock-spec-by-coordinator",
            "spec.validationActions[0] is not",
        ),
    ];
    for (method, path, body, what, says) in broken {
        ask(&admin, method, &path, body.as_ref()).await.clean();
        let found = bad(&cluster).await;
        let said = found.iter().find(|(which, _)| which == what);
        assert!(
            found.len() == 3 && said.is_some_and(|(_, text)| text.contains(says)),
            "{what}: {found:#?}"
        );
        mend(&cluster).await;
        assert_eq!(bad(&cluster).await, fresh, "{what} was mended");
    }

    // A namespace that somebody else made is looked at, and is no harm.
    let path = format!("/api/v1/namespaces/{SYSTEM}");
    ask(&admin, "PATCH", &path, Some(&open)).await.clean();
    assert_eq!(bad(&cluster).await, fresh);
    let (told, _) = drydock(&cluster, &Identity::Admin, &["doctor"]).await;
    let row = told
        .lines()
        .find(|line| line.contains("Namespace drydock-system "));
    assert!(
        row.is_some_and(|row| row.contains("look") && row.contains("enforce")),
        "{told}"
    );
    mend(&cluster).await;

    // A leader that went without a word.
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases");
    let lease = |renewed: &str| {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "drydock-coordinator"},
            "spec": {"holderIdentity": "coordinator-1_x", "renewTime": renewed},
        })
    };
    ask(
        &admin,
        "POST",
        &leases,
        Some(&lease("2026-01-01T00:00:00.000000Z")),
    )
    .await
    .clean();
    let found = bad(&cluster).await;
    assert!(
        found[1].1.contains("coordinator-1_x has not renewed its Lease"),
        "{found:#?}"
    );
    let path = format!("{leases}/drydock-coordinator");
    let now = format!("{:.6}", jiff::Timestamp::now());
    ask(&admin, "PATCH", &path, Some(&lease(&now))).await.clean();
    assert_eq!(names(&bad(&cluster).await), ["coordinator"]);
    ask(&admin, "DELETE", &path, None).await.clean();
}
