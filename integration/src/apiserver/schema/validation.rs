//! Validation by a schema, in the real server's words. It changes nothing.

use serde_json::{Map, Value, json};

use super::super::status::FieldError;
use super::format::has_format;
use super::{Bounds, Schema, join};

impl Schema {
    /// All that is wrong with this value; `path` is empty at the root.
    pub fn validate(&self, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
        if let Some(type_error) = self.type_error(value, path) {
            errors.push(type_error);
            return;
        }
        if value.is_null() {
            return;
        }
        if let Some(choices) = &self.choices
            && !choices.contains(value)
        {
            let supported: Vec<String> = choices
                .iter()
                .map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned))
                .collect();
            errors.push(FieldError::not_supported(shown_path(path), value, &supported));
        }
        match value {
            Value::Object(map) => self.validate_map(map, path, errors),
            Value::Array(list) => self.validate_list(list, path, errors),
            Value::String(text) => self.validate_text(text, path, errors),
            Value::Number(number) => self.bounds.check_number(number, path, errors),
            Value::Null | Value::Bool(_) => {}
        }
        self.validate_combinations(value, path, errors);
    }

    fn type_error(&self, value: &Value, path: &str) -> Option<FieldError> {
        if value.is_null() && (self.nullable || self.kind.is_none() && !self.int_or_string) {
            return None;
        }
        let actual = type_of(value);
        let fits = match (&self.kind, self.int_or_string) {
            (_, true) => matches!(actual, "integer" | "string"),
            (None, false) => true,
            (Some(kind), false) => kind == actual || (kind == "number" && actual == "integer"),
        };
        if fits {
            return None;
        }
        let wanted = match (&self.kind, self.int_or_string) {
            (_, true) => "integer,string",
            (Some(kind), false) => kind,
            (None, false) => return None,
        };
        let detail = format!(
            "{} in body must be of type {wanted}: {actual:?}",
            shown_path(path)
        );
        Some(FieldError::type_invalid(shown_path(path), &json!(actual), detail))
    }

    fn validate_map(&self, map: &Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
        for key in &self.required {
            if !map.contains_key(key) {
                errors.push(FieldError::required(join(path, key), ""));
            }
        }
        let count = map.len() as u64;
        if let Some(max) = self.bounds.max_properties.filter(|max| count > *max) {
            errors.push(FieldError::too_many(shown_path(path), map.len(), max));
        }
        if let Some(min) = self.bounds.min_properties.filter(|min| count < *min) {
            let detail = format!(
                "{} in body should have at least {min} properties",
                shown_path(path)
            );
            errors.push(FieldError::invalid(
                shown_path(path),
                &Value::Object(map.clone()),
                detail,
            ));
        }
        for (key, value) in map {
            if let Some(schema) = self.for_field(key) {
                schema.validate(value, &join(path, key), errors);
            }
        }
    }

    fn validate_list(&self, list: &[Value], path: &str, errors: &mut Vec<FieldError>) {
        let count = list.len() as u64;
        if let Some(max) = self.bounds.max_items.filter(|max| count > *max) {
            errors.push(FieldError::too_many(shown_path(path), list.len(), max));
        }
        if let Some(min) = self.bounds.min_items.filter(|min| count < *min) {
            let detail = format!("{} in body should have at least {min} items", shown_path(path));
            errors.push(FieldError::invalid(shown_path(path), &json!(count), detail));
        }
        if let Some(items) = &self.items {
            for (i, item) in list.iter().enumerate() {
                items.validate(item, &format!("{path}[{i}]"), errors);
            }
        }
        self.validate_uniqueness(list, path, errors);
    }

    /// `x-kubernetes-list-type` set and map: no two entries alike, or with the same keys.
    fn validate_uniqueness(&self, list: &[Value], path: &str, errors: &mut Vec<FieldError>) {
        let identity = |item: &Value| match self.list_type.as_deref() {
            Some("set") => Some(item.clone()),
            Some("map") => {
                let mut keys = Map::new();
                for key in &self.list_map_keys {
                    let default = || self.items.as_ref()?.properties.get(key)?.default.clone();
                    if let Some(value) = item.get(key).cloned().or_else(default) {
                        keys.insert(key.clone(), value);
                    }
                }
                Some(Value::Object(keys))
            }
            _ => None,
        };
        let mut seen: Vec<Value> = Vec::new();
        for (i, item) in list.iter().enumerate() {
            let Some(identity) = identity(item) else { return };
            if seen.contains(&identity) {
                let body = match &identity {
                    Value::String(s) => format!("Duplicate value: {s:?}"),
                    other => format!("Duplicate value: {other}"),
                };
                errors.push(FieldError {
                    kind: "FieldValueDuplicate",
                    field: format!("{path}[{i}]"),
                    body,
                });
            } else {
                seen.push(identity);
            }
        }
    }

    fn validate_text(&self, text: &str, path: &str, errors: &mut Vec<FieldError>) {
        let at = shown_path(path);
        let count = text.chars().count() as u64;
        if let Some(max) = self.bounds.max_length.filter(|max| count > *max) {
            errors.push(FieldError::too_long(&at, max));
        }
        if let Some(min) = self.bounds.min_length.filter(|min| count < *min) {
            let detail = format!("{at} in body should be at least {min} chars long");
            errors.push(FieldError::invalid(&at, &json!(text), detail));
        }
        if let Some(pattern) = &self.pattern
            && !pattern.is_match(text)
        {
            let detail = format!("{at} in body should match '{}'", pattern.as_str());
            errors.push(FieldError::invalid(&at, &json!(text), detail));
        }
        if let Some(format) = &self.format
            && !has_format(text, format)
        {
            let detail = format!("{at} in body must be of type {format}: {text:?}");
            errors.push(FieldError::type_invalid(&at, &json!(text), detail));
        }
    }

    fn validate_combinations(&self, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
        let fits = |schema: &Schema| {
            let mut found = Vec::new();
            schema.validate(value, path, &mut found);
            found.is_empty()
        };
        let at = shown_path(path);
        for schema in &self.all_of {
            schema.validate(value, path, errors);
        }
        // The two alternatives that go with int-or-string say only what the flag says.
        if !self.any_of.is_empty() && !self.int_or_string && !self.any_of.iter().any(fits) {
            let detail = format!("{at} in body must validate at least one schema (anyOf)");
            errors.push(FieldError::invalid(&at, value, detail));
        }
        if !self.one_of.is_empty() {
            let count = self.one_of.iter().filter(|s| fits(s)).count();
            if count != 1 {
                let found = if count == 0 {
                    "Found none valid".to_owned()
                } else {
                    format!("Found {count} valid alternatives")
                };
                let detail = format!("{at} in body must validate one and only one schema (oneOf). {found}");
                errors.push(FieldError::invalid(&at, value, detail));
            }
        }
        if self.not.as_ref().is_some_and(|schema| fits(schema)) {
            errors.push(FieldError::invalid(
                &at,
                value,
                format!("{at} in body must not validate the schema (not)"),
            ));
        }
    }
}

