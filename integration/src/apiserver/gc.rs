//! The garbage collector and its two relatives: dependents whose owners are gone, the content of
//! namespaces and of CRDs that are being deleted. It deletes as any client would, with a UID
//! precondition; it never deletes an object of which one owner is alive.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::audit::Verb;
use super::core::Core;
use super::deletes::{
    CRD_CLEANUP, DeleteOptions, FOREGROUND, ORPHAN, delete_as, instances_of, system_writer,
};
use super::object;
use super::resources::GroupResource;
use super::store::{Expected, Key, Object};

const COLLECTOR: &str = "system:serviceaccount:kube-system:generic-garbage-collector";
const NAMESPACES: &str = "system:serviceaccount:kube-system:namespace-controller";
const CRDS: &str = "system:apiserver";

/// Collect until the server ends.
pub async fn run(core: Arc<Core>) {
    let mut trail = core.audit.subscribe();
    loop {
        let entry = tokio::select! {
            () = core.shutdown.cancelled() => return,
            entry = trail.recv() => entry,
        };
        let Some(entry) = entry else { return };
        match &entry.after {
            None => {
                if let Some(before) = &entry.before {
                    owner_gone(&core, before);
                    dependent_gone(&core, before);
                    content_gone(&core, &entry.resource, before);
                }
            }
            Some(after) => {
                if !object::owners(after).is_empty() {
                    collect(&core, &entry.resource, after);
                }
                if object::is_deleting(after) && entry.changed {
                    finalize(&core, &entry.resource, after);
                }
            }
        }
    }
}

fn owner_gone(core: &Arc<Core>, owner: &Value) {
    for (gr, dependent) in core.store.dependents(object::uid(owner)) {
        collect(core, &gr, &dependent);
    }
}

/// Delete an object of which no owner is alive; take dead owners off one that has another.
fn collect(core: &Arc<Core>, gr: &GroupResource, dependent: &Object) {
    let owners = object::owners(dependent);
    let dead: HashSet<&str> = owners
        .iter()
        .filter(|owner| is_dead(core, owner, object::namespace(dependent)))
        .filter_map(|owner| owner["uid"].as_str())
        .collect();
    if dead.is_empty() {
        return;
    }
    if dead.len() < owners.len() {
        let keep = |owner: &Value| !owner["uid"].as_str().is_some_and(|uid| dead.contains(uid));
        change(core, COLLECTOR, gr, dependent, |new| retain_owners(new, keep));
        return;
    }
    if object::is_deleting(dependent) {
        return;
    }
    let options = DeleteOptions {
        uid: Some(object::uid(dependent).to_owned()),
        propagation: Some("Background".to_owned()),
        ..DeleteOptions::default()
    };
    // Gone, or made again under the same name: both end this.
    let _ = delete_as(
        core,
        COLLECTOR,
        gr,
        object::namespace(dependent),
        object::name(dependent),
        &options,
    );
}

/// An owner of a kind that is not served here can't be looked up, and so counts as alive.
fn is_dead(core: &Core, owner: &Value, namespace: &str) -> bool {
    let text = |key: &str| owner[key].as_str().unwrap_or_default();
    let Some(resource) = core.registry.by_kind(text("apiVersion"), text("kind")) else {
        return false;
    };
    if resource.namespaced && namespace.is_empty() {
        return false;
    }
    let key = Key::new(if resource.namespaced { namespace } else { "" }, text("name"));
    core.store
        .get(&resource.stored_as, &key)
        .is_none_or(|found| object::uid(&found) != text("uid"))
}

fn retain_owners(object: &mut Value, keep: impl Fn(&Value) -> bool) {
    let kept: Vec<Value> = object::owners(object)
        .iter()
        .filter(|o| keep(o))
        .cloned()
        .collect();
    object::set_meta(
        object,
        "ownerReferences",
        if kept.is_empty() { Value::Null } else { json!(kept) },
    );
}

/// Write an object as changed by `edit`, trying again while it moves; an object without finalizers
/// that is being deleted goes.
fn change(core: &Arc<Core>, user: &str, gr: &GroupResource, object: &Object, edit: impl Fn(&mut Value)) {
    let Some(resource) = core.registry.by_plural(gr) else {
        return;
    };
    let writer = system_writer(core, user, Verb::Patch, "", &resource, object::namespace(object));
    let key = Key::new(object::namespace(object), object::name(object));
    while let Some(old) = core
        .store
        .get(gr, &key)
        .filter(|o| object::uid(o) == object::uid(object))
    {
        let mut new = Value::clone(&old);
        edit(&mut new);
        let version = object::version(&old);
        let goes = object::is_deleting(&old)
            && object::finalizers(&new).is_empty()
            && old["metadata"]["deletionGracePeriodSeconds"]
                .as_i64()
                .unwrap_or(0)
                == 0;
        let done = if goes {
            writer.remove(&key, version)
        } else {
            writer.store(&key, Expected::Version(version), new)
        };
        if !matches!(done, Ok(None)) {
            return;
        }
    }
}

