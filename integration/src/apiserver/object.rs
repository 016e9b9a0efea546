//! Reading and writing the parts of an object that every kind has (metadata), and the rules for
//! names and labels (k8s.io/apimachinery `pkg/util/validation`). It never looks into spec or status.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::status::FieldError;

/// The metadata value at `key`, as text; empty when absent.
pub fn meta<'a>(object: &'a Value, key: &str) -> &'a str {
    object["metadata"][key].as_str().unwrap_or_default()
}

/// `metadata.name`.
pub fn name(object: &Value) -> &str {
    meta(object, "name")
}

/// `metadata.namespace`, empty for a cluster-scoped object.
pub fn namespace(object: &Value) -> &str {
    meta(object, "namespace")
}

/// `metadata.uid`.
pub fn uid(object: &Value) -> &str {
    meta(object, "uid")
}

/// `metadata.resourceVersion` as a number, 0 when absent.
pub fn version(object: &Value) -> u64 {
    meta(object, "resourceVersion").parse().unwrap_or(0)
}

/// `metadata.generation`, 0 when absent.
pub fn generation(object: &Value) -> i64 {
    object["metadata"]["generation"].as_i64().unwrap_or(0)
}

/// Whether a deletion was asked for.
pub fn is_deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> Vec<String> {
    strings(&object["metadata"]["finalizers"])
}

/// The texts of a list, anything else left out.
pub fn strings(list: &Value) -> Vec<String> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect()
}

/// The owners, as the references stand in the object.
pub fn owners(object: &Value) -> &[Value] {
    object["metadata"]["ownerReferences"]
        .as_array()
        .map_or(&[], Vec::as_slice)
}

/// The owner that is marked as controller.
pub fn controller(object: &Value) -> Option<&Value> {
    owners(object).iter().find(|o| o["controller"] == true)
}

/// The condition of this type in `status.conditions`.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|c| c["type"] == kind)
}

/// Put a condition in the place of the one of its type.
pub fn set_condition(object: &mut Value, condition: Value) {
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = json!([]);
    }
    let Some(list) = object["status"]["conditions"].as_array_mut() else {
        return;
    };
    match list.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(found) => *found = condition,
        None => list.push(condition),
    }
}

/// Whether a pod counts as healthy: its Ready condition is True.
pub fn is_pod_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|c| c["status"] == "True")
}

/// The metadata to change; made when absent.
pub fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    match &mut object["metadata"] {
        Value::Object(map) => map,
        // The line above made it a map.
        _ => unreachable!("metadata was just made an object"),
    }
}

/// Set or, with null, take away one metadata value.
pub fn set_meta(object: &mut Value, key: &str, value: Value) {
    let map = meta_mut(object);
    if value.is_null() {
        map.remove(key);
    } else {
        map.insert(key.to_owned(), value);
    }
}

/// A time as the API writes it (RFC 3339, seconds, UTC).
pub fn time(at: Timestamp) -> Value {
    json!(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// A time of `metav1.MicroTime`.
pub fn parse_time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// Take away what the real server's types would not write: empty maps and lists in the metadata.
pub fn tidy_metadata(object: &mut Value) {
    let map = meta_mut(object);
    map.remove("managedFields");
    map.remove("selfLink");
    for key in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let empty = match map.get(key) {
            Some(Value::Object(m)) => m.is_empty(),
            Some(Value::Array(a)) => a.is_empty(),
            Some(Value::Null) => true,
            _ => false,
        };
        if empty {
            map.remove(key);
        }
    }
    for key in ["generateName", "namespace", "uid", "resourceVersion"] {
        if map.get(key).is_some_and(|v| v.is_null() || v == "") {
            map.remove(key);
        }
    }
}

/// The rule a kind's names follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 label (namespaces).
    Label,
    /// RFC 1123 subdomain (nearly everything).
    Subdomain,
}

/// What is wrong with a name, if anything, in the real server's words.
pub fn name_error(name: &str, rule: NameRule) -> Option<String> {
    let (ok, limit, text) = match rule {
        NameRule::Label => (
            is_label(name),
            63,
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ),
        NameRule::Subdomain => (
            name.split('.').all(is_label),
            253,
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        ),
    };
    if name.len() > limit {
        return Some(format!("must be no more than {limit} characters"));
    }
    if rule == NameRule::Label && name.contains('.') {
        return Some("must not contain dots".to_owned());
    }
    (!ok).then(|| text.to_owned())
}

fn is_label(s: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !s.is_empty() && s.chars().all(inner) && !s.starts_with('-') && !s.ends_with('-')
}

