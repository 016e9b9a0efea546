//! From a request to what it is about: who asks, what the path names. Discovery and OpenAPI are answered
//! here; a request about objects is a [`Call`].

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, header};
use hyper::body::Incoming;
use serde_json::Value;

use super::answer::{self, Body};
use super::call::Call;
use super::core::Core;
use super::discovery;
use super::openapi;
use super::query::Query;
use super::resources::Resource;
use super::serve::Connection;
use super::status::ApiError;

/// The answer to a request, with the server's time on it.
pub async fn answer(
    core: Arc<Core>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut response = match route(&core, &connection, &parts, body).await {
        Ok(response) => response,
        Err(error) => answer::error_answer(&error),
    };
    answer::add_date(&mut response, core.clock.now());
    response
}

async fn route(
    core: &Arc<Core>,
    connection: &Arc<Connection>,
    parts: &Parts,
    body: Incoming,
) -> Result<Response<Body>, ApiError> {
    let segments: Vec<String> = parts
        .uri
        .path()
        .split('/')
        .filter(|s| !s.is_empty())
        .map(|s| {
            percent_encoding::percent_decode_str(s)
                .decode_utf8_lossy()
                .into_owned()
        })
        .collect();
    let path: Vec<&str> = segments.iter().map(String::as_str).collect();
    if let (["version"] | ["healthz" | "livez" | "readyz", ..], &Method::GET) =
        (path.as_slice(), &parts.method)
    {
        return Ok(match path.as_slice() {
            ["version"] => answer::json_answer(200, &discovery::version()),
            _ => answer::text_answer(200, "ok"),
        });
    }
    let user = authenticate(core, &parts.headers)?;
    connection.saw(&user);
    if core.hooks.reach().borrow().is_cut_off(&user) {
        // The connection sees the same and is about to be dropped.
        connection.reset();
        return std::future::pending().await;
    }
    if let Some(found) = describe(core, &path) {
        if parts.method != Method::GET {
            return Err(ApiError::new(405, "MethodNotAllowed", "only GET is served here"));
        }
        return found.map(|value| answer::json_answer(200, &value));
    }
    let target = Target::parse(core, &path)?;
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let call = Call {
        core,
        connection,
        user,
        parts,
        query,
        target,
    };
    call.run(body).await
}

fn authenticate(core: &Core, headers: &HeaderMap) -> Result<Arc<str>, ApiError> {
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("Bearer ").or_else(|| v.strip_prefix("bearer ")));
    token
        .and_then(|token| core.users.find(token.trim()))
        .ok_or_else(ApiError::unauthorized)
}

/// Discovery and OpenAPI; none if the path is about objects.
fn describe(core: &Core, path: &[&str]) -> Option<Result<Value, ApiError>> {
    let registry = &core.registry;
    let found = match path {
        ["api"] => Some(discovery::core_versions("")),
        ["api", version] => discovery::resources(registry, "", version),
        ["apis"] => Some(discovery::groups(registry)),
        ["apis", group] => discovery::group(registry, group),
        ["apis", group, version] => discovery::resources(registry, group, version),
        ["openapi", "v3"] => Some(openapi::index(registry)),
        ["openapi", "v3", "api", version] => openapi::page(registry, "", version),
        ["openapi", "v3", "apis", group, version] => openapi::page(registry, group, version),
        ["api" | "apis", ..] => return None,
        _ => None,
    };
    Some(found.ok_or_else(ApiError::no_such_path))
}

/// What a path names.
pub struct Target {
    /// The kind's resource.
    pub resource: Arc<Resource>,
    /// Empty for cluster scope and for all namespaces.
    pub namespace: String,
    /// None for a collection.
    pub name: Option<String>,
    /// Empty for the object itself.
    pub subresource: String,
}

impl Target {
    fn parse(core: &Core, path: &[&str]) -> Result<Target, ApiError> {
        let (group, version, mut rest) = match path {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Err(ApiError::no_such_path()),
        };
        let mut namespace = "";
        if let ["namespaces", name, below, ..] = rest
            && !matches!(*below, "status" | "finalize")
        {
            namespace = name;
            rest = &rest[2..];
        }
        let (plural, name, subresource) = match rest {
            [plural] => (*plural, None, ""),
            [plural, name] => (*plural, Some(*name), ""),
            // A proxied path may be of any length.
            [plural, name, sub @ "proxy", ..] | [plural, name, sub] => (*plural, Some(*name), *sub),
            _ => return Err(ApiError::no_such_path()),
        };
        let resource = core
            .registry
            .find(group, version, plural)
            .ok_or_else(ApiError::no_such_path)?;
        if !resource.namespaced && !namespace.is_empty() {
            return Err(ApiError::no_such_path());
        }
        if resource.namespaced && namespace.is_empty() && name.is_some() {
            return Err(ApiError::no_such_path());
        }
        Ok(Target {
            resource,
            namespace: namespace.to_owned(),
            name: name.map(str::to_owned),
            subresource: subresource.to_owned(),
        })
    }
}
