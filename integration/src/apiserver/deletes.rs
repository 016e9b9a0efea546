//! Deletion: preconditions, grace periods of pods, finalizers, the propagation policy, and the two
//! kinds that are emptied first (namespaces, CRDs). After `Store.Delete` and `rest.BeforeDelete` of the
//! real server.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::audit::{Verb, WriteContext};
use super::core::Core;
use super::object;
use super::resources::{GroupResource, Resource};
use super::status::{ApiError, FieldError};
use super::store::{Expected, Key, Object};
use super::writes::{FieldValidation, Writer};

/// A finalizer that keeps an owner until its dependents are gone.
pub const FOREGROUND: &str = "foregroundDeletion";
/// A finalizer that keeps an owner until its dependents have let go of it.
pub const ORPHAN: &str = "orphan";
/// Keeps a CRD until its objects are gone.
pub const CRD_CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// `metav1.DeleteOptions`, read.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds; negative counts as 1.
    pub grace_period: Option<i64>,
    /// Must be the object's UID.
    pub uid: Option<String>,
    /// Must be the object's version.
    pub resource_version: Option<String>,
    /// `Background`, `Foreground` or `Orphan`.
    pub propagation: Option<String>,
    /// Check everything, store nothing.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Read the options' JSON (an empty object when there was no body).
    pub fn parse(options: &Value) -> Result<DeleteOptions, ApiError> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let propagation = match (&options["propagationPolicy"], &options["orphanDependents"]) {
            (Value::Null, Value::Bool(true)) => Some("Orphan".to_owned()),
            (Value::Null, _) => None,
            (policy, _) => text(policy),
        };
        if let Some(policy) = &propagation
            && !matches!(policy.as_str(), "Background" | "Foreground" | "Orphan")
        {
            let supported = ["Foreground", "Background", "Orphan", "nil"].map(str::to_owned);
            let error = FieldError::not_supported("propagationPolicy", &json!(policy), &supported);
            return Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", &[error]));
        }
        if !options["propagationPolicy"].is_null() && options["orphanDependents"].is_boolean() {
            let error = FieldError::invalid(
                "propagationPolicy",
                &options["propagationPolicy"],
                "orphanDependents and deletionPropagation cannot be both set",
            );
            return Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", &[error]));
        }
        let dry_run = object::strings(&options["dryRun"]);
        if dry_run.iter().any(|d| d != "All") {
            let error = FieldError::not_supported("dryRun", &options["dryRun"], &["All".to_owned()]);
            return Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", &[error]));
        }
        Ok(DeleteOptions {
            grace_period: options["gracePeriodSeconds"].as_i64(),
            uid: text(&options["preconditions"]["uid"]),
            resource_version: text(&options["preconditions"]["resourceVersion"]),
            propagation,
            dry_run: !dry_run.is_empty(),
        })
    }
}

/// What became of a deletion.
pub struct Deleted {
    /// The object: its last state if it is gone, as marked otherwise.
    pub object: Object,
    /// Whether it is gone.
    pub gone: bool,
}

/// How far a pod's deletion got by one call.
enum Grace {
    /// It goes now.
    Now,
    /// It is (or stays) marked; someone else removes it.
    Marked(Box<Value>),
    /// A deletion is under way and this one changes nothing.
    Pending,
}

