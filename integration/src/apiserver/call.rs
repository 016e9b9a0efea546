//! One request about objects: reads are answered here; of a write the body is read and the hooks are
//! asked around it, and the write itself is a [`Job`].

use std::sync::Arc;

use http::request::Parts;
use http::{Method, Response, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::answer::{self, Body, View};
use super::audit::WriteContext;
use super::core::Core;
use super::deletes::DeleteOptions;
use super::hooks::{Action, Stage, WriteAttempt};
use super::job::{Job, Write};
use super::list::{self, ListOptions};
use super::object;
use super::patch::Patch;
use super::query::Query;
use super::resources::GroupResource;
use super::routes::Target;
use super::selector::Filter;
use super::serve::Connection;
use super::status::{ApiError, FieldError};
use super::store::Key;
use super::watch::{self, WatchOptions};
use super::writes::{FieldValidation, Part};

/// The largest body that is read, as the real server's limit.
const BODY_LIMIT_BYTES: usize = 3 * 1024 * 1024;

/// One request about objects.
pub struct Call<'a> {
    /// The server.
    pub core: &'a Arc<Core>,
    /// What it came over.
    pub connection: &'a Arc<Connection>,
    /// Who asks.
    pub user: Arc<str>,
    /// Its head.
    pub parts: &'a Parts,
    /// Its parameters.
    pub query: Query,
    /// What it is about.
    pub target: Target,
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
        self.query.text(key)
    }

    fn view(&self) -> Result<View, ApiError> {
        View::negotiate(&self.parts.headers, self.text("includeObject"))
    }

    /// Do it.
    pub async fn run(self, body: Incoming) -> Result<Response<Body>, ApiError> {
        self.check_subresource()?;
        if self.parts.method == Method::GET {
            return self.read();
        }
        let body = Limited::new(body, BODY_LIMIT_BYTES)
            .collect()
            .await
            .map_err(|e| {
                if e.is::<http_body_util::LengthLimitError>() {
                    ApiError::too_large(format_args!("limit is {BODY_LIMIT_BYTES}"))
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
        if let Some(name) = &target.name {
            // One object is watched by a field selector; `watch` here means nothing.
            self.check_version_is_reached()?;
            let key = Key::new(&target.namespace, name);
            let found = core.store.get(&target.resource.stored_as, &key);
            let found = found.ok_or_else(|| ApiError::not_found(&self.gr(), name))?;
            return Ok(answer::json_answer(
                200,
                &view.object(&target.resource, &found, now),
            ));
        }
        let filter = Filter::from_query(&self.query, &target.namespace, &target.resource)?;
        if self.query.flag("watch").unwrap_or(false) {
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

    /// A get may name the version that the answer must have reached.
    fn check_version_is_reached(&self) -> Result<(), ApiError> {
        let current = self.core.store.version();
        match list::named_version(&self.query)? {
            Some(asked) if asked > current => Err(ApiError::version_too_large(asked, current)),
            _ => Ok(()),
        }
    }

    /// Read what is to be written, without looking at what is there.
    fn write(&self, body: &[u8]) -> Result<Write, ApiError> {
        self.check_write_options()?;
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
            // One by one, or not at all.
            (&Method::DELETE, None, "") if target.resource.is("", "namespaces") => refuse(),
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

    fn check_write_options(&self) -> Result<(), ApiError> {
        let options = match self.parts.method {
            Method::POST => "CreateOptions",
            Method::PUT => "UpdateOptions",
            Method::PATCH => "PatchOptions",
            _ => return Ok(()),
        };
        if let Some(dry_run) = self.text("dryRun").filter(|text| *text != "All") {
            let error = FieldError::not_supported("dryRun", &json!([dry_run]), &["All".to_owned()]);
            return Err(ApiError::invalid("meta.k8s.io", options, "", &[error]));
        }
        match self.text("fieldValidation") {
            None | Some("Ignore" | "Strict" | "Warn") => Ok(()),
            Some(other) => {
                let supported = ["", "Ignore", "Strict", "Warn"].map(str::to_owned);
                let error = FieldError::not_supported("fieldValidation", &json!(other), &supported);
                Err(ApiError::invalid("meta.k8s.io", options, "", &[error]))
            }
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
        // With a body the query is not read at all: a `dryRun` in it does not count.
        if !body.is_empty() {
            return DeleteOptions::parse(&self.json(body)?);
        }
        let mut options = json!({});
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
                        () = core.shutdown.cancelled() => None,
                        () = waited(wait) => Some(job.run(view)),
                    }
                });
                match task.await.map_err(ApiError::internal)? {
                    Some(done) => done,
                    // The connection ends with the server, without another byte.
                    None => std::future::pending().await,
                }
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
            // A delete's options say it themselves.
            dry_run: self.parts.method != Method::DELETE && self.text("dryRun").is_some(),
            validation,
            write,
        }
    }
}
