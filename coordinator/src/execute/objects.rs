//! Writes of objects: what is sent, with which precondition, and what is done with the answer (it goes over
//! the cache, so that no later plan is made from anything older).

use std::fmt::Debug;

use drydock_api::{
    AttemptClass, DockMark, NodeUpgrade, NodeUpgradeSpec, PolicyStatus, ReleaseHalt, ReleaseHaltSpec,
    UpgradePolicy, annotation,
};
use drydock_plan::{EventTarget, Keep, NodeView, ObjectRef, rebuild::rebuilt_status};
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Executor, Stop, object_name};
use crate::observe::{Feed, Kept, without_managed_fields};

/// Objects per page.
const PAGE: u32 = 500;

impl Executor<'_> {
    /// Replaces a policy's status.
    pub(super) async fn write_policy_status(
        &self,
        policy: &ObjectRef,
        status: PolicyStatus,
    ) -> Result<(), Stop> {
        let what = object_name::<UpgradePolicy>(&policy.name);
        let api = Api::<UpgradePolicy>::all(self.client.clone());
        let feed = &self.observer.policies;
        let mut whole = self.as_planned(&api, feed, policy).await?;
        whole.status = Some(status);
        self.gate.pass()?;
        let answer = api
            .replace_status(&policy.name, &PostParams::default(), &whole)
            .await;
        self.take(&api, feed, &policy.name, &what, answer).await
    }

    /// Replaces a NodeUpgrade's spec.
    pub(super) async fn write_spec(&self, upgrade: &ObjectRef, spec: NodeUpgradeSpec) -> Result<(), Stop> {
        let what = object_name::<NodeUpgrade>(&upgrade.name);
        let api = Api::<NodeUpgrade>::all(self.client.clone());
        let feed = &self.observer.upgrades;
        let mut whole = self.as_planned(&api, feed, upgrade).await?;
        whole.spec = spec;
        self.gate.pass()?;
        let answer = api.replace(&upgrade.name, &PostParams::default(), &whole).await;
        self.take(&api, feed, &upgrade.name, &what, answer).await
    }

    /// Creates an empty NodeUpgrade, owned by its Node.
    pub(super) async fn create_upgrade(&self, node: &str, node_uid: &str) -> Result<(), Stop> {
        let what = object_name::<NodeUpgrade>(node);
        let api = Api::<NodeUpgrade>::all(self.client.clone());
        let mut fresh = NodeUpgrade::new(node, NodeUpgradeSpec::default());
        fresh.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: node.to_owned(),
            uid: node_uid.to_owned(),
            ..OwnerReference::default()
        }]);
        self.gate.pass()?;
        match api.create(&PostParams::default(), &fresh).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.read_again(&api, &self.observer.upgrades, node, &what).await
            }
            answer => {
                self.take(&api, &self.observer.upgrades, node, &what, answer)
                    .await
            }
        }
    }

    /// Creates a ReleaseHalt; one that is there already is as good.
    pub(super) async fn create_halt(&self, spec: ReleaseHaltSpec) -> Result<(), Stop> {
        let name = spec.digest.replace(':', "-");
        let what = object_name::<ReleaseHalt>(&name);
        tracing::warn!(digest = spec.digest, reason = spec.reason, "a release is halted");
        let api = Api::<ReleaseHalt>::all(self.client.clone());
        let halt = ReleaseHalt::new(&name, spec);
        self.gate.pass()?;
        match api.create(&PostParams::default(), &halt).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.read_again(&api, &self.observer.halts, &name, &what).await
            }
            answer => self.take(&api, &self.observer.halts, &name, &what, answer).await,
        }
    }

    /// Patches a Node with its resourceVersion and UID as preconditions.
    pub(super) async fn patch_node(&self, node: &ObjectRef, mut patch: Value) -> Result<(), Stop> {
        let what = object_name::<Node>(&node.name);
        if let Some(meta) = patch.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.insert("uid".to_owned(), json!(node.uid));
            meta.insert("resourceVersion".to_owned(), json!(node.resource_version));
        }
        let api = Api::<Node>::all(self.client.clone());
        self.gate.pass()?;
        let answer = api
            .patch(&node.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        match answer {
            Ok(written) => {
                self.put_node(&written);
                Ok(())
            }
            Err(error) => {
                if let Ok(Some(fresh)) = api.get_opt(&node.name).await {
                    self.put_node(&fresh);
                }
                Err(Stop::of(&what, error))
            }
        }
    }

    fn put_node(&self, node: &Node) {
        if let Some(value) = NodeView::of(node) {
            let (key, resource_version) = (value.name.clone(), value.resource_version.clone());
            let kept = Kept {
                resource_version,
                value,
            };
            self.observer.nodes.put(&key, kept);
        }
    }

    /// Builds a policy's dock again, from lists that are read after the policy was.
    pub(super) async fn rebuild_dock(&self, policy: &ObjectRef) -> Result<(), Stop> {
        let failed = |error| Stop::of(&object_name::<UpgradePolicy>(&policy.name), error);
        let mut upgrades = Vec::new();
        pages(&Api::<NodeUpgrade>::all(self.client.clone()), |object| {
            upgrades.push(object);
        })
        .await
        .map_err(failed)?;
        let mut nodes = Vec::new();
        pages(&Api::<Node>::all(self.client.clone()), |node| {
            nodes.extend(NodeView::of(&node));
        })
        .await
        .map_err(failed)?;
        let status = rebuilt_status(&policy.name, self.term, self.clock.now(), &nodes, &upgrades);
        self.write_policy_status(policy, status).await
    }

    /// The UID of what an Event is about, where it is known.
    pub(super) fn uid_of(&self, target: &EventTarget) -> Option<String> {
        match target {
            EventTarget::Node(name) => self.observer.nodes.get(name).map(|node| node.uid),
            EventTarget::Policy(name) => self.observer.policies.get(name)?.metadata.uid,
        }
    }

    /// The whole object that the plan was made from, or nothing is sent.
    async fn as_planned<K>(&self, api: &Api<K>, feed: &Feed<K>, planned: &ObjectRef) -> Result<K, Stop>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let known = feed.get(&planned.name).filter(|object| {
            object.resource_version().as_ref() == Some(&planned.resource_version)
                && object.uid().as_ref() == Some(&planned.uid)
        });
        if let Some(object) = known {
            return Ok(object);
        }
        let what = object_name::<K>(&planned.name);
        self.read_again(api, feed, &planned.name, &what).await?;
        Err(Stop::Stale { object: what })
    }

    /// Puts the answer of a write over the cache; after any other answer, what the server holds now.
    async fn take<K>(
        &self,
        api: &Api<K>,
        feed: &Feed<K>,
        name: &str,
        what: &str,
        answer: Result<K, kube::Error>,
    ) -> Result<(), Stop>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        match answer {
            Ok(object) => {
                put(feed, name, object);
                Ok(())
            }
            Err(error) => {
                // Best effort: if this fails too, the watch brings it.
                let _ = self.read_again(api, feed, name, what).await;
                Err(Stop::of(what, error))
            }
        }
    }

    async fn read_again<K>(&self, api: &Api<K>, feed: &Feed<K>, name: &str, what: &str) -> Result<(), Stop>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let fresh = api.get_opt(name).await.map_err(|error| Stop::of(what, error))?;
        if let Some(object) = fresh {
            put(feed, name, object);
        }
        Ok(())
    }
}

