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
    pub(super) fn gr(&self) -> GroupResource {
        self.resource.group_resource()
    }

    pub(super) fn key(&self, name: &str) -> Key {
        Key::new(self.namespace, name)
    }

    pub(super) fn invalid(&self, name: &str, errors: &[FieldError]) -> ApiError {
        // An Event is that of the core, whichever way it came.
        let group = match self.resource.shape {
            Shape::NewEvent => "",
            Shape::Stored => &self.resource.group,
        };
        ApiError::invalid(group, &self.resource.kind, name, errors)
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
        if let Some(there) = self.core.store.get(&self.resource.stored_as, &key) {
            let mut error = ApiError::already_exists(&self.gr(), &name);
            if object::is_deleting(&there) {
                error.message = format!("object is being deleted: {}", error.message);
            }
            return Err(error);
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
            let old = self.core.store.get(&self.resource.stored_as, &key);
            // A body is read, and its name held against the URL, whatever is there.
            let candidate = match (source, &old) {
                (UpdateFrom::Body(body), _) => self.decode(body, true)?,
                (UpdateFrom::Patch(patch), Some(old)) => {
                    let patched = patch.apply(&self.present(old))?;
                    self.decode(&patched, false)?
                }
                (UpdateFrom::Patch(_), None) => return Err(ApiError::not_found(&self.gr(), name)),
            };
            self.check_name(&candidate, name)?;
            if old.is_none() && !(self.resource.create_on_update && part == Part::Main) {
                return Err(ApiError::not_found(&self.gr(), name));
            }
            if let UpdateFrom::Body(_) = source {
                self.check_uid(&candidate, old.as_deref(), name)?;
            }
            let Some(old) = old else {
                match self.create_by_update(candidate) {
                    // Someone else made it meanwhile: then this is an update.
                    Err(error) if error.reason == "AlreadyExists" => continue,
                    made => return made.map(|made| (made, true)),
                }
            };
            self.check_version(&candidate, &old, name)?;
            self.check_uid_is_kept(&candidate, &old, name)?;
            let new = self.prepared(candidate, &old, part)?;
            self.check_update(&new, &old, part, name)?;
            if goes_with_last_finalizer(&new, &old) {
                if self.remove(&key, object::version(&old))?.is_some() {
                    // The answer shows the object as this write left it.
                    return Ok((Arc::new(new), false));
                }
                continue;
            }
            if let Some(stored) = self.store(&key, Expected::Version(object::version(&old)), new)? {
                return Ok((stored, false));
            }
        }
    }

    /// A PUT of what is not there, for the kinds that allow it: it is a new object, whatever version the
    /// body names.
    fn create_by_update(&mut self, mut candidate: Value) -> Result<Object, ApiError> {
        object::set_meta(&mut candidate, "resourceVersion", Value::Null);
        self.create(&self.present(&Arc::new(candidate)))
    }

    pub(super) fn is_crd(&self) -> bool {
        self.resource
            .is("apiextensions.k8s.io", "customresourcedefinitions")
    }

    pub(super) fn name_rule(&self) -> NameRule {
        if self.resource.is("", "namespaces") {
            NameRule::Label
        } else {
            NameRule::Subdomain
        }
    }

    /// The stored object as this resource's clients see it.
    pub(super) fn present(&self, object: &Object) -> Value {
        events::present(self.resource, object).into_owned()
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
