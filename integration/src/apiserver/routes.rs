//! From a request to an answer: who asks, what the path names, which verb it is. The work is done
//! elsewhere; here it is only found, and the hooks are asked around every write.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::answer::{self, Body, View};
use super::audit::{Verb, WriteContext};
use super::core::Core;
use super::deletes::{DeleteOptions, Deleted};
use super::discovery;
use super::hooks::{Action, Stage, WriteAttempt};
use super::list::{self, ListOptions};
use super::object;
use super::openapi;
use super::patch::Patch;
use super::resources::{GroupResource, Resource};
use super::selector::Filter;
use super::serve::Connection;
use super::status::{self, ApiError};
use super::store::{Key, Object};
use super::watch::{self, WatchOptions};
use super::writes::{FieldValidation, Part, UpdateFrom, Writer};

/// The largest body that is read, as the real server's limit.
const BODY_LIMIT_BYTES: usize = 3 * 1024 * 1024;

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
    let query = query_of(parts);
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

fn query_of(parts: &Parts) -> BTreeMap<String, String> {
    let query = parts.uri.query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect()
}

/// What a path names.
struct Target {
    resource: Arc<Resource>,
    namespace: String,
    name: Option<String>,
    subresource: String,
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
            [plural, name, sub] => (*plural, Some(*name), *sub),
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

/// One request about objects.
struct Call<'a> {
    core: &'a Arc<Core>,
    connection: &'a Arc<Connection>,
    user: Arc<str>,
    parts: &'a Parts,
    query: BTreeMap<String, String>,
    target: Target,
}

/// A write that is ready to be done.
enum Write {
    Create(Value),
    Update(Value),
    Patch(Patch),
    Delete(DeleteOptions),
    DeleteCollection(Box<Filter>, DeleteOptions),
    Evict(Value),
    Bind(Value),
}

impl Write {
    fn verb(&self) -> Verb {
        match self {
            Write::Create(_) | Write::Evict(_) | Write::Bind(_) => Verb::Create,
            Write::Update(_) => Verb::Update,
            Write::Patch(_) => Verb::Patch,
            Write::Delete(_) => Verb::Delete,
            Write::DeleteCollection(..) => Verb::DeleteCollection,
        }
    }
}

/// As long as a delay says, or until what holds lets go.
async fn waited(wait: Action) {
    match wait {
        Action::Delay(delay) => tokio::time::sleep(delay).await,
        Action::Hold(held) => held.until_let_go().await,
        Action::Fail(_) | Action::FailPlain { .. } | Action::Stall | Action::Reset => {}
    }
}

