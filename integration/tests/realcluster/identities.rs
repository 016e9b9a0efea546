//! Who the server says that its clients are, and what it lets them do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use drydock_integration::realcluster::{AuditEntry, ControlPlane, Identity};
use serde_json::{Value, json};

use crate::requests::{Answer, ask, get, post, until};

const NODES: &str = "/api/v1/nodes";
/// A right just given is known to the authorizer when its watch has told it.
const SOON: Duration = Duration::from_secs(20);

async fn review(client: &kube::Client) -> Answer {
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    post(client, "/apis/authentication.k8s.io/v1/selfsubjectreviews", &body).await
}

fn groups(user: &Value) -> Vec<&str> {
    user["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| group.as_str().unwrap())
        .collect()
}

async fn node(admin: &kube::Client, name: &str) {
    let body = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    post(admin, NODES, &body).await.clean();
}

pub async fn users(cluster: Arc<ControlPlane>) {
    let admin = cluster.client(&Identity::Admin).await.unwrap();
    let names = ["operators", "night-shift", "a group of many words, and a comma"];
    let jane = cluster.client(&Identity::user("jane", &names)).await.unwrap();
    let seen = review(&jane).await.clean();
    let user = &seen["status"]["userInfo"];
    assert_eq!(user["username"], "jane");
    for name in names {
        assert!(groups(user).contains(&name), "{user:#}");
    }

    let refused = get(&jane, NODES).await;
    assert!(
        refused.code == 403 && refused.message().contains("jane"),
        "{refused:#?}"
    );
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "see-nodes"},
        "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "see-nodes"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "see-nodes"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "night-shift"}],
    });
    post(&admin, &format!("{rbac}/clusterroles"), &role).await.clean();
    post(&admin, &format!("{rbac}/clusterrolebindings"), &binding)
        .await
        .clean();
    until(SOON, || get(&jane, NODES), |answer| answer.code == 200).await;
}

pub async fn nodes(cluster: Arc<ControlPlane>) {
    let admin = cluster.client(&Identity::Admin).await.unwrap();
    for name in ["quay-1", "quay-2"] {
        node(&admin, name).await;
    }
    let kubelet = cluster.client(&Identity::node("quay-1")).await.unwrap();
    let seen = review(&kubelet).await.clean();
    let user = &seen["status"]["userInfo"];
    assert_eq!(user["username"], "system:node:quay-1");
    assert!(groups(user).contains(&"system:nodes"), "{user:#}");
    // A kubelet is known by its name; only tokens carry the node in their extra.
    assert!(
        user["extra"]["authentication.kubernetes.io/node-name"].is_null(),
        "{user:#}"
    );

    let label = json!({"metadata": {"labels": {"berth": "north"}}});
    let patch = |name: &'static str| {
        let (kubelet, label) = (kubelet.clone(), label.clone());
        async move { ask(&kubelet, "PATCH", &format!("{NODES}/{name}"), Some(&label)).await }
    };
    patch("quay-1").await.clean();
    let refused = patch("quay-2").await;
    assert!(
        refused.code == 403 && refused.message().contains("quay-2"),
        "{refused:#?}"
    );
    // The node authorizer allows a node to write itself, NodeRestriction forbids this label of it.
    let restricted = json!({"metadata": {"labels": {"node-restriction.kubernetes.io/berth": "south"}}});
    let refused = ask(&kubelet, "PATCH", &format!("{NODES}/quay-1"), Some(&restricted)).await;
    assert!(
        refused.code == 403 && refused.message().contains("node-restriction"),
        "{refused:#?}"
    );
}

