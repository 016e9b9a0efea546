//! From a body (or a patched object) to the stored form: kind, version and namespace checked, unknown
//! fields dropped and judged, defaults in. It never looks at what is stored.

use serde_json::{Value, json};

use super::builtin;
use super::crd;
use super::details;
use super::events;
use super::object;
use super::resources::{Shape, Source};
use super::status::{ApiError, FieldError};
use super::writes::{FieldValidation, Writer};

impl Writer<'_> {
    /// From a body to the stored form: kind and namespace checked, unknown fields dropped, defaults in.
    pub(super) fn decode(&mut self, body: &Value, is_body: bool) -> Result<Value, ApiError> {
        let kind = &self.resource.kind;
        let api_version = self.resource.api_version();
        if !body.is_object() {
            return Err(ApiError::bad_request(format!(
                "{kind} in version {:?} cannot be handled as a {kind}: not an object",
                self.resource.version
            )));
        }
        let said = |key: &str| body[key].as_str().unwrap_or_default();
        if let (Source::Custom(_), true) = (&self.resource.source, is_body) {
            self.check_custom_kind(body)?;
        }
        if !said("kind").is_empty() && said("kind") != kind {
            if !is_body {
                let why = "the kind in the data does not match the expected kind";
                return Err(self.unreadable(why, is_body, body));
            }
            return Err(ApiError::bad_request(format!(
                "{} in version {:?} cannot be handled as a {kind}: the kind in the data does not match the expected kind",
                said("kind"),
                self.resource.version
            )));
        }
        if !said("apiVersion").is_empty() && said("apiVersion") != api_version {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({}) does not match the expected API version ({api_version})",
                said("apiVersion")
            )));
        }
        if let Some(why) = object::metadata_shape_error(body) {
            return Err(self.unreadable(&why, is_body, body));
        }
        let mut new = body.clone();
        new["kind"] = json!(kind);
        new["apiVersion"] = json!(api_version);
        if self.resource.shape == Shape::NewEvent {
            events::to_stored(&mut new);
        }
        if let Some(why) = details::micro_time_error(self.resource, &new) {
            return Err(self.unreadable(&why, is_body, body));
        }
        self.place(&mut new)?;
        let dropped = self.drop_unknown(&mut new);
        let unknown = dropped.map_err(|why| self.unreadable(&why, is_body, body))?;
        self.judge_unknown(&unknown, is_body, body)?;
        match &self.resource.source {
            Source::BuiltIn(_) if self.is_crd() => crd::set_defaults(&mut new),
            Source::BuiltIn(_) => builtin::set_defaults(self.resource, &mut new),
            Source::Custom(custom) => new["apiVersion"] = json!(custom.storage_api_version),
        }
        object::tidy_metadata(&mut new);
        Ok(new)
    }

    fn undecodable(&self, why: &str) -> ApiError {
        let kind = &self.resource.kind;
        ApiError::bad_request(format!(
            "{kind} in version {:?} cannot be handled as a {kind}: {why}",
            self.resource.version
        ))
    }

    /// A body that cannot be read is a bad request, a patch that leads to one is invalid.
    fn unreadable(&self, why: &str, is_body: bool, body: &Value) -> ApiError {
        if is_body {
            return self.undecodable(why);
        }
        let error = FieldError::invalid("patch", &json!(body.to_string()), why);
        ApiError::invalid("", "", "", &[error])
    }

    /// A custom resource has no type that would tell what is meant: its body says so itself.
    fn check_custom_kind(&self, body: &Value) -> Result<(), ApiError> {
        let kind = &self.resource.kind;
        let said = body["kind"].as_str().unwrap_or_default();
        if said.is_empty() {
            return Err(ApiError::bad_request(format!(
                "the object provided is unrecognized (must be of type {kind}): Object 'Kind' is missing in '{body}'"
            )));
        }
        if said == kind {
            return Ok(());
        }
        let error = FieldError::invalid("kind", &json!(said), format!("must be {kind}"));
        Err(ApiError::invalid(
            &self.resource.group,
            said,
            object::name(body),
            &[error],
        ))
    }

    /// The namespace of the request is the object's.
    fn place(&self, new: &mut Value) -> Result<(), ApiError> {
        let said = object::namespace(new).to_owned();
        if !self.resource.namespaced {
            object::set_meta(new, "namespace", Value::Null);
        } else if said.is_empty() {
            object::set_meta(new, "namespace", json!(self.namespace));
        } else if said != self.namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        Ok(())
    }

    fn drop_unknown(&self, new: &mut Value) -> Result<Vec<String>, String> {
        match &self.resource.source {
            Source::Custom(custom) => Ok(custom.decode(new)),
            Source::BuiltIn(normalize) => {
                let normal = normalize(new.clone())?;
                let mut unknown = Vec::new();
                lost(new, &normal, "", &mut unknown);
                *new = normal;
                Ok(unknown)
            }
        }
    }

    fn judge_unknown(&mut self, unknown: &[String], is_body: bool, body: &Value) -> Result<(), ApiError> {
        let sentences: Vec<String> = unknown
            .iter()
            .map(|path| format!("unknown field {path:?}"))
            .collect();
        if sentences.is_empty() {
            return Ok(());
        }
        match self.validation {
            FieldValidation::Ignore => {}
            FieldValidation::Warn => {
                for sentence in sentences {
                    if !self.warnings.contains(&sentence) {
                        self.warnings.push(sentence);
                    }
                }
            }
            FieldValidation::Strict => {
                let why = format!("strict decoding error: {}", sentences.join(", "));
                return Err(if is_body {
                    self.undecodable(&why)
                } else {
                    let shown = json!(body.to_string());
                    ApiError::invalid("", "", "", &[FieldError::invalid("patch", &shown, why)])
                });
            }
        }
        Ok(())
    }
}

/// The paths that stand in `before` with a value and not in `after`: what a typed decode did not know.
fn lost(before: &Value, after: &Value, path: &str, unknown: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                let here = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                match after.get(key) {
                    Some(kept) => lost(value, kept, &here, unknown),
                    None if is_empty(value) => {}
                    None => unknown.push(here),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            for (i, (value, kept)) in before.iter().zip(after).enumerate() {
                lost(value, kept, &format!("{path}[{i}]"), unknown);
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}
