//! The manifests as kubectl applies and deletes them.

use std::sync::Arc;
use std::time::Duration;

use drydock_integration::realcluster::{ControlPlane, Identity};
use serde_json::{Value, json};

use crate::requests::{ask, get, post, until};
use crate::tools::{
    AGENTS, DRYDOCK, NODES, SOON, SYSTEM, admin, clean, drydock, kubectl, manifests, node, upgrades,
};

const WAYS: [&str; 2] = ["unit", "daemon-set"];
const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";

async fn dry_run(cluster: &ControlPlane, way: &str) -> String {
    let words = ["install", "--agents", way, "--dry-run=server"];
    let (told, ended) = drydock(cluster, &Identity::Admin, &words).await;
    assert!(ended.is_ok() && !told.contains("REFUSED"), "{way}: {told}");
    told
}

/// The server judges every manifest, though the namespaces of some are not there, and keeps none.
pub async fn dry_run_before(cluster: Arc<ControlPlane>) {
    for way in WAYS {
        let told = dry_run(&cluster, way).await;
        assert!(
            told.contains(&format!("(tried in default: {SYSTEM} is not there yet)")),
            "{told}"
        );
    }
    let admin = admin(&cluster).await;
    let space = get(&admin, &format!("/api/v1/namespaces/{SYSTEM}")).await;
    assert_eq!(space.code, 404, "a dry run has kept something");
}

/// `kubectl drydock install | kubectl apply -f -`, once and again.
async fn apply(cluster: &ControlPlane, way: &str) {
    let text = manifests(cluster, &["--agents", way]).await;
    let told = clean(&kubectl(cluster, &["apply", "-f", "-"], text.clone()).await);
    assert!(told.contains("created"), "{told}");
    let again = clean(&kubectl(cluster, &["apply", "-f", "-"], text).await);
    let changed: Vec<&str> = again
        .lines()
        .filter(|line| !line.ends_with("unchanged"))
        // kubectl replaces the selector of a budget each time, by the same one.
        .filter(|line| !line.starts_with("poddisruptionbudget.policy/"))
        .collect();
    assert!(changed.is_empty(), "{way}, applied again: {changed:#?}");
    let told = dry_run(cluster, way).await;
    assert!(!told.contains("tried in"), "{told}");
    let admin = admin(cluster).await;
    for plural in [
        "imagerepositories",
        "upgradepolicies",
        "nodeupgrades",
        "releasehalts",
    ] {
        let path = format!("{DRYDOCK}/{plural}");
        until(SOON, || get(&admin, &path), |answer| answer.code == 200).await;
    }
}

pub async fn units(cluster: Arc<ControlPlane>) {
    apply(&cluster, "unit").await;
    in_force(&cluster).await;
}

pub async fn daemon_set(cluster: Arc<ControlPlane>) {
    apply(&cluster, "daemon-set").await;
    // The strictest level takes the coordinator's pods, the most open one the agents'.
    let admin = admin(&cluster).await;
    let pods = format!("/api/v1/namespaces/{SYSTEM}/pods");
    until(
        SOON,
        || get(&admin, &pods),
        |answer| {
            answer.body["items"]
                .as_array()
                .is_some_and(|pods| pods.len() == 2)
        },
    )
    .await;
    node(&admin, "keel").await;
    let pods = format!("/api/v1/namespaces/{AGENTS}/pods");
    until(
        SOON,
        || get(&admin, &pods),
        |answer| {
            let pods = answer.body["items"].as_array();
            pods.is_some_and(|pods| !pods.is_empty())
        },
    )
    .await;
    ask(&admin, "DELETE", &format!("{NODES}/keel"), None)
        .await
        .clean();
}

/// From agents as pods back to units: apply, and remove the namespace that is of no use any more.
pub async fn as_units(cluster: &ControlPlane) {
    let text = manifests(cluster, &["--agents", "unit"]).await;
    clean(&kubectl(cluster, &["apply", "-f", "-"], text).await);
    let words = ["delete", "namespace", AGENTS, "--timeout=120s"];
    clean(&kubectl(cluster, &words, String::new()).await);
}

