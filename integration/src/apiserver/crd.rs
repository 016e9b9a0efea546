//! CustomResourceDefinitions: checking one, publishing what it defines, and the rules that custom
//! resources of a version follow. CEL rules are stored and not evaluated, but for the one that guards
//! `spec.dock.term` of a NodeUpgrade.

use serde_json::{Value, json};

use super::object;
use super::resources::{Generation, GroupResource, Resource, Shape, Source};
use super::schema::Schema;
use super::status::FieldError;

/// A column of `kubectl get`.
#[derive(Debug, Clone)]
pub struct PrinterColumn {
    /// The heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: String,
    /// Where the value is found.
    pub json_path: String,
    /// 0 is always shown, above only with `-o wide`.
    pub priority: i64,
    /// Shown in the table's definition.
    pub description: String,
}

/// One served version of a CRD.
#[derive(Debug, Clone)]
pub struct CustomVersion {
    /// How its objects must look.
    pub schema: Schema,
    /// The schema as written, for the OpenAPI page.
    pub raw_schema: Value,
    /// Columns beyond name and age.
    pub columns: Vec<PrinterColumn>,
    /// `spec.policy` and the like, usable in field selectors.
    pub selectable_fields: Vec<String>,
    /// `GROUP/VERSION` that objects are stored as.
    pub storage_api_version: String,
    /// Whether falling terms are refused (a NodeUpgrade of drydock.dev).
    guards_term: bool,
}

