//! Whether what stands in a cluster is what an installation would put there. The API server adds to every
//! object (defaults, status), so what counts is that all of ours is in theirs.

use serde_json::Value;

/// Where `theirs` lacks something of `ours` or has it otherwise: a path like `spec.rules[0].verbs`, the
/// first of them. None: all of ours is there.
#[must_use]
pub fn first_difference(ours: &Value, theirs: &Value) -> Option<String> {
    difference(ours, theirs).map(|path| path.trim_start_matches('.').to_owned())
}

fn difference(ours: &Value, theirs: &Value) -> Option<String> {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => ours.iter().find_map(|(key, value)| {
            let theirs = theirs.get(key).unwrap_or(&Value::Null);
            // The server leaves out what is empty.
            if *theirs == Value::Null && is_empty(value) {
                return None;
            }
            difference(value, theirs).map(|rest| format!(".{key}{rest}"))
        }),
        (Value::Array(ours), Value::Array(theirs)) => {
            if ours.len() != theirs.len() {
                return Some(String::new());
            }
            let pairs = ours.iter().zip(theirs).enumerate();
            pairs
                .filter_map(|(index, (ours, theirs))| {
                    difference(ours, theirs).map(|rest| format!("[{index}]{rest}"))
                })
                .next()
        }
        (Value::Number(ours), Value::Number(theirs)) => (ours.as_f64() != theirs.as_f64()).then(String::new),
        (ours, theirs) => (ours != theirs).then(String::new),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        Value::String(text) => text.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}
