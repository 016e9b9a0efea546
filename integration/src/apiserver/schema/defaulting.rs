//! Defaulting, and the nulls that go before it. It never takes away a value.

use serde_json::Value;

use super::Schema;

impl Schema {
    /// Drop nulls where null is not allowed and no default steps in.
    pub fn drop_nulls(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|key, value| {
                    let gone = value.is_null()
                        && self
                            .for_field(key)
                            .is_some_and(|s| !s.nullable && s.default.is_none());
                    !gone
                });
                for (key, value) in map.iter_mut() {
                    if let Some(schema) = self.for_field(key) {
                        schema.drop_nulls(value);
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    list.iter_mut().for_each(|item| items.drop_nulls(item));
                }
            }
            _ => {}
        }
    }

    /// Fill in defaults, from the outside in.
    pub fn set_defaults(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (key, property) in &self.properties {
                    let Some(default) = &property.default else {
                        continue;
                    };
                    if map.get(key).is_none_or(|v| v.is_null() && !property.nullable) {
                        map.insert(key.clone(), default.clone());
                    }
                }
                for (key, value) in map.iter_mut() {
                    if let Some(schema) = self.for_field(key) {
                        schema.set_defaults(value);
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    list.iter_mut().for_each(|item| items.set_defaults(item));
                }
            }
            _ => {}
        }
    }
}
