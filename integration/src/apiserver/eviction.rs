//! The eviction of a pod (`pods/NAME/eviction`), step by step as `pkg/registry/core/pod/storage/
//! eviction.go` of kubernetes v1.36 does it. It reads the budgets' status and never computes it.
//!
//! The order is the real server's, also where it surprises: `EvictionREST.Create` calls
//! `checkAndDecrement` (the budget is charged and the pod noted in `disruptedPods`) before
//! `addConditionAndDeletePod`, and only there the preconditions of the eviction are held against the pod.
//! So an eviction whose UID or version does not fit answers 409 and has charged the budget, until the
//! disruption controller takes the pod off `disruptedPods` two minutes later (`DeletionTimeout`). Pods
//! that pass the budget by (`canIgnorePDB`) charge nothing.

use serde_json::{Value, json};

use super::audit::{Verb, WriteContext};
use super::core::Core;
use super::deletes::DeleteOptions;
use super::object;
use super::pdb;
use super::resources::GroupResource;
use super::selector::LabelSelector;
use super::status::ApiError;
use super::store::{Expected, Key, Object};
use super::writes::Writer;

/// More pods than this in `disruptedPods`, and evictions stop until the controller has caught up.
const MAX_DISRUPTED_PODS: usize = 2000;
/// The user under which the server writes budgets on behalf of an eviction.
const SELF: &str = "system:apiserver";

impl Writer<'_> {
    /// POST to `pods/NAME/eviction`.
    pub fn evict(&mut self, name: &str, eviction: &Value) -> Result<Value, ApiError> {
        let said = |key: &str| eviction[key].as_str().unwrap_or_default();
        // Unsaid, they are those of the path.
        let is_eviction = matches!(said("kind"), "" | "Eviction");
        if !is_eviction || !matches!(said("apiVersion"), "" | "policy/v1" | "policy/v1beta1") {
            return Err(ApiError::bad_request("not a Eviction object"));
        }
        if !object::namespace(eviction).is_empty() && object::namespace(eviction) != self.namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        // An eviction is a create to the admission: a namespace that goes takes none, so that pods with
        // finalizers or long grace periods in it are not evicted but only deleted.
        self.check_namespace_takes_objects(name)?;
        if object::name(eviction) != name {
            return Err(ApiError::bad_request(
                "name in URL does not match name in Eviction object",
            ));
        }
        let mut options = DeleteOptions::parse(&eviction["deleteOptions"])?;
        options.dry_run |= self.dry_run;
        self.dry_run = options.dry_run;
        loop {
            match self.evict_once(name, &options) {
                // With a version of the client's own, the next try finds that it does not hold.
                Err(Evicted::Raced) => {}
                Err(Evicted::Answer(error)) => return Err(*error),
                Ok(()) => {
                    return Ok(
                        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
                    );
                }
            }
        }
    }

    fn evict_once(&mut self, name: &str, options: &DeleteOptions) -> Result<(), Evicted> {
        let key = Key::new(self.namespace, name);
        let gr = self.resource.group_resource();
        let pod = self
            .core
            .store
            .get(&self.resource.stored_as, &key)
            .ok_or_else(|| ApiError::not_found(&gr, name))?;
        if can_ignore_budget(&pod) {
            // A pending pod must not have become ready meanwhile; what is over stays over.
            let is_pending = pod["status"]["phase"] == "Pending" && !object::is_deleting(&pod);
            let at = if is_pending {
                At::ThisVersion
            } else {
                At::AnyVersion
            };
            return self.add_condition_and_delete(&pod, options, at);
        }
        let budgets = budgets_of(self.core, &pod);
        let [budget] = budgets.as_slice() else {
            if budgets.is_empty() {
                return self.add_condition_and_delete(&pod, options, At::AnyVersion);
            }
            let mut error = ApiError::new(
                500,
                "",
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            );
            error.details = None;
            return Err(error.into());
        };
        let count = |key: &str| budget["status"][key].as_i64().unwrap_or(0);
        if !object::is_pod_ready(&pod) {
            let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
            let healthy = count("currentHealthy") >= count("desiredHealthy") && count("desiredHealthy") > 0;
            if always || healthy {
                // It must not have become healthy since it was looked at: the version read here holds.
                return self.add_condition_and_delete_at(&pod, options, object::name(budget));
            }
        }
        check_and_decrement(self.core, budget, name, self.dry_run)?;
        self.add_condition_and_delete(&pod, options, At::AnyVersion)
    }

    /// For an unhealthy pod: a race answers 429, so that the client comes again.
    fn add_condition_and_delete_at(
        &mut self,
        pod: &Object,
        options: &DeleteOptions,
        budget: &str,
    ) -> Result<(), Evicted> {
        match self.add_condition_and_delete(pod, options, At::ThisVersion) {
            Err(Evicted::Raced) if options.resource_version.is_none() => Err(still_processed(budget).into()),
            other => other,
        }
    }

    fn add_condition_and_delete(
        &mut self,
        pod: &Object,
        options: &DeleteOptions,
        at: At,
    ) -> Result<(), Evicted> {
        let name = object::name(pod).to_owned();
        let mut options = options.clone();
        if !self.dry_run {
            let marked = self.mark_disrupted(pod, &options, at)?;
            if options.resource_version.is_some() || at == At::ThisVersion {
                // The mark made a new version; the condition holds for what it was made from.
                options.resource_version = Some(object::meta(&marked, "resourceVersion").to_owned());
            }
        }
        match self.delete(&name, &options) {
            Err(error) if error.code == 409 && at == At::ThisVersion => Err(Evicted::Raced),
            done => Ok(done.map(drop)?),
        }
    }

    fn mark_disrupted(&self, pod: &Object, options: &DeleteOptions, at: At) -> Result<Object, Evicted> {
        let name = object::name(pod);
        let key = Key::new(self.namespace, name);
        let mut pod = pod.clone();
        loop {
            check_preconditions(&pod, options)?;
            let mut marked = Value::clone(&pod);
            add_disruption_condition(&mut marked, object::time(self.core.clock.now()));
            match (
                self.store(&key, Expected::Version(object::version(&pod)), marked)?,
                at,
            ) {
                (Some(stored), _) => return Ok(stored),
                (None, At::ThisVersion) => return Err(Evicted::Raced),
                (None, At::AnyVersion) => {
                    let found = self.core.store.get(&self.resource.stored_as, &key);
                    pod = found.ok_or_else(|| ApiError::not_found(&self.resource.group_resource(), name))?;
                }
            }
        }
    }
}

