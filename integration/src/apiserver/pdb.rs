//! The disruption controller: keeps the status of every PodDisruptionBudget as `pkg/controller/
//! disruption` of kubernetes v1.36 would. It never evicts.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::audit::{Verb, WriteContext};
use super::core::Core;
use super::object;
use super::resources::GroupResource;
use super::selector::LabelSelector;
use super::store::{Expected, Key, Object};

const USER: &str = "system:serviceaccount:kube-system:disruption-controller";
/// A pod that was let go counts as disrupted this long, gone or not.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_secs(120);
/// How often budgets that wait for a disrupted pod are looked at again.
const RECHECK: Duration = Duration::from_secs(5);

/// Where budgets are.
pub fn collection() -> GroupResource {
    GroupResource::new("policy", "poddisruptionbudgets")
}

fn sources() -> [GroupResource; 5] {
    [
        collection(),
        GroupResource::new("", "pods"),
        GroupResource::new("apps", "replicasets"),
        GroupResource::new("apps", "deployments"),
        GroupResource::new("apps", "daemonsets"),
    ]
}

/// Keep all budgets' status until the server ends.
pub async fn run(core: Arc<Core>) {
    let sources = sources();
    let [mut budgets, mut pods, mut sets, mut deployments, mut daemons] =
        sources.each_ref().map(|gr| core.store.subscribe(gr));
    let mut seen = [0u64; 5];
    let mut recheck = tokio::time::interval(RECHECK);
    loop {
        let mut dirty = BTreeSet::new();
        for (gr, seen) in sources.iter().zip(&mut seen) {
            note_changes(&core, gr, seen, &mut dirty);
        }
        for namespace in dirty {
            for budget in core.store.list(&collection(), &namespace) {
                sync(&core, budget);
            }
        }
        tokio::select! {
            () = core.shutdown.cancelled() => return,
            _ = budgets.changed() => {}
            _ = pods.changed() => {}
            _ = sets.changed() => {}
            _ = deployments.changed() => {}
            _ = daemons.changed() => {}
            _ = recheck.tick() => recheck_disrupted(&core),
        }
    }
}

fn note_changes(core: &Core, gr: &GroupResource, seen: &mut u64, dirty: &mut BTreeSet<String>) {
    match core.store.changes_since(gr, *seen, usize::MAX) {
        Ok((changes, _)) => {
            for change in changes {
                *seen = change.version;
                dirty.insert(change.key.namespace.clone());
            }
        }
        Err(too_old) => {
            *seen = too_old.oldest;
            dirty.extend(
                core.store
                    .list(&collection(), "")
                    .iter()
                    .map(|b| object::namespace(b).to_owned()),
            );
        }
    }
}

fn recheck_disrupted(core: &Arc<Core>) {
    for budget in core.store.list(&collection(), "") {
        if budget["status"]["disruptedPods"]
            .as_object()
            .is_some_and(|m| !m.is_empty())
        {
            sync(core, budget);
        }
    }
}

/// Bring one budget's status up to date, trying again when it moved.
fn sync(core: &Arc<Core>, mut budget: Object) {
    loop {
        let new = match computed(core, &budget) {
            Ok(status) => {
                let mut new = Value::clone(&budget);
                let conditions = budget["status"]["conditions"].clone();
                new["status"] = status;
                if !conditions.is_null() {
                    new["status"]["conditions"] = conditions;
                }
                update_condition(&mut new, &object::time(core.clock.now()));
                new
            }
            Err(why) => failed(core, &budget, &why),
        };
        if new == *budget {
            return;
        }
        let context = WriteContext::system(USER, Verb::Update, "status");
        let key = Key::new(object::namespace(&budget), object::name(&budget));
        let old = Expected::Version(object::version(&budget));
        if core
            .store
            .apply(&context, &collection(), &key, old, Some(new))
            .is_ok()
        {
            return;
        }
        match core.store.get(&collection(), &key) {
            Some(newer) => budget = newer,
            None => return,
        }
    }
}

/// If all else fails, at least allow nothing.
fn failed(core: &Core, budget: &Value, why: &str) -> Value {
    let mut new = budget.clone();
    new["status"]["disruptionsAllowed"] = json!(0);
    let observed = budget["status"]["observedGeneration"].clone();
    let now = object::time(core.clock.now());
    put_condition(&mut new, "False", "SyncFailed", why, &observed, &now);
    new
}

fn computed(core: &Core, budget: &Value) -> Result<Value, String> {
    let namespace = object::namespace(budget);
    let selector =
        LabelSelector::from_object(&budget["spec"]["selector"]).ok_or("the selector is not valid")?;
    // In policy/v1 an empty selector selects every pod of the namespace, an absent one none.
    let selects_none = budget["spec"]["selector"].is_null();
    let pods: Vec<Object> = core.store.list(&GroupResource::new("", "pods"), namespace);
    let pods: Vec<Object> = pods
        .into_iter()
        .filter(|p| !selects_none && selector.matches(p))
        .collect();
    let (expected, desired) = expected_and_desired(core, budget, &pods)?;
    let now = core.clock.now();
    let disrupted = still_disrupted(budget, &pods, now);
    let is_healthy = |pod: &&Object| {
        !object::is_deleting(pod) && !disrupted.contains_key(object::name(pod)) && object::is_pod_ready(pod)
    };
    let current = i64::try_from(pods.iter().filter(is_healthy).count()).unwrap_or(i64::MAX);
    let allowed = if expected <= 0 {
        0
    } else {
        (current - desired).max(0)
    };
    let mut status = json!({
        "currentHealthy": current,
        "desiredHealthy": desired,
        "expectedPods": expected,
        "disruptionsAllowed": allowed,
        "observedGeneration": object::generation(budget),
    });
    if !disrupted.is_empty() {
        status["disruptedPods"] = Value::Object(disrupted);
    }
    Ok(status)
}

