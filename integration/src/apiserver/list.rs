//! Lists: consistent pages of one version with `limit` and `continue`, and the meanings of
//! `resourceVersion` and `resourceVersionMatch`. It never changes anything.

use std::collections::BTreeMap;
use std::ops::Bound;

use serde_json::{Value, json};

use super::core::Core;
use super::resources::Resource;
use super::selector::Filter;
use super::status::ApiError;
use super::store::{Key, Object};

/// The parameters of a list, read.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    limit: Option<usize>,
    from: Option<Continue>,
    version: Option<u64>,
    exact: bool,
}

#[derive(Debug, Clone)]
struct Continue {
    /// None: at the newest version, after the first was forgotten.
    version: Option<u64>,
    after: Key,
}

/// One page.
pub struct Page {
    /// The version that all pages of this list show.
    pub version: u64,
    /// The objects, in the order of their keys.
    pub items: Vec<Object>,
    /// Where the next page starts.
    pub continue_token: Option<String>,
    /// How many come after this page, where it is known.
    pub remaining: Option<usize>,
}

const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

impl ListOptions {
    /// Read them from the query.
    pub fn parse(query: &BTreeMap<String, String>) -> Result<ListOptions, ApiError> {
        let text = |key: &str| query.get(key).map(String::as_str).filter(|s| !s.is_empty());
        let limit = match text("limit") {
            None | Some("0") => None,
            Some(n) => Some(
                n.parse()
                    .map_err(|_| ApiError::bad_request(format!("invalid limit {n:?}")))?,
            ),
        };
        let from = text("continue").map(Continue::parse).transpose()?;
        let version = text("resourceVersion").map(parse_version).transpose()?;
        let exact = match text("resourceVersionMatch") {
            None | Some("NotOlderThan") => false,
            Some("Exact") => true,
            Some(other) => {
                return Err(match_error(&format!(
                    "Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\", \"\""
                )));
            }
        };
        if text("resourceVersionMatch").is_some() {
            if version.is_none() {
                return Err(match_error(
                    "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            if from.is_some() {
                return Err(match_error(
                    "Forbidden: resourceVersionMatch is forbidden when continue is provided",
                ));
            }
            if exact && version == Some(0) {
                return Err(match_error(
                    "Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
        }
        if from.is_some() && version.is_some_and(|v| v != 0) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        Ok(ListOptions {
            limit,
            from,
            version,
            exact,
        })
    }
}

fn match_error(what: &str) -> ApiError {
    ApiError::new(
        422,
        "Invalid",
        format!("ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: {what}"),
    )
}

/// A version as a query carries it.
pub fn parse_version(text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "Invalid value: {text:?}: resourceVersion must be a number"
        ))
    })
}

impl Continue {
    fn parse(token: &str) -> Result<Continue, ApiError> {
        let bad =
            || ApiError::bad_request("continue key is not valid: the token was not made by this server");
        let bytes = hex::decode(token).map_err(|_| bad())?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        let (Some(namespace), Some(name)) = (value["namespace"].as_str(), value["name"].as_str()) else {
            return Err(bad());
        };
        Ok(Continue {
            version: value["version"].as_u64(),
            after: Key::new(namespace, name),
        })
    }

    fn token(&self) -> String {
        let value =
            json!({"version": self.version, "namespace": self.after.namespace, "name": self.after.name});
        hex::encode(value.to_string())
    }
}

/// One page of the objects that `filter` means.
pub fn list(
    core: &Core,
    resource: &Resource,
    filter: &Filter,
    options: &ListOptions,
) -> Result<Page, ApiError> {
    let current = core.store.version();
    let at = match &options.from {
        Some(from) => from.version,
        None => match options.version {
            Some(asked) if asked > current => return Err(ApiError::version_too_large(asked, current)),
            Some(asked) if options.exact || (options.limit.is_some() && asked != 0) => Some(asked),
            _ => None,
        },
    };
    let snapshot = core
        .store
        .snapshot(&resource.stored_as, at)
        .map_err(|_| match &options.from {
            Some(from) => {
                let mut error = ApiError::expired(CONTINUE_EXPIRED);
                error.continue_token = Some(
                    Continue {
                        version: None,
                        after: from.after.clone(),
                    }
                    .token(),
                );
                error
            }
            None => ApiError::expired("The provided resource version is too old."),
        })?;
    let start = match &options.from {
        Some(from) => Bound::Excluded(from.after.clone()),
        None => Bound::Included(Key::new(&filter.namespace, "")),
    };
    let mut items = Vec::new();
    let mut last = None;
    let mut rest = 0;
    for (key, object) in snapshot.objects.range((start, Bound::Unbounded)) {
        if !filter.namespace.is_empty() && key.namespace != filter.namespace {
            break;
        }
        if options.limit.is_some_and(|limit| items.len() >= limit) {
            if filter.has_selector() && !filter.matches(object) {
                continue;
            }
            rest += 1;
            continue;
        }
        if filter.matches(object) {
            items.push(object.clone());
            last = Some(key.clone());
        }
    }
    let next = last.filter(|_| rest > 0).map(|after| {
        Continue {
            version: Some(snapshot.version),
            after,
        }
        .token()
    });
    let remaining = next.is_some().then_some(rest).filter(|_| !filter.has_selector());
    Ok(Page {
        version: snapshot.version,
        items,
        continue_token: next,
        remaining,
    })
}
