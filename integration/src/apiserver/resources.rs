//! Which resources are served: the built-in table and, beside it, what CRDs publish. A resource here
//! is data about a kind (names, scope, how an update treats it); it never holds objects.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use k8s_openapi::api::{apps, coordination, core, policy, storage};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::crd::CustomVersion;

/// Group and plural name: what a collection of objects is stored under.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupResource {
    /// Empty for the core group.
    pub group: Arc<str>,
    /// The plural, `pods`.
    pub resource: Arc<str>,
}

impl GroupResource {
    /// The collection of this group and plural.
    pub fn new(group: &str, resource: &str) -> GroupResource {
        GroupResource {
            group: group.into(),
            resource: resource.into(),
        }
    }
}

impl fmt::Display for GroupResource {
    /// `pods` or `nodeupgrades.drydock.dev`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            write!(f, "{}", self.resource)
        } else {
            write!(f, "{}.{}", self.resource, self.group)
        }
    }
}

/// How `metadata.generation` is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// Not at all (Node, ConfigMap, Lease ...).
    None,
    /// One more with every change of spec.
    Spec,
    /// Of spec or annotations (Deployment).
    SpecOrAnnotations,
    /// Of anything but metadata (and status where it is a subresource): custom resources.
    NonMetadata,
}

/// How objects of this resource look on the wire compared with how they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// As stored.
    Stored,
    /// `events.k8s.io/v1`, stored as a core Event.
    NewEvent,
}

/// Decode into the typed form and back: refuses wrong types, drops unknown fields.
pub type Normalize = fn(Value) -> Result<Value, String>;

/// What stands behind a resource.
#[derive(Clone)]
pub enum Source {
    /// A kind of Kubernetes itself.
    BuiltIn(Normalize),
    /// Defined by a CRD.
    Custom(Arc<CustomVersion>),
}

/// One resource of one group and version.
#[derive(Clone)]
pub struct Resource {
    /// API group, empty for core.
    pub group: String,
    /// API version, `v1`.
    pub version: String,
    /// `pods`.
    pub plural: String,
    /// `pod`.
    pub singular: String,
    /// `Pod`.
    pub kind: String,
    /// `PodList`.
    pub list_kind: String,
    /// `po`.
    pub short_names: Vec<String>,
    /// `all`.
    pub categories: Vec<String>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Whether `/status` is served (and, but for Node and custom resources, the only way to write status).
    pub has_status: bool,
    /// A PUT may create it.
    pub create_on_update: bool,
    /// A PUT without resourceVersion is taken.
    pub unconditional_update: bool,
    /// A delete answers with the object, not with a Status.
    pub returns_deleted: bool,
    /// How the generation is kept.
    pub generation: Generation,
    /// How it looks on the wire.
    pub shape: Shape,
    /// The collection that holds its objects.
    pub stored_as: GroupResource,
    /// What is behind it.
    pub source: Source,
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The group and plural it is addressed by.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&self.group, &self.plural)
    }

    /// Where the real server keeps the object in etcd; some of its errors name the place.
    pub fn storage_key(&self, key: &super::store::Key) -> String {
        let stored = match (&*self.stored_as.group, &*self.stored_as.resource) {
            ("", "nodes") => "minions".to_owned(),
            (group, plural) if self.custom().is_some() || group == "apiextensions.k8s.io" => {
                format!("{group}/{plural}")
            }
            (_, plural) => plural.to_owned(),
        };
        if key.namespace.is_empty() {
            format!("/registry/{stored}/{}", key.name)
        } else {
            format!("/registry/{stored}/{}/{}", key.namespace, key.name)
        }
    }

    /// Whether a CRD defines it.
    pub fn custom(&self) -> Option<&Arc<CustomVersion>> {
        match &self.source {
            Source::Custom(version) => Some(version),
            Source::BuiltIn(_) => None,
        }
    }

    /// Whether it is the core (or discovery) kind of this plural.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        &*self.stored_as.group == group && &*self.stored_as.resource == plural
    }
}

fn through<T: DeserializeOwned + Serialize>(value: Value) -> Result<Value, String> {
    let typed: T = serde_json::from_value(value).map_err(|e| e.to_string())?;
    serde_json::to_value(typed).map_err(|e| e.to_string())
}

