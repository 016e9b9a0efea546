//! A JSON merge patch (RFC 7386) from one document to another. Pure.

use serde_json::{Map, Value};

/// What makes `held` into `wanted`; `None` if they are the same. A field that is missing in `wanted` is
/// taken away.
pub(super) fn merge_patch(held: &Value, wanted: &Value) -> Option<Value> {
    let (Value::Object(held), Value::Object(wanted)) = (held, wanted) else {
        return (held != wanted).then(|| wanted.clone());
    };
    let mut change = Map::new();
    for (key, value) in wanted {
        match held.get(key) {
            Some(old) => {
                if let Some(inner) = merge_patch(old, value) {
                    change.insert(key.clone(), inner);
                }
            }
            None => {
                change.insert(key.clone(), value.clone());
            }
        }
    }
    for key in held.keys().filter(|key| !wanted.contains_key(*key)) {
        change.insert(key.clone(), Value::Null);
    }
    (!change.is_empty()).then_some(Value::Object(change))
}

#[cfg(test)]
mod tests {
    use super::merge_patch;
    use serde_json::json;

    #[test]
    fn only_what_differs_is_written_and_what_is_gone_is_taken_away() {
        let table = [
            (
                json!({"a": 1, "b": {"c": 2}}),
                json!({"a": 1, "b": {"c": 2}}),
                None,
            ),
            (json!({}), json!({"a": [1]}), Some(json!({"a": [1]}))),
            (json!({"a": 1, "b": 2}), json!({"a": 1}), Some(json!({"b": null}))),
            (
                json!({"attempt": {"name": "a1", "code": "X"}}),
                json!({"attempt": {"name": "a2"}}),
                Some(json!({"attempt": {"name": "a2", "code": null}})),
            ),
            (json!({"a": [1, 2]}), json!({"a": [2]}), Some(json!({"a": [2]}))),
        ];
        for (held, wanted, change) in table {
            assert_eq!(merge_patch(&held, &wanted), change);
        }
    }
}