impl Bounds {
    fn check_number(&self, number: &serde_json::Number, path: &str, errors: &mut Vec<FieldError>) {
        let at = shown_path(path);
        let value = number.as_f64().unwrap_or(0.0);
        let mut refuse = |detail: String| {
            errors.push(FieldError::invalid(
                &at,
                &Value::Number(number.clone()),
                format!("{at} in body {detail}"),
            ));
        };
        if let Some(min) = self.minimum {
            if self.exclusive_minimum && value <= min {
                refuse(format!("should be greater than {min}"));
            } else if value < min {
                refuse(format!("should be greater than or equal to {min}"));
            }
        }
        if let Some(max) = self.maximum {
            if self.exclusive_maximum && value >= max {
                refuse(format!("should be less than {max}"));
            } else if value > max {
                refuse(format!("should be less than or equal to {max}"));
            }
        }
        if let Some(step) = self.multiple_of
            && step != 0.0
            && (value / step).fract() != 0.0
        {
            refuse(format!("should be a multiple of {step}"));
        }
    }
}

fn shown_path(path: &str) -> String {
    if path.is_empty() {
        "<nil>".to_owned()
    } else {
        path.to_owned()
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_i64() || n.is_u64() || n.as_f64().is_some_and(|f| f.fract() == 0.0) => {
            "integer"
        }
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