fn is_qualified_part(s: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    !s.is_empty()
        && s.len() <= 63
        && s.chars().all(|c| edge(c) || matches!(c, '-' | '_' | '.'))
        && s.starts_with(edge)
        && s.ends_with(edge)
}

/// Whether `key` may be a label or annotation key (`[prefix/]name`).
pub fn is_qualified_name(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => {
            prefix.len() <= 253 && prefix.split('.').all(is_label) && is_qualified_part(name)
        }
        None => is_qualified_part(key),
    }
}

/// What is wrong with a label or annotation key, in the real server's words.
pub fn qualified_name_errors(key: &str) -> Vec<&'static str> {
    let mut errors = Vec::new();
    if is_qualified_name(key) {
        return errors;
    }
    let name = match key.split_once('/') {
        Some((prefix, name)) => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty");
            }
            name
        }
        None => key,
    };
    if name.is_empty() {
        errors.push("name part must be non-empty");
    }
    if errors.is_empty() || !is_qualified_part(name) {
        errors.push(QUALIFIED);
    }
    errors
}

/// Whether `value` may be a label's value.
pub fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_qualified_part(value)
}

const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const ANNOTATIONS_LIMIT_BYTES: usize = 256 * 1024;

/// The metadata's own rules: name, labels, annotations, owner references.
pub fn metadata_errors(object: &Value, rule: NameRule) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = name(object);
    if name.is_empty() {
        errors.push(FieldError::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else if let Some(why) = name_error(name, rule) {
        errors.push(FieldError::invalid("metadata.name", &json!(name), why));
    }
    if let Some(labels) = object["metadata"]["labels"].as_object() {
        for (key, value) in labels {
            for why in qualified_name_errors(key) {
                errors.push(FieldError::invalid("metadata.labels", &json!(key), why));
            }
            if !is_label_value(value.as_str().unwrap_or_default()) {
                errors.push(FieldError::invalid("metadata.labels", value, LABEL_VALUE));
            }
        }
    }
    if let Some(annotations) = object["metadata"]["annotations"].as_object() {
        let mut total = 0;
        for (key, value) in annotations {
            for why in qualified_name_errors(&key.to_lowercase()) {
                errors.push(FieldError::invalid("metadata.annotations", &json!(key), why));
            }
            total += key.len() + value.as_str().map_or(0, str::len);
        }
        if total > ANNOTATIONS_LIMIT_BYTES {
            errors.push(FieldError::too_long(
                "metadata.annotations",
                ANNOTATIONS_LIMIT_BYTES as u64,
            ));
        }
    }
    errors.extend(owner_errors(object));
    errors
}

fn owner_errors(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut controllers = 0;
    for owner in owners(object) {
        // Without the place in the list, as the real server has it.
        let path = "metadata.ownerReferences";
        for key in ["apiVersion", "kind", "name", "uid"] {
            if owner[key].as_str().unwrap_or_default().is_empty() {
                errors.push(FieldError::invalid(
                    format!("{path}.{key}"),
                    &json!(""),
                    if key == "apiVersion" {
                        "version must not be empty"
                    } else {
                        "must not be empty"
                    },
                ));
            }
        }
        if owner["controller"] == true {
            controllers += 1;
        }
    }
    if controllers > 1 {
        errors.push(FieldError::invalid(
            "metadata.ownerReferences",
            &object["metadata"]["ownerReferences"],
            "Only one reference can have Controller set to true",
        ));
    }
    errors
}

/// Metadata must be texts where texts belong; what the real server's decoder would refuse with 400.
pub fn metadata_shape_error(object: &Value) -> Option<String> {
    let metadata = match object.get("metadata") {
        None | Some(Value::Null) => return None,
        Some(Value::Object(map)) => map,
        Some(_) => return Some("metadata must be an object".to_owned()),
    };
    for key in ["labels", "annotations"] {
        match metadata.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::Object(map)) => {
                if let Some((k, _)) = map.iter().find(|(_, v)| !v.is_string()) {
                    return Some(format!("metadata.{key}.{k} must be a string"));
                }
            }
            Some(_) => return Some(format!("metadata.{key} must be a map of strings")),
        }
    }
    for key in ["finalizers", "ownerReferences"] {
        if metadata.get(key).is_some_and(|v| !v.is_array() && !v.is_null()) {
            return Some(format!("metadata.{key} must be a list"));
        }
    }
    for key in ["name", "namespace", "uid", "resourceVersion", "generateName"] {
        if metadata.get(key).is_some_and(|v| !v.is_string() && !v.is_null()) {
            return Some(format!("metadata.{key} must be a string"));
        }
    }
    None
}
