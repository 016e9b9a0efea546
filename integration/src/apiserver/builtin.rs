//! What the real server does to its own kinds on the way in: defaults that Drydock's parts and kubectl
//! see, what a create or an update resets, and the validation that a client can run into. It follows
//! the `strategy.go` files of kubernetes v1.36; whole parts of pod validation are left out.

use k8s_openapi::ByteString;
use serde_json::{Value, json};

use super::details;
use super::object;
use super::resources::Resource;
use super::status::FieldError;

/// Fill in defaults, as the real server does whenever it decodes.
pub fn set_defaults(resource: &Resource, object: &mut Value) {
    match &*resource.stored_as.resource {
        "pods" => pod_spec_defaults(&mut object["spec"]),
        "deployments" => {
            default_value(object, &["spec", "replicas"], json!(1));
            default_value(object, &["spec", "revisionHistoryLimit"], json!(10));
            default_value(object, &["spec", "progressDeadlineSeconds"], json!(600));
            default_value(object, &["spec", "strategy", "type"], json!("RollingUpdate"));
            if object["spec"]["strategy"]["type"] == "RollingUpdate" {
                default_value(
                    object,
                    &["spec", "strategy", "rollingUpdate", "maxUnavailable"],
                    json!("25%"),
                );
                default_value(
                    object,
                    &["spec", "strategy", "rollingUpdate", "maxSurge"],
                    json!("25%"),
                );
            }
            template_defaults(object);
        }
        "replicasets" => {
            default_value(object, &["spec", "replicas"], json!(1));
            template_defaults(object);
        }
        "daemonsets" => {
            default_value(object, &["spec", "revisionHistoryLimit"], json!(10));
            default_value(
                object,
                &["spec", "updateStrategy", "type"],
                json!("RollingUpdate"),
            );
            template_defaults(object);
        }
        "namespaces" => {
            let name = object::name(object).to_owned();
            if !name.is_empty() {
                default_value(
                    object,
                    &["metadata", "labels", "kubernetes.io/metadata.name"],
                    json!(name),
                );
            }
            default_value(object, &["status", "phase"], json!("Active"));
        }
        "secrets" => {
            default_value(object, &["type"], json!("Opaque"));
            merge_string_data(object);
        }
        "nodes" => default_value(object, &["status"], json!({})),
        _ => {}
    }
    drop_false_flags(object);
}

/// Go leaves a false flag out; so must what is stored here, or a no-op patch would look like a change.
fn drop_false_flags(object: &mut Value) {
    if let Some(spec) = object["spec"].as_object_mut() {
        for flag in ["unschedulable", "hostNetwork", "hostPID", "hostIPC"] {
            if spec.get(flag) == Some(&Value::Bool(false)) {
                spec.remove(flag);
            }
        }
    }
    if object["spec"].is_null()
        && let Some(map) = object.as_object_mut()
    {
        map.remove("spec");
    }
}

fn template_defaults(object: &mut Value) {
    if object["spec"]["template"]["spec"].is_object() {
        pod_spec_defaults(&mut object["spec"]["template"]["spec"]);
    }
}

fn pod_spec_defaults(spec: &mut Value) {
    for (key, value) in [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("schedulerName", json!("default-scheduler")),
        ("securityContext", json!({})),
        ("enableServiceLinks", json!(true)),
    ] {
        default_value(spec, &[key], value);
    }
    for key in ["containers", "initContainers"] {
        for container in spec[key].as_array_mut().into_iter().flatten() {
            let image = container["image"].as_str().unwrap_or_default();
            let latest = image.ends_with(":latest")
                || !image.rsplit('/').next().unwrap_or_default().contains([':', '@']);
            default_value(
                container,
                &["imagePullPolicy"],
                json!(if latest { "Always" } else { "IfNotPresent" }),
            );
            default_value(
                container,
                &["terminationMessagePath"],
                json!("/dev/termination-log"),
            );
            default_value(container, &["terminationMessagePolicy"], json!("File"));
            default_value(container, &["resources"], json!({}));
        }
    }
    if spec["initContainers"].is_null()
        && let Some(map) = spec.as_object_mut()
    {
        map.remove("initContainers");
    }
}

fn default_value(object: &mut Value, path: &[&str], value: Value) {
    let mut at = object;
    for step in path {
        if !at.is_object() {
            if !at.is_null() {
                return;
            }
            *at = json!({});
        }
        at = &mut at[*step];
    }
    if at.is_null() {
        *at = value;
    }
}

/// `stringData` is write-only: it goes into `data`.
fn merge_string_data(secret: &mut Value) {
    let Some(Value::Object(texts)) = secret.as_object_mut().and_then(|map| map.remove("stringData")) else {
        return;
    };
    for (key, text) in texts {
        let bytes = ByteString(text.as_str().unwrap_or_default().as_bytes().to_vec());
        // A byte string always has a JSON form.
        secret["data"][key] = serde_json::to_value(bytes).unwrap_or_default();
    }
}

