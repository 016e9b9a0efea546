//! Structural schemas of custom resources: reading them, pruning, defaulting and validating by them
//! (apiextensions-apiserver `pkg/apiserver/{schema,validation}`, v0.36). CEL rules are read over.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Map, Value, json};

use super::object::strings;
use super::status::FieldError;

/// One node of a structural schema.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    kind: Option<String>,
    properties: BTreeMap<String, Schema>,
    additional: Additional,
    items: Option<Box<Schema>>,
    required: Vec<String>,
    choices: Option<Vec<Value>>,
    pattern: Option<Regex>,
    format: Option<String>,
    bounds: Bounds,
    default: Option<Value>,
    nullable: bool,
    preserve: bool,
    embedded: bool,
    int_or_string: bool,
    list_type: Option<String>,
    list_map_keys: Vec<String>,
    all_of: Vec<Schema>,
    any_of: Vec<Schema>,
    one_of: Vec<Schema>,
    not: Option<Box<Schema>>,
}

#[derive(Debug, Clone, Default)]
enum Additional {
    #[default]
    None,
    Any,
    Of(Box<Schema>),
}

#[derive(Debug, Clone, Default)]
struct Bounds {
    minimum: Option<f64>,
    maximum: Option<f64>,
    exclusive_minimum: bool,
    exclusive_maximum: bool,
    multiple_of: Option<f64>,
    min_length: Option<u64>,
    max_length: Option<u64>,
    min_items: Option<u64>,
    max_items: Option<u64>,
    min_properties: Option<u64>,
    max_properties: Option<u64>,
}

const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

impl Schema {
    /// Read `openAPIV3Schema`; `path` is where it stands in the CRD, for the errors.
    pub fn parse(schema: &Value, path: &str) -> Result<Schema, FieldError> {
        let child = |key: &str| format!("{path}.{key}");
        let list = |key: &str| -> Result<Vec<Schema>, FieldError> {
            let items = schema[key].as_array().into_iter().flatten().enumerate();
            items
                .map(|(i, s)| Schema::parse(s, &format!("{path}.{key}[{i}]")))
                .collect()
        };
        let mut properties = BTreeMap::new();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            properties.insert(
                name.clone(),
                Schema::parse(property, &format!("{path}.properties[{name}]"))?,
            );
        }
        let additional = match &schema["additionalProperties"] {
            Value::Bool(true) => Additional::Any,
            of @ Value::Object(_) => {
                Additional::Of(Box::new(Schema::parse(of, &child("additionalProperties"))?))
            }
            _ => Additional::None,
        };
        let boxed = |key: &str| -> Result<Option<Box<Schema>>, FieldError> {
            match &schema[key] {
                of @ Value::Object(_) => Ok(Some(Box::new(Schema::parse(of, &child(key))?))),
                _ => Ok(None),
            }
        };
        let pattern = match schema["pattern"].as_str() {
            Some(text) => Some(Regex::new(text).map_err(|e| {
                FieldError::invalid(
                    child("pattern"),
                    &json!(text),
                    format!("must be a valid regular expression, but isn't: {e}"),
                )
            })?),
            None => None,
        };
        let text = |key: &str| schema[key].as_str().map(str::to_owned);
        let flag = |key: &str| schema[key] == true;
        Ok(Schema {
            kind: text("type").filter(|t| !t.is_empty()),
            properties,
            additional,
            items: boxed("items")?,
            required: strings(&schema["required"]),
            choices: schema["enum"].as_array().cloned(),
            pattern,
            format: text("format"),
            bounds: Bounds::parse(schema),
            default: schema.get("default").cloned(),
            nullable: flag("nullable"),
            preserve: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            list_type: text("x-kubernetes-list-type"),
            list_map_keys: strings(&schema["x-kubernetes-list-map-keys"]),
            all_of: list("allOf")?,
            any_of: list("anyOf")?,
            one_of: list("oneOf")?,
            not: boxed("not")?,
        })
    }

    /// What makes a schema not structural (the part of the rules that a person runs into).
    pub fn structural_errors(schema: &Value, path: &str) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let special = schema["x-kubernetes-int-or-string"] == true
            || schema["x-kubernetes-preserve-unknown-fields"] == true;
        if schema["type"].as_str().unwrap_or_default().is_empty() && !special {
            errors.push(FieldError::required(
                format!("{path}.type"),
                "must not be empty for specified object fields",
            ));
        }
        if schema["type"] == "array" && !schema["items"].is_object() {
            errors.push(FieldError::required(format!("{path}.items"), "must be specified"));
        }
        if schema["uniqueItems"] == true {
            errors.push(FieldError::forbidden(
                format!("{path}.uniqueItems"),
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ));
        }
        let has_properties = schema["properties"].as_object().is_some_and(|m| !m.is_empty());
        if has_properties && !schema["additionalProperties"].is_null() {
            errors.push(FieldError::forbidden(
                format!("{path}.additionalProperties"),
                "additionalProperties and properties are mutual exclusive",
            ));
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            errors.extend(Schema::structural_errors(
                property,
                &format!("{path}.properties[{name}]"),
            ));
        }
        for key in ["items", "additionalProperties"] {
            if schema[key].is_object() {
                errors.extend(Schema::structural_errors(&schema[key], &format!("{path}.{key}")));
            }
        }
        errors
    }

    /// Take away what the schema does not name; the paths that went are the unknown fields, sorted.
    pub fn prune_root(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        if let Value::Object(map) = object {
            let root = Pruning { at_root: true };
            if self.preserve {
                self.skip_prune(object, "", &mut unknown);
            } else {
                self.prune_map(map, "", root, &mut unknown);
            }
        }
        unknown.sort();
        unknown
    }

    fn prune(&self, value: &mut Value, path: &str, unknown: &mut Vec<String>) {
        if self.preserve {
            return self.skip_prune(value, path, unknown);
        }
        match value {
            Value::Object(map) => self.prune_map(map, path, Pruning { at_root: false }, unknown),
            Value::Array(list) => {
                for (i, item) in list.iter_mut().enumerate() {
                    let here = format!("{path}[{i}]");
                    match &self.items {
                        Some(items) => items.prune(item, &here, unknown),
                        None => prune_all(item, &here, unknown),
                    }
                }
            }
            _ => {}
        }
    }

    fn prune_map(&self, map: &mut Map<String, Value>, path: &str, at: Pruning, unknown: &mut Vec<String>) {
        let keys: Vec<String> = map.keys().cloned().collect();
        for key in keys {
            if (at.at_root || self.embedded) && META_FIELDS.contains(&key.as_str()) {
                continue;
            }
            let here = join(path, &key);
            let Some(value) = map.get_mut(&key) else { continue };
            if let Some(property) = self.properties.get(&key) {
                property.prune(value, &here, unknown);
                continue;
            }
            match &self.additional {
                Additional::Of(schema) => schema.prune(value, &here, unknown),
                Additional::Any => prune_all(value, &here, unknown),
                Additional::None => {
                    map.remove(&key);
                    unknown.push(here);
                }
            }
        }
    }

    fn skip_prune(&self, value: &mut Value, path: &str, unknown: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map.iter_mut() {
                    let here = join(path, key);
                    match (self.properties.get(key), &self.additional) {
                        (Some(property), _) => property.prune(value, &here, unknown),
                        (None, Additional::Of(schema)) => schema.prune(value, &here, unknown),
                        (None, _) => {}
                    }
                }
            }
            Value::Array(list) => {
                for (i, item) in list.iter_mut().enumerate() {
                    if let Some(items) = &self.items {
                        items.skip_prune(item, &format!("{path}[{i}]"), unknown);
                    }
                }
            }
            _ => {}
        }
    }

    fn for_field(&self, key: &str) -> Option<&Schema> {
        self.properties.get(key).or(match &self.additional {
            Additional::Of(schema) => Some(schema),
            Additional::None | Additional::Any => None,
        })
    }

    /// Drop nulls where null is not allowed and no default steps in.
    pub fn drop_nulls(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|key, value| {
                    let gone = value.is_null()
                        && self
                            .for_field(key)
                            .is_some_and(|s| !s.nullable && s.default.is_none());
                    !gone
                });
                for (key, value) in map.iter_mut() {
                    if let Some(schema) = self.for_field(key) {
                        schema.drop_nulls(value);
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    list.iter_mut().for_each(|item| items.drop_nulls(item));
                }
            }
            _ => {}
        }
    }

    /// Fill in defaults, from the outside in.
    pub fn set_defaults(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (key, property) in &self.properties {
                    let Some(default) = &property.default else {
                        continue;
                    };
                    if map.get(key).is_none_or(|v| v.is_null() && !property.nullable) {
                        map.insert(key.clone(), default.clone());
                    }
                }
                for (key, value) in map.iter_mut() {
                    if let Some(schema) = self.for_field(key) {
                        schema.set_defaults(value);
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    list.iter_mut().for_each(|item| items.set_defaults(item));
                }
            }
            _ => {}
        }
    }

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
            errors.push(FieldError::invalid(&at, &json!(text), detail));
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

