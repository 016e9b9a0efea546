//! What an installation and its chart promise, without a cluster. What the API server makes of them is
//! tested against a real one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use super::*;

fn kinds_and_names(all: &[Value]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.iter()
        .map(|object| {
            let metadata = &object["metadata"];
            format!(
                "{} {}/{}",
                text(&object["kind"]),
                text(&metadata["namespace"]),
                text(&metadata["name"])
            )
        })
        .collect()
}

#[test]
fn no_role_may_delete_or_do_everything_and_no_object_comes_twice() {
    for agents in [Agents::Unit, Agents::DaemonSet] {
        let all = Installation {
            agents,
            ..Installation::new("drydock:test")
        }
        .manifests();
        let names = kinds_and_names(&all);
        assert_eq!(
            names.iter().collect::<BTreeSet<_>>().len(),
            names.len(),
            "{names:#?}"
        );
        for role in all
            .iter()
            .filter(|object| object["kind"].as_str().unwrap().ends_with("Role"))
        {
            let name = role["metadata"]["name"].as_str().unwrap();
            for rule in role["rules"].as_array().unwrap() {
                let text = rule.to_string();
                assert!(!text.contains('*'), "{name}: {text}");
                assert!(!text.contains("secrets"), "{name}: {text}");
                // People lift halts and remove policies; Drydock itself deletes nothing.
                assert!(
                    name == "drydock-operator" || !text.contains("delete"),
                    "{name}: {text}"
                );
            }
        }
    }
}

#[test]
fn rights_come_after_what_limits_them_and_before_what_uses_them() {
    let all = Installation {
        agents: Agents::DaemonSet,
        ..Installation::new("drydock:test")
    }
    .manifests();
    let first = |kind: &str| all.iter().position(|object| object["kind"] == kind).unwrap();
    let last = |kind: &str| all.iter().rposition(|object| object["kind"] == kind).unwrap();
    assert!(last("Namespace") < first("ServiceAccount"));
    assert!(last("ValidatingAdmissionPolicyBinding") < first("ClusterRoleBinding"));
    assert!(last("RoleBinding") < first("Deployment"));
    assert!(last("NetworkPolicy") < first("DaemonSet"));
}

#[test]
fn the_chart_has_every_object_of_both_ways_and_no_mark_is_left() {
    let files = chart().unwrap();
    let templates: Vec<_> = files
        .iter()
        .filter(|file| file.path.starts_with("templates"))
        .collect();
    let paths: BTreeSet<_> = files.iter().map(|file| &file.path).collect();
    assert_eq!(paths.len(), files.len(), "two files of one name");
    for file in &files {
        assert!(
            !file.text.contains("@raw") && !file.text.contains("@block"),
            "{}",
            file.path.display()
        );
    }
    let count = |way: &str| templates.iter().filter(|file| file.text.contains(way)).count();
    assert_eq!(count("run \"unit\""), 1, "the binding of the nodes' own group");
    assert_eq!(count("run \"daemonset\""), 5);
    let deployment = templates
        .iter()
        .find(|file| file.path.ends_with("deployment-drydock-coordinator.yaml"));
    let text = &deployment.unwrap().text;
    assert!(
        text.contains("replicas: {{ int .Values.coordinator.replicas }}"),
        "{text}"
    );
    assert!(
        text.contains("{{- toYaml .Values.coordinator.resources | nindent"),
        "{text}"
    );
}

#[test]
fn what_the_server_adds_is_no_difference_and_what_it_lacks_or_has_otherwise_is_named() {
    let ours = json!({"spec": {"rules": [{"verbs": ["get", "list"]}], "none": [], "size": 1}});
    let mut theirs =
        json!({"spec": {"rules": [{"verbs": ["get", "list"], "more": 1}], "size": 1.0}, "status": {}});
    assert_eq!(first_difference(&ours, &theirs), None);
    theirs["spec"]["rules"][0]["verbs"][1] = json!("delete");
    assert_eq!(
        first_difference(&ours, &theirs).as_deref(),
        Some("spec.rules[0].verbs[1]")
    );
    theirs["spec"]["rules"] = json!([]);
    assert_eq!(first_difference(&ours, &theirs).as_deref(), Some("spec.rules"));
    assert_eq!(first_difference(&ours, &json!({})).as_deref(), Some("spec"));
}