fn put<K>(feed: &Feed<K>, name: &str, object: K)
where
    K: ResourceExt + Clone + Send + Sync + 'static,
{
    let resource_version = object.resource_version().unwrap_or_default();
    let value = without_managed_fields(object);
    feed.put(
        name,
        Kept {
            resource_version,
            value,
        },
    );
}

async fn pages<K>(api: &Api<K>, mut each: impl FnMut(K)) -> Result<(), kube::Error>
where
    K: Clone + Debug + DeserializeOwned,
{
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&params).await?;
        page.items.into_iter().for_each(&mut each);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(()),
        }
    }
}

pub(super) fn fence(term: i64) -> Value {
    json!({"metadata": {"annotations": {annotation::TERM: term.to_string()}}})
}

pub(super) fn cordon(mark: &DockMark, term: i64) -> Value {
    json!({
        "metadata": {"annotations": {
            annotation::DOCK: mark.to_string(),
            annotation::TERM: term.to_string(),
        }},
        "spec": {"unschedulable": true},
    })
}

pub(super) fn uncordon(keep: Keep) -> Value {
    let gone = json!({"annotations": {annotation::DOCK: null, annotation::TERM: null}});
    match keep {
        Keep::Unschedulable => json!({"metadata": gone}),
        Keep::Nothing => json!({"metadata": gone, "spec": {"unschedulable": null}}),
    }
}

pub(super) fn clear_ask() -> Value {
    json!({"metadata": {"annotations": {annotation::ASK: null}}})
}

/// A bounded word for a class of attempts.
pub(super) const fn class_name(class: AttemptClass) -> &'static str {
    match class {
        AttemptClass::Committed => "Committed",
        AttemptClass::Failed => "Failed",
        AttemptClass::Unconfirmed => "Unconfirmed",
        AttemptClass::Excused => "Excused",
        AttemptClass::NotTried => "NotTried",
        AttemptClass::Released => "Released",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn cordon_and_uncordon_are_each_others_inverse_in_one_patch() {
        let mark = DockMark {
            attempt: "a1-2-0".to_owned(),
            policy: "p".to_owned(),
            kept: false,
        };
        let mut node = json!({"metadata": {"annotations": {"mine": "x"}}, "spec": {"podCIDR": "c"}});
        let before = node.clone();
        merge(&mut node, &cordon(&mark, 3));
        assert_eq!(node["spec"]["unschedulable"], json!(true));
        assert_eq!(
            node["metadata"]["annotations"][annotation::DOCK],
            json!("a1-2-0 policy=p")
        );
        merge(&mut node, &uncordon(Keep::Nothing));
        assert_eq!(node, before);
    }

    #[test]
    fn a_node_that_was_unschedulable_before_stays_so() {
        let mark = DockMark {
            attempt: "a1-2-0".to_owned(),
            policy: "p".to_owned(),
            kept: true,
        };
        let mut node = json!({"metadata": {"annotations": {}}, "spec": {"unschedulable": true}});
        let before = node.clone();
        merge(&mut node, &cordon(&mark, 3));
        merge(&mut node, &uncordon(Keep::Unschedulable));
        assert_eq!(node, before);
    }

    /// RFC 7386.
    fn merge(target: &mut Value, patch: &Value) {
        let Some(fields) = patch.as_object() else {
            *target = patch.clone();
            return;
        };
        let target = target.as_object_mut().unwrap();
        for (key, value) in fields {
            if value.is_null() {
                target.remove(key);
            } else if value.is_object() {
                merge(target.entry(key).or_insert_with(|| json!({})), value);
            } else {
                target.insert(key.clone(), value.clone());
            }
        }
    }
}
