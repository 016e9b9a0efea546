//! Label and field selectors: their grammar and whether an object matches. They never look anything up.

use serde_json::Value;

use super::object;
use super::query::Query;
use super::resources::Resource;
use super::status::ApiError;

/// One requirement on a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirement {
    /// `key in (..)`, also `key=value`.
    In(String, Vec<String>),
    /// `key notin (..)`, also `key!=value`; true without the key.
    NotIn(String, Vec<String>),
    /// `key`.
    Exists(String),
    /// `!key`.
    Absent(String),
    /// `key>number`.
    Greater(String, i64),
    /// `key<number`.
    Less(String, i64),
}

/// All requirements must hold; none match everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector(pub Vec<Requirement>);

impl LabelSelector {
    /// Read the text form of a query (`a=b,c in (d,e),!f`).
    pub fn parse(text: &str) -> Result<LabelSelector, ApiError> {
        let mut requirements = Vec::new();
        for part in split_outside_parens(text) {
            let part = part.trim();
            if part.is_empty() {
                if text.trim().is_empty() {
                    continue;
                }
                return Err(unparsable(text, "found an empty requirement"));
            }
            requirements.push(requirement(part).map_err(|why| unparsable(text, &why))?);
        }
        Ok(LabelSelector(requirements))
    }

    /// Read the object form (`matchLabels`, `matchExpressions`); none if it is not valid.
    pub fn from_object(selector: &Value) -> Option<LabelSelector> {
        let mut requirements = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            requirements.push(Requirement::In(key.clone(), vec![value.as_str()?.to_owned()]));
        }
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let key = expression["key"].as_str()?.to_owned();
            let values = object::strings(&expression["values"]);
            requirements.push(match expression["operator"].as_str()? {
                "In" if !values.is_empty() => Requirement::In(key, values),
                "NotIn" if !values.is_empty() => Requirement::NotIn(key, values),
                "Exists" if values.is_empty() => Requirement::Exists(key),
                "DoesNotExist" if values.is_empty() => Requirement::Absent(key),
                _ => return None,
            });
        }
        Some(LabelSelector(requirements))
    }

    /// Whether there is nothing to hold.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the object's labels fulfil all requirements.
    pub fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let value = |key: &String| labels.get(key).and_then(Value::as_str);
        let number = |key: &String| value(key).and_then(|v| v.parse::<i64>().ok());
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => value(key).is_some_and(|v| values.iter().any(|x| x == v)),
            Requirement::NotIn(key, values) => value(key).is_none_or(|v| values.iter().all(|x| x != v)),
            Requirement::Exists(key) => value(key).is_some(),
            Requirement::Absent(key) => value(key).is_none(),
            Requirement::Greater(key, than) => number(key).is_some_and(|n| n > *than),
            Requirement::Less(key, than) => number(key).is_some_and(|n| n < *than),
        })
    }
}

fn unparsable(text: &str, why: &str) -> ApiError {
    ApiError::bad_request(format!("unable to parse requirement: {why}: {text:?}"))
}

fn split_outside_parens(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn requirement(part: &str) -> Result<Requirement, String> {
    if let Some(key) = part.strip_prefix('!') {
        return Ok(Requirement::Absent(checked_key(key)?));
    }
    for (operator, negated) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((key, value)) = part.split_once(operator) {
            let value = checked_value(value)?;
            let key = checked_key(key)?;
            return Ok(if negated {
                Requirement::NotIn(key, vec![value])
            } else {
                Requirement::In(key, vec![value])
            });
        }
    }
    for operator in ['>', '<'] {
        if let Some((key, value)) = part.split_once(operator) {
            let number = value
                .trim()
                .parse()
                .map_err(|_| format!("{value:?} is not an integer"))?;
            let key = checked_key(key)?;
            return Ok(if operator == '>' {
                Requirement::Greater(key, number)
            } else {
                Requirement::Less(key, number)
            });
        }
    }
    if let Some(open) = part.find('(') {
        let list = part[open..]
            .strip_prefix('(')
            .and_then(|l| l.strip_suffix(')'))
            .ok_or("expected: ')'")?;
        let values = list
            .split(',')
            .map(checked_value)
            .collect::<Result<Vec<_>, _>>()?;
        let mut words = part[..open].split_whitespace();
        let (key, operator) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let key = checked_key(key)?;
        return match (operator, words.next()) {
            ("in", None) => Ok(Requirement::In(key, values)),
            ("notin", None) => Ok(Requirement::NotIn(key, values)),
            _ => Err(format!("found {operator:?}, expected: in, notin")),
        };
    }
    Ok(Requirement::Exists(checked_key(part)?))
}

fn checked_key(key: &str) -> Result<String, String> {
    let key = key.trim();
    if object::is_qualified_name(key) {
        Ok(key.to_owned())
    } else {
        Err(format!("invalid label key {key:?}"))
    }
}

