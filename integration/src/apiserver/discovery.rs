//! Discovery: which groups, versions and resources there are (`/api`, `/apis` and below), and
//! `/version`. The aggregated form is not served; clients fall back to this one.

use serde_json::{Value, json};

use super::resources::{Registry, Resource, Source};

/// What the server calls itself.
pub const GIT_VERSION: &str = "v1.36.3";

/// `/version`.
pub fn version() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "gitVersion": format!("{GIT_VERSION}+drydock-embedded"),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// `/api`.
pub fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis`.
pub fn groups(registry: &Registry) -> Value {
    let mut names: Vec<String> = Vec::new();
    for resource in registry.all() {
        if !resource.group.is_empty() && !names.contains(&resource.group) {
            names.push(resource.group.clone());
        }
    }
    let mut groups: Vec<Value> = names.iter().filter_map(|name| group(registry, name)).collect();
    // In a list they do not say again what they are.
    for group in groups.iter_mut().filter_map(Value::as_object_mut) {
        group.remove("kind");
        group.remove("apiVersion");
    }
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`; none if there is no such group.
pub fn group(registry: &Registry, name: &str) -> Option<Value> {
    let mut versions: Vec<String> = Vec::new();
    for resource in registry.all() {
        if resource.group == name && !versions.contains(&resource.version) {
            versions.push(resource.version.clone());
        }
    }
    let shown: Vec<Value> = versions
        .iter()
        .map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v}))
        .collect();
    let preferred = shown.first()?.clone();
    Some(
        json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": shown, "preferredVersion": preferred}),
    )
}

/// `/api/v1` or `/apis/GROUP/VERSION`; none if nothing is there.
pub fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let all = registry.all();
    let mut entries = Vec::new();
    for resource in all.iter().filter(|r| r.group == group && r.version == version) {
        entries.push(entry(resource));
        entries.extend(subresources(resource));
    }
    if entries.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": entries}),
    )
}

fn entry(resource: &Resource) -> Value {
    let mut entry = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        "storageVersionHash": storage_hash(resource),
    });
    if resource.is("", "namespaces")
        && let Some(verbs) = entry["verbs"].as_array_mut()
    {
        verbs.retain(|verb| verb != "deletecollection");
    }
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    entry
}

fn subresources(resource: &Resource) -> Vec<Value> {
    let sub = |name: &str, kind: &str, verbs: &[&str]| {
        json!({
            "name": format!("{}/{name}", resource.plural),
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": kind,
            "verbs": verbs,
        })
    };
    let mut entries = Vec::new();
    if resource.has_status {
        entries.push(sub("status", &resource.kind, &["get", "patch", "update"]));
    }
    if resource.is("", "pods") {
        entries.push(sub("binding", "Binding", &["create"]));
        let mut eviction = sub("eviction", "Eviction", &["create"]);
        eviction["group"] = json!("policy");
        eviction["version"] = json!("v1");
        entries.push(eviction);
    }
    entries
}

/// The real server hashes group, version and kind; any stable text serves its purpose.
fn storage_hash(resource: &Resource) -> String {
    use sha2::{Digest, Sha256};
    let stored = match &resource.source {
        Source::BuiltIn(_) => resource.api_version(),
        Source::Custom(custom) => custom.storage_api_version.clone(),
    };
    let digest = Sha256::digest(format!("{stored}/{}", resource.kind).as_bytes());
    hex::encode(&digest[..8])
}
