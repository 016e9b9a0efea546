//! The patch formats: JSON merge patch, JSON patch, and of strategic merge what concerns maps. Lists
//! with merge keys, strategic directives and server-side apply are refused with 415, never guessed.

use serde_json::Value;

use super::status::ApiError;

/// A patch as sent.
#[derive(Debug, Clone)]
pub enum Patch {
    /// RFC 7386.
    Merge(Value),
    /// RFC 6902.
    Json(json_patch::Patch),
    /// `application/strategic-merge-patch+json`, checked to be one that is served here.
    Strategic(Value),
}

/// The lists that strategic merge would merge by key or as a set (k8s.io/api `patchStrategy:"merge"`).
const MERGED_LISTS: &[&str] = &[
    "addresses",
    "conditions",
    "containers",
    "env",
    "ephemeralContainers",
    "finalizers",
    "hostAliases",
    "hostIPs",
    "imagePullSecrets",
    "initContainers",
    "ownerReferences",
    "podCIDRs",
    "podIPs",
    "ports",
    "resourceClaims",
    "resourceClaimStatuses",
    "schedulingGates",
    "secrets",
    "topologySpreadConstraints",
    "volumeDevices",
    "volumeMounts",
    "volumes",
];
const JSON_PATCH_LIMIT: usize = 10_000;

impl Patch {
    /// Read the body by its content type. `custom`: strategic merge is not for custom resources.
    pub fn parse(content_type: &str, body: &[u8], custom: bool) -> Result<Patch, ApiError> {
        let value = |body: &[u8]| -> Result<Value, ApiError> {
            serde_json::from_slice(body)
                .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))
        };
        let object = |body: &[u8]| -> Result<Value, ApiError> {
            let value = value(body)?;
            if value.is_object() {
                Ok(value)
            } else {
                Err(ApiError::bad_request("Invalid JSON Patch"))
            }
        };
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/merge-patch+json" => Ok(Patch::Merge(object(body)?)),
            "application/json-patch+json" => {
                let patch: json_patch::Patch = serde_json::from_value(value(body)?)
                    .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
                if patch.0.len() > JSON_PATCH_LIMIT {
                    return Err(ApiError::too_large(format_args!(
                        "The allowed maximum operations in a JSON patch is {JSON_PATCH_LIMIT}, got {}",
                        patch.0.len()
                    )));
                }
                Ok(Patch::Json(patch))
            }
            "application/strategic-merge-patch+json" if custom => Err(unsupported("strategic merge patch")),
            "application/strategic-merge-patch+json" => {
                let patch = object(body)?;
                check_strategic(&patch, "")?;
                Ok(Patch::Strategic(patch))
            }
            "application/apply-patch+yaml" => Err(unsupported("server-side apply")),
            other => Err(unsupported(&format!("the content type {other:?}"))),
        }
    }

    /// The object with the patch applied.
    pub fn apply(&self, object: &Value) -> Result<Value, ApiError> {
        let mut patched = object.clone();
        match self {
            Patch::Merge(patch) => json_patch::merge(&mut patched, patch),
            Patch::Strategic(patch) => {
                empty_replaced_maps(&mut patched, patch);
                json_patch::merge(&mut patched, patch);
            }
            // The real server keeps to itself which operation it was.
            Patch::Json(patch) => json_patch::patch(&mut patched, patch).map_err(|_| {
                ApiError::new(
                    422,
                    "Invalid",
                    "the server rejected our request due to an error in our request",
                )
            })?,
        }
        Ok(patched)
    }
}

/// Of the kinds served here one map has `patchStrategy:"replace"` (k8s.io/api): a budget's selector.
fn empty_replaced_maps(object: &mut Value, patch: &Value) {
    if object["kind"] == "PodDisruptionBudget" && patch["spec"]["selector"].is_object() {
        object["spec"]["selector"] = Value::Object(serde_json::Map::new());
    }
}

fn unsupported(what: &str) -> ApiError {
    ApiError::unsupported_media_type(format!(
        "the body of the request was in an unknown format - accepted media types include: \
         application/json-patch+json, application/merge-patch+json, \
         application/strategic-merge-patch+json (maps only); {what} is not served by the embedded API"
    ))
}

fn check_strategic(patch: &Value, path: &str) -> Result<(), ApiError> {
    let Value::Object(map) = patch else { return Ok(()) };
    for (key, value) in map {
        let here = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        if key.starts_with('$') {
            return Err(unsupported(&format!("the strategic merge directive {here}")));
        }
        if value.is_array() && MERGED_LISTS.contains(&key.as_str()) {
            return Err(unsupported(&format!(
                "a strategic merge of the list {here}, which has merge keys,"
            )));
        }
        check_strategic(value, &here)?;
    }
    Ok(())
}
