//! Structural schemas of custom resources: reading them, and what makes one not structural
//! (apiextensions-apiserver `pkg/apiserver/{schema,validation}`, v0.36). What is done by a schema has a
//! module each. CEL rules are read over.

mod defaulting;
mod format;
mod pruning;
mod validation;

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Value, json};

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

    fn for_field(&self, key: &str) -> Option<&Schema> {
        self.properties.get(key).or(match &self.additional {
            Additional::Of(schema) => Some(schema),
            Additional::None | Additional::Any => None,
        })
    }
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
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}
