//! OpenAPI v3: an index and one page per group and version. A page says what kubectl looks for (which
//! kind a PATCH is for, and that it takes `fieldValidation`) and, for custom resources, the schema.

use serde_json::{Map, Value, json};

use super::resources::{Registry, Resource};

/// `/openapi/v3`.
pub fn index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for resource in registry.all() {
        let path = prefix(&resource).trim_start_matches('/').to_owned();
        let url = format!("/openapi/v3/{path}");
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

fn prefix(resource: &Resource) -> String {
    if resource.group.is_empty() {
        format!("/api/{}", resource.version)
    } else {
        format!("/apis/{}/{}", resource.group, resource.version)
    }
}

/// The page of one group and version; none if nothing is there.
pub fn page(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let all = registry.all();
    let of_page: Vec<_> = all
        .iter()
        .filter(|r| r.group == group && r.version == version)
        .collect();
    if of_page.is_empty() {
        return None;
    }
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for resource in of_page {
        let name = schema_name(resource);
        schemas.insert(name.clone(), schema(resource));
        let scope = if resource.namespaced {
            "/namespaces/{namespace}"
        } else {
            ""
        };
        let collection = format!("{}{scope}/{}", prefix(resource), resource.plural);
        let reference = json!({"$ref": format!("#/components/schemas/{name}")});
        paths.insert(collection.clone(), collection_operations(resource, &reference));
        paths.insert(
            format!("{collection}/{{name}}"),
            object_operations(resource, &reference),
        );
        if resource.has_status {
            paths.insert(
                format!("{collection}/{{name}}/status"),
                object_operations(resource, &reference),
            );
        }
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": super::discovery::GIT_VERSION},
        "paths": paths,
        "components": {"schemas": schemas},
    }))
}

fn schema_name(resource: &Resource) -> String {
    let group = if resource.group.is_empty() {
        "core".to_owned()
    } else {
        resource.group.clone()
    };
    let mut parts: Vec<&str> = group.split('.').collect();
    parts.reverse();
    format!("{}.{}.{}", parts.join("."), resource.version, resource.kind)
}

fn group_version_kind(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

fn schema(resource: &Resource) -> Value {
    let mut schema = match resource.custom() {
        Some(custom) => custom.raw_schema.clone(),
        None => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
    };
    schema["x-kubernetes-group-version-kind"] = json!([group_version_kind(resource)]);
    schema
}

fn parameter(name: &str, kind: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
}

fn write_parameters() -> Vec<Value> {
    ["dryRun", "fieldManager", "fieldValidation"]
        .map(|name| parameter(name, "string"))
        .to_vec()
}

fn operation(
    resource: &Resource,
    action: &str,
    parameters: Vec<Value>,
    media: &[&str],
    reference: &Value,
) -> Value {
    let mut operation = json!({
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": group_version_kind(resource),
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": reference}}}},
    });
    if !media.is_empty() {
        let content: Map<String, Value> = media
            .iter()
            .map(|m| ((*m).to_owned(), json!({"schema": reference})))
            .collect();
        operation["requestBody"] = json!({"content": content});
    }
    operation
}

fn collection_operations(resource: &Resource, reference: &Value) -> Value {
    json!({
        "get": operation(resource, "list", vec![parameter("labelSelector", "string"), parameter("fieldSelector", "string")], &[], reference),
        "post": operation(resource, "post", write_parameters(), &["application/json"], reference),
    })
}

fn object_operations(resource: &Resource, reference: &Value) -> Value {
    let mut patch_parameters = write_parameters();
    patch_parameters.push(parameter("force", "boolean"));
    let mut media = vec!["application/json-patch+json", "application/merge-patch+json"];
    if resource.custom().is_none() {
        media.push("application/strategic-merge-patch+json");
    }
    json!({
        "get": operation(resource, "get", Vec::new(), &[], reference),
        "put": operation(resource, "put", write_parameters(), &["application/json"], reference),
        "patch": operation(resource, "patch", patch_parameters, &media, reference),
        "delete": operation(resource, "delete", vec![parameter("dryRun", "string")], &[], reference),
    })
}
