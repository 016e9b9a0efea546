//! What runs: namespaces with their Pod Security levels, the coordinator's Deployment with its budget and
//! network policy, and the agents' DaemonSet.

use serde_json::{Value, json};

use super::{AGENT, Agents, COORDINATOR, Installation};

/// Port of /metrics, /healthz and /readyz.
const PAGES_PORT: u16 = 8080;
/// Folders of the host that an agent works on, and how: devices, the state partition, the guard's socket,
/// and the node's own configuration with its roots of trust.
const HOST_FOLDERS: [(&str, &str, &str); 6] = [
    ("devices", "/dev", "rw"),
    ("state", "/var/lib/drydock", "rw"),
    ("socket", "/run/drydock", "rw"),
    ("image-config", "/usr/lib/drydock", "ro"),
    ("roots", "/usr/share/drydock", "ro"),
    ("config", "/etc/drydock", "ro"),
];

fn labels(name: &str) -> Value {
    json!({"app.kubernetes.io/name": name})
}

fn namespace(name: &str, level: &str) -> Value {
    let mut labels = json!({});
    for mode in ["enforce", "audit", "warn"] {
        labels[format!("pod-security.kubernetes.io/{mode}")] = json!(level);
    }
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn from_field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
}

impl Installation {
    /// The coordinator needs nothing that the strictest level forbids.
    pub(super) fn coordinator_namespace(&self) -> Value {
        namespace(&self.namespace, "restricted")
    }

    /// Agents write block devices.
    pub(super) fn agents_namespace_object(&self) -> Value {
        namespace(&self.agents_namespace(), "privileged")
    }

    /// Deployment, budget, network policies, DaemonSet.
    pub(super) fn workloads(&self) -> Vec<Value> {
        let mut all = vec![self.budget(), self.coordinator_network(), self.deployment()];
        if self.agents == Agents::DaemonSet {
            all.push(self.agents_network());
            all.push(self.daemon_set());
        }
        all
    }

    fn metadata(&self, name: &str) -> Value {
        json!({"name": name, "namespace": self.namespace, "labels": labels(name)})
    }

    fn budget(&self) -> Value {
        json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": self.metadata(COORDINATOR),
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels(COORDINATOR)}},
        })
    }

    fn coordinator_network(&self) -> Value {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": self.metadata(COORDINATOR),
            "spec": {
                "podSelector": {"matchLabels": labels(COORDINATOR)},
                "policyTypes": ["Ingress"],
                "ingress": [{"ports": [{"protocol": "TCP", "port": PAGES_PORT}]}],
            },
        })
    }

    fn deployment(&self) -> Value {
        let container = json!({
            "name": "coordinator",
            "image": self.image,
            "command": ["/usr/bin/drydock-coordinator", "run"],
            "env": [
                from_field("POD_NAME", "metadata.name"),
                from_field("POD_NAMESPACE", "metadata.namespace"),
                from_field("NODE_NAME", "spec.nodeName"),
            ],
            "ports": [{"name": "pages", "containerPort": PAGES_PORT, "protocol": "TCP"}],
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": "pages"}, "periodSeconds": 10},
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": "pages"}, "periodSeconds": 5},
            "resources": self.coordinator_resources.value(),
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": "data", "mountPath": "/var/lib/drydock"},
                {"name": "tmp", "mountPath": "/tmp"},
            ],
        });
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": self.metadata(COORDINATOR),
            "spec": {
                "replicas": self.replicas.value(),
                "selector": {"matchLabels": labels(COORDINATOR)},
                // A new one is Ready before an old one goes: somebody can always lead.
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
                "template": {
                    "metadata": {"labels": labels(COORDINATOR)},
                    "spec": {
                        "serviceAccountName": COORDINATOR,
                        "priorityClassName": "system-cluster-critical",
                        "securityContext": {
                            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                            "seccompProfile": {"type": "RuntimeDefault"},
                        },
                        // In a cluster of one node it comes up on the node that it cordoned.
                        "tolerations": [
                            {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"},
                            {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists", "effect": "NoSchedule"},
                        ],
                        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
                            "weight": 100,
                            "podAffinityTerm": {
                                "topologyKey": "kubernetes.io/hostname",
                                "labelSelector": {"matchLabels": labels(COORDINATOR)},
                            },
                        }]}},
                        "containers": [container],
                        "volumes": [
                            {"name": "data", "emptyDir": {"sizeLimit": "64Mi"}},
                            {"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}},
                        ],
                    },
                },
            },
        })
    }

    /// No way in to an agent.
    fn agents_network(&self) -> Value {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": AGENT, "namespace": self.agents_namespace(), "labels": labels(AGENT)},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
        })
    }

    fn daemon_set(&self) -> Value {
        let mounts = HOST_FOLDERS.map(|(name, path, mode)| match mode {
            "ro" => json!({"name": name, "mountPath": path, "readOnly": true}),
            _ => json!({"name": name, "mountPath": path}),
        });
        let volumes = HOST_FOLDERS.map(|(name, path, mode)| {
            let kind = if mode == "ro" {
                "DirectoryOrCreate"
            } else {
                "Directory"
            };
            json!({"name": name, "hostPath": {"path": path, "type": kind}})
        });
        let container = json!({
            "name": "agent",
            "image": self.image,
            "command": ["/usr/bin/drydock-updater", "agent"],
            "env": [from_field("NODE_NAME", "spec.nodeName")],
            "resources": self.agent_resources.value(),
            "securityContext": {"privileged": true, "readOnlyRootFilesystem": true, "runAsUser": 0},
            "volumeMounts": mounts,
        });
        json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": AGENT, "namespace": self.agents_namespace(), "labels": labels(AGENT)},
            "spec": {
                "selector": {"matchLabels": labels(AGENT)},
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}},
                "template": {
                    "metadata": {"labels": labels(AGENT)},
                    "spec": {
                        "serviceAccountName": AGENT,
                        "priorityClassName": "system-node-critical",
                        "nodeSelector": {"kubernetes.io/os": "linux"},
                        "tolerations": [{"operator": "Exists"}],
                        "containers": [container],
                        "volumes": volumes,
                    },
                },
            },
        })
    }
}