/// Whether the pod must be as it was when the budget was asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    ThisVersion,
    AnyVersion,
}

/// Why one try of an eviction did not end it.
enum Evicted {
    /// The pod moved.
    Raced,
    /// This is the answer.
    Answer(Box<ApiError>),
}

impl From<ApiError> for Evicted {
    fn from(error: ApiError) -> Evicted {
        Evicted::Answer(Box::new(error))
    }
}

fn check_preconditions(pod: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
    let gr = GroupResource::new("", "Pod");
    let (uid, version) = (object::uid(pod), object::meta(pod, "resourceVersion"));
    if let Some(wanted) = options.uid.as_deref().filter(|w| !w.is_empty() && *w != uid) {
        let why = format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict(&gr, object::name(pod), why));
    }
    if let Some(wanted) = options
        .resource_version
        .as_deref()
        .filter(|w| !w.is_empty() && *w != version)
    {
        let why = format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The object might have been modified"
        );
        return Err(ApiError::conflict(&gr, object::name(pod), why));
    }
    Ok(())
}

/// Finished, pending and already deleting pods pass the budget by.
fn can_ignore_budget(pod: &Value) -> bool {
    matches!(
        pod["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed" | "Pending")
    ) || object::is_deleting(pod)
}

/// The budgets whose selector matches: in policy/v1 an empty one every pod, an absent one none.
fn budgets_of(core: &Core, pod: &Value) -> Vec<Object> {
    let budgets = core.store.list(&pdb::collection(), object::namespace(pod));
    let matches = |budget: &Object| {
        let selector = &budget["spec"]["selector"];
        !selector.is_null() && LabelSelector::from_object(selector).is_some_and(|s| s.matches(pod))
    };
    budgets.into_iter().filter(matches).collect()
}

