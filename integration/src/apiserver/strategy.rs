//! What an update may change and what must hold of it (the real server's strategies: `BeforeCreate`,
//! `PrepareForUpdate`, `ValidateUpdate`), with the checks that come before: the namespace takes objects,
//! names, UIDs and versions agree. It stores nothing.

use serde_json::{Value, json};

use super::builtin;
use super::crd;
use super::details;
use super::object;
use super::resources::{Generation, GroupResource, Source};
use super::status::{ApiError, FieldError};
use super::store::{Key, Object};
use super::writes::{Part, Writer};

impl Writer<'_> {
    /// The NamespaceLifecycle admission: the namespace exists and is not going.
    pub(super) fn check_namespace_takes_objects(&self, name: &str) -> Result<(), ApiError> {
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

    pub(super) fn check_name(&self, candidate: &Value, name: &str) -> Result<(), ApiError> {
        let said = object::name(candidate);
        if said == name {
            return Ok(());
        }
        if said.is_empty() {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name} based on URL) was undeterminable: name must be provided"
            )));
        }
        Err(ApiError::bad_request(format!(
            "the name of the object ({said}) does not match the name on the URL ({name})"
        )))
    }

    /// The UID that a PUT names is a precondition, also where nothing is: whoever still holds a deleted
    /// Lease does not make it again (`DefaultUpdatedObjectInfo.Preconditions`, `GuaranteedUpdate`).
    pub(super) fn check_uid(&self, body: &Value, old: Option<&Value>, name: &str) -> Result<(), ApiError> {
        let wanted = object::uid(body);
        let found = old.map(object::uid).unwrap_or_default();
        if wanted.is_empty() || wanted == found {
            return Ok(());
        }
        let key = self.resource.storage_key(&Key::new(self.namespace, name));
        // A dry run asks a storage of another root.
        let root = if self.dry_run { "/registry" } else { "" };
        let key = key.strip_prefix(root).unwrap_or(&key);
        Err(ApiError::conflict(
            &self.gr(),
            name,
            format_args!(
                "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"
            ),
        ))
    }

    /// A patch has no such precondition: the UID is a field that it may not change.
    pub(super) fn check_uid_is_kept(
        &self,
        candidate: &Value,
        old: &Value,
        name: &str,
    ) -> Result<(), ApiError> {
        let wanted = object::uid(candidate);
        if wanted.is_empty() || wanted == object::uid(old) {
            return Ok(());
        }
        let error = FieldError::invalid("metadata.uid", &json!(wanted), "field is immutable");
        Err(self.invalid(name, &[error]))
    }

    /// The optimistic lock.
    pub(super) fn check_version(&self, candidate: &Value, old: &Value, name: &str) -> Result<(), ApiError> {
        let version = object::meta(candidate, "resourceVersion");
        match version.parse::<u64>() {
            Ok(v) if v == object::version(old) => Ok(()),
            Ok(v) if v != 0 => Err(ApiError::stale(&self.gr(), name)),
            Err(_) if !version.is_empty() => {
                let why = format!("strconv.ParseUint: parsing {version:?}: invalid syntax");
                Err(ApiError::new(500, "", why))
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
    pub(super) fn prepared(&self, mut new: Value, old: &Object, part: Part) -> Result<Value, ApiError> {
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

    pub(super) fn finish_defaults(&self, new: &mut Value) {
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

    pub(super) fn check_update(
        &self,
        new: &Value,
        old: &Value,
        part: Part,
        name: &str,
    ) -> Result<(), ApiError> {
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

    pub(super) fn kind_errors(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        match (&self.resource.source, old) {
            (Source::Custom(custom), old) => custom.validate(new, old),
            (Source::BuiltIn(_), _) if self.is_crd() => crd::validate(new),
            (Source::BuiltIn(_), None) => {
                let mut errors = details::finalizer_errors(new);
                errors.extend(builtin::validate_create(self.resource, new));
                errors
            }
            (Source::BuiltIn(_), Some(old)) => {
                let mut errors = details::finalizer_errors(new);
                errors.extend(builtin::validate_update(self.resource, new, old));
                errors
            }
        }
    }
}

fn without_metadata(object: &Value) -> Value {
    let mut rest = object.clone();
    if let Some(map) = rest.as_object_mut() {
        map.remove("metadata");
    }
    rest
}