/// What a create resets, whatever the client sent.
pub fn prepare_create(resource: &Resource, object: &mut Value) {
    match &*resource.stored_as.resource {
        "pods" => {
            let class = qos_class(object);
            object["status"] = json!({"phase": "Pending", "qosClass": class});
        }
        "namespaces" => {
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
        }
        "poddisruptionbudgets"
        | "customresourcedefinitions"
        | "deployments"
        | "replicasets"
        | "daemonsets" => {
            object["status"] = empty_status(resource);
        }
        "volumeattachments" => {
            object["status"] = json!({"attached": false});
        }
        _ => {}
    }
}

/// The status of a fresh object, with the counts that the real types always write.
fn empty_status(resource: &Resource) -> Value {
    match &*resource.stored_as.resource {
        "poddisruptionbudgets" => {
            json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0})
        }
        "replicasets" => json!({"replicas": 0}),
        "daemonsets" => {
            json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0})
        }
        _ => json!({}),
    }
}

fn qos_class(pod: &Value) -> &'static str {
    let containers: Vec<&Value> = pod["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    let entries = |c: &Value, part: &str| c["resources"][part].as_object().map_or(0, serde_json::Map::len);
    if containers
        .iter()
        .all(|c| entries(c, "requests") == 0 && entries(c, "limits") == 0)
    {
        return "BestEffort";
    }
    let guaranteed = |c: &&Value| {
        ["cpu", "memory"].iter().all(|key| {
            let limit = &c["resources"]["limits"][key];
            let request = &c["resources"]["requests"][key];
            !limit.is_null() && (request.is_null() || request == limit)
        })
    };
    if containers.iter().all(guaranteed) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// What an update of the main endpoint keeps from the old object.
pub fn prepare_update(resource: &Resource, new: &mut Value, old: &Value) {
    let keeps_status = resource.has_status && !resource.is("storage.k8s.io", "volumeattachments");
    if keeps_status {
        copy_part(new, old, "status");
    }
    if resource.is("", "namespaces") {
        copy_part(new, old, "spec");
    }
    if resource.is("storage.k8s.io", "volumeattachments") {
        copy_part(new, old, "status");
    }
}

/// What an update of `/status` keeps from the old object.
pub fn prepare_status_update(resource: &Resource, new: &mut Value, old: &Value) {
    copy_part(new, old, "spec");
    let kept: &[&str] = match &*resource.stored_as.resource {
        "pods" => &["ownerReferences", "deletionTimestamp"],
        "deployments" => &["labels"],
        "volumeattachments" | "customresourcedefinitions" => &[
            "labels",
            "annotations",
            "finalizers",
            "ownerReferences",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ],
        _ => &[],
    };
    for key in kept {
        let value = old["metadata"][*key].clone();
        object::set_meta(new, key, value);
    }
    if resource.is("", "pods") && new["status"]["qosClass"].is_null() && !old["status"]["qosClass"].is_null()
    {
        new["status"]["qosClass"] = old["status"]["qosClass"].clone();
    }
}

/// Give `new` the old object's part of this name, or none if it had none.
pub fn copy_part(new: &mut Value, old: &Value, part: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(part) {
        Some(value) => drop(map.insert(part.to_owned(), value.clone())),
        None => drop(map.remove(part)),
    }
}

/// What is wrong with a new object.
pub fn validate_create(resource: &Resource, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match &*resource.stored_as.resource {
        "pods" => {
            if object["spec"]["containers"].as_array().is_none_or(Vec::is_empty) {
                errors.push(FieldError::required("spec.containers", ""));
            }
            errors.extend(container_errors(&object["spec"], "spec"));
            errors.extend(details::container_name_errors(&object["spec"], "spec"));
        }
        "deployments" | "replicasets" | "daemonsets" => errors.extend(workload_errors(object)),
        "poddisruptionbudgets" => errors.extend(pdb_errors(object)),
        "leases" => errors.extend(lease_errors(object)),
        "events" => errors.extend(details::event_errors(resource, object, None)),
        "configmaps" | "secrets" => errors.extend(details::data_key_errors(object)),
        _ => {}
    }
    errors
}

/// What is wrong with a changed object.
pub fn validate_update(resource: &Resource, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match &*resource.stored_as.resource {
        "pods" => errors.extend(pod_update_errors(new, old)),
        "configmaps" | "secrets"
            if old["immutable"] == true && (new["data"] != old["data"] || new["immutable"] != true) =>
        {
            errors.push(FieldError::forbidden(
                "data",
                "field is immutable when `immutable` is set",
            ));
        }
        "nodes" => {
            let (was, is) = (&old["spec"]["providerID"], &new["spec"]["providerID"]);
            if was.as_str().is_some_and(|s| !s.is_empty()) && was != is {
                errors.push(FieldError::forbidden(
                    "spec.providerID",
                    "node updates may not change providerID except from \"\" to valid",
                ));
            }
        }
        "deployments" | "replicasets" | "daemonsets" => {
            errors.extend(workload_errors(new));
            if new["spec"]["selector"] != old["spec"]["selector"] {
                errors.push(FieldError::invalid(
                    "spec.selector",
                    &new["spec"]["selector"],
                    "field is immutable",
                ));
            }
        }
        "poddisruptionbudgets" => errors.extend(pdb_errors(new)),
        "leases" => errors.extend(lease_errors(new)),
        "events" => errors.extend(details::event_errors(resource, new, Some(old))),
        "configmaps" | "secrets" => errors.extend(details::data_key_errors(new)),
        _ => {}
    }
    errors
}

fn container_errors(spec: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, container) in spec["containers"].as_array().into_iter().flatten().enumerate() {
        for key in ["name", "image"] {
            if container[key].as_str().unwrap_or_default().is_empty() {
                errors.push(FieldError::required(format!("{path}.containers[{i}].{key}"), ""));
            }
        }
    }
    errors
}