#[derive(Clone, Copy)]
struct Pruning {
    at_root: bool,
}

impl Bounds {
    fn parse(schema: &Value) -> Bounds {
        let number = |key: &str| schema[key].as_f64();
        let count = |key: &str| schema[key].as_u64();
        Bounds {
            minimum: number("minimum"),
            maximum: number("maximum"),
            exclusive_minimum: schema["exclusiveMinimum"] == true,
            exclusive_maximum: schema["exclusiveMaximum"] == true,
            multiple_of: number("multipleOf"),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
        }
    }

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

/// Below a place that allows anything named but describes nothing: the real pruner empties maps there.
fn prune_all(value: &mut Value, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            unknown.extend(map.keys().map(|key| join(path, key)));
            map.clear();
        }
        Value::Array(list) => {
            for (i, item) in list.iter_mut().enumerate() {
                prune_all(item, &format!("{path}[{i}]"), unknown);
            }
        }
        _ => {}
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
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

/// The formats of `supportedVersionedFormats` that a Drydock resource may use; others pass.
fn has_format(text: &str, format: &str) -> bool {
    match format {
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10,
        "uuid" => uuid::Uuid::try_parse(text).is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "uri" => url::Url::parse(text).is_ok() || text.starts_with('/'),
        "byte" => {
            text.len().is_multiple_of(4)
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='))
        }
        "duration" => is_go_duration(text),
        _ => true,
    }
}

/// A duration as Go's `time.ParseDuration` reads it: `1h30m`, `1.5s`, `0`.
fn is_go_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        if digits == 0 || rest[..digits].parse::<f64>().is_err() {
            return false;
        }
        rest = &rest[digits..];
        let unit = ["ns", "us", "µs", "ms", "s", "m", "h"]
            .into_iter()
            .filter(|u| rest.starts_with(u))
            .max_by_key(|u| u.len());
        match unit {
            Some(unit) => rest = &rest[unit.len()..],
            None => return false,
        }
    }
    true
}
