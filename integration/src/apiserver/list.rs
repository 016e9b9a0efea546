//! Lists: consistent pages of one version with `limit` and `continue`, and the meanings of
//! `resourceVersion` and `resourceVersionMatch`. It never changes anything.

use std::ops::Bound;

use serde_json::{Value, json};

use super::core::Core;
use super::query::Query;
use super::resources::Resource;
use super::selector::Filter;
use super::status::{ApiError, FieldError};
use super::store::{Key, Object};

/// The parameters of a list, read.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    limit: Option<usize>,
    from: Option<Continue>,
    version: Option<u64>,
    wanted: Match,
}

/// `resourceVersionMatch`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Match {
    /// Not said: with a limit and a version that version, else one at least as new.
    #[default]
    Legacy,
    NotOlderThan,
    Exact,
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
    pub fn parse(query: &Query) -> Result<ListOptions, ApiError> {
        // What is no number is told first, then what does not go together, then what is no version.
        let limit = query.number("limit")?.and_then(|n| usize::try_from(n).ok());
        let (version, token) = (query.text("resourceVersion"), query.text("continue"));
        let mut errors = Vec::new();
        let wanted = match query.text("resourceVersionMatch") {
            None => Match::Legacy,
            Some(text) => {
                let forbidden = |why: &str| FieldError::forbidden(MATCH, why);
                if version.is_none() {
                    errors.push(forbidden(
                        "resourceVersionMatch is forbidden unless resourceVersion is provided",
                    ));
                }
                if token.is_some() {
                    errors.push(forbidden(
                        "resourceVersionMatch is forbidden when continue is provided",
                    ));
                }
                if !matches!(text, "Exact" | "NotOlderThan") {
                    errors.push(FieldError::not_supported(
                        MATCH,
                        &json!(text),
                        &["Exact", "NotOlderThan", ""].map(str::to_owned),
                    ));
                }
                if text == "Exact" && version == Some("0") {
                    errors.push(forbidden(
                        "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                    ));
                }
                if text == "Exact" {
                    Match::Exact
                } else {
                    Match::NotOlderThan
                }
            }
        };
        if query.flag("sendInitialEvents").is_some() {
            errors.push(FieldError::forbidden(
                "sendInitialEvents",
                "sendInitialEvents is forbidden for list",
            ));
        }
        refuse(&errors)?;
        let from = token.map(Continue::parse).transpose()?;
        if from.is_some() && version.is_some_and(|v| v != "0") {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let version = version
            .map(parse_version)
            .transpose()
            .map_err(|why| ApiError::bad_request(format!("invalid resource version: {why}")))?;
        Ok(ListOptions {
            // "Any version" comes from the cache, which keeps no limit then (`computeListLimit`).
            limit: limit.filter(|n| *n > 0 && version != Some(0)),
            from,
            version,
            wanted,
        })
    }
}

/// The name of the parameter in what is said of it.
pub const MATCH: &str = "resourceVersionMatch";

/// 422 if anything is wrong with the options of a list or a watch.
pub fn refuse(errors: &[FieldError]) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", errors))
}

/// A version as a query carries it, or why it is none.
pub fn parse_version(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| {
        format!(
            "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        )
    })
}

/// The version that a get or a watch names; the real server has no answer of its own for a bad one.
pub fn named_version(query: &Query) -> Result<Option<u64>, ApiError> {
    let version = query.text("resourceVersion").map(parse_version).transpose();
    version.map_err(|why| ApiError::new(500, "", why))
}

impl Continue {
    fn parse(token: &str) -> Result<Continue, ApiError> {
        let bad = || {
            ApiError::bad_request(
                "invalid continue token: continue key is not valid: the token was not made by this server",
            )
        };
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
            Some(asked) => match options.wanted {
                Match::Exact => Some(asked),
                Match::Legacy => options.limit.map(|_| asked),
                Match::NotOlderThan => None,
            },
            None => None,
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
            None => ApiError::expired("The resourceVersion for the provided list is too old."),
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
            // Not looked at: behind the last match of a selector an empty page may come.
            rest += 1;
            continue;
        }
        if filter.matches(object) {
            items.push(object.clone());
            last = Some(key.clone());
        }
    }
    let next = last
        .filter(|_| rest > 0 && !filter.is_one_key(resource))
        .map(|after| {
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