fn drop_finalizer(core: &Arc<Core>, user: &str, gr: &GroupResource, object: &Object, finalizer: &str) {
    change(core, user, gr, object, |new| {
        let kept: Vec<String> = object::finalizers(new)
            .into_iter()
            .filter(|f| f != finalizer)
            .collect();
        object::set_meta(
            new,
            "finalizers",
            if kept.is_empty() { Value::Null } else { json!(kept) },
        );
    });
}

/// Do what the server's own finalizers on an object ask for.
fn finalize(core: &Arc<Core>, gr: &GroupResource, object: &Object) {
    let finalizers = object::finalizers(object);
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    if has(ORPHAN) {
        for (dependent_gr, dependent) in core.store.dependents(object::uid(object)) {
            let uid = object::uid(object).to_owned();
            change(core, COLLECTOR, &dependent_gr, &dependent, |new| {
                retain_owners(new, |o| o["uid"] != uid.as_str())
            });
        }
        drop_finalizer(core, COLLECTOR, gr, object, ORPHAN);
    }
    if has(FOREGROUND) {
        finalize_foreground(core, gr, object);
    }
    if has(CRD_CLEANUP) {
        finalize_crd(core, object);
    }
    if *gr == GroupResource::new("", "namespaces") {
        finalize_namespace(core, object);
    }
}

fn finalize_foreground(core: &Arc<Core>, gr: &GroupResource, owner: &Object) {
    let blocking = |dependent: &Value| {
        object::owners(dependent)
            .iter()
            .any(|o| o["uid"] == object::uid(owner) && o["blockOwnerDeletion"] == true)
    };
    for (dependent_gr, dependent) in core.store.dependents(object::uid(owner)) {
        if object::is_deleting(&dependent) || object::owners(&dependent).len() > 1 {
            continue;
        }
        let options = DeleteOptions {
            uid: Some(object::uid(&dependent).to_owned()),
            propagation: Some("Foreground".to_owned())
                .filter(|_| !core.store.dependents(object::uid(&dependent)).is_empty()),
            ..DeleteOptions::default()
        };
        let _ = delete_as(
            core,
            COLLECTOR,
            &dependent_gr,
            object::namespace(&dependent),
            object::name(&dependent),
            &options,
        );
    }
    if !core
        .store
        .dependents(object::uid(owner))
        .iter()
        .any(|(_, d)| blocking(d))
    {
        drop_finalizer(core, COLLECTOR, gr, owner, FOREGROUND);
    }
}

/// A dependent went: an owner that waits in the foreground may now go.
fn dependent_gone(core: &Arc<Core>, dependent: &Value) {
    for owner in object::owners(dependent) {
        let Some((gr, key)) = owner["uid"].as_str().and_then(|uid| core.store.find_uid(uid)) else {
            continue;
        };
        let Some(owner) = core.store.get(&gr, &key) else {
            continue;
        };
        if object::is_deleting(&owner) && object::finalizers(&owner).iter().any(|f| f == FOREGROUND) {
            finalize_foreground(core, &gr, &owner);
        }
    }
}

/// An object went: its namespace or its CRD may now go.
fn content_gone(core: &Arc<Core>, gr: &GroupResource, object: &Value) {
    let namespace = object::namespace(object);
    if !namespace.is_empty() {
        let found = core
            .store
            .get(&GroupResource::new("", "namespaces"), &Key::new("", namespace));
        if let Some(namespace) = found.filter(|n| object::is_deleting(n)) {
            finalize_namespace(core, &namespace);
        }
    }
    let crds = GroupResource::new("apiextensions.k8s.io", "customresourcedefinitions");
    if let Some(crd) = core
        .store
        .get(&crds, &Key::new("", &gr.to_string()))
        .filter(|c| object::is_deleting(c))
    {
        finalize_crd(core, &crd);
    }
}

fn finalize_namespace(core: &Arc<Core>, namespace: &Object) {
    let name = object::name(namespace);
    let mut left = 0;
    for gr in core.store.collections() {
        for object in core.store.list(&gr, name) {
            if !object::is_deleting(&object) {
                let options = DeleteOptions {
                    propagation: Some("Background".to_owned()),
                    ..DeleteOptions::default()
                };
                let _ = delete_as(core, NAMESPACES, &gr, name, object::name(&object), &options);
            }
        }
        left += core.store.list(&gr, name).len();
    }
    if left > 0 {
        return;
    }
    let namespaces = GroupResource::new("", "namespaces");
    change(core, NAMESPACES, &namespaces, namespace, |new| {
        if let Some(spec) = new["spec"].as_object_mut() {
            spec.remove("finalizers");
        }
    });
}

fn finalize_crd(core: &Arc<Core>, crd: &Object) {
    let gr = instances_of(crd);
    for object in core.store.list(&gr, "") {
        if !object::is_deleting(&object) {
            let options = DeleteOptions {
                propagation: Some("Background".to_owned()),
                ..DeleteOptions::default()
            };
            let _ = delete_as(
                core,
                CRDS,
                &gr,
                object::namespace(&object),
                object::name(&object),
                &options,
            );
        }
    }
    if core.store.list(&gr, "").is_empty() {
        let crds = GroupResource::new("apiextensions.k8s.io", "customresourcedefinitions");
        drop_finalizer(core, CRDS, &crds, crd, CRD_CLEANUP);
    }
}
