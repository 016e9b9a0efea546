//! How answers are written: the media type that was asked for (plain, Table, metadata only), lists,
//! errors, and the headers that every answer carries.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::events;
use super::list::Page;
use super::resources::Resource;
use super::status::ApiError;
use super::store::Object;
use super::table::{self, Include};

/// The body of every answer.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How objects are to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// As they are.
    Plain,
    /// As a Table for `kubectl get`.
    Table(Include),
    /// As PartialObjectMetadata.
    Metadata,
}

impl View {
    /// The first JSON form in the `Accept` header that is served here. Protobuf falls back to JSON.
    pub fn negotiate(headers: &HeaderMap, include_object: Option<&str>) -> Result<View, ApiError> {
        let include = match include_object {
            None | Some("" | "Metadata") => Include::Metadata,
            Some("Object") => Include::Object,
            Some("None") => Include::Nothing,
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "unrecognized includeObject value: {other:?}"
                )));
            }
        };
        let accept = headers
            .get(header::ACCEPT)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("*/*");
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let parameters: Vec<&str> = parts.collect();
            let wanted = parameters.iter().find_map(|p| p.strip_prefix("as="));
            let is_v1 = parameters.contains(&"v=v1");
            match (media, wanted) {
                ("application/json" | "*/*" | "application/*" | "", None) => return Ok(View::Plain),
                ("application/vnd.kubernetes.protobuf", None) => return Ok(View::Plain),
                ("application/json", Some("Table")) if is_v1 => return Ok(View::Table(include)),
                (
                    "application/json" | "application/vnd.kubernetes.protobuf",
                    Some("PartialObjectMetadata" | "PartialObjectMetadataList"),
                ) if is_v1 => {
                    return Ok(View::Metadata);
                }
                _ => {}
            }
        }
        let mut error = ApiError::new(
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json",
        );
        error.details = Some(json!({}));
        Err(error)
    }

    /// One object.
    pub fn object(self, resource: &Resource, object: &Object, now: Timestamp) -> Value {
        match self {
            View::Plain => events::present(resource, object).into_owned(),
            View::Metadata => table::metadata_only(object),
            View::Table(include) => {
                let mut table = table::table(resource, std::slice::from_ref(object), now, true, include);
                table["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
                table
            }
        }
    }

    /// A page of a list.
    pub fn page(self, resource: &Resource, page: &Page, now: Timestamp) -> Value {
        let mut list = match self {
            View::Table(include) => table::table(resource, &page.items, now, true, include),
            View::Plain => {
                let items: Vec<Value> = page
                    .items
                    .iter()
                    .map(|o| events::present(resource, o).into_owned())
                    .collect();
                json!({"kind": resource.list_kind, "apiVersion": resource.api_version(), "metadata": {}, "items": items})
            }
            View::Metadata => {
                let items: Vec<Value> = page.items.iter().map(|o| table::metadata_only(o)).collect();
                json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": items})
            }
        };
        list["metadata"]["resourceVersion"] = json!(page.version.to_string());
        if let Some(token) = &page.continue_token {
            list["metadata"]["continue"] = json!(token);
        }
        if let Some(remaining) = page.remaining {
            list["metadata"]["remainingItemCount"] = json!(remaining);
        }
        list
    }
}

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// An answer with a JSON body.
pub fn json_answer(code: u16, value: &Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer with plain text.
pub fn text_answer(code: u16, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(full(text.into()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// An error as a Status.
pub fn error_answer(error: &ApiError) -> Response<Body> {
    let mut response = json_answer(error.code, &error.body());
    if let Some(secs) = error.retry_after_secs {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(secs));
    }
    response
}

/// Add what was said of unknown fields, one `Warning` header each.
pub fn add_warnings(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let text: String = warning.chars().filter(|c| !c.is_control()).collect();
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

/// Every answer tells the server's time.
pub fn add_date(response: &mut Response<Body>, now: Timestamp) {
    let text = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    if let Ok(value) = HeaderValue::from_str(&text) {
        response.headers_mut().insert(header::DATE, value);
    }
}