fn expected_and_desired(core: &Core, budget: &Value, pods: &[Object]) -> Result<(i64, i64), String> {
    let spec = &budget["spec"];
    if !spec["maxUnavailable"].is_null() {
        let expected = expected_scale(core, pods)?;
        let most = scaled(&spec["maxUnavailable"], expected)?;
        return Ok((expected, (expected - most).max(0)));
    }
    match &spec["minAvailable"] {
        Value::Null => Ok((0, 0)),
        Value::Number(least) => {
            let count = i64::try_from(pods.len()).unwrap_or(i64::MAX);
            Ok((count, least.as_i64().unwrap_or(0)))
        }
        percent => {
            let expected = expected_scale(core, pods)?;
            Ok((expected, scaled(percent, expected)?))
        }
    }
}

/// A number, or a percentage of `total` rounded up.
fn scaled(value: &Value, total: i64) -> Result<i64, String> {
    match value {
        Value::Number(n) => Ok(n.as_i64().unwrap_or(0)),
        Value::String(s) => {
            let percent = s.strip_suffix('%').and_then(|p| p.parse::<i64>().ok());
            let percent = percent.ok_or_else(|| {
                format!("invalid value for IntOrString: invalid type: string is not a percentage ({s})")
            })?;
            Ok((percent * total + 99) / 100)
        }
        other => Err(format!("{other} is neither a number nor a percentage")),
    }
}

/// The sum of the scales of the controllers behind these pods; pods without one count nothing.
fn expected_scale(core: &Core, pods: &[Object]) -> Result<i64, String> {
    let mut scales: HashMap<String, i64> = HashMap::new();
    let mut known: HashMap<String, ()> = HashMap::new();
    for pod in pods {
        let Some(owner) = object::controller(pod) else {
            continue;
        };
        let uid = owner["uid"].as_str().unwrap_or_default().to_owned();
        if known.insert(uid, ()).is_some() {
            continue;
        }
        let (scale_uid, scale) = scale_of(core, owner, pod)?;
        scales.insert(scale_uid, scale);
    }
    Ok(scales.values().sum())
}

fn scale_of(core: &Core, owner: &Value, pod: &Value) -> Result<(String, i64), String> {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let namespace = object::namespace(pod);
    let none = || format!("found no controllers for pod {:?}", object::name(pod));
    let find = |plural: &str, owner: &Value| {
        let key = Key::new(namespace, &text(owner, "name"));
        let found = core.store.get(&GroupResource::new("apps", plural), &key)?;
        (object::uid(&found) == text(owner, "uid")).then_some(found)
    };
    let replicas = |object: &Value| object["spec"]["replicas"].as_i64().unwrap_or(1);
    let in_apps = text(owner, "apiVersion").starts_with("apps/");
    match text(owner, "kind").as_str() {
        "ReplicaSet" if in_apps => {
            let set = find("replicasets", owner).ok_or_else(none)?;
            let above = object::controller(&set).filter(|o| o["kind"] == "Deployment");
            match above {
                Some(deployment) => {
                    let deployment = find("deployments", deployment).ok_or_else(none)?;
                    Ok((object::uid(&deployment).to_owned(), replicas(&deployment)))
                }
                None => Ok((object::uid(&set).to_owned(), replicas(&set))),
            }
        }
        "Deployment" if in_apps => {
            let deployment = find("deployments", owner).ok_or_else(none)?;
            Ok((object::uid(&deployment).to_owned(), replicas(&deployment)))
        }
        "DaemonSet" if in_apps => Err("daemonsets.apps does not implement the scale subresource".to_owned()),
        _ => Err(none()),
    }
}

/// The disrupted pods that are still there and not yet being deleted, within the timeout.
fn still_disrupted(budget: &Value, pods: &[Object], now: Timestamp) -> Map<String, Value> {
    let noted = budget["status"]["disruptedPods"].as_object();
    let mut still = Map::new();
    for (name, since) in noted.into_iter().flatten() {
        let waits = pods
            .iter()
            .any(|p| object::name(p) == name && !object::is_deleting(p));
        let in_time = object::parse_time(since)
            .and_then(|since| since.checked_add(DELETION_TIMEOUT).ok())
            .is_some_and(|end| end >= now);
        if waits && in_time {
            still.insert(name.clone(), since.clone());
        }
    }
    still
}

/// Set the condition DisruptionAllowed by what the status says.
pub fn update_condition(budget: &mut Value, now: &Value) {
    let allowed = budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0) > 0;
    let observed = budget["status"]["observedGeneration"].clone();
    let (status, reason) = if allowed {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    put_condition(budget, status, reason, "", &observed, now);
}

fn put_condition(
    budget: &mut Value,
    status: &str,
    reason: &str,
    message: &str,
    observed: &Value,
    now: &Value,
) {
    let since = object::condition(budget, "DisruptionAllowed")
        .filter(|c| c["status"] == status)
        .map_or_else(|| now.clone(), |c| c["lastTransitionTime"].clone());
    let mut condition = json!({
        "type": "DisruptionAllowed", "status": status, "reason": reason, "message": message, "lastTransitionTime": since
    });
    if !observed.is_null() {
        condition["observedGeneration"] = observed.clone();
    }
    object::set_condition(budget, condition);
}
