//! The Helm chart, made of the same manifests: where an installation has a choice the chart has an
//! expression. Resources go into the templates, so that an upgrade of the chart upgrades them, and carry
//! `helm.sh/resource-policy: keep`, so that an uninstall loses no state.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Agents, Block, Installation, Number, agent_resources, coordinator_resources};

/// Marks a text that stands in the chart as it is, without quotes.
const RAW: (&str, &str) = ("@raw ", "@");
/// Marks the path of a value that is written as YAML in its place.
const BLOCK: (&str, &str) = ("@block ", "@");

pub(super) fn raw(expression: &str) -> String {
    format!("{}{expression}{}", RAW.0, RAW.1)
}

pub(super) fn block(path: &str) -> String {
    format!("{}{path}{}", BLOCK.0, BLOCK.1)
}

/// One file of the chart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChartFile {
    /// Below the chart's folder.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// A manifest that cannot be written as YAML.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot be written as YAML: {source}; this is a defect of Drydock")]
pub struct ChartError {
    what: String,
    #[source]
    source: serde_saphyr::ser::Error,
}

/// The files of the chart of this version.
///
/// # Errors
/// See [`ChartError`].
pub fn chart() -> Result<Vec<ChartFile>, ChartError> {
    let installation = Installation {
        namespace: "{{ .Release.Namespace }}".to_owned(),
        image: "{{ .Values.image }}".to_owned(),
        replicas: Number::Chart("{{ int .Values.coordinator.replicas }}"),
        agents: Agents::DaemonSet,
        coordinator_resources: Block::Chart(".Values.coordinator.resources"),
        agent_resources: Block::Chart(".Values.agents.resources"),
    };
    let as_units = Installation {
        agents: Agents::Unit,
        ..installation.clone()
    };
    let with_daemon_set = installation.manifests();
    let units = as_units.manifests();
    let mut files = vec![
        file("Chart.yaml", yaml("Chart.yaml", &about())?),
        file("values.yaml", yaml("values.yaml", &values())?),
        file("templates/NOTES.txt", NOTES.to_owned()),
        file(".helmignore", "*.orig\n*.swp\n".to_owned()),
    ];
    // What both ways have comes once; the rest under its condition.
    for object in with_daemon_set.iter().filter(|object| !is_own_namespace(object)) {
        if units.contains(object) {
            files.push(template(object, None)?);
        } else {
            files.push(template(object, Some("eq .Values.agents.run \"daemonset\""))?);
        }
    }
    for object in units.iter().filter(|object| !with_daemon_set.contains(object)) {
        files.push(template(object, Some("eq .Values.agents.run \"unit\""))?);
    }
    Ok(files)
}

/// The namespace that Helm itself installs into; a chart that makes it cannot be installed with
/// `--create-namespace`.
fn is_own_namespace(object: &Value) -> bool {
    object["kind"] == "Namespace" && object["metadata"]["name"] == "{{ .Release.Namespace }}"
}

fn about() -> Value {
    json!({
        "apiVersion": "v2",
        "name": "drydock",
        "description": "Keeps the operating system of Kubernetes nodes up to date",
        "type": "application",
        "version": env!("CARGO_PKG_VERSION"),
        "appVersion": env!("CARGO_PKG_VERSION"),
        // ValidatingAdmissionPolicy v1.
        "kubeVersion": ">=1.30.0-0",
    })
}

fn values() -> Value {
    json!({
        "image": format!("drydock:{}", env!("CARGO_PKG_VERSION")),
        "coordinator": {"replicas": 2, "resources": coordinator_resources()},
        // unit: agents are units of the nodes' image. daemonset: they run as pods.
        "agents": {"run": "unit", "resources": agent_resources()},
    })
}

const NOTES: &str = "\
Drydock {{ .Chart.AppVersion }} is installed in {{ .Release.Namespace }}.

  kubectl drydock doctor     whether all of it works
  kubectl drydock status     policies, nodes and what each waits for

The coordinator needs nothing that the strictest Pod Security level forbids:

  kubectl label namespace {{ .Release.Namespace }} pod-security.kubernetes.io/enforce=restricted

An uninstall keeps the custom resources and what they hold.
";

fn file(path: &str, text: String) -> ChartFile {
    ChartFile {
        path: path.into(),
        text,
    }
}

fn yaml(what: &str, value: &Value) -> Result<String, ChartError> {
    serde_saphyr::to_string(value).map_err(|source| ChartError {
        what: what.to_owned(),
        source,
    })
}

/// One manifest as a template. Two that differ by their condition alone have files of their own.
fn template(object: &Value, condition: Option<&str>) -> Result<ChartFile, ChartError> {
    let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let name = name
        .replace("{{ .Release.Namespace }}", "release")
        .replace('.', "-");
    let mut object = object.clone();
    if kind == "customresourcedefinition" {
        object["metadata"]["annotations"]["helm.sh/resource-policy"] = json!("keep");
    }
    let way = condition.map_or(String::new(), |text| {
        format!(
            "-{}",
            text.rsplit(' ').next().unwrap_or_default().trim_matches('"')
        )
    });
    let text = unmark(&yaml(name.as_str(), &object)?);
    let text = match condition {
        Some(condition) => format!("{{{{- if {condition} }}}}\n{text}{{{{- end }}}}\n"),
        None => text,
    };
    Ok(file(&format!("templates/{kind}-{name}{way}.yaml"), text))
}

/// Puts expressions in the place of the marks.
fn unmark(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let marked = |mark: (&str, &str)| {
            let begin = line.find(mark.0)?;
            let end = begin + mark.0.len() + line[begin + mark.0.len()..].find(mark.1)?;
            Some((&line[..begin], &line[begin + mark.0.len()..end]))
        };
        let indent = line.len() - line.trim_start().len();
        if let Some((before, path)) = marked(BLOCK) {
            let before = before.trim_end_matches(['"', '\'']).trim_end();
            out.push_str(&format!(
                "{before}\n{{{{- toYaml {path} | nindent {} }}}}",
                indent + 2
            ));
        } else if let Some((before, expression)) = marked(RAW) {
            out.push_str(before.trim_end_matches(['"', '\'']));
            out.push_str(expression);
        } else {
            out.push_str(line);
        }
        out.push('\n');
    }
    out
}