fn checked_value(value: &str) -> Result<String, String> {
    let value = value.trim();
    if object::is_label_value(value) {
        Ok(value.to_owned())
    } else {
        Err(format!("invalid label value {value:?}"))
    }
}

/// `field=value`, `field==value`, `field!=value`, all of which must hold.
/// The words for a field that this resource does not know; kinds without fields of their own have others.
fn unknown_field(path: &str, resource: &Resource) -> String {
    match &*resource.stored_as.resource {
        "configmaps" | "leases" | "poddisruptionbudgets" | "volumeattachments" => {
            format!("{path:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        }
        _ => format!("field label not supported: {path}"),
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<(String, bool, String)>);

impl FieldSelector {
    /// Read a query's text and check that this resource knows the fields.
    pub fn parse(text: &str, resource: &Resource) -> Result<FieldSelector, ApiError> {
        let mut terms = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let (path, equal, value) = [("!=", false), ("==", true), ("=", true)]
                .into_iter()
                .find_map(|(op, equal)| part.split_once(op).map(|(p, v)| (p, equal, v)))
                .ok_or_else(|| {
                    ApiError::bad_request(format!("invalid selector: '{text}'; can't understand '{part}'"))
                })?;
            let path = stored_path(path, resource);
            if !is_selectable(&path, resource) {
                return Err(ApiError::bad_request(unknown_field(&path, resource)));
            }
            terms.push((path, equal, unescape(value)));
        }
        Ok(FieldSelector(terms))
    }

    /// Whether it asks for one value of this field.
    pub fn requires(&self, path: &str) -> bool {
        self.0.iter().any(|(field, equal, _)| *equal && field == path)
    }

    /// Whether there is nothing to hold.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the object fulfils all terms.
    pub fn matches(&self, object: &Value) -> bool {
        self.0
            .iter()
            .all(|(path, equal, wanted)| (field_text(object, path) == *wanted) == *equal)
    }
}

fn split_unescaped(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == ',' && !escaped {
            parts.push(String::new());
            continue;
        }
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    parts
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            c => out.push(c),
        }
    }
    out
}

/// Fields of `events.k8s.io` have other names in the stored form.
fn stored_path(path: &str, resource: &Resource) -> String {
    if resource.group != "events.k8s.io" {
        return path.to_owned();
    }
    match path.strip_prefix("regarding.") {
        Some(rest) => format!("involvedObject.{rest}"),
        None if path == "reportingController" => "reportingComponent".to_owned(),
        None => path.to_owned(),
    }
}

fn is_selectable(path: &str, resource: &Resource) -> bool {
    if path == "metadata.name" || (path == "metadata.namespace" && resource.namespaced) {
        return true;
    }
    if let Some(custom) = resource.custom() {
        return custom.selectable_fields.iter().any(|f| f == path);
    }
    let known: &[&str] = match &*resource.stored_as.resource {
        "nodes" => &["spec.unschedulable"],
        "pods" => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        "namespaces" => &["status.phase"],
        "secrets" => &["type"],
        "replicasets" => &["status.replicas"],
        "events" => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        _ => &[],
    };
    known.contains(&path)
}

/// A field as the text that selectors compare with; absent is empty, but false for the known flags.
fn field_text(object: &Value, path: &str) -> String {
    let path = if path == "source" {
        "source.component"
    } else {
        path
    };
    let mut value = object;
    for step in path.split('.') {
        value = &value[step];
    }
    match value {
        Value::String(s) => s.clone(),
        Value::Null if matches!(path, "spec.unschedulable" | "spec.hostNetwork") => "false".to_owned(),
        Value::Null if path == "status.replicas" => "0".to_owned(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// What a list, a watch or a delete of a collection is about.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Empty for all namespaces.
    pub namespace: String,
    /// By labels.
    pub labels: LabelSelector,
    /// By fields.
    pub fields: FieldSelector,
}

impl Filter {
    /// Read `labelSelector` and `fieldSelector`.
    pub fn from_query(query: &Query, namespace: &str, resource: &Resource) -> Result<Filter, ApiError> {
        let text = |key: &str| query.text(key).unwrap_or_default();
        Ok(Filter {
            namespace: namespace.to_owned(),
            labels: LabelSelector::parse(text("labelSelector"))?,
            fields: FieldSelector::parse(text("fieldSelector"), resource)?,
        })
    }

    /// Whether this object is meant.
    pub fn matches(&self, object: &Value) -> bool {
        (self.namespace.is_empty() || object::namespace(object) == self.namespace)
            && self.fields.matches(object)
            && self.labels.matches(object)
    }

    /// Whether it can mean one key alone, which is then read and not searched for.
    pub fn is_one_key(&self, resource: &Resource) -> bool {
        self.fields.requires("metadata.name") && (!resource.namespaced || !self.namespace.is_empty())
    }

    /// Whether labels or fields narrow it.
    pub fn has_selector(&self) -> bool {
        !(self.labels.is_empty() && self.fields.is_empty())
    }
}