/// All that is wrong with a CRD.
pub fn validate(crd: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &crd["spec"];
    let (group, plural) = (text(spec, "group"), text(&spec["names"], "plural"));
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    }
    let wanted = format!("{plural}.{group}");
    if object::name(crd) != wanted {
        errors.push(FieldError::invalid(
            "metadata.name",
            &json!(object::name(crd)),
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    for key in ["plural", "singular", "kind", "listKind"] {
        if text(&spec["names"], key).is_empty() {
            errors.push(FieldError::required(format!("spec.names.{key}"), ""));
        }
    }
    let scope = text(spec, "scope");
    if !matches!(scope, "Cluster" | "Namespaced") {
        let supported = ["Cluster".to_owned(), "Namespaced".to_owned()];
        errors.push(FieldError::not_supported("spec.scope", &json!(scope), &supported));
    }
    if !spec["conversion"].is_null() && spec["conversion"]["strategy"] != "None" {
        errors.push(FieldError::not_supported(
            "spec.conversion.strategy",
            &spec["conversion"]["strategy"],
            &["None".to_owned()],
        ));
    }
    let versions = spec["versions"].as_array().map_or(&[][..], Vec::as_slice);
    if versions.iter().filter(|v| v["storage"] == true).count() != 1 {
        errors.push(FieldError::invalid(
            "spec.versions",
            &spec["versions"],
            "must have exactly one version marked as storage version",
        ));
    }
    for (i, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{i}].schema.openAPIV3Schema");
        let schema = &version["schema"]["openAPIV3Schema"];
        if !schema.is_object() {
            errors.push(FieldError::required(path, "schemas are required"));
            continue;
        }
        if schema["type"] != "object" {
            errors.push(FieldError::invalid(
                format!("{path}.type"),
                &schema["type"],
                "must be object at the root",
            ));
        }
        errors.extend(Schema::structural_errors(schema, &path));
        if let Err(error) = Schema::parse(schema, &path) {
            errors.push(error);
        }
    }
    errors
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// The typed form holds bounds as floating point and would write 5.0 where Go writes 5.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(n) if n.is_f64() => {
            let whole = n.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15);
            if let Some(whole) = whole.and_then(|f| format!("{f:.0}").parse::<i64>().ok()) {
                *value = json!(whole);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(whole_numbers),
        Value::Object(map) => map.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// Fill in what a CRD may leave out.
pub fn set_defaults(crd: &mut Value) {
    whole_numbers(&mut crd["spec"]);
    let kind = text(&crd["spec"]["names"], "kind").to_owned();
    if crd["spec"]["names"].is_object() {
        if text(&crd["spec"]["names"], "singular").is_empty() {
            crd["spec"]["names"]["singular"] = json!(kind.to_lowercase());
        }
        if text(&crd["spec"]["names"], "listKind").is_empty() {
            crd["spec"]["names"]["listKind"] = json!(format!("{kind}List"));
        }
    }
    if crd["spec"].is_object() && crd["spec"]["conversion"].is_null() {
        crd["spec"]["conversion"] = json!({"strategy": "None"});
    }
}

/// The status of an established CRD. The real server gets there within a moment, this one at once.
pub fn established_status(crd: &Value, old_status: &Value, now: Value) -> Value {
    let mut stored = object::strings(&old_status["storedVersions"]);
    for version in crd["spec"]["versions"].as_array().into_iter().flatten() {
        let name = text(version, "name").to_owned();
        if version["storage"] == true && !stored.contains(&name) {
            stored.push(name);
        }
    }
    let since = |kind: &str| {
        let old = old_status["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|c| c["type"] == kind);
        old.map_or_else(|| now.clone(), |c| c["lastTransitionTime"].clone())
    };
    json!({
        "acceptedNames": crd["spec"]["names"],
        "storedVersions": stored,
        "conditions": [
            {"type": "NamesAccepted", "status": "True", "reason": "NoConflicts", "message": "no conflicts found", "lastTransitionTime": since("NamesAccepted")},
            {"type": "Established", "status": "True", "reason": "InitialNamesAccepted", "message": "the initial names have been accepted", "lastTransitionTime": since("Established")},
        ],
    })
}

/// The resources that a CRD defines, one per served version.
pub fn resources(crd: &Value) -> Vec<Resource> {
    let spec = &crd["spec"];
    let names = &spec["names"];
    let (group, plural, kind) = (text(spec, "group"), text(names, "plural"), text(names, "kind"));
    let versions = spec["versions"].as_array().map_or(&[][..], Vec::as_slice);
    let storage = versions
        .iter()
        .find(|v| v["storage"] == true)
        .map_or("", |v| text(v, "name"));
    let mut served = Vec::new();
    for version in versions.iter().filter(|v| v["served"] == true) {
        let raw_schema = version["schema"]["openAPIV3Schema"].clone();
        // It was parsed when the CRD was checked.
        let Ok(schema) = Schema::parse(&raw_schema, "") else {
            continue;
        };
        let custom = CustomVersion {
            schema,
            raw_schema,
            columns: columns(version),
            selectable_fields: version["selectableFields"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|f| text(f, "jsonPath").trim_start_matches('.').to_owned())
                .collect(),
            storage_api_version: format!("{group}/{storage}"),
            guards_term: group == "drydock.dev" && kind == "NodeUpgrade",
        };
        served.push(Resource {
            group: group.to_owned(),
            version: text(version, "name").to_owned(),
            plural: plural.to_owned(),
            singular: text(names, "singular").to_owned(),
            kind: kind.to_owned(),
            list_kind: text(names, "listKind").to_owned(),
            short_names: object::strings(&names["shortNames"]),
            categories: object::strings(&names["categories"]),
            namespaced: spec["scope"] == "Namespaced",
            has_status: version["subresources"]["status"].is_object(),
            create_on_update: false,
            unconditional_update: false,
            returns_deleted: false,
            generation: Generation::NonMetadata,
            shape: Shape::Stored,
            stored_as: GroupResource::new(group, plural),
            source: Source::Custom(std::sync::Arc::new(custom)),
        });
    }
    served
}

fn columns(version: &Value) -> Vec<PrinterColumn> {
    let column = |c: &Value| PrinterColumn {
        name: text(c, "name").to_owned(),
        kind: text(c, "type").to_owned(),
        json_path: text(c, "jsonPath").to_owned(),
        priority: c["priority"].as_i64().unwrap_or(0),
        description: text(c, "description").to_owned(),
    };
    version["additionalPrinterColumns"]
        .as_array()
        .into_iter()
        .flatten()
        .map(column)
        .collect()
}

impl CustomVersion {
    /// Prune, drop nulls and fill in defaults; gives the paths of unknown fields.
    pub fn decode(&self, object: &mut Value) -> Vec<String> {
        let unknown = self.schema.prune_root(object);
        // Metadata has its own rules; the schema says nothing of it.
        let metadata = object.as_object_mut().and_then(|map| map.remove("metadata"));
        self.schema.drop_nulls(object);
        self.schema.set_defaults(object);
        if let (Some(metadata), Some(map)) = (metadata, object.as_object_mut()) {
            map.insert("metadata".to_owned(), metadata);
        }
        unknown
    }

    /// All that is wrong with an object, by the schema and, against the old one, by the guarded rule.
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.schema.validate(object, "", &mut errors);
        if let (Some(old), false) = (old, errors.is_empty()) {
            // Ratcheting: what was wrong before and has not changed may stay.
            let mut before = Vec::new();
            self.schema.validate(old, "", &mut before);
            errors.retain(|e| !before.iter().any(|b| b.field == e.field && b.body == e.body));
        }
        errors.extend(old.and_then(|old| self.falling_term(object, old)));
        errors
    }

    fn falling_term(&self, new: &Value, old: &Value) -> Option<FieldError> {
        if !self.guards_term {
            return None;
        }
        let term = |object: &Value| object["spec"]["dock"]["term"].as_i64();
        let (was, is) = (term(old)?, term(new)?);
        if is >= was {
            return None;
        }
        // Of an object the real server shows the rule's words alone.
        let spec = &self.raw_schema["properties"]["spec"];
        let on_spec = spec["x-kubernetes-validations"].as_array().into_iter().flatten();
        if let Some(rule) = on_spec.into_iter().find(|r| text(r, "rule").contains("term")) {
            return Some(FieldError {
                kind: "FieldValueInvalid",
                field: "spec".to_owned(),
                body: format!("Invalid value: {}", rule_message(rule)),
            });
        }
        let dock = &spec["properties"]["dock"];
        let on_term = &dock["properties"]["term"]["x-kubernetes-validations"];
        if let Some(rule) = on_term.as_array().and_then(|rules| rules.first()) {
            return Some(FieldError::invalid(
                "spec.dock.term",
                &json!(is),
                rule_message(rule),
            ));
        }
        let rules = dock["x-kubernetes-validations"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let rule = rules.iter().find(|r| text(r, "rule").contains("term"));
        let fallback = || "the term must not fall".to_owned();
        Some(FieldError::invalid(
            "spec.dock",
            &new["spec"]["dock"],
            rule.map_or_else(fallback, rule_message),
        ))
    }
}

fn rule_message(rule: &Value) -> String {
    match text(rule, "message") {
        "" => format!("failed rule: {}", text(rule, "rule").trim()),
        message => message.to_owned(),
    }
}
