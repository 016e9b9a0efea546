//! The binding of a pod to a node (`pods/NAME/binding`): the scheduler's word, taken from whoever says it.

use serde_json::{Value, json};

use super::object;
use super::resources::GroupResource;
use super::status::{ApiError, FieldError};
use super::store::Expected;
use super::writes::Writer;

impl Writer<'_> {
    /// POST to `pods/NAME/binding`: the scheduler's word.
    pub fn bind(&mut self, name: &str, body: &Value) -> Result<Value, ApiError> {
        let node = body["target"]["name"].as_str().unwrap_or_default();
        if node.is_empty() {
            let errors = [FieldError::required("target.name", "")];
            return Err(ApiError::invalid("", "Binding", name, &errors));
        }
        self.check_namespace_takes_objects(name)?;
        let key = self.key(name);
        loop {
            let pod = self
                .core
                .store
                .get(&self.resource.stored_as, &key)
                .ok_or_else(|| ApiError::not_found(&self.gr(), name))?;
            if object::is_deleting(&pod) {
                return Err(ApiError::conflict(
                    &binding(),
                    name,
                    format_args!("pod {name} is being deleted, cannot be assigned to a host"),
                ));
            }
            if let Some(bound) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
                return Err(ApiError::conflict(
                    &binding(),
                    name,
                    format_args!("pod {name} is already assigned to node {bound:?}"),
                ));
            }
            let mut new = Value::clone(&pod);
            new["spec"]["nodeName"] = json!(node);
            object::set_condition(
                &mut new,
                json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": object::time(self.core.clock.now())}),
            );
            if self
                .store(&key, Expected::Version(object::version(&pod)), new)?
                .is_some()
            {
                return Ok(
                    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
                );
            }
        }
    }
}

fn binding() -> GroupResource {
    GroupResource::new("", "pods/binding")
}