impl Call<'_> {
    fn gr(&self) -> GroupResource {
        self.target.resource.group_resource()
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.query.get(key).map(String::as_str).filter(|s| !s.is_empty())
    }

    fn view(&self) -> Result<View, ApiError> {
        View::negotiate(&self.parts.headers, self.text("includeObject"))
    }

    async fn run(self, body: Incoming) -> Result<Response<Body>, ApiError> {
        self.check_subresource()?;
        if self.parts.method == Method::GET {
            return self.read();
        }
        let body = Limited::new(body, BODY_LIMIT_BYTES)
            .collect()
            .await
            .map_err(|e| {
                if e.is::<http_body_util::LengthLimitError>() {
                    ApiError::too_large(BODY_LIMIT_BYTES)
                } else {
                    ApiError::bad_request(format!("the body could not be read: {e}"))
                }
            })?;
        let write = self.write(&body.to_bytes())?;
        self.around_write(write).await
    }

    fn check_subresource(&self) -> Result<(), ApiError> {
        let resource = &self.target.resource;
        match self.target.subresource.as_str() {
            "" => Ok(()),
            "status" if resource.has_status => Ok(()),
            "eviction" | "binding" if resource.is("", "pods") => Ok(()),
            "log"
            | "exec"
            | "attach"
            | "portforward"
            | "ephemeralcontainers"
            | "resize"
            | "proxy"
            | "scale"
            | "finalize"
            | "token"
                if resource.custom().is_none() =>
            {
                Err(ApiError::not_implemented(&format!(
                    "{}/{}",
                    resource.plural, self.target.subresource
                )))
            }
            _ => Err(ApiError::no_such_path()),
        }
    }

    fn read(&self) -> Result<Response<Body>, ApiError> {
        let (core, target) = (self.core, &self.target);
        if matches!(target.subresource.as_str(), "eviction" | "binding") {
            return Err(ApiError::method_not_allowed(&self.gr(), "get"));
        }
        let view = self.view()?;
        let now = core.clock.now();
        let wants_watch = matches!(self.text("watch"), Some("true" | "1"));
        if let (Some(name), false) = (&target.name, wants_watch) {
            let key = Key::new(&target.namespace, name);
            let found = core.store.get(&target.resource.stored_as, &key);
            let found = found.ok_or_else(|| ApiError::not_found(&self.gr(), name))?;
            return Ok(answer::json_answer(
                200,
                &view.object(&target.resource, &found, now),
            ));
        }
        let mut filter = Filter::from_query(&self.query, &target.namespace, &target.resource)?;
        if let Some(name) = &target.name {
            filter.fields = filter.fields.and_name(name);
        }
        if wants_watch {
            let options = WatchOptions::parse(&self.query)?;
            return Ok(watch::watch(
                core,
                &self.user,
                &target.resource,
                filter,
                view,
                &options,
            ));
        }
        let page = list::list(core, &target.resource, &filter, &ListOptions::parse(&self.query)?)?;
        Ok(answer::json_answer(200, &view.page(&target.resource, &page, now)))
    }

    /// Read what is to be written, without looking at what is there.
    fn write(&self, body: &[u8]) -> Result<Write, ApiError> {
        let (method, target) = (&self.parts.method, &self.target);
        let sub = target.subresource.as_str();
        let refuse = || {
            Err(ApiError::method_not_allowed(
                &self.gr(),
                &method.as_str().to_lowercase(),
            ))
        };
        match (method, &target.name, sub) {
            (&Method::POST, Some(_), "eviction") => Ok(Write::Evict(self.json(body)?)),
            (&Method::POST, Some(_), "binding") => Ok(Write::Bind(self.json(body)?)),
            (&Method::POST, None, "") => Ok(Write::Create(self.json(body)?)),
            (&Method::PUT, Some(_), "" | "status") => Ok(Write::Update(self.json(body)?)),
            (&Method::PATCH, Some(_), "" | "status") => {
                let kind = self
                    .parts
                    .headers
                    .get(header::CONTENT_TYPE)
                    .and_then(|v| v.to_str().ok())
                    .unwrap_or_default();
                Ok(Write::Patch(Patch::parse(
                    kind,
                    body,
                    target.resource.custom().is_some(),
                )?))
            }
            (&Method::DELETE, Some(_), "") => Ok(Write::Delete(self.delete_options(body)?)),
            (&Method::DELETE, None, "") => {
                let filter = Filter::from_query(&self.query, &target.namespace, &target.resource)?;
                Ok(Write::DeleteCollection(
                    Box::new(filter),
                    self.delete_options(body)?,
                ))
            }
            _ => refuse(),
        }
    }

    fn json(&self, body: &[u8]) -> Result<Value, ApiError> {
        let kind = self
            .parts
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("application/json");
        match kind.split(';').next().unwrap_or_default().trim() {
            "application/json" | "" => serde_json::from_slice(body).map_err(|e| {
                let kind = &self.target.resource.kind;
                ApiError::bad_request(format!(
                    "{kind} in version {:?} cannot be handled as a {kind}: {e}",
                    self.target.resource.version
                ))
            }),
            "application/yaml" => {
                let text = std::str::from_utf8(body)
                    .map_err(|e| ApiError::bad_request(format!("error decoding YAML: {e}")))?;
                serde_saphyr::from_str(text)
                    .map_err(|e| ApiError::bad_request(format!("error decoding YAML: {e}")))
            }
            other => Err(ApiError::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml; got {other}"
            ))),
        }
    }

    fn delete_options(&self, body: &[u8]) -> Result<DeleteOptions, ApiError> {
        let mut options = if body.is_empty() {
            json!({})
        } else {
            self.json(body)?
        };
        if let Some(seconds) = self
            .text("gracePeriodSeconds")
            .and_then(|s| s.parse::<i64>().ok())
        {
            options["gracePeriodSeconds"] = json!(seconds);
        }
        if let Some(policy) = self.text("propagationPolicy") {
            options["propagationPolicy"] = json!(policy);
        }
        if self.text("dryRun").is_some() {
            options["dryRun"] = json!(["All"]);
        }
        DeleteOptions::parse(&options)
    }

    fn attempt(&self, write: &Write) -> WriteAttempt {
        let from_body = match write {
            Write::Create(body) => object::name(body),
            _ => "",
        };
        WriteAttempt {
            user: self.user.clone(),
            verb: write.verb(),
            resource: self.gr(),
            subresource: self.target.subresource.clone(),
            namespace: self.target.namespace.clone(),
            name: self.target.name.as_deref().unwrap_or(from_body).to_owned(),
        }
    }

    /// The write, with what the hooks do before and after it.
    async fn around_write(self, write: Write) -> Result<Response<Body>, ApiError> {
        let attempt = self.attempt(&write);
        let hooks = self.core.hooks.clone();
        let view = self.view()?;
        let done = match hooks.action(&attempt, Stage::Before) {
            Some(wait @ (Action::Delay(_) | Action::Hold(_))) => {
                // In a task of its own: the client may be gone by then, the write is not.
                let job = self.job(write);
                let core = self.core.clone();
                let task = self.core.tasks.spawn(async move {
                    tokio::select! {
                        () = core.shutdown.cancelled() => std::future::pending().await,
                        () = waited(wait) => job.run(view),
                    }
                });
                task.await.map_err(ApiError::internal)?
            }
            Some(action) => return self.act(action).await,
            None => self.job(write).run(view),
        };
        match hooks.action(&attempt, Stage::After) {
            Some(wait @ (Action::Delay(_) | Action::Hold(_))) => waited(wait).await,
            Some(action) => return self.act(action).await,
            None => {}
        }
        done
    }

    /// Do to this call what is not a delay.
    async fn act(&self, action: Action) -> Result<Response<Body>, ApiError> {
        match action {
            Action::Fail(error) => Err(error),
            Action::FailPlain {
                code,
                text,
                retry_after_secs,
            } => {
                let mut response = answer::text_answer(code, text);
                if let Some(secs) = retry_after_secs {
                    response
                        .headers_mut()
                        .insert(header::RETRY_AFTER, http::HeaderValue::from(secs));
                }
                Ok(response)
            }
            Action::Stall | Action::Delay(_) | Action::Hold(_) => std::future::pending().await,
            Action::Reset => {
                self.connection.reset();
                std::future::pending().await
            }
        }
    }

    fn job(&self, write: Write) -> Job {
        let validation = match self.text("fieldValidation") {
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            _ => FieldValidation::Warn,
        };
        Job {
            core: self.core.clone(),
            context: WriteContext {
                user: self.user.clone(),
                verb: write.verb(),
                subresource: self.target.subresource.clone(),
            },
            resource: self.target.resource.clone(),
            namespace: self.target.namespace.clone(),
            name: self.target.name.clone().unwrap_or_default(),
            part: if self.target.subresource == "status" {
                Part::Status
            } else {
                Part::Main
            },
            dry_run: self.text("dryRun").is_some(),
            validation,
            write,
        }
    }
}

