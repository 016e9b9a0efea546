//! The hooks: writes that fail, hang or are cut off, watches that are held, users that are alone.

use std::time::Duration;

use drydock_integration::apiserver::audit::Verb;
use drydock_integration::apiserver::hooks::{Action, Held, Rule, Stage, WatchMatch, WriteMatch};
use drydock_integration::apiserver::status::ApiError;
use serde_json::json;

use super::{Caller, config_map, node, server_and_caller};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn the_kth_matching_write_fails_and_no_other() {
    let (server, caller) = server_and_caller().await;
    let other = Caller::new(&server, "other").await;
    let of_user = WriteMatch::any()
        .user("tester")
        .verb(Verb::Create)
        .resource("configmaps");
    let busy = ApiError::new(503, "ServiceUnavailable", "busy");
    let rule = server
        .hooks()
        .add(Rule::new(of_user, Stage::Before, Action::Fail(busy)).nth(2));
    caller.post(MAPS, config_map("a", "1")).await.ok();
    other.post(MAPS, config_map("b", "1")).await.ok();
    caller
        .post(MAPS, config_map("c", "1"))
        .await
        .fails(503, "ServiceUnavailable");
    assert!(server.get("", "configmaps", "default", "c").is_none());
    caller.post(MAPS, config_map("c", "1")).await.ok();
    assert_eq!(rule.seen(), 3);
    let overload = Action::FailPlain {
        code: 429,
        text: "too many".into(),
        retry_after_secs: Some(1),
    };
    let rule = server
        .hooks()
        .add(Rule::new(WriteMatch::any(), Stage::Before, overload).always());
    let answer = caller.post(MAPS, config_map("d", "1")).await;
    assert_eq!(
        (
            answer.code,
            &answer.body,
            answer.headers["retry-after"].to_str().unwrap()
        ),
        (429, &json!("too many"), "1")
    );
    rule.remove();
    caller.post(MAPS, config_map("d", "1")).await.ok();
    server.hooks().intercept(|attempt, stage| {
        (stage == Stage::Before && attempt.name == "e").then_some(Action::Fail(ApiError::internal("no")))
    });
    caller
        .post(MAPS, config_map("e", "1"))
        .await
        .fails(500, "InternalError");
    server.hooks().clear();
    caller.post(MAPS, config_map("e", "1")).await.ok();
}

