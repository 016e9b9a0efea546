//! The server's side of `kubectl get`: objects as rows of a `meta.k8s.io/v1` Table, with the columns of
//! `pkg/printers/internalversion` for the built-in kinds and those of the CRD for custom resources.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::jsonpath;
use super::object;
use super::resources::Resource;
use super::store::Object;

/// A column: heading, type, format, priority, and how a cell is filled.
struct Column {
    name: String,
    kind: String,
    format: &'static str,
    description: String,
    priority: i64,
    cell: Cell,
}

type CellFn = fn(&Value, Timestamp) -> Value;

enum Cell {
    Computed(CellFn),
    Path(String, String),
}

/// What rows carry besides their cells (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    /// The metadata (the default).
    Metadata,
    /// The whole object.
    Object,
    /// Nothing.
    Nothing,
}

/// A Table of these objects. Without `headers` the column definitions are left out (later events of a
/// watch).
pub fn table(
    resource: &Resource,
    objects: &[Object],
    now: Timestamp,
    headers: bool,
    include: Include,
) -> Value {
    let columns = columns(resource);
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| row(resource, &columns, object, now, include))
        .collect();
    let definitions: Vec<Value> = columns.iter().map(definition).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": if headers { Value::Array(definitions) } else { Value::Null },
        "rows": rows,
    })
}

