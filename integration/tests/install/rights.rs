//! What the audit log says was used, against what the manifests grant.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use drydock_coordinator::install::{Agents, Installation};
use drydock_integration::realcluster::audit::AuditMark;
use drydock_integration::realcluster::{AuditEntry, ControlPlane};
use serde_json::Value;

use crate::tools::{AGENT, AGENTS, COORDINATOR, SYSTEM};

/// Group, resource with subresource, verb, and the namespace, or `*` for all.
type Right = (String, String, String, String);

/// What a story cannot provoke at will: group, resource, verb, and why it is needed all the same.
type Exception = (&'static str, &'static str, &'static str, &'static str);

const AFTER_A_CONFLICT: &str = "read again after 404, 409 or 422 alone";

/// One comparison.
pub struct Case {
    agents: Agents,
    /// Users and the roles they have.
    role: &'static str,
    exceptions: &'static [Exception],
}

pub const AGENTS_AS_PODS: [Case; 2] = [
    Case {
        agents: Agents::DaemonSet,
        role: COORDINATOR,
        exceptions: &[
            ("", "nodes", "get", AFTER_A_CONFLICT),
            ("drydock.dev", "nodeupgrades", "get", AFTER_A_CONFLICT),
            ("drydock.dev", "upgradepolicies", "get", AFTER_A_CONFLICT),
            ("drydock.dev", "imagerepositories", "get", AFTER_A_CONFLICT),
            ("drydock.dev", "releasehalts", "get", AFTER_A_CONFLICT),
        ],
    },
    Case {
        agents: Agents::DaemonSet,
        role: AGENT,
        exceptions: &[],
    },
];

pub const AGENTS_AS_UNITS: [Case; 1] = [Case {
    agents: Agents::Unit,
    role: AGENT,
    exceptions: &[],
}];

/// Every request of Drydock's own users.
pub struct Used(Vec<AuditEntry>);

impl Used {
    pub async fn of(cluster: &ControlPlane, begun: AuditMark) -> Used {
        // An entry is written when its answer is out.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (entries, _) = cluster.audit().since(begun).unwrap();
        Used(entries)
    }

    /// Equal, but for the exceptions and for refusals while a server settles.
    pub fn compare(&self, cases: &[Case], is_settling: impl Fn(jiff::Timestamp) -> bool) {
        let mut wrong = Vec::new();
        for case in cases {
            let granted = granted(case);
            let mut counts: BTreeMap<&Right, usize> = BTreeMap::new();
            let mut settling = 0;
            for entry in self.0.iter().filter(|entry| case.is_of(entry)) {
                if entry.code == Some(403) && is_settling(entry.at) {
                    settling += 1;
                    continue;
                }
                let right = find(&granted, entry);
                if let Some(right) = right {
                    *counts.entry(right).or_default() += 1;
                }
                let asks_for_nothing = entry.resource.is_empty() && entry.uri.starts_with("/version");
                if (right.is_none() && !asks_for_nothing) || entry.code == Some(403) {
                    wrong.push(format!("{}: not granted, or refused: {entry:?}", case.role));
                }
            }
            println!(
                "| {} ({:?}) | resource | verb | in | requests |",
                case.role, case.agents
            );
            println!("|---|---|---|---|---|");
            for right in &granted {
                let (group, resource, verb, namespace) = right;
                let excused = case
                    .exceptions
                    .iter()
                    .find(|(g, r, v, _)| group == g && resource == r && verb == v);
                let used = match (counts.get(right), excused) {
                    (Some(count), _) => count.to_string(),
                    (None, Some((.., why))) => format!("none: {why}"),
                    (None, None) => {
                        wrong.push(format!("{}: granted and not used: {right:?}", case.role));
                        "NONE".to_owned()
                    }
                };
                println!("| {group} | {resource} | {verb} | {namespace} | {used} |");
            }
            println!("({settling} requests refused while the server settled)");
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

impl Case {
    fn is_of(&self, entry: &AuditEntry) -> bool {
        match (self.role, self.agents) {
            (COORDINATOR, _) => entry.user == format!("system:serviceaccount:{SYSTEM}:{COORDINATOR}"),
            (_, Agents::DaemonSet) => entry.user == format!("system:serviceaccount:{AGENTS}:{AGENT}"),
            // The kubelet's own requests are the kubelet's.
            (_, Agents::Unit) => entry.user.starts_with("system:node:") && entry.api_group == "drydock.dev",
        }
    }
}

/// The right that this request needed, where it is granted.
fn find<'a>(granted: &'a BTreeSet<Right>, entry: &AuditEntry) -> Option<&'a Right> {
    let resource = match entry.subresource.as_str() {
        "" => entry.resource.clone(),
        sub => format!("{}/{sub}", entry.resource),
    };
    granted.iter().find(|(group, what, verb, namespace)| {
        *group == entry.api_group
            && *what == resource
            && *verb == entry.verb
            && (namespace == "*" || *namespace == entry.namespace)
    })
}

/// What the roles of this name, or that begin with it, grant; that these are all that are bound to its
/// account is checked, too.
fn granted(case: &Case) -> BTreeSet<Right> {
    let manifests = Installation {
        agents: case.agents,
        ..Installation::new("any")
    }
    .manifests();
    let bound: BTreeSet<(String, String)> = manifests
        .iter()
        .filter(|object| object["kind"].as_str().unwrap().ends_with("RoleBinding"))
        .filter(|object| {
            let subjects = object["subjects"].as_array().unwrap();
            subjects.iter().any(|subject| {
                subject["name"] == case.role || (subject["name"] == "system:nodes" && case.role == AGENT)
            })
        })
        .map(|object| {
            (
                text(&object["roleRef"]["name"]),
                text(&object["metadata"]["namespace"]),
            )
        })
        .collect();
    let mut rights = BTreeSet::new();
    for role in manifests.iter().filter(|object| {
        ["ClusterRole", "Role"].contains(&object["kind"].as_str().unwrap())
            && bound.contains(&(
                text(&object["metadata"]["name"]),
                text(&object["metadata"]["namespace"]),
            ))
    }) {
        let namespace = role["metadata"]["namespace"].as_str().unwrap_or("*");
        for rule in role["rules"].as_array().unwrap() {
            for group in rule["apiGroups"].as_array().unwrap() {
                for resource in rule["resources"].as_array().unwrap() {
                    for verb in rule["verbs"].as_array().unwrap() {
                        rights.insert((text(group), text(resource), text(verb), namespace.to_owned()));
                    }
                }
            }
        }
    }
    assert!(!rights.is_empty());
    rights
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