fn add_disruption_condition(pod: &mut Value, now: Value) {
    let wanted = ("True", "EvictionByEvictionAPI", "Eviction API: evicting");
    if let Some(there) = object::condition(pod, "DisruptionTarget")
        && (there["status"].as_str(), there["reason"].as_str()) == (Some(wanted.0), Some(wanted.1))
    {
        return;
    }
    object::set_condition(
        pod,
        json!({"type": "DisruptionTarget", "status": wanted.0, "reason": wanted.1, "message": wanted.2, "lastProbeTime": null, "lastTransitionTime": now}),
    );
}

fn still_processed(budget: &str) -> ApiError {
    ApiError::disruption_budget(
        10,
        format!("The disruption budget {budget} is still being processed by the server."),
    )
}

/// Take one disruption off the budget, and note the pod in it, or say why not.
fn check_and_decrement(
    core: &std::sync::Arc<Core>,
    budget: &Object,
    pod: &str,
    dry_run: bool,
) -> Result<(), ApiError> {
    let mut budget = budget.clone();
    loop {
        let name = object::name(&budget).to_owned();
        let count = |key: &str| budget["status"][key].as_i64().unwrap_or(0);
        if count("observedGeneration") < object::generation(&budget) {
            return Err(still_processed(&name));
        }
        let forbidden = |why: &str| {
            Err(ApiError::forbidden(
                &GroupResource::new("policy", "poddisruptionbudget"),
                &name,
                why,
            ))
        };
        if count("disruptionsAllowed") < 0 {
            return forbidden("pdb disruptions allowed is negative");
        }
        if budget["status"]["disruptedPods"]
            .as_object()
            .is_some_and(|m| m.len() > MAX_DISRUPTED_PODS)
        {
            return forbidden(
                "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
            );
        }
        if count("disruptionsAllowed") == 0 {
            return Err(ApiError::disruption_budget(0, refusal(&budget, &name)));
        }
        if dry_run {
            return Ok(());
        }
        let now = object::time(core.clock.now());
        let mut new = Value::clone(&budget);
        new["status"]["disruptionsAllowed"] = json!(count("disruptionsAllowed") - 1);
        if count("disruptionsAllowed") == 1 {
            pdb::update_condition(&mut new, &now);
        }
        if !new["status"]["disruptedPods"].is_object() {
            new["status"]["disruptedPods"] = json!({});
        }
        new["status"]["disruptedPods"][pod] = now;
        let context = WriteContext::system(SELF, Verb::Update, "status");
        let key = Key::new(object::namespace(&budget), &name);
        let old = Expected::Version(object::version(&budget));
        if core
            .store
            .apply(&context, &pdb::collection(), &key, old, Some(new))
            .is_ok()
        {
            return Ok(());
        }
        let gr = GroupResource::new("policy", "poddisruptionbudgets");
        budget = core
            .store
            .get(&pdb::collection(), &key)
            .ok_or_else(|| ApiError::not_found(&gr, &name))?;
    }
}

fn refusal(budget: &Value, name: &str) -> String {
    let count = |key: &str| budget["status"][key].as_i64().unwrap_or(0);
    let condition = object::condition(budget, "DisruptionAllowed");
    let text = |key: &str| condition.and_then(|c| c[key].as_str()).unwrap_or_default();
    let (reason, message) = (text("reason"), text("message"));
    let speaks = text("status") == "False" && !message.is_empty();
    if speaks && reason == "SyncFailed" {
        return format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
        );
    }
    if count("currentHealthy") <= count("desiredHealthy") {
        return format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            count("desiredHealthy"),
            count("currentHealthy")
        );
    }
    if speaks {
        return format!(
            "The disruption budget {name} does not allow evicting pods currently ({reason}): {message}"
        );
    }
    format!("The disruption budget {name} does not allow evicting pods currently")
}