/// An object reduced to its metadata.
pub fn metadata_only(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

fn row(resource: &Resource, columns: &[Column], object: &Object, now: Timestamp, include: Include) -> Value {
    let cells: Vec<Value> = columns
        .iter()
        .map(|column| match &column.cell {
            Cell::Computed(cell) => cell(object, now),
            Cell::Path(path, kind) => path_cell(object, path, kind, now),
        })
        .collect();
    let mut row = json!({"cells": cells});
    match include {
        Include::Metadata => row["object"] = metadata_only(object),
        Include::Object => row["object"] = super::events::present(resource, object).into_owned(),
        Include::Nothing => {}
    }
    row
}

fn definition(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": column.kind,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    })
}

fn columns(resource: &Resource) -> Vec<Column> {
    let name = text_column("Name", 0, |o, _| json!(object::name(o)));
    let mut columns = vec![Column {
        format: "name",
        ..name
    }];
    if let Some(custom) = resource.custom() {
        if custom.columns.is_empty() {
            columns.push(text_column("Age", 0, age));
        }
        columns.extend(custom.columns.iter().map(|c| Column {
            name: c.name.clone(),
            kind: c.kind.clone(),
            format: "",
            description: c.description.clone(),
            priority: c.priority,
            cell: Cell::Path(c.json_path.clone(), c.kind.clone()),
        }));
        return columns;
    }
    let specific: Vec<(&str, i64, CellFn)> = match &*resource.stored_as.resource {
        "nodes" => vec![
            ("Status", 0, node_status),
            ("Roles", 0, node_roles),
            ("Age", 0, age),
            ("Version", 0, |o, _| {
                text_or_empty(&o["status"]["nodeInfo"]["kubeletVersion"])
            }),
            ("Internal-IP", 1, |o, _| node_address(o, "InternalIP")),
            ("External-IP", 1, |o, _| node_address(o, "ExternalIP")),
            ("OS-Image", 1, |o, _| {
                or_unknown(&o["status"]["nodeInfo"]["osImage"])
            }),
            ("Kernel-Version", 1, |o, _| {
                or_unknown(&o["status"]["nodeInfo"]["kernelVersion"])
            }),
            ("Container-Runtime", 1, |o, _| {
                or_unknown(&o["status"]["nodeInfo"]["containerRuntimeVersion"])
            }),
        ],
        "pods" => vec![
            ("Ready", 0, pod_ready),
            ("Status", 0, pod_status),
            ("Restarts", 0, pod_restarts),
            ("Age", 0, age),
            ("IP", 1, |o, _| or_none(&o["status"]["podIP"])),
            ("Node", 1, |o, _| or_none(&o["spec"]["nodeName"])),
            ("Nominated Node", 1, |o, _| {
                or_none(&o["status"]["nominatedNodeName"])
            }),
            ("Readiness Gates", 1, |_, _| json!("<none>")),
        ],
        "namespaces" => vec![
            ("Status", 0, |o, _| o["status"]["phase"].clone()),
            ("Age", 0, age),
        ],
        "configmaps" => vec![("Data", 0, data_count), ("Age", 0, age)],
        "secrets" => vec![
            ("Type", 0, |o, _| o["type"].clone()),
            ("Data", 0, data_count),
            ("Age", 0, age),
        ],
        "leases" => vec![
            ("Holder", 0, |o, _| text_or_empty(&o["spec"]["holderIdentity"])),
            ("Age", 0, age),
        ],
        "poddisruptionbudgets" => vec![
            ("Min Available", 0, |o, _| or_na(&o["spec"]["minAvailable"])),
            ("Max Unavailable", 0, |o, _| or_na(&o["spec"]["maxUnavailable"])),
            ("Allowed Disruptions", 0, |o, _| {
                count(&o["status"]["disruptionsAllowed"])
            }),
            ("Age", 0, age),
        ],
        "deployments" => vec![
            ("Ready", 0, |o, _| {
                ready_of(&o["status"]["readyReplicas"], &o["spec"]["replicas"])
            }),
            ("Up-to-date", 0, |o, _| count(&o["status"]["updatedReplicas"])),
            ("Available", 0, |o, _| count(&o["status"]["availableReplicas"])),
            ("Age", 0, age),
        ],
        "replicasets" => vec![
            ("Desired", 0, |o, _| count(&o["spec"]["replicas"])),
            ("Current", 0, |o, _| count(&o["status"]["replicas"])),
            ("Ready", 0, |o, _| count(&o["status"]["readyReplicas"])),
            ("Age", 0, age),
        ],
        "daemonsets" => vec![
            ("Desired", 0, |o, _| count(&o["status"]["desiredNumberScheduled"])),
            ("Current", 0, |o, _| count(&o["status"]["currentNumberScheduled"])),
            ("Ready", 0, |o, _| count(&o["status"]["numberReady"])),
            ("Up-to-date", 0, |o, _| {
                count(&o["status"]["updatedNumberScheduled"])
            }),
            ("Available", 0, |o, _| count(&o["status"]["numberAvailable"])),
            ("Age", 0, age),
        ],
        "volumeattachments" => vec![
            ("Attacher", 0, |o, _| text_or_empty(&o["spec"]["attacher"])),
            ("PV", 0, |o, _| {
                text_or_empty(&o["spec"]["source"]["persistentVolumeName"])
            }),
            ("Node", 0, |o, _| text_or_empty(&o["spec"]["nodeName"])),
            ("Attached", 0, |o, _| json!(o["status"]["attached"] == true)),
            ("Age", 0, age),
        ],
        "customresourcedefinitions" => {
            vec![("Created At", 0, |o, _| o["metadata"]["creationTimestamp"].clone())]
        }
        "events" => return event_columns(columns),
        _ => vec![("Age", 0, age)],
    };
    columns.extend(
        specific
            .into_iter()
            .map(|(name, priority, cell)| text_column(name, priority, cell)),
    );
    for column in &mut columns {
        (column.kind, column.format) = kind_and_format(resource, column);
    }
    columns
}

/// The types that the real columns have; all else is text.
fn kind_and_format(resource: &Resource, column: &Column) -> (String, &'static str) {
    let (kind, format) = match (&*resource.stored_as.resource, column.name.as_str()) {
        ("poddisruptionbudgets", "Allowed Disruptions") => ("integer", ""),
        ("replicasets" | "daemonsets", "Desired" | "Current" | "Ready" | "Up-to-date" | "Available") => {
            ("integer", "")
        }
        ("volumeattachments", "Attacher") => ("string", "name"),
        ("volumeattachments", "Attached") => ("boolean", ""),
        ("customresourcedefinitions", "Created At") => ("date", ""),
        _ => (column.kind.as_str(), column.format),
    };
    (kind.to_owned(), format)
}

fn event_columns(name: Vec<Column>) -> Vec<Column> {
    let mut columns = vec![
        text_column("Last Seen", 0, event_last_seen),
        text_column("Type", 0, |o, _| text_or_empty(&o["type"])),
        text_column("Reason", 0, |o, _| text_or_empty(&o["reason"])),
        text_column("Object", 0, |o, _| {
            let about = &o["involvedObject"];
            let text = |key: &str| about[key].as_str().unwrap_or_default().to_owned();
            json!(format!("{}/{}", text("kind").to_lowercase(), text("name")))
        }),
        text_column("Source", 1, |o, _| text_or_empty(&o["source"]["component"])),
        text_column("Message", 0, |o, _| text_or_empty(&o["message"])),
        text_column("Count", 1, |o, _| json!(o["count"].as_i64().unwrap_or(1))),
    ];
    columns.extend(name.into_iter().map(|c| Column { priority: 1, ..c }));
    columns
}

fn event_last_seen(event: &Value, now: Timestamp) -> Value {
    let times = [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["firstTimestamp"],
    ];
    let at = times.into_iter().find_map(object::parse_time);
    json!(at.map_or_else(|| "<unknown>".to_owned(), |at| human_duration(now, at)))
}

fn text_column(name: &str, priority: i64, cell: CellFn) -> Column {
    Column {
        name: name.to_owned(),
        kind: "string".to_owned(),
        format: "",
        description: name.to_owned(),
        priority,
        cell: Cell::Computed(cell),
    }
}

fn path_cell(object: &Value, path: &str, kind: &str, now: Timestamp) -> Value {
    let found = jsonpath::find(object, path);
    let Some(first) = found.first().filter(|v| !v.is_null()) else {
        return Value::Null;
    };
    match kind {
        "date" => match object::parse_time(first) {
            Some(at) => json!(human_duration(now, at)),
            None => json!("<invalid>"),
        },
        "integer" | "number" | "boolean" if first.is_number() || first.is_boolean() => (*first).clone(),
        _ => {
            let texts: Vec<String> = found
                .iter()
                .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                .collect();
            json!(texts.join(" "))
        }
    }
}

fn age(object: &Value, now: Timestamp) -> Value {
    let made = object::parse_time(&object["metadata"]["creationTimestamp"]);
    json!(made.map_or_else(|| "<unknown>".to_owned(), |at| human_duration(now, at)))
}

/// How long ago, in at most two units, as `duration.HumanDuration` says it.
fn human_duration(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.as_second() - then.as_second();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let two = |big: i64, unit: char, small: i64, small_unit: char| {
        if small == 0 {
            format!("{big}{unit}")
        } else {
            format!("{big}{unit}{small}{small_unit}")
        }
    };
    match seconds {
        s if s < -1 => "<invalid>".to_owned(),
        s if s < 0 => "0s".to_owned(),
        s if s < 120 => format!("{s}s"),
        s if minutes < 10 => two(minutes, 'm', s % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(hours / 24, 'd', hours % 24, 'h'),
        _ if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        _ if hours < 24 * 365 * 8 => two(hours / 24 / 365, 'y', hours / 24 % 365, 'd'),
        _ => format!("{}y", hours / 24 / 365),
    }
}

fn text_or_empty(value: &Value) -> Value {
    json!(value.as_str().unwrap_or_default())
}

fn or(value: &Value, fallback: &str) -> Value {
    match value {
        Value::String(s) if !s.is_empty() => json!(s),
        Value::Number(n) => json!(n.to_string()),
        _ => json!(fallback),
    }
}

fn or_none(value: &Value) -> Value {
    or(value, "<none>")
}

fn or_unknown(value: &Value) -> Value {
    or(value, "<unknown>")
}

fn or_na(value: &Value) -> Value {
    or(value, "N/A")
}

fn count(value: &Value) -> Value {
    json!(value.as_i64().unwrap_or(0))
}

fn ready_of(ready: &Value, wanted: &Value) -> Value {
    json!(format!(
        "{}/{}",
        ready.as_i64().unwrap_or(0),
        wanted.as_i64().unwrap_or(0)
    ))
}

fn data_count(object: &Value, _now: Timestamp) -> Value {
    let len = |key: &str| object[key].as_object().map_or(0, serde_json::Map::len);
    json!(len("data") + len("binaryData"))
}

fn node_status(node: &Value, _now: Timestamp) -> Value {
    let ready = object::condition(node, "Ready").map(|c| c["status"] == "True");
    let mut status = match ready {
        Some(true) => "Ready".to_owned(),
        Some(false) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    json!(status)
}

fn node_roles(node: &Value, _now: Timestamp) -> Value {
    let labels = node["metadata"]["labels"].as_object();
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(
            |(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) if !role.is_empty() => Some(role),
                _ if key == "kubernetes.io/role" => value.as_str().filter(|r| !r.is_empty()),
                _ => None,
            },
        )
        .collect();
    roles.sort_unstable();
    json!(if roles.is_empty() {
        "<none>".to_owned()
    } else {
        roles.join(",")
    })
}

fn node_address(node: &Value, kind: &str) -> Value {
    let addresses = node["status"]["addresses"].as_array();
    let found = addresses.into_iter().flatten().find(|a| a["type"] == kind);
    found.map_or_else(|| json!("<none>"), |a| a["address"].clone())
}

fn container_statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    pod["status"]["containerStatuses"]
        .as_array()
        .into_iter()
        .flatten()
}

fn pod_ready(pod: &Value, _now: Timestamp) -> Value {
    let total = pod["spec"]["containers"].as_array().map_or(0, Vec::len);
    let ready = container_statuses(pod).filter(|c| c["ready"] == true).count();
    json!(format!("{ready}/{total}"))
}

fn pod_restarts(pod: &Value, _now: Timestamp) -> Value {
    let restarts: i64 = container_statuses(pod)
        .filter_map(|c| c["restartCount"].as_i64())
        .sum();
    json!(restarts.to_string())
}

fn pod_status(pod: &Value, _now: Timestamp) -> Value {
    let text = |value: &Value| value.as_str().map(str::to_owned).filter(|s| !s.is_empty());
    let mut status = text(&pod["status"]["reason"])
        .or_else(|| text(&pod["status"]["phase"]))
        .unwrap_or_default();
    let mut running = false;
    for container in container_statuses(pod) {
        let state = &container["state"];
        if let Some(reason) =
            text(&state["waiting"]["reason"]).or_else(|| text(&state["terminated"]["reason"]))
        {
            status = reason;
        } else if state["terminated"].is_object() {
            status = format!("ExitCode:{}", state["terminated"]["exitCode"]);
        } else if container["ready"] == true && state["running"].is_object() {
            running = true;
        }
    }
    if status == "Completed" && running {
        status = if object::is_pod_ready(pod) {
            "Running".to_owned()
        } else {
            "NotReady".to_owned()
        };
    }
    if object::is_deleting(pod) {
        status = if pod["status"]["reason"] == "NodeLost" {
            "Unknown".to_owned()
        } else {
            "Terminating".to_owned()
        };
    }
    json!(status)
}
