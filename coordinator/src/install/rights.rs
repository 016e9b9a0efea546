//! Who may do what: exactly the verbs that coordinator and agents use, which a test compares with the
//! API server's audit log of a whole rollout. Nothing here may delete anything.

use serde_json::{Value, json};

use super::{AGENT, Agents, COORDINATOR, Installation};

const RBAC: &str = "rbac.authorization.k8s.io/v1";
/// Events about Nodes, which have no namespace, are written there.
const EVENTS_NAMESPACE: &str = "default";

/// `resources` may name subresources.
fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

fn cluster_role(name: &str, rules: &[Value]) -> Value {
    json!({"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules})
}

fn binding(name: &str, subjects: &Value) -> Value {
    json!({
        "apiVersion": RBAC, "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": subjects,
    })
}

/// A Role and its binding to one ServiceAccount.
fn role(namespace: &str, name: &str, rules: &[Value], subject: &Value) -> [Value; 2] {
    let metadata = json!({"name": name, "namespace": namespace});
    [
        json!({"apiVersion": RBAC, "kind": "Role", "metadata": metadata, "rules": rules}),
        json!({
            "apiVersion": RBAC, "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [subject],
        }),
    ]
}

fn account(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": namespace},
    })
}

fn subject(namespace: &str, name: &str) -> Value {
    json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
}

/// What the coordinator does in the whole cluster.
fn coordinator_rules() -> Vec<Value> {
    const LOOK: [&str; 3] = ["get", "list", "watch"];
    vec![
        rule("", &["nodes"], &["get", "list", "watch", "patch"]),
        rule("", &["pods"], &["list", "watch"]),
        rule("", &["pods/eviction"], &["create"]),
        rule("apps", &["daemonsets"], &["get"]),
        // Where a policy waits for volumes.
        rule("storage.k8s.io", &["volumeattachments"], &["list", "watch"]),
        rule("", &["persistentvolumeclaims"], &["get"]),
        rule(
            "drydock.dev",
            &["nodeupgrades"],
            &["get", "list", "watch", "create", "update"],
        ),
        rule("drydock.dev", &["upgradepolicies", "imagerepositories"], &LOOK),
        rule(
            "drydock.dev",
            &["upgradepolicies/status", "imagerepositories/status"],
            &["update"],
        ),
        rule(
            "drydock.dev",
            &["releasehalts"],
            &["get", "list", "watch", "create"],
        ),
    ]
}

/// What an agent does. An admission policy leaves it its own object; RBAC alone cannot.
fn agent_rules() -> Vec<Value> {
    vec![
        rule("drydock.dev", &["nodeupgrades"], &["get", "list", "watch"]),
        rule("drydock.dev", &["nodeupgrades/status"], &["patch"]),
    ]
}

/// For people: what the cluster's own roles `view` and `admin` take over.
fn people() -> Vec<Value> {
    let all = [
        "nodeupgrades",
        "upgradepolicies",
        "imagerepositories",
        "releasehalts",
    ];
    let aggregated = |name: &str, to: &str, rules: &[Value]| {
        let mut role = cluster_role(name, rules);
        role["metadata"]["labels"] = json!({format!("rbac.authorization.k8s.io/aggregate-to-{to}"): "true"});
        role
    };
    let steer = [
        rule(
            "drydock.dev",
            &["upgradepolicies", "imagerepositories"],
            &["create", "update", "patch", "delete"],
        ),
        rule("drydock.dev", &["releasehalts"], &["create", "delete"]),
    ];
    vec![
        aggregated(
            "drydock-view",
            "view",
            &[rule("drydock.dev", &all, &["get", "list", "watch"])],
        ),
        // Not for `admin` or `edit`: those are given out per namespace, and these objects have none.
        cluster_role("drydock-operator", &{
            let mut rules = vec![
                rule("drydock.dev", &all, &["get", "list", "watch"]),
                rule("", &["nodes"], &["get", "list", "patch"]),
                rule("", &["pods"], &["get", "list"]),
                rule("events.k8s.io", &["events"], &["list"]),
                rule("storage.k8s.io", &["volumeattachments"], &["list"]),
                rule("", &["persistentvolumeclaims"], &["get"]),
            ];
            rules.extend(steer);
            rules
        }),
    ]
}

impl Installation {
    /// Accounts, roles and bindings.
    pub(super) fn rights(&self) -> Vec<Value> {
        let namespace = &self.namespace;
        let coordinator = subject(namespace, COORDINATOR);
        let mut all = vec![
            account(namespace, COORDINATOR),
            cluster_role(COORDINATOR, &coordinator_rules()),
            binding(COORDINATOR, &json!([coordinator])),
        ];
        let own = [
            rule("coordination.k8s.io", &["leases"], &["get", "create", "update"]),
            rule("", &["configmaps"], &["get"]),
        ];
        all.extend(role(namespace, COORDINATOR, &own, &coordinator));
        let events = [rule("events.k8s.io", &["events"], &["create", "patch"])];
        all.extend(role(
            EVENTS_NAMESPACE,
            "drydock-coordinator-events",
            &events,
            &coordinator,
        ));
        let agents = match self.agents {
            Agents::Unit => json!([
                {"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:nodes"},
            ]),
            Agents::DaemonSet => {
                all.push(account(&self.agents_namespace(), AGENT));
                json!([subject(&self.agents_namespace(), AGENT)])
            }
        };
        all.push(cluster_role(AGENT, &agent_rules()));
        all.push(binding(AGENT, &agents));
        all.extend(people());
        all
    }
}
