//! The `metav1.Status` answers: one constructor per failure that the real server knows, in its words
//! (k8s.io/apimachinery `pkg/api/errors`, v0.36). It never decides which failure applies.

use serde_json::{Value, json};

use super::resources::GroupResource;

/// A failed call: what the client sees as a `Status` body.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{code} {reason}: {message}")]
pub struct ApiError {
    /// The HTTP code.
    pub code: u16,
    /// `Status.reason`, for instance `Conflict`.
    pub reason: String,
    /// `Status.message`.
    pub message: String,
    /// `Status.details`.
    pub details: Option<Value>,
    /// Sent as the `Retry-After` header, in seconds.
    pub retry_after_secs: Option<u32>,
    /// `Status.metadata.continue`: set when an expired list can go on at the newest state.
    pub continue_token: Option<String>,
}

/// One entry of a 422's `details.causes` (k8s.io/apimachinery `pkg/util/validation/field`).
#[derive(Debug, Clone)]
pub struct FieldError {
    /// The cause's type, for instance `FieldValueInvalid`.
    pub kind: &'static str,
    /// The path of the field, `spec.dock.term`.
    pub field: String,
    /// What is said of it, without the path.
    pub body: String,
}

impl FieldError {
    /// `Required value`.
    pub fn required(field: impl Into<String>, detail: &str) -> FieldError {
        FieldError {
            kind: "FieldValueRequired",
            field: field.into(),
            body: with_detail("Required value", detail),
        }
    }

    /// `Invalid value: VALUE: DETAIL`.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: impl std::fmt::Display) -> FieldError {
        FieldError {
            kind: "FieldValueInvalid",
            field: field.into(),
            body: format!("Invalid value: {}: {detail}", shown(value)),
        }
    }

    /// The same words, for a value of the wrong type.
    pub fn type_invalid(
        field: impl Into<String>,
        value: &Value,
        detail: impl std::fmt::Display,
    ) -> FieldError {
        FieldError {
            kind: "FieldValueTypeInvalid",
            ..FieldError::invalid(field, value, detail)
        }
    }

    /// `Unsupported value: VALUE: supported values: ...`.
    pub fn not_supported(field: impl Into<String>, value: &Value, supported: &[String]) -> FieldError {
        let list = supported
            .iter()
            .map(|s| format!("{s:?}"))
            .collect::<Vec<_>>()
            .join(", ");
        FieldError {
            kind: "FieldValueNotSupported",
            field: field.into(),
            body: format!("Unsupported value: {}: supported values: {list}", shown(value)),
        }
    }

    /// `Forbidden: DETAIL`.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> FieldError {
        FieldError {
            kind: "FieldValueForbidden",
            field: field.into(),
            body: with_detail("Forbidden", detail),
        }
    }

    /// `Too long: may not be more than MAX bytes`.
    pub fn too_long(field: impl Into<String>, max: u64) -> FieldError {
        FieldError {
            kind: "FieldValueTooLong",
            field: field.into(),
            body: format!(
                "Too long: may not be more than {max} byte{}",
                if max == 1 { "" } else { "s" }
            ),
        }
    }

    /// `Too many: ACTUAL: must have at most MAX items`.
    pub fn too_many(field: impl Into<String>, actual: usize, max: u64) -> FieldError {
        FieldError {
            kind: "FieldValueTooMany",
            field: field.into(),
            body: format!(
                "Too many: {actual}: must have at most {max} item{}",
                if max == 1 { "" } else { "s" }
            ),
        }
    }

    fn sentence(&self) -> String {
        format!("{}: {}", self.field, self.body)
    }
}

fn with_detail(head: &str, detail: &str) -> String {
    if detail.is_empty() {
        head.to_owned()
    } else {
        format!("{head}: {detail}")
    }
}

/// A value as the real server prints it in a message: strings quoted, numbers bare, the rest as JSON.
fn shown(value: &Value) -> String {
    match value {
        Value::String(s) => format!("{s:?}"),
        other => other.to_string(),
    }
}

impl ApiError {
    /// An answer with this code, reason and message and nothing else.
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> ApiError {
        ApiError {
            code,
            reason: reason.to_owned(),
            message: message.into(),
            details: None,
            retry_after_secs: None,
            continue_token: None,
        }
    }

