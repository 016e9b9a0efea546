//! What a case was told, step by step, without what differs from run to run: UIDs, versions, times,
//! tokens of pages.

use std::sync::{Arc, LazyLock, Mutex};

use regex::Regex;
use serde_json::Value;

/// The steps of one case on one server. Clones write into the same.
#[derive(Clone, Default)]
pub struct Transcript(Arc<Mutex<Vec<(String, Value)>>>);

impl Transcript {
    /// Write a step down; its name is unique in its case.
    pub fn note(&self, step: &str, mut told: Value) {
        mask(&mut told);
        let mut steps = self.0.lock().unwrap();
        assert!(
            steps.iter().all(|(name, _)| name != step),
            "two steps are called {step:?}"
        );
        steps.push((step.to_owned(), told));
    }

    pub fn steps(&self) -> Vec<(String, Value)> {
        self.0.lock().unwrap().clone()
    }
}

const TIMES: [&str; 2] = ["creationTimestamp", "deletionTimestamp"];

static UID: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").unwrap());
static TIME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z").unwrap());
static VERSION: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"((?:version|current|Version): |\()\d+").unwrap());

fn mask(told: &mut Value) {
    match told {
        Value::Object(map) => {
            map.remove("managedFields");
            for (key, value) in map.iter_mut() {
                match key.as_str() {
                    "resourceVersion" if value.as_str().is_some_and(|v| !v.is_empty()) => {
                        *value = "VERSION".into();
                    }
                    "continue" if value.is_string() => *value = "TOKEN".into(),
                    key if TIMES.contains(&key) && value.is_string() => *value = "TIME".into(),
                    _ => mask(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        Value::String(text) => {
            let masked = UID.replace_all(text, "UID");
            let masked = TIME.replace_all(&masked, "TIME");
            let masked = VERSION.replace_all(&masked, "${1}VERSION");
            *text = masked.into_owned();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
