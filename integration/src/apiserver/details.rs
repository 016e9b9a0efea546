//! Rules of built-in kinds that their writers run into: Events (`pkg/apis/core/validation/events.go`),
//! times with microseconds, names of containers, selectors, finalizers, keys of data. It reads one object
//! and at most what it was.

use serde_json::{Value, json};

use super::object::{self, NameRule};
use super::resources::{Resource, Shape};
use super::status::FieldError;

/// Of `events.k8s.io/v1`.
const REASON_LIMIT: usize = 128;
const NOTE_LIMIT: usize = 1024;
/// What a write through `events.k8s.io` may not change; a series may go on.
const FIXED: [&str; 9] = [
    "involvedObject",
    "reason",
    "message",
    "action",
    "related",
    "reportingComponent",
    "reportingInstance",
    "type",
    "eventTime",
];

/// What is wrong with an Event; `old` is none for a new one.
pub fn event_errors(resource: &Resource, event: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    // The real server names the field and not its value here.
    let invalid = |field: &str, why: &str| FieldError::invalid(field, &json!(""), why);
    let mut errors = Vec::new();
    let about = event["involvedObject"]["namespace"].as_str().unwrap_or_default();
    let home = object::namespace(event);
    // One about another namespace is taken.
    if about.is_empty() && !matches!(home, "" | "default") {
        errors.push(invalid(
            "involvedObject.namespace",
            "does not match event.namespace",
        ));
    }
    if resource.shape != Shape::NewEvent {
        return errors;
    }
    match old {
        None => {
            if event["eventTime"].is_null() {
                errors.push(FieldError::required("eventTime", ""));
            }
            if !matches!(text("type"), "Normal" | "Warning") {
                errors.push(invalid("type", &format!("has invalid value: {}", text("type"))));
            }
            for (field, key) in [
                ("reportingController", "reportingComponent"),
                ("reportingInstance", "reportingInstance"),
                ("action", "action"),
                ("reason", "reason"),
            ] {
                if text(key).is_empty() {
                    errors.push(FieldError::required(field, ""));
                }
            }
            for why in object::qualified_name_errors(text("reportingComponent")) {
                errors.push(FieldError::invalid(
                    "reportingController",
                    &json!(text("reportingComponent")),
                    why,
                ));
            }
            for (field, limit) in [
                ("action", REASON_LIMIT),
                ("reason", REASON_LIMIT),
                ("message", NOTE_LIMIT),
            ] {
                if text(field).len() > limit {
                    errors.push(invalid(field, &format!("can have at most {limit} characters")));
                }
            }
        }
        Some(old) => {
            for key in FIXED {
                if event[key] != old[key] {
                    errors.push(FieldError::invalid(key, &event[key], "field is immutable"));
                }
            }
        }
    }
    if event["series"]["count"].as_i64().is_some_and(|n| n < 2) {
        errors.push(invalid("series.count", "should be at least 2"));
    }
    errors
}

/// Why a time of `metav1.MicroTime` cannot be read: it has six digits behind the second, no more or less.
pub fn micro_time_error(resource: &Resource, object: &Value) -> Option<String> {
    let times: &[&str] = match &*resource.stored_as.resource {
        "leases" => &["/spec/acquireTime", "/spec/renewTime"],
        "events" => &["/eventTime", "/series/lastObservedTime"],
        _ => &[],
    };
    let mut found = times.iter().filter_map(|path| object.pointer(path)?.as_str());
    let bad = found.find(|text| !is_micro_time(text))?;
    Some(format!(
        "parsing time {bad:?} as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse {bad:?}"
    ))
}

fn is_micro_time(text: &str) -> bool {
    let fraction = text.split_once('.').map(|(_, rest)| rest.bytes());
    let digits = fraction.map(|rest| rest.take_while(u8::is_ascii_digit).count());
    digits == Some(6) && text.parse::<jiff::Timestamp>().is_ok()
}

/// Containers have names of their own.
pub fn container_name_errors(spec: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = Vec::new();
    for (i, container) in spec["containers"].as_array().into_iter().flatten().enumerate() {
        let name = container["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            continue; // said elsewhere
        }
        let field = format!("{path}.containers[{i}].name");
        if let Some(why) = object::name_error(name, NameRule::Label) {
            errors.push(FieldError::invalid(field, &json!(name), why));
        } else if seen.contains(&name) {
            errors.push(FieldError {
                kind: "FieldValueDuplicate",
                body: format!("Duplicate value: {name:?}"),
                field,
            });
        }
        seen.push(name);
    }
    errors
}

/// `In` and `NotIn` need values.
pub fn selector_errors(selector: &Value, path: &str) -> Vec<FieldError> {
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    let lacks = expressions.enumerate().filter(|(_, e)| {
        matches!(e["operator"].as_str(), Some("In" | "NotIn"))
            && e["values"].as_array().is_none_or(Vec::is_empty)
    });
    lacks
        .map(|(i, _)| {
            FieldError::required(
                format!("{path}.matchExpressions[{i}].values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )
        })
        .collect()
}

/// A built-in kind takes finalizers of Kubernetes' own and those with a domain; a custom resource any.
pub fn finalizer_errors(object: &Value) -> Vec<FieldError> {
    let finalizers = object::finalizers(object).into_iter().enumerate();
    finalizers
        .filter(|(_, name)| {
            !name.contains('/') && !matches!(name.as_str(), "orphan" | "foregroundDeletion" | "kubernetes")
        })
        .map(|(i, name)| {
            FieldError::invalid(
                format!("metadata.finalizers[{i}]"),
                &json!(name),
                "name is neither a standard finalizer name nor is it fully qualified",
            )
        })
        .collect()
}

/// The keys of a config map's or a Secret's data.
pub fn data_key_errors(object: &Value) -> Vec<FieldError> {
    let keys = object["data"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key);
    let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    keys.filter(|key| key.is_empty() || !key.chars().all(is_good))
        .map(|key| {
            FieldError::invalid(
                format!("data[{key}]"),
                &json!(key),
                "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
            )
        })
        .collect()
}