/// A policy is enforced a moment after it was made: until then nobody's refusal is worth anything.
pub async fn in_force(cluster: &ControlPlane) {
    let admin = admin(cluster).await;
    let body = json!({
        "apiVersion": "drydock.dev/v1alpha1", "kind": "NodeUpgrade",
        "metadata": {"name": "not-yet"}, "spec": {},
    });
    let path = format!("{DRYDOCK}/nodeupgrades?dryRun=All");
    until(SOON, || post(&admin, &path, &body), |answer| answer.code == 403).await;
}

/// The API server checks the types of every expression, and finds nothing.
pub async fn type_checks(cluster: Arc<ControlPlane>) {
    let admin = admin(&cluster).await;
    // One that is wrong is found; so the others were looked at.
    let wrong = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "drydock-wrong"},
        "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": ["drydock.dev"],
                "apiVersions": ["v1alpha1"], "operations": ["UPDATE"], "resources": ["nodeupgrades"]}]},
            "validations": [{"expression": "object.spec.sails == 3"}],
        },
    });
    post(&admin, POLICIES, &wrong).await.clean();
    let seen = |policy: &Value| policy["status"]["observedGeneration"] == policy["metadata"]["generation"];
    let answer = until(
        Duration::from_secs(60),
        || get(&admin, POLICIES),
        |answer| answer.body["items"].as_array().unwrap().iter().all(seen),
    )
    .await
    .clean();
    for policy in answer["items"].as_array().unwrap() {
        let warnings = &policy["status"]["typeChecking"]["expressionWarnings"];
        if policy["metadata"]["name"] == "drydock-wrong" {
            assert!(warnings.to_string().contains("sails"), "{policy:#}");
        } else {
            assert!(warnings.is_null(), "{warnings:#} in {policy:#}");
        }
    }
    ask(&admin, "DELETE", &format!("{POLICIES}/drydock-wrong"), None)
        .await
        .clean();
}

/// Every object of an installation that is still there.
pub async fn left(cluster: &ControlPlane) -> Vec<String> {
    let kinds = "namespaces,crds,validatingadmissionpolicies,validatingadmissionpolicybindings,\
                 clusterroles,clusterrolebindings,roles,rolebindings,serviceaccounts,deployments,\
                 daemonsets,networkpolicies,poddisruptionbudgets";
    let words = [
        "get",
        kinds,
        "--all-namespaces",
        "--selector=app.kubernetes.io/part-of=drydock",
        "--output=name",
    ];
    let output = kubectl(cluster, &words, String::new()).await;
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// What an uninstall that keeps what is held leaves.
pub fn only_resources(left: &[String]) {
    let is_resource = |name: &String| name.contains("customresourcedefinition");
    assert!(left.len() == 4 && left.iter().all(is_resource), "{left:#?}");
}

/// First all but the resources: what they hold is kept. Then all: nothing is left.
pub async fn uninstall(cluster: Arc<ControlPlane>) {
    upgrades(&cluster, &["hull"]).await;
    let all = ["delete", "--ignore-not-found", "--timeout=120s", "-f", "-"];
    let text = manifests(&cluster, &["--agents", "daemon-set", "--part", "rest"]).await;
    clean(&kubectl(&cluster, &all, text).await);
    only_resources(&left(&cluster).await);
    let admin = admin(&cluster).await;
    get(&admin, &format!("{DRYDOCK}/nodeupgrades/hull")).await.clean();

    let text = manifests(&cluster, &["--agents", "daemon-set", "--part", "resources"]).await;
    clean(&kubectl(&cluster, &all, text).await);
    assert_eq!(left(&cluster).await, Vec::<String>::new());
    let path = format!("{DRYDOCK}/nodeupgrades");
    until(SOON, || get(&admin, &path), |answer| answer.code == 404).await;
    ask(&admin, "DELETE", &format!("{NODES}/hull"), None)
        .await
        .clean();
}