fn workload_errors(object: &Value) -> Vec<FieldError> {
    let mut errors = container_errors(&object["spec"]["template"]["spec"], "spec.template.spec");
    let selector = super::selector::LabelSelector::from_object(&object["spec"]["selector"]);
    let labels = &object["spec"]["template"]["metadata"]["labels"];
    match selector {
        Some(selector) if !selector.is_empty() => {
            if !selector.matches(&object["spec"]["template"]) {
                errors.push(FieldError::invalid(
                    "spec.template.metadata.labels",
                    labels,
                    "`selector` does not match template `labels`",
                ));
            }
        }
        _ => errors.push(FieldError::required("spec.selector", "")),
    }
    errors
}

/// Of a pod's spec only a few fields may change; everything else must stand as it did.
fn pod_update_errors(new: &Value, old: &Value) -> Vec<FieldError> {
    let fixed = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        if let Some(map) = spec.as_object_mut() {
            for key in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
                map.remove(key);
            }
            for list in ["containers", "initContainers"] {
                for container in map
                    .get_mut(list)
                    .and_then(Value::as_array_mut)
                    .into_iter()
                    .flatten()
                {
                    if let Some(container) = container.as_object_mut() {
                        container.remove("image");
                    }
                }
            }
        }
        spec
    };
    if fixed(new) == fixed(old) {
        return Vec::new();
    }
    let count = |pod: &Value| pod["spec"]["containers"].as_array().map(Vec::len);
    if count(new) != count(old) {
        return vec![FieldError::forbidden(
            "spec.containers",
            "pod updates may not add or remove containers",
        )];
    }
    vec![FieldError::forbidden(
        "spec",
        "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
    )]
}

fn pdb_errors(pdb: &Value) -> Vec<FieldError> {
    let mut errors = details::selector_errors(&pdb["spec"]["selector"], "spec.selector");
    let (min, max) = (&pdb["spec"]["minAvailable"], &pdb["spec"]["maxUnavailable"]);
    if !min.is_null() && !max.is_null() {
        errors.push(FieldError::invalid(
            "spec",
            &pdb["spec"],
            "minAvailable and maxUnavailable cannot be both set",
        ));
    }
    for (path, value) in [("spec.minAvailable", min), ("spec.maxUnavailable", max)] {
        match value {
            Value::Number(n) if n.as_i64().is_none_or(|n| n < 0) => {
                errors.push(FieldError::invalid(
                    path,
                    value,
                    "must be greater than or equal to 0",
                ));
            }
            Value::String(s) => {
                let percent = s.strip_suffix('%').and_then(|p| p.parse::<u32>().ok());
                match percent {
                    None => errors.push(FieldError::invalid(path, value, "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')")),
                    Some(p) if p > 100 => errors.push(FieldError::invalid(path, value, "must not be greater than 100%")),
                    Some(_) => {}
                }
            }
            _ => {}
        }
    }
    let policy = &pdb["spec"]["unhealthyPodEvictionPolicy"];
    if !policy.is_null() && policy != "IfHealthyBudget" && policy != "AlwaysAllow" {
        let supported = ["AlwaysAllow".to_owned(), "IfHealthyBudget".to_owned()];
        errors.push(FieldError::not_supported(
            "spec.unhealthyPodEvictionPolicy",
            policy,
            &supported,
        ));
    }
    errors
}

fn lease_errors(lease: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, least) in [("leaseDurationSeconds", 1), ("leaseTransitions", 0)] {
        let value = &lease["spec"][key];
        if value.as_i64().is_some_and(|n| n < least) {
            let detail = if least == 1 {
                "must be greater than 0"
            } else {
                "must be greater than or equal to 0"
            };
            errors.push(FieldError::invalid(format!("spec.{key}"), value, detail));
        }
    }
    errors
}