pub async fn pods(cluster: Arc<ControlPlane>) {
    let admin = cluster.client(&Identity::Admin).await.unwrap();
    node(&admin, "quay-3").await;
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "drydock-system"}});
    post(&admin, "/api/v1/namespaces", &space).await.clean();
    let inside = "/api/v1/namespaces/drydock-system";
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "agent"}});
    post(&admin, &format!("{inside}/serviceaccounts"), &account)
        .await
        .clean();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "agent-x"},
        "spec": {
            "nodeName": "quay-3", "serviceAccountName": "agent",
            "containers": [{"name": "agent", "image": "agent"}],
        },
    });
    let pod = post(&admin, &format!("{inside}/pods"), &pod).await.clean();

    let plain = cluster
        .client(&Identity::service_account("drydock-system", "agent"))
        .await
        .unwrap();
    let seen = review(&plain).await.clean();
    let extra = &seen["status"]["userInfo"]["extra"];
    assert!(
        extra["authentication.kubernetes.io/node-name"].is_null(),
        "{seen:#}"
    );

    let bound = cluster
        .client(&Identity::pod("drydock-system", "agent", "agent-x"))
        .await
        .unwrap();
    let seen = review(&bound).await.clean();
    let user = &seen["status"]["userInfo"];
    assert_eq!(user["username"], "system:serviceaccount:drydock-system:agent");
    for (key, value) in [
        ("node-name", &json!("quay-3")),
        ("pod-name", &json!("agent-x")),
        ("pod-uid", &pod["metadata"]["uid"]),
    ] {
        let key = format!("authentication.kubernetes.io/{key}");
        assert_eq!(user["extra"][&key], json!([value]), "{key} in {user:#}");
    }

    let now = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
    ask(&admin, "DELETE", &format!("{inside}/pods/agent-x"), Some(&now))
        .await
        .clean();
    let deleted = Instant::now();
    // The server may have the token in its cache, for 10 s at most.
    let refused = until(
        Duration::from_secs(15),
        || review(&bound),
        |answer| answer.code == 401,
    )
    .await;
    assert_eq!(refused.body["reason"], "Unauthorized", "{refused:#?}");
    println!(
        "the deleted pod's token was refused after {:.1} s",
        deleted.elapsed().as_secs_f64()
    );
    review(&plain).await.clean();
}

pub async fn audit(cluster: Arc<ControlPlane>) {
    let admin = cluster.client(&Identity::Admin).await.unwrap();
    let mut config = cluster.config(&Identity::Admin).await.unwrap();
    config.auth_info.impersonate = Some("john".into());
    let as_john = kube::Client::try_from(config).unwrap();

    let mark = cluster.audit().mark().unwrap();
    assert_eq!(
        get(&as_john, "/api/v1/namespaces/default/secrets/none")
            .await
            .code,
        403
    );
    node(&admin, "quay-4").await;
    let taint = json!({"status": {"phase": "Running"}});
    ask(&admin, "PATCH", &format!("{NODES}/quay-4/status"), Some(&taint))
        .await
        .clean();

    let log = cluster.audit();
    let find = async |is_meant: fn(&AuditEntry) -> bool| {
        log.wait_for(mark, Duration::from_secs(10), is_meant)
            .await
            .unwrap()
    };
    let secret = find(|entry| entry.resource == "secrets" && entry.name == "none").await;
    assert_eq!(
        (
            secret.user.as_str(),
            secret.impersonated.as_deref(),
            secret.verb.as_str(),
            secret.code
        ),
        ("drydock:admin", Some("john"), "get", Some(403)),
        "{secret:#?}"
    );
    assert_eq!(
        (secret.namespace.as_str(), secret.decision.as_deref()),
        ("default", Some("forbid"))
    );
    let patch = find(|entry| entry.verb == "patch" && entry.user == "drydock:admin").await;
    assert_eq!(
        (
            patch.resource.as_str(),
            patch.subresource.as_str(),
            patch.name.as_str(),
            patch.code
        ),
        ("nodes", "status", "quay-4", Some(200)),
        "{patch:#?}"
    );
    let (_, end) = log.since(mark).unwrap();
    assert!(end > mark);
    // Bodies hold tokens and Secrets: none may be there.
    let text = std::fs::read_to_string(log.path()).unwrap();
    assert!(!text.contains("requestObject") && !text.contains("responseObject"));
}