struct Row {
    gv: (&'static str, &'static str),
    names: (&'static str, &'static str, &'static str, &'static [&'static str]),
    namespaced: bool,
    has_status: bool,
    generation: Generation,
    normalize: Normalize,
}

/// plural, singular, kind, short names.
const fn names(
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    short: &'static [&'static str],
) -> (&'static str, &'static str, &'static str, &'static [&'static str]) {
    (plural, singular, kind, short)
}

fn rows() -> Vec<Row> {
    use Generation::{None as No, Spec, SpecOrAnnotations};
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    let row = |gv, names, namespaced, has_status, generation, normalize| Row {
        gv,
        names,
        namespaced,
        has_status,
        generation,
        normalize,
    };
    let core_v1 = ("", "v1");
    let apps_v1 = ("apps", "v1");
    vec![
        row(
            core_v1,
            names("nodes", "node", "Node", &["no"]),
            false,
            true,
            No,
            through::<core::v1::Node>,
        ),
        row(
            core_v1,
            names("pods", "pod", "Pod", &["po"]),
            true,
            true,
            Spec,
            through::<core::v1::Pod>,
        ),
        row(
            core_v1,
            names("namespaces", "namespace", "Namespace", &["ns"]),
            false,
            true,
            No,
            through::<core::v1::Namespace>,
        ),
        row(
            core_v1,
            names("configmaps", "configmap", "ConfigMap", &["cm"]),
            true,
            false,
            No,
            through::<core::v1::ConfigMap>,
        ),
        row(
            core_v1,
            names("secrets", "secret", "Secret", &[]),
            true,
            false,
            No,
            through::<core::v1::Secret>,
        ),
        row(
            core_v1,
            names("events", "event", "Event", &["ev"]),
            true,
            false,
            No,
            through::<core::v1::Event>,
        ),
        row(
            ("events.k8s.io", "v1"),
            names("events", "event", "Event", &["ev"]),
            true,
            false,
            No,
            through::<core::v1::Event>,
        ),
        row(
            ("coordination.k8s.io", "v1"),
            names("leases", "lease", "Lease", &[]),
            true,
            false,
            No,
            through::<coordination::v1::Lease>,
        ),
        row(
            ("policy", "v1"),
            names(
                "poddisruptionbudgets",
                "poddisruptionbudget",
                "PodDisruptionBudget",
                &["pdb"],
            ),
            true,
            true,
            Spec,
            through::<policy::v1::PodDisruptionBudget>,
        ),
        row(
            apps_v1,
            names("deployments", "deployment", "Deployment", &["deploy"]),
            true,
            true,
            SpecOrAnnotations,
            through::<apps::v1::Deployment>,
        ),
        row(
            apps_v1,
            names("replicasets", "replicaset", "ReplicaSet", &["rs"]),
            true,
            true,
            Spec,
            through::<apps::v1::ReplicaSet>,
        ),
        row(
            apps_v1,
            names("daemonsets", "daemonset", "DaemonSet", &["ds"]),
            true,
            true,
            Spec,
            through::<apps::v1::DaemonSet>,
        ),
        row(
            ("storage.k8s.io", "v1"),
            names("volumeattachments", "volumeattachment", "VolumeAttachment", &[]),
            false,
            true,
            No,
            through::<storage::v1::VolumeAttachment>,
        ),
        row(
            ("apiextensions.k8s.io", "v1"),
            names(
                "customresourcedefinitions",
                "customresourcedefinition",
                "CustomResourceDefinition",
                &["crd", "crds"],
            ),
            false,
            true,
            Spec,
            through::<CustomResourceDefinition>,
        ),
    ]
}

fn built_in(row: Row) -> Resource {
    let (group, version) = row.gv;
    let (plural, singular, kind, short) = row.names;
    let new_event = group == "events.k8s.io";
    Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        plural: plural.to_owned(),
        singular: singular.to_owned(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        short_names: short.iter().map(|&s| s.to_owned()).collect(),
        categories: match plural {
            "pods" | "deployments" | "replicasets" | "daemonsets" => vec!["all".to_owned()],
            "customresourcedefinitions" => vec!["api-extensions".to_owned()],
            _ => Vec::new(),
        },
        namespaced: row.namespaced,
        has_status: row.has_status,
        create_on_update: matches!(plural, "events" | "leases"),
        unconditional_update: !matches!(
            plural,
            "leases" | "poddisruptionbudgets" | "volumeattachments" | "customresourcedefinitions"
        ),
        returns_deleted: matches!(plural, "pods" | "namespaces" | "volumeattachments"),
        generation: row.generation,
        shape: if new_event { Shape::NewEvent } else { Shape::Stored },
        stored_as: GroupResource::new(if new_event { "" } else { group }, plural),
        source: Source::BuiltIn(row.normalize),
    }
}

/// Everything that is served now; CRDs come and go.
pub struct Registry {
    built_in: Vec<Arc<Resource>>,
    custom: RwLock<BTreeMap<String, Vec<Arc<Resource>>>>,
}

impl Registry {
    /// The built-in kinds alone.
    pub fn new() -> Registry {
        Registry {
            built_in: rows().into_iter().map(|row| Arc::new(built_in(row))).collect(),
            custom: RwLock::new(BTreeMap::new()),
        }
    }

    /// Everything, built-in first.
    pub fn all(&self) -> Vec<Arc<Resource>> {
        let custom = self.custom.read().unwrap_or_else(PoisonError::into_inner);
        self.built_in
            .iter()
            .chain(custom.values().flatten())
            .cloned()
            .collect()
    }

    /// The resource that this group, version and plural name.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.first(|r| r.group == group && r.version == version && r.plural == plural)
    }

    /// The resource of this `apiVersion` and kind.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        self.first(|r| r.group == group && r.version == version && r.kind == kind)
    }

    /// Any version's resource of this group and plural.
    pub fn by_plural(&self, gr: &GroupResource) -> Option<Arc<Resource>> {
        self.first(|r| r.group == *gr.group && r.plural == *gr.resource)
    }

    fn first(&self, wanted: impl Fn(&Resource) -> bool) -> Option<Arc<Resource>> {
        let custom = self.custom.read().unwrap_or_else(PoisonError::into_inner);
        self.built_in
            .iter()
            .chain(custom.values().flatten())
            .find(|r| wanted(r))
            .cloned()
    }

    /// Publish what this CRD defines, in the place of what it defined before.
    pub fn publish(&self, crd: &str, resources: Vec<Resource>) {
        let mut custom = self.custom.write().unwrap_or_else(PoisonError::into_inner);
        custom.insert(crd.to_owned(), resources.into_iter().map(Arc::new).collect());
    }

    /// Serve nothing of this CRD any more.
    pub fn withdraw(&self, crd: &str) {
        self.custom
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(crd);
    }
}

impl Default for Registry {
    fn default() -> Registry {
        Registry::new()
    }
}