/// A write with all it needs, free of its request.
struct Job {
    core: Arc<Core>,
    context: WriteContext,
    resource: Arc<Resource>,
    namespace: String,
    name: String,
    part: Part,
    dry_run: bool,
    validation: FieldValidation,
    write: Write,
}

impl Job {
    fn run(self, view: View) -> Result<Response<Body>, ApiError> {
        let mut writer = Writer {
            core: &self.core,
            context: self.context,
            resource: &self.resource,
            namespace: &self.namespace,
            dry_run: self.dry_run,
            validation: self.validation,
            warnings: Vec::new(),
        };
        let now = self.core.clock.now();
        let show =
            |code: u16, object: &Object| answer::json_answer(code, &view.object(&self.resource, object, now));
        let mut response = match &self.write {
            Write::Create(body) => show(201, &writer.create(body)?),
            Write::Update(body) => {
                let (object, made) = writer.update(&self.name, self.part, &UpdateFrom::Body(body))?;
                show(if made { 201 } else { 200 }, &object)
            }
            Write::Patch(patch) => {
                let (object, _) = writer.update(&self.name, self.part, &UpdateFrom::Patch(patch))?;
                show(200, &object)
            }
            Write::Delete(options) => {
                deleted_answer(&self.resource, &writer.delete(&self.name, options)?, &show)
            }
            Write::DeleteCollection(filter, options) => delete_collection(&mut writer, filter, options)?,
            Write::Evict(body) => answer::json_answer(201, &writer.evict(&self.name, body)?),
            Write::Bind(body) => answer::json_answer(201, &writer.bind(&self.name, body)?),
        };
        answer::add_warnings(&mut response, &writer.warnings);
        Ok(response)
    }
}

fn deleted_answer(
    resource: &Resource,
    done: &Deleted,
    show: &dyn Fn(u16, &Object) -> Response<Body>,
) -> Response<Body> {
    if done.gone && !resource.returns_deleted {
        let name = object::name(&done.object);
        return answer::json_answer(
            200,
            &status::success(&resource.group_resource(), name, object::uid(&done.object)),
        );
    }
    show(200, &done.object)
}

fn delete_collection(
    writer: &mut Writer<'_>,
    filter: &Filter,
    options: &DeleteOptions,
) -> Result<Response<Body>, ApiError> {
    let resource = writer.resource;
    let page = list::list(writer.core, resource, filter, &ListOptions::default())?;
    for item in &page.items {
        let mut one = in_namespace_of(writer, object::namespace(item));
        match one.delete(object::name(item), options) {
            Ok(_) => {}
            // Someone else was faster.
            Err(error) if error.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    let list = View::Plain.page(resource, &page, writer.core.clock.now());
    Ok(answer::json_answer(200, &list))
}

/// The same writer for the namespace of one of the objects (a collection may span all).
fn in_namespace_of<'b>(writer: &Writer<'b>, namespace: &'b str) -> Writer<'b> {
    Writer {
        core: writer.core,
        context: writer.context.clone(),
        resource: writer.resource,
        namespace,
        dry_run: writer.dry_run,
        validation: writer.validation,
        warnings: Vec::new(),
    }
}