impl Writer<'_> {
    /// DELETE of one object.
    pub fn delete(&mut self, name: &str, options: &DeleteOptions) -> Result<Deleted, ApiError> {
        self.dry_run |= options.dry_run;
        let key = Key::new(self.namespace, name);
        loop {
            let gr = self.resource.group_resource();
            let old = self
                .core
                .store
                .get(&self.resource.stored_as, &key)
                .ok_or_else(|| ApiError::not_found(&gr, name))?;
            self.check_preconditions(&old, options)?;
            let done = if self.resource.is("", "namespaces") {
                self.delete_namespace(&key, &old)?
            } else {
                self.delete_object(&key, &old, options)?
            };
            if let Some(done) = done {
                return Ok(done);
            }
        }
    }

    fn check_preconditions(&self, old: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
        // The real server names the kind here, not the resource.
        let gr = GroupResource::new(&self.resource.group, &self.resource.kind);
        let name = object::name(old);
        if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != object::uid(old)) {
            let why = format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
                object::uid(old)
            );
            return Err(ApiError::conflict(&gr, name, why));
        }
        let version = object::meta(old, "resourceVersion");
        if let Some(wanted) = options.resource_version.as_deref().filter(|v| *v != version) {
            let why = format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The object might have been modified"
            );
            return Err(ApiError::conflict(&gr, name, why));
        }
        Ok(())
    }

    /// One try; none when the object moved.
    fn delete_object(
        &self,
        key: &Key,
        old: &Object,
        options: &DeleteOptions,
    ) -> Result<Option<Deleted>, ApiError> {
        let mut marked = match self.grace(old, options) {
            Grace::Pending => {
                return Ok(Some(Deleted {
                    object: old.clone(),
                    gone: false,
                }));
            }
            Grace::Marked(marked) => Some(*marked),
            Grace::Now => None,
        };
        let finalizers = self.finalizers(old, options);
        let pending = !finalizers.is_empty();
        if marked.is_none() && !pending {
            let gone = self.remove(key, object::version(old))?;
            return Ok(gone.map(|object| Deleted { object, gone: true }));
        }
        let mut new = match marked.take() {
            Some(marked) => marked,
            None => self.mark(old, 0),
        };
        object::set_meta(
            &mut new,
            "finalizers",
            if pending { json!(finalizers) } else { Value::Null },
        );
        let period = new["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(0);
        let Some(stored) = self.store(key, Expected::Version(object::version(old)), new)? else {
            return Ok(None);
        };
        if pending {
            return Ok(Some(Deleted {
                object: stored,
                gone: false,
            }));
        }
        if period > 0 {
            self.reap_later(&stored, period);
            return Ok(Some(Deleted {
                object: stored,
                gone: false,
            }));
        }
        if self.dry_run {
            return Ok(Some(Deleted {
                object: stored,
                gone: true,
            }));
        }
        match self.remove(key, object::version(&stored))? {
            Some(object) => Ok(Some(Deleted { object, gone: true })),
            None => Ok(Some(Deleted {
                object: stored,
                gone: true,
            })),
        }
    }

    /// Pods alone are deleted gracefully.
    fn grace(&self, old: &Value, options: &DeleteOptions) -> Grace {
        if !self.resource.is("", "pods") {
            return Grace::Now;
        }
        let asked = options.grace_period.map(|p| if p < 0 { 1 } else { p });
        if object::is_deleting(old) {
            let left = old["metadata"]["deletionGracePeriodSeconds"]
                .as_i64()
                .unwrap_or(0);
            return match asked {
                _ if left == 0 => Grace::Now,
                Some(period) if period < left => Grace::Marked(Box::new(self.shortened(old, left, period))),
                Some(_) | None => Grace::Pending,
            };
        }
        let spec = &old["spec"];
        let default = spec["terminationGracePeriodSeconds"].as_i64().unwrap_or(0);
        let mut period = asked.unwrap_or(default);
        let unscheduled = spec["nodeName"].as_str().unwrap_or_default().is_empty();
        if unscheduled || matches!(old["status"]["phase"].as_str(), Some("Failed" | "Succeeded")) {
            period = 0;
        }
        Grace::Marked(Box::new(self.mark(old, if period < 0 { 1 } else { period })))
    }

    /// The object, marked as being deleted and gone in this many seconds.
    fn mark(&self, old: &Value, period: i64) -> Value {
        let mut new = old.clone();
        if !object::is_deleting(old) {
            let at = self.core.clock.now();
            let at = at
                .checked_add(jiff::SignedDuration::from_secs(period))
                .unwrap_or(at);
            object::set_meta(&mut new, "deletionTimestamp", object::time(at));
            if object::generation(old) > 0 {
                object::set_meta(&mut new, "generation", json!(object::generation(old) + 1));
            }
        }
        object::set_meta(&mut new, "deletionGracePeriodSeconds", json!(period));
        new
    }

    /// A grace period that is under way can only become shorter.
    fn shortened(&self, old: &Value, left: i64, period: i64) -> Value {
        let now = self.core.clock.now();
        let end = object::parse_time(&old["metadata"]["deletionTimestamp"]).unwrap_or(now);
        let end = end
            .checked_add(jiff::SignedDuration::from_secs(period - left))
            .unwrap_or(now);
        let mut new = old.clone();
        let (end, period) = if end < now {
            (now, if period == 0 { 0 } else { 1 })
        } else {
            (end, period)
        };
        object::set_meta(&mut new, "deletionTimestamp", object::time(end));
        object::set_meta(&mut new, "deletionGracePeriodSeconds", json!(period));
        new
    }

    /// The finalizers that the propagation policy leaves on the object.
    fn finalizers(&self, old: &Value, options: &DeleteOptions) -> Vec<String> {
        let present = object::finalizers(old);
        let mut finalizers: Vec<String> = match options.propagation.as_deref() {
            None => present,
            Some(_) => present
                .into_iter()
                .filter(|f| f != FOREGROUND && f != ORPHAN)
                .collect(),
        };
        match options.propagation.as_deref() {
            Some("Foreground") => finalizers.push(FOREGROUND.to_owned()),
            Some("Orphan") => finalizers.push(ORPHAN.to_owned()),
            _ => {}
        }
        let is_crd = self
            .resource
            .is("apiextensions.k8s.io", "customresourcedefinitions");
        if is_crd && !finalizers.iter().any(|f| f == CRD_CLEANUP) && self.has_instances(old) {
            finalizers.push(CRD_CLEANUP.to_owned());
        }
        finalizers
    }

    fn has_instances(&self, crd: &Value) -> bool {
        let gr = instances_of(crd);
        !self.core.store.list(&gr, "").is_empty()
    }

    /// The node's kubelet removes the pod; where there is a cap, the server does at the latest then.
    fn reap_later(&self, pod: &Object, period_secs: i64) {
        let Some(cap) = self.core.config.pod_grace_cap else {
            return;
        };
        if self.dry_run {
            return;
        }
        let delay = cap.min(Duration::from_secs(u64::try_from(period_secs).unwrap_or(0)));
        let (namespace, name) = (object::namespace(pod).to_owned(), object::name(pod).to_owned());
        let uid = object::uid(pod).to_owned();
        self.core.later(delay, move |core| {
            let options = DeleteOptions {
                grace_period: Some(0),
                uid: Some(uid),
                ..DeleteOptions::default()
            };
            // Gone already, or another pod of that name: both are what was wanted.
            let _ = delete_as(
                core,
                "system:pod-grace-cap",
                &GroupResource::new("", "pods"),
                &namespace,
                &name,
                &options,
            );
        });
    }

    fn delete_namespace(&self, key: &Key, old: &Object) -> Result<Option<Deleted>, ApiError> {
        let name = object::name(old);
        if matches!(name, "default" | "kube-system" | "kube-public") {
            return Err(ApiError::forbidden(
                &self.resource.group_resource(),
                name,
                "this namespace may not be deleted",
            ));
        }
        if object::is_deleting(old) {
            if old["spec"]["finalizers"]
                .as_array()
                .is_some_and(|f| !f.is_empty())
                || !object::finalizers(old).is_empty()
            {
                return Ok(Some(Deleted {
                    object: old.clone(),
                    gone: false,
                }));
            }
            let gone = self.remove(key, object::version(old))?;
            return Ok(gone.map(|object| Deleted { object, gone: true }));
        }
        let mut new = Value::clone(old);
        object::set_meta(&mut new, "deletionTimestamp", object::time(self.core.clock.now()));
        new["status"]["phase"] = json!("Terminating");
        let stored = self.store(key, Expected::Version(object::version(old)), new)?;
        Ok(stored.map(|object| Deleted { object, gone: false }))
    }
}

/// The collection that a CRD's objects are in.
pub fn instances_of(crd: &Value) -> GroupResource {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    GroupResource::new(
        &text(&crd["spec"]["group"]),
        &text(&crd["spec"]["names"]["plural"]),
    )
}

/// A deletion by the server itself.
pub fn delete_as(
    core: &Arc<Core>,
    user: &str,
    gr: &GroupResource,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, ApiError> {
    let resource = core.registry.by_plural(gr).ok_or_else(ApiError::no_such_path)?;
    system_writer(core, user, Verb::Delete, "", &resource, namespace).delete(name, options)
}

/// A writer for the server itself.
pub fn system_writer<'a>(
    core: &'a Arc<Core>,
    user: &str,
    verb: Verb,
    subresource: &str,
    resource: &'a Resource,
    namespace: &'a str,
) -> Writer<'a> {
    Writer {
        core,
        context: WriteContext::system(user, verb, subresource),
        resource,
        namespace,
        dry_run: false,
        validation: FieldValidation::Ignore,
        warnings: Vec::new(),
    }
}
