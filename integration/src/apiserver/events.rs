//! How stored objects look to a resource's clients: `events.k8s.io/v1` is another view of the core
//! Event, and a custom resource carries the version it was asked for. Nothing else is converted.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::resources::{Resource, Shape};

/// New name, stored name, of the fields that differ.
const RENAMED: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// The object as a client of this resource sees it.
pub fn present<'a>(resource: &Resource, stored: &'a Value) -> Cow<'a, Value> {
    let api_version = resource.api_version();
    if stored["apiVersion"] == api_version.as_str() {
        return Cow::Borrowed(stored);
    }
    let mut shown = stored.clone();
    if resource.shape == Shape::NewEvent {
        rename(&mut shown, RENAMED.iter().map(|(new, old)| (*old, *new)));
    }
    shown["apiVersion"] = json!(api_version);
    Cow::Owned(shown)
}

/// From `events.k8s.io/v1` to the core Event.
pub fn to_stored(event: &mut Value) {
    rename(event, RENAMED.into_iter());
    event["apiVersion"] = json!("v1");
    if event["involvedObject"].is_null() {
        event["involvedObject"] = json!({});
    }
}

fn rename<'a>(object: &mut Value, names: impl Iterator<Item = (&'a str, &'a str)>) {
    let Some(map) = object.as_object_mut() else { return };
    let mut renamed = Map::new();
    for (from, to) in names {
        if let Some(value) = map.remove(from) {
            renamed.insert(to.to_owned(), value);
        }
    }
    map.extend(renamed);
}
