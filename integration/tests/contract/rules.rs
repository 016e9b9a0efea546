//! Drydock's own CRDs: their CEL rules, patterns and defaults.

use serde_json::{Value, json};

use super::talk::Talk;

const DRYDOCK: &str = "/apis/drydock.dev/v1alpha1";
const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn policy(release: &Value) -> Value {
    json!({
        "apiVersion": "drydock.dev/v1alpha1", "kind": "UpgradePolicy", "metadata": {"name": "rules"},
        "spec": {"repository": "harbor", "release": release},
    })
}

fn docked(name: &str, term: i64) -> Value {
    json!({
        "apiVersion": "drydock.dev/v1alpha1", "kind": "NodeUpgrade", "metadata": {"name": name},
        "spec": {"dock": {
            "policy": "workers", "attempt": "a5-77-0", "term": term, "step": "Asked",
            "since": "2026-11-02T22:00:00Z", "digest": DIGEST, "nodeUid": "u", "bootId": "b",
            "deadlines": {"drain": "30m", "health": "30m", "confirmWait": "15m"},
        }},
    })
}

pub async fn drydock(t: Talk) {
    let window = |window: Value| {
        let mut policy = policy(&json!({"channel": "stable"}));
        policy["spec"]["windows"] = json!([window]);
        policy
    };
    let halt = |name: &str| {
        json!({
            "apiVersion": "drydock.dev/v1alpha1", "kind": "ReleaseHalt", "metadata": {"name": name},
            "spec": {"digest": DIGEST, "reason": "it does not boot", "by": "jane", "at": "2026-11-02T22:00:00Z"},
        })
    };
    for (step, plural, body) in [
        (
            "a policy",
            "upgradepolicies",
            policy(&json!({"channel": "stable"})),
        ),
        ("no release", "upgradepolicies", policy(&json!({}))),
        (
            "two releases",
            "upgradepolicies",
            policy(&json!({"channel": "stable", "digest": DIGEST})),
        ),
        (
            "a short digest",
            "upgradepolicies",
            policy(&json!({"digest": "sha256:12"})),
        ),
        (
            "a window's start",
            "upgradepolicies",
            window(json!({"start": "tomorrow", "duration": "4h"})),
        ),
        (
            "a window's length",
            "upgradepolicies",
            window(json!({"start": "2026-11-02T22:00:00", "duration": "4 hours"})),
        ),
        ("a halt", "releasehalts", halt(&DIGEST.replace(':', "-"))),
        ("a misnamed halt", "releasehalts", halt("bad")),
    ] {
        let path = format!("{DRYDOCK}/{plural}?dryRun=All&fieldValidation=Strict");
        let answer = t.post(&path, body).await;
        t.parts(step, &answer, &["/spec"]);
    }
    let path = format!("{DRYDOCK}/nodeupgrades");
    let name = t.ns.as_str();
    t.parts(
        "in dock",
        &t.post(&path, docked(name, 5)).await,
        &["/spec", "/metadata/generation"],
    );
    let path = format!("{path}/{name}");
    let term = |term: i64| json!({"spec": {"dock": {"term": term}}});
    t.expect("the same term", 200, t.merge(&path, term(5)).await);
    t.expect("a higher term", 200, t.merge(&path, term(6)).await);
    t.expect("a lower term", 422, t.merge(&path, term(4)).await);
    let mut put = t.get(&path).await.ok();
    put["spec"]["dock"]["term"] = json!(1);
    t.expect("a lower term by a replace", 422, t.put(&path, put).await);
    t.expect(
        "out of dock",
        200,
        t.merge(&path, json!({"spec": {"dock": null}})).await,
    );
    t.expect(
        "a new term",
        200,
        t.merge(&path, json!({"spec": {"dock": docked("x", 1)["spec"]["dock"]}}))
            .await,
    );
}