    fn of(gr: &GroupResource, name: &str, code: u16, reason: &str, message: String) -> ApiError {
        let mut error = ApiError::new(code, reason, message);
        error.details = Some(details(&gr.group, &gr.resource, name));
        error
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> ApiError {
        ApiError::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403.
    pub fn forbidden(gr: &GroupResource, name: &str, why: &str) -> ApiError {
        let message = format!("{gr} {name:?} is forbidden: {why}");
        ApiError::of(gr, name, 403, "Forbidden", message)
    }

    /// 404 for an object.
    pub fn not_found(gr: &GroupResource, name: &str) -> ApiError {
        ApiError::of(gr, name, 404, "NotFound", format!("{gr} {name:?} not found"))
    }

    /// 404 for a path that is not served here.
    pub fn no_such_path() -> ApiError {
        let mut error = ApiError::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        );
        error.details = Some(json!({}));
        error
    }

    /// 405.
    pub fn method_not_allowed(gr: &GroupResource, action: &str) -> ApiError {
        let message = format!("{action} is not supported on resources of kind \"{gr}\"");
        let mut error = ApiError::new(405, "MethodNotAllowed", message);
        error.details = Some(details(&gr.group, &gr.resource, ""));
        error
    }

    /// 409, the name is taken.
    pub fn already_exists(gr: &GroupResource, name: &str) -> ApiError {
        ApiError::of(
            gr,
            name,
            409,
            "AlreadyExists",
            format!("{gr} {name:?} already exists"),
        )
    }

    /// 409, someone else was faster or a precondition does not hold.
    pub fn conflict(gr: &GroupResource, name: &str, why: impl std::fmt::Display) -> ApiError {
        let message = format!("Operation cannot be fulfilled on {gr} {name:?}: {why}");
        ApiError::of(gr, name, 409, "Conflict", message)
    }

    /// 409 of the optimistic lock, in the words that clients look for.
    pub fn stale(gr: &GroupResource, name: &str) -> ApiError {
        ApiError::conflict(
            gr,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 410, reason `Expired`.
    pub fn expired(message: impl Into<String>) -> ApiError {
        ApiError::new(410, "Expired", message)
    }

    /// 413.
    pub fn too_large(why: impl std::fmt::Display) -> ApiError {
        let message = format!("Request entity too large: {why}");
        ApiError::new(413, "RequestEntityTooLarge", message)
    }

    /// 415; `what` says what was sent and what is taken instead.
    pub fn unsupported_media_type(what: impl Into<String>) -> ApiError {
        ApiError::new(415, "UnsupportedMediaType", what)
    }

    /// 422 with one cause per field.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> ApiError {
        let qualified = if group.is_empty() {
            kind.to_owned()
        } else {
            format!("{kind}.{group}")
        };
        let mut sentences: Vec<String> = Vec::new();
        for error in errors {
            let sentence = error.sentence();
            if !sentences.contains(&sentence) {
                sentences.push(sentence);
            }
        }
        let told = match sentences.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let causes: Vec<Value> = errors
            .iter()
            .map(|e| json!({"reason": e.kind, "message": e.body, "field": e.field}))
            .collect();
        let mut details = details(group, kind, name);
        details["causes"] = Value::Array(causes);
        let mut error = ApiError::new(422, "Invalid", format!("{qualified} {name:?} is invalid: {told}"));
        error.details = Some(details);
        error
    }

    /// 429 of the eviction API: the budget says no.
    pub fn disruption_budget(retry_after_secs: u32, cause: String) -> ApiError {
        let mut error = ApiError::new(
            429,
            "TooManyRequests",
            "Cannot evict pod as it would violate the pod's disruption budget.",
        );
        let mut details = json!({"causes": [{"reason": "DisruptionBudget", "message": cause}]});
        if retry_after_secs > 0 {
            details["retryAfterSeconds"] = json!(retry_after_secs);
            error.retry_after_secs = Some(retry_after_secs);
        }
        error.details = Some(details);
        error
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> ApiError {
        let mut error = ApiError::new(
            500,
            "InternalError",
            format!("Internal error occurred: {message}"),
        );
        error.details = Some(json!({"causes": [{"message": message.to_string()}]}));
        error
    }

    /// 501: known to the real server, deliberately not served here.
    pub fn not_implemented(what: &str) -> ApiError {
        ApiError::new(
            501,
            "NotImplemented",
            format!("{what} is not served by the embedded API, see docs/embedded-api.md"),
        )
    }

    /// 504 of a read or watch from a version that this server has not reached.
    pub fn version_too_large(asked: u64, current: u64) -> ApiError {
        let mut error = ApiError::new(
            504,
            "Timeout",
            format!("Timeout: Too large resource version: {asked}, current: {current}"),
        );
        error.details = Some(json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1
        }));
        error.retry_after_secs = Some(1);
        error
    }

    /// The body.
    pub fn body(&self) -> Value {
        let mut metadata = json!({});
        if let Some(token) = &self.continue_token {
            metadata["continue"] = json!(token);
        }
        let mut body = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if self.reason.is_empty()
            && let Some(map) = body.as_object_mut()
        {
            map.remove("reason");
        }
        if let Some(details) = &self.details {
            body["details"] = details.clone();
        }
        body
    }
}

fn details(group: &str, kind: &str, name: &str) -> Value {
    let mut map = serde_json::Map::new();
    for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            map.insert(key.to_owned(), json!(value));
        }
    }
    Value::Object(map)
}

/// A `Status` that says it went well, about this object (what a delete answers).
pub fn success(gr: &GroupResource, name: &str, uid: &str) -> Value {
    let mut details = details(&gr.group, &gr.resource, name);
    details["uid"] = json!(uid);
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
