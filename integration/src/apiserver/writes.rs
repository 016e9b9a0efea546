//! Create, replace and patch: what the real server does between decoding a body and storing it
//! (apiserver `pkg/registry/{rest,generic}`, v0.36). Deletion has its own module. Nothing here waits:
//! a write is tried again when the object moved, as `GuaranteedUpdate` does.

use std::sync::Arc;

use serde_json::{Value, json};

use super::audit::WriteContext;
use super::builtin;
use super::core::Core;
use super::crd;
use super::events;
use super::object::{self, NameRule};
use super::patch::Patch;
use super::resources::{Generation, GroupResource, Resource, Shape, Source};
use super::status::{ApiError, FieldError};
use super::store::{Expected, Key, Object};

/// What to do about fields that the schema does not know (`fieldValidation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and say so in a `Warning` header.
    Warn,
    /// Refuse.
    Strict,
}

/// The part of an object that an update may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All but status, where status is a subresource.
    Main,
    /// Status alone.
    Status,
}

/// A write to one resource in one namespace (empty for cluster scope).
pub struct Writer<'a> {
    /// The server.
    pub core: &'a Arc<Core>,
    /// Who writes.
    pub context: WriteContext,
    /// What is written.
    pub resource: &'a Resource,
    /// Where.
    pub namespace: &'a str,
    /// Check everything, store nothing.
    pub dry_run: bool,
    /// For unknown fields.
    pub validation: FieldValidation,
    /// Said to the client in `Warning` headers.
    pub warnings: Vec<String>,
}