#[tokio::test]
async fn a_write_is_stopped_before_or_after_it_takes_effect() {
    let (server, caller) = server_and_caller().await;
    for (stage, is_there) in [(Stage::Before, false), (Stage::After, true)] {
        for action in [Action::Stall, Action::Reset] {
            let name = format!("m-{is_there}-{}", matches!(action, Action::Stall)).to_lowercase();
            let is_stall = matches!(action, Action::Stall);
            let rule = server
                .hooks()
                .add(Rule::new(WriteMatch::any().name(&name), stage, action));
            let write = {
                let (caller, body) = (caller.clone(), config_map(&name, "1"));
                tokio::spawn(async move {
                    caller
                        .try_call("POST", MAPS, &[("content-type", "application/json")], Some(&body))
                        .await
                        .map(|a| a.code)
                })
            };
            rule.acted(1).await;
            if is_stall {
                assert!(!write.is_finished());
                write.abort();
            } else {
                assert!(write.await.unwrap().is_err(), "a reset is no answer");
            }
            assert_eq!(
                server.get("", "configmaps", "default", &name).is_some(),
                is_there,
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn a_delayed_write_takes_effect_though_its_client_is_gone() {
    let (server, caller) = server_and_caller().await;
    let delay = Action::Delay(Duration::from_millis(50));
    let rule = server
        .hooks()
        .add(Rule::new(WriteMatch::any().name("late"), Stage::Before, delay));
    let write = tokio::spawn(async move { caller.post(MAPS, config_map("late", "1")).await.code });
    rule.acted(1).await;
    write.abort();
    super::eventually(&server, "the write", || {
        server.get("", "configmaps", "default", "late")
    })
    .await;
}

#[tokio::test]
async fn a_held_watch_gets_everything_in_order_once_released() {
    let (server, caller) = server_and_caller().await;
    let mut held = caller
        .watch(&format!("{MAPS}?watch=1&resourceVersion={}", server.version()))
        .await;
    let hold = server
        .hooks()
        .hold_watches(WatchMatch::any().user("tester").resource("configmaps"));
    let other = Caller::new(&server, "other").await;
    let mut free = other
        .watch(&format!("{MAPS}?watch=1&resourceVersion={}", server.version()))
        .await;
    for name in ["a", "b"] {
        server.put(config_map(name, "1")).unwrap();
        assert_eq!(free.next_named().await.1, name);
    }
    let nothing = tokio::time::timeout(Duration::from_millis(100), held.next()).await;
    assert!(nothing.is_err(), "held back");
    hold.release();
    assert_eq!(held.next_named().await.1, "a");
    assert_eq!(held.next_named().await.1, "b");
}

#[tokio::test]
async fn a_user_that_is_cut_off_reaches_nothing_until_it_is_over() {
    let (server, caller) = server_and_caller().await;
    let other = Caller::new(&server, "other").await;
    let mut events = caller.watch(&format!("{MAPS}?watch=1")).await;
    caller.get(MAPS).await.ok();
    let outage = server.hooks().cut_off("tester");
    assert!(events.try_next().await.is_none(), "its watch is closed");
    assert!(caller.try_call("GET", MAPS, &[], None).await.is_err());
    other.get(MAPS).await.ok();
    outage.end();
    caller.get(MAPS).await.ok();
    let outage = server.hooks().cut_off_all();
    assert!(other.try_call("GET", "/healthz", &[], None).await.is_err());
    drop(outage);
    other.get(MAPS).await.ok();
}

#[tokio::test]
async fn the_audit_trail_has_every_write_in_order() {
    let (server, caller) = server_and_caller().await;
    let start = server.audit().entries().last().unwrap().sequence;
    let mut heard = server.audit().subscribe();
    caller.post("/api/v1/nodes", node("n1")).await.ok();
    caller
        .merge("/api/v1/nodes/n1/status", json!({"status": {"phase": "Running"}}))
        .await
        .ok();
    caller.delete("/api/v1/nodes/n1", json!({})).await.ok();
    let entries = server.audit().since(start);
    let told: Vec<_> = entries
        .iter()
        .map(|e| {
            (
                e.verb,
                e.subresource.as_str(),
                e.before.is_some(),
                e.after.is_some(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (Verb::Create, "", false, true),
            (Verb::Patch, "status", true, true),
            (Verb::Delete, "", true, false)
        ]
    );
    assert!(
        entries
            .iter()
            .all(|e| &*e.user == "tester" && &*e.resource.resource == "nodes" && e.name == "n1")
    );
    assert!(entries.windows(2).all(|w| w[0].version < w[1].version));
    assert_eq!(heard.recv().await.unwrap().sequence, start + 1);
}

#[tokio::test]
async fn several_servers_live_side_by_side_and_end_with_their_handles() {
    let (one, caller_one) = server_and_caller().await;
    let (two, caller_two) = server_and_caller().await;
    assert_ne!(one.url(), two.url());
    one.put(config_map("a", "1")).unwrap();
    assert!(two.get("", "configmaps", "default", "a").is_none());
    let mut events = caller_one.watch(&format!("{MAPS}?watch=1")).await;
    events.next().await;
    one.shutdown().await;
    assert!(events.try_next().await.is_none());
    assert!(caller_one.try_call("GET", MAPS, &[], None).await.is_err());
    caller_two.get(MAPS).await.ok();
    drop(two);
}

#[tokio::test]
async fn a_server_ends_though_a_write_is_held_that_nobody_lets_go() {
    let (server, caller) = server_and_caller().await;
    let hold = Action::Hold(Held::new());
    let rule = server
        .hooks()
        .add(Rule::new(WriteMatch::any(), Stage::Before, hold).always());
    let body = config_map("a", "1");
    let write = caller.try_call("POST", MAPS, &[], Some(&body));
    let end = async {
        rule.acted(1).await;
        server.shutdown().await;
    };
    let both = async { tokio::join!(write, end) };
    let ended = tokio::time::timeout(Duration::from_secs(30), both).await;
    let (answer, ()) = ended.expect("it waits for the write");
    assert!(answer.is_err(), "nothing was written, so nothing may be answered");
}
