//! Admission policies: what RBAC cannot say. The API server itself evaluates them; there is no webhook and
//! no certificate to keep. Each refusal says who may do what was tried.

use serde_json::{Value, json};

use super::{COORDINATOR, Installation};

/// What a policy looks at.
struct Looks<'a> {
    group: &'a str,
    /// Named, for the API server checks the types of no expression that is for any version. An object of
    /// another version is converted before it is looked at.
    version: &'a str,
    resources: &'a [&'a str],
    operations: &'a [&'a str],
}

/// An expression that must hold, and what is said when it does not.
struct Must {
    hold: String,
    says: &'static str,
}

/// A policy and its binding.
fn policy(
    name: &str,
    looks: &Looks<'_>,
    when: &[(&str, String)],
    with: &[(&str, &str)],
    must: &[Must],
) -> [Value; 2] {
    let conditions: Vec<Value> = when
        .iter()
        .map(|(name, expression)| json!({"name": name, "expression": expression}))
        .collect();
    let variables: Vec<Value> = with
        .iter()
        .map(|(name, expression)| json!({"name": name, "expression": expression}))
        .collect();
    let validations: Vec<Value> = must
        .iter()
        .map(|must| json!({"expression": must.hold, "message": must.says, "reason": "Forbidden"}))
        .collect();
    let mut spec = json!({
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [{
            "apiGroups": [looks.group], "apiVersions": [looks.version],
            "operations": looks.operations, "resources": looks.resources,
            // The server's default, said here so that to apply it again changes nothing.
            "scope": "*",
        }]},
        "validations": validations,
    });
    if !conditions.is_empty() {
        spec["matchConditions"] = json!(conditions);
    }
    if !variables.is_empty() {
        spec["variables"] = json!(variables);
    }
    [
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name}, "spec": spec,
        }),
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        }),
    ]
}

/// The node that asks: by the kubelet's own name, or by the node that the token's pod runs on. Both come
/// from the API server's authentication; nobody but who may impersonate can choose them.
const NODE: &str = "request.userInfo.username.startsWith('system:node:') \
     ? request.userInfo.username.substring(12) \
     : (has(request.userInfo.extra) && 'authentication.kubernetes.io/node-name' in request.userInfo.extra \
        ? request.userInfo.extra['authentication.kubernetes.io/node-name'][0] : '')";

/// `field` of the object is as it was.
fn same(field: &str) -> String {
    format!(
        "has(object.{field}) == has(oldObject.{field}) && \
         (!has(object.{field}) || object.{field} == oldObject.{field})"
    )
}

/// Annotations, of the object and before.
const ANNOTATIONS: (&str, &str) = (
    "has(object.metadata.annotations) ? object.metadata.annotations : {}",
    "oldObject != null && has(oldObject.metadata.annotations) ? oldObject.metadata.annotations : {}",
);

/// The annotations that are (`ours`), or are not, Drydock's are as they were.
fn annotations_kept(ours: &str) -> String {
    let one_way = |from: &str, to: &str| {
        format!(
            "variables.{from}.all(key, {ours}key.startsWith('drydock.dev/') || \
             (key in variables.{to} && variables.{to}[key] == variables.{from}[key]))"
        )
    };
    format!("{} && {}", one_way("now", "before"), one_way("before", "now"))
}

impl Installation {
    /// Every policy, each with its binding.
    pub(super) fn admission(&self) -> Vec<Value> {
        let coordinator = self.coordinator_user();
        let is_coordinator = format!("request.userInfo.username == '{coordinator}'");
        let mut all = Vec::new();
        all.extend(policy(
            "drydock-status-of-own-node",
            &Looks {
                group: "drydock.dev",
                version: "v1alpha1",
                resources: &["nodeupgrades/status"],
                operations: &["UPDATE"],
            },
            &[],
            &[("node", NODE)],
            &[Must {
                hold: "variables.node == object.metadata.name".to_owned(),
                says: "the status of a NodeUpgrade is written by the agent of that node alone",
            }],
        ));
        all.extend(policy(
            "drydock-spec-by-coordinator",
            &Looks {
                group: "drydock.dev",
                version: "v1alpha1",
                resources: &["nodeupgrades"],
                operations: &["CREATE", "UPDATE"],
            },
            &[],
            &[],
            &[Must {
                hold: format!("{is_coordinator} || (request.operation == 'UPDATE' && {})", same("spec")),
                says: "NodeUpgrades are made, and their spec is written, by the coordinator alone; \
                       use `kubectl drydock cancel`, `release`, `forgive` or `halt`, or change the UpgradePolicy",
            }],
        ));
        let node_spec = [
            "podCIDR",
            "podCIDRs",
            "providerID",
            "taints",
            "configSource",
            "externalID",
        ];
        let kept = node_spec.map(|field| format!("({})", same(&format!("spec.{field}"))));
        let metadata = ["labels", "finalizers", "ownerReferences"];
        let kept_metadata = metadata.map(|field| format!("({})", same(&format!("metadata.{field}"))));
        all.extend(policy(
            "drydock-coordinator-on-nodes",
            &Looks {
                group: "",
                version: "v1",
                resources: &["nodes", "nodes/status"],
                operations: &["CREATE", "UPDATE"],
            },
            &[(COORDINATOR, is_coordinator)],
            &[("now", ANNOTATIONS.0), ("before", ANNOTATIONS.1)],
            &[
                Must {
                    // Where there is none, the field is not there.
                    hold: "request.operation == 'UPDATE' && (!has(request.subResource) || request.subResource == '')"
                        .to_owned(),
                    says: "the coordinator makes no Nodes and writes no Node's status",
                },
                Must {
                    hold: kept.join(" && "),
                    says: "of a Node's spec the coordinator writes unschedulable alone",
                },
                Must {
                    hold: kept_metadata.join(" && "),
                    says: "of a Node's metadata the coordinator writes annotations under drydock.dev/ alone",
                },
                Must {
                    hold: annotations_kept(""),
                    says: "of a Node's annotations the coordinator writes those under drydock.dev/ alone",
                },
            ],
        ));
        all.extend(policy(
            "drydock-marks-not-by-nodes",
            &Looks {
                group: "",
                version: "v1",
                resources: &["nodes", "nodes/status"],
                operations: &["CREATE", "UPDATE"],
            },
            &[("node", "'system:nodes' in request.userInfo.groups".to_owned())],
            &[("now", ANNOTATIONS.0), ("before", ANNOTATIONS.1)],
            &[Must {
                hold: annotations_kept("!"),
                says: "annotations under drydock.dev/ are written by the coordinator and by people, not by nodes",
            }],
        ));
        all
    }
}