/// Where an update's new object comes from.
pub enum UpdateFrom<'b> {
    /// The body of a PUT.
    Body(&'b Value),
    /// A patch of what is there.
    Patch(&'b Patch),
}

impl<'a> Writer<'a> {
    fn gr(&self) -> GroupResource {
        self.resource.group_resource()
    }

    fn key(&self, name: &str) -> Key {
        Key::new(self.namespace, name)
    }

    fn invalid(&self, name: &str, errors: &[FieldError]) -> ApiError {
        ApiError::invalid(&self.resource.group, &self.resource.kind, name, errors)
    }

    /// POST.
    pub fn create(&mut self, body: &Value) -> Result<Object, ApiError> {
        let mut new = self.decode(body, true)?;
        if !object::meta(&new, "resourceVersion").is_empty() {
            return Err(ApiError::new(
                500,
                "",
                "resourceVersion should not be set on objects to be created",
            ));
        }
        self.generate_name(&mut new);
        let name = object::name(&new).to_owned();
        self.check_namespace_takes_objects(&name)?;
        let now = self.core.clock.now();
        object::set_meta(&mut new, "uid", json!(uuid::Uuid::new_v4().to_string()));
        object::set_meta(&mut new, "creationTimestamp", object::time(now));
        for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
            object::set_meta(&mut new, key, Value::Null);
        }
        match &self.resource.source {
            Source::BuiltIn(_) => builtin::prepare_create(self.resource, &mut new),
            Source::Custom(_) if self.resource.has_status => {
                drop(new.as_object_mut().and_then(|m| m.remove("status")))
            }
            Source::Custom(_) => {}
        }
        if self.resource.generation != Generation::None {
            object::set_meta(&mut new, "generation", json!(1));
        }
        if self.is_crd() {
            new["status"] = crd::established_status(&new, &Value::Null, object::time(now));
        }
        self.finish_defaults(&mut new);
        object::tidy_metadata(&mut new);
        let mut errors = object::metadata_errors(&new, self.name_rule());
        errors.extend(self.kind_errors(&new, None));
        if !errors.is_empty() {
            return Err(self.invalid(&name, &errors));
        }
        let key = self.key(&name);
        if self.core.store.get(&self.resource.stored_as, &key).is_some() {
            return Err(ApiError::already_exists(&self.gr(), &name));
        }
        self.store(&key, Expected::Absent, new)?
            .ok_or_else(|| ApiError::already_exists(&self.gr(), &name))
    }

    /// PUT and PATCH; the flag is true when it made the object.
    pub fn update(
        &mut self,
        name: &str,
        part: Part,
        source: &UpdateFrom<'_>,
    ) -> Result<(Object, bool), ApiError> {
        let key = self.key(name);
        loop {
            let Some(old) = self.core.store.get(&self.resource.stored_as, &key) else {
                return match source {
                    UpdateFrom::Body(body) if self.resource.create_on_update && part == Part::Main => {
                        let mut body = Value::clone(body);
                        object::set_meta(&mut body, "resourceVersion", Value::Null);
                        self.create(&body).map(|made| (made, true))
                    }
                    _ => Err(ApiError::not_found(&self.gr(), name)),
                };
            };
            let candidate = match source {
                UpdateFrom::Body(body) => self.decode(body, true)?,
                UpdateFrom::Patch(patch) => {
                    let shown = self.present(&old);
                    let patched = patch.apply(&shown)?;
                    self.decode(&patched, false)?
                }
            };
            self.check_name(&candidate, name)?;
            self.check_versions(&candidate, &old, name)?;
            let new = self.prepared(candidate, &old, part)?;
            self.check_update(&new, &old, part, name)?;
            if goes_with_last_finalizer(&new, &old) {
                if let Some(gone) = self.remove(&key, object::version(&old))? {
                    return Ok((gone, false));
                }
                continue;
            }
            if let Some(stored) = self.store(&key, Expected::Version(object::version(&old)), new)? {
                return Ok((stored, false));
            }
        }
    }

    /// POST to `pods/NAME/binding`: the scheduler's word.
    pub fn bind(&mut self, name: &str, body: &Value) -> Result<Value, ApiError> {
        let node = body["target"]["name"].as_str().unwrap_or_default();
        if node.is_empty() {
            let errors = [FieldError::required("target.name", "")];
            return Err(ApiError::invalid("", "Binding", name, &errors));
        }
        let key = self.key(name);
        loop {
            let pod = self
                .core
                .store
                .get(&self.resource.stored_as, &key)
                .ok_or_else(|| ApiError::not_found(&self.gr(), name))?;
            if object::is_deleting(&pod) {
                return Err(ApiError::conflict(
                    &binding(),
                    name,
                    format_args!("pod {name} is being deleted, cannot be assigned to a host"),
                ));
            }
            if let Some(bound) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
                return Err(ApiError::conflict(
                    &binding(),
                    name,
                    format_args!("pod {name} is already assigned to node {bound:?}"),
                ));
            }
            let mut new = Value::clone(&pod);
            new["spec"]["nodeName"] = json!(node);
            set_condition(
                &mut new,
                json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": object::time(self.core.clock.now())}),
            );
            if self
                .store(&key, Expected::Version(object::version(&pod)), new)?
                .is_some()
            {
                return Ok(
                    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
                );
            }
        }
    }

    fn is_crd(&self) -> bool {
        self.resource
            .is("apiextensions.k8s.io", "customresourcedefinitions")
    }

    fn name_rule(&self) -> NameRule {
        if self.resource.is("", "namespaces") {
            NameRule::Label
        } else {
            NameRule::Subdomain
        }
    }

    /// The stored object as this resource's clients see it.
    fn present(&self, object: &Object) -> Value {
        events::present(self.resource, object).into_owned()
    }

    /// From a body to the stored form: kind and namespace checked, unknown fields dropped, defaults in.
    fn decode(&mut self, body: &Value, is_body: bool) -> Result<Value, ApiError> {
        let kind = &self.resource.kind;
        let api_version = self.resource.api_version();
        if !body.is_object() {
            return Err(ApiError::bad_request(format!(
                "{kind} in version {:?} cannot be handled as a {kind}: not an object",
                self.resource.version
            )));
        }
        let said = |key: &str| body[key].as_str().unwrap_or_default();
        if !said("kind").is_empty() && said("kind") != kind {
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
            return Err(self.undecodable(&why));
        }
        let mut new = body.clone();
        new["kind"] = json!(kind);
        new["apiVersion"] = json!(api_version);
        if self.resource.shape == Shape::NewEvent {
            events::to_stored(&mut new);
        }
        self.place(&mut new)?;
        let unknown = self.drop_unknown(&mut new)?;
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

    fn drop_unknown(&self, new: &mut Value) -> Result<Vec<String>, ApiError> {
        match &self.resource.source {
            Source::Custom(custom) => Ok(custom.decode(new)),
            Source::BuiltIn(normalize) => {
                let normal = normalize(new.clone()).map_err(|why| self.undecodable(&why))?;
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

    fn generate_name(&self, new: &mut Value) {
        let base = object::meta(new, "generateName").to_owned();
        if object::name(new).is_empty() && !base.is_empty() {
            let suffix: String = uuid::Uuid::new_v4()
                .simple()
                .to_string()
                .chars()
                .take(5)
                .collect();
            let base: String = base.chars().take(58).collect();
            object::set_meta(new, "name", json!(format!("{base}{suffix}")));
            if self.resource.is("", "namespaces") {
                builtin::set_defaults(self.resource, new);
            }
        }
    }

    /// The NamespaceLifecycle admission: the namespace exists and is not going.
    fn check_namespace_takes_objects(&self, name: &str) -> Result<(), ApiError> {
        if !self.resource.namespaced {
            return Ok(());
        }
        let namespaces = GroupResource::new("", "namespaces");
        let Some(namespace) = self.core.store.get(&namespaces, &Key::new("", self.namespace)) else {
            return Err(ApiError::not_found(&namespaces, self.namespace));
        };
        if !object::is_deleting(&namespace) {
            return Ok(());
        }
        let why = format!(
            "unable to create new content in namespace {} because it is being terminated",
            self.namespace
        );
        let mut error = ApiError::forbidden(&self.gr(), name, &why);
        if let Some(details) = &mut error.details {
            details["causes"] = json!([{"reason": "NamespaceTerminating", "message": format!("namespace {} is being terminated", self.namespace), "field": "metadata.namespace"}]);
        }
        Err(error)
    }

    fn check_name(&self, candidate: &Value, name: &str) -> Result<(), ApiError> {
        let said = object::name(candidate);
        if said == name {
            return Ok(());
        }
        if said.is_empty() {
            return Err(ApiError::bad_request(
                "the name of the object (\"\") based on URL was undeterminable: name must be provided",
            ));
        }
        Err(ApiError::bad_request(format!(
            "the name of the object ({said}) does not match the name on the URL ({name})"
        )))
    }

    fn check_versions(&self, candidate: &Value, old: &Value, name: &str) -> Result<(), ApiError> {
        let uid = object::uid(candidate);
        if !uid.is_empty() && uid != object::uid(old) {
            return Err(ApiError::conflict(
                &self.gr(),
                name,
                format_args!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    object::uid(old)
                ),
            ));
        }
        let version = object::meta(candidate, "resourceVersion");
        match version.parse::<u64>() {
            Ok(v) if v == object::version(old) => Ok(()),
            Ok(v) if v != 0 => Err(ApiError::stale(&self.gr(), name)),
            Err(_) if !version.is_empty() => {
                let detail = FieldError::invalid(
                    "metadata.resourceVersion",
                    &json!(version),
                    "strconv.ParseUint: invalid syntax",
                );
                Err(self.invalid(name, &[detail]))
            }
            _ if self.resource.unconditional_update => Ok(()),
            _ => {
                let detail = FieldError::invalid(
                    "metadata.resourceVersion",
                    &json!(0),
                    "must be specified for an update",
                );
                Err(ApiError::invalid(
                    &self.resource.group,
                    &self.resource.plural,
                    name,
                    &[detail],
                ))
            }
        }
    }

    /// The candidate with everything put back that this write may not change, and the new generation.
    fn prepared(&self, mut new: Value, old: &Object, part: Part) -> Result<Value, ApiError> {
        if let (Source::Custom(_), Part::Status) = (&self.resource.source, part) {
            let status = new.get("status").cloned();
            new = Value::clone(old);
            match (status, new.as_object_mut()) {
                (Some(status), Some(map)) => drop(map.insert("status".to_owned(), status)),
                (None, Some(map)) => drop(map.remove("status")),
                (_, None) => {}
            }
            return Ok(new);
        }
        for key in ["uid", "creationTimestamp", "generation", "resourceVersion"] {
            object::set_meta(&mut new, key, old["metadata"][key].clone());
        }
        match (&self.resource.source, part) {
            (Source::Custom(_), _) if self.resource.has_status => builtin::copy_part(&mut new, old, "status"),
            (Source::Custom(_), _) => {}
            (Source::BuiltIn(_), Part::Main) => builtin::prepare_update(self.resource, &mut new, old),
            (Source::BuiltIn(_), Part::Status) => {
                builtin::prepare_status_update(self.resource, &mut new, old)
            }
        }
        if self.is_crd() && part == Part::Main {
            new["status"] =
                crd::established_status(&new, &old["status"], object::time(self.core.clock.now()));
        }
        for key in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
            object::set_meta(&mut new, key, old["metadata"][key].clone());
        }
        self.finish_defaults(&mut new);
        object::tidy_metadata(&mut new);
        if part == Part::Main && self.is_new_generation(&new, old) {
            object::set_meta(&mut new, "generation", json!(object::generation(old) + 1));
        }
        Ok(new)
    }

    fn finish_defaults(&self, new: &mut Value) {
        if let Source::Custom(custom) = &self.resource.source {
            new["apiVersion"] = json!(custom.storage_api_version);
        }
    }

    fn is_new_generation(&self, new: &Value, old: &Value) -> bool {
        match self.resource.generation {
            Generation::None => false,
            Generation::Spec => new["spec"] != old["spec"],
            Generation::SpecOrAnnotations => {
                new["spec"] != old["spec"] || new["metadata"]["annotations"] != old["metadata"]["annotations"]
            }
            Generation::NonMetadata => without_metadata(new) != without_metadata(old),
        }
    }

    fn check_update(&self, new: &Value, old: &Value, part: Part, name: &str) -> Result<(), ApiError> {
        let mut errors = object::metadata_errors(new, self.name_rule());
        if object::is_deleting(old) {
            let before = object::finalizers(old);
            let added: Vec<String> = object::finalizers(new)
                .into_iter()
                .filter(|f| !before.contains(f))
                .collect();
            if !added.is_empty() {
                let detail = format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added
                        .iter()
                        .map(|f| format!("{f:?}"))
                        .collect::<Vec<_>>()
                        .join(", ")
                );
                errors.push(FieldError::forbidden("metadata.finalizers", &detail));
            }
        }
        match part {
            Part::Main => errors.extend(self.kind_errors(new, Some(old))),
            Part::Status => {
                if let Source::Custom(custom) = &self.resource.source {
                    // As the real server: a status write is judged by what it can have changed.
                    let of_status = custom.validate(new, Some(old)).into_iter();
                    errors.extend(of_status.filter(|e| e.field.starts_with("status")));
                }
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(self.invalid(name, &errors))
        }
    }

    fn kind_errors(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        match (&self.resource.source, old) {
            (Source::Custom(custom), old) => custom.validate(new, old),
            (Source::BuiltIn(_), _) if self.is_crd() => crd::validate(new),
            (Source::BuiltIn(_), None) => builtin::validate_create(self.resource, new),
            (Source::BuiltIn(_), Some(old)) => builtin::validate_update(self.resource, new, old),
        }
    }

    /// Store it; none when the object moved meanwhile. A dry run gives what would have been stored.
    pub(super) fn store(
        &self,
        key: &Key,
        expected: Expected,
        new: Value,
    ) -> Result<Option<Object>, ApiError> {
        if self.dry_run {
            return Ok(Some(Arc::new(new)));
        }
        let Ok(stored) =
            self.core
                .store
                .apply(&self.context, &self.resource.stored_as, key, expected, Some(new))
        else {
            return Ok(None);
        };
        if self.is_crd() && !object::is_deleting(&stored) {
            self.core
                .registry
                .publish(object::name(&stored), crd::resources(&stored));
        }
        Ok(Some(stored))
    }

    /// Remove it; none when the object moved meanwhile.
    pub(super) fn remove(&self, key: &Key, version: u64) -> Result<Option<Object>, ApiError> {
        if self.dry_run {
            return Ok(self.core.store.get(&self.resource.stored_as, key));
        }
        let Ok(gone) = self.core.store.apply(
            &self.context,
            &self.resource.stored_as,
            key,
            Expected::Version(version),
            None,
        ) else {
            return Ok(None);
        };
        if self.is_crd() {
            self.core.registry.withdraw(object::name(&gone));
        }
        Ok(Some(gone))
    }
}

fn binding() -> GroupResource {
    GroupResource::new("", "pods/binding")
}

fn without_metadata(object: &Value) -> Value {
    let mut rest = object.clone();
    if let Some(map) = rest.as_object_mut() {
        map.remove("metadata");
    }
    rest
}

/// An object that was waiting for its finalizers goes with the last of them.
fn goes_with_last_finalizer(new: &Value, old: &Value) -> bool {
    object::finalizers(new).is_empty()
        && !object::finalizers(old).is_empty()
        && object::is_deleting(old)
        && old["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(0)
            == 0
        && (new["kind"] != "Namespace" || new["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty))
}

/// Put a condition in the place of the one of its type.
pub fn set_condition(object: &mut Value, condition: Value) {
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = json!([]);
    }
    let Some(list) = object["status"]["conditions"].as_array_mut() else {
        return;
    };
    match list.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(found) => *found = condition,
        None => list.push(condition),
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
