//! Pruning: what the schema does not name is taken away and told. It never judges a value.

use serde_json::{Map, Value};

use super::{Additional, Schema, join};

const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

impl Schema {
    /// Take away what the schema does not name; the paths that went are the unknown fields, sorted.
    pub fn prune_root(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        if let Value::Object(map) = object {
            let root = Pruning { at_root: true };
            if self.preserve {
                self.skip_prune(object, "", &mut unknown);
            } else {
                self.prune_map(map, "", root, &mut unknown);
            }
        }
        unknown.sort();
        unknown
    }

    fn prune(&self, value: &mut Value, path: &str, unknown: &mut Vec<String>) {
        if self.preserve {
            return self.skip_prune(value, path, unknown);
        }
        match value {
            Value::Object(map) => self.prune_map(map, path, Pruning { at_root: false }, unknown),
            Value::Array(list) => {
                for (i, item) in list.iter_mut().enumerate() {
                    let here = format!("{path}[{i}]");
                    match &self.items {
                        Some(items) => items.prune(item, &here, unknown),
                        None => prune_all(item, &here, unknown),
                    }
                }
            }
            _ => {}
        }
    }

    fn prune_map(&self, map: &mut Map<String, Value>, path: &str, at: Pruning, unknown: &mut Vec<String>) {
        let keys: Vec<String> = map.keys().cloned().collect();
        for key in keys {
            if (at.at_root || self.embedded) && META_FIELDS.contains(&key.as_str()) {
                continue;
            }
            let here = join(path, &key);
            let Some(value) = map.get_mut(&key) else { continue };
            if let Some(property) = self.properties.get(&key) {
                property.prune(value, &here, unknown);
                continue;
            }
            match &self.additional {
                Additional::Of(schema) => schema.prune(value, &here, unknown),
                Additional::Any => prune_all(value, &here, unknown),
                Additional::None => {
                    map.remove(&key);
                    unknown.push(here);
                }
            }
        }
    }

    fn skip_prune(&self, value: &mut Value, path: &str, unknown: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map.iter_mut() {
                    let here = join(path, key);
                    match (self.properties.get(key), &self.additional) {
                        (Some(property), _) => property.prune(value, &here, unknown),
                        (None, Additional::Of(schema)) => schema.prune(value, &here, unknown),
                        (None, _) => {}
                    }
                }
            }
            Value::Array(list) => {
                for (i, item) in list.iter_mut().enumerate() {
                    if let Some(items) = &self.items {
                        items.skip_prune(item, &format!("{path}[{i}]"), unknown);
                    }
                }
            }
            _ => {}
        }
    }
}

#[derive(Clone, Copy)]
struct Pruning {
    at_root: bool,
}

/// Below a place that allows anything named but describes nothing: the real pruner empties maps there.
fn prune_all(value: &mut Value, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            unknown.extend(map.keys().map(|key| join(path, key)));
            map.clear();
        }
        Value::Array(list) => {
            for (i, item) in list.iter_mut().enumerate() {
                prune_all(item, &format!("{path}[{i}]"), unknown);
            }
        }
        _ => {}
    }
}
