//! Watches: where they start, what they show, and how they end.

use std::time::Duration;

use drydock_integration::apiserver::{ApiServer, ServerConfig};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;

use super::{Caller, config_map, node, running, server_and_caller};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn quick_bookmarks() -> (ApiServer, Caller) {
    let config = ServerConfig {
        bookmark_interval: Duration::from_millis(20),
        ..ServerConfig::default()
    };
    let server = ApiServer::start(config).await.unwrap();
    let caller = Caller::new(&server, "tester").await;
    (server, caller)
}

#[tokio::test]
async fn a_watch_from_a_version_shows_all_that_came_after_it_in_order() {
    let (server, caller) = server_and_caller().await;
    let start = server.version();
    server.put(config_map("a", "1")).unwrap();
    let mut events = caller
        .watch(&format!("{MAPS}?watch=1&resourceVersion={start}"))
        .await;
    assert_eq!(events.next_named().await, ("ADDED".into(), "a".into()));
    server.put(config_map("a", "2")).unwrap();
    server.delete("", "configmaps", "default", "a").unwrap();
    let (kind, changed) = events.next().await;
    assert_eq!(
        (kind.as_str(), &changed["data"]["key"]),
        ("MODIFIED", &json!("2"))
    );
    let (kind, last) = events.next().await;
    assert_eq!(kind, "DELETED");
    assert_eq!(
        last["metadata"]["resourceVersion"],
        json!(server.version().to_string()),
        "a removal has its own version"
    );
}

#[tokio::test]
async fn a_watch_from_nowhere_starts_with_what_is_there() {
    let (server, caller) = server_and_caller().await;
    server.put(config_map("a", "1")).unwrap();
    for query in ["watch=1", "watch=1&resourceVersion=0"] {
        let mut events = caller.watch(&format!("{MAPS}?{query}")).await;
        assert_eq!(events.next_named().await, ("ADDED".into(), "a".into()), "{query}");
    }
    let streaming =
        "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = caller.watch(&format!("{MAPS}?{streaming}")).await;
    assert_eq!(events.next().await.0, "ADDED");
    let (kind, bookmark) = events.next().await;
    assert_eq!(kind, "BOOKMARK");
    assert_eq!(
        bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    caller
        .get(&format!("{MAPS}?watch=1&sendInitialEvents=true"))
        .await
        .fails(422, "Invalid");
}

#[tokio::test]
async fn bookmarks_tell_versions_that_a_watch_can_start_from() {
    let (server, caller) = quick_bookmarks().await;
    let mut events = caller
        .watch(&format!(
            "{MAPS}?watch=1&allowWatchBookmarks=true&resourceVersion={}",
            server.version()
        ))
        .await;
    // A change elsewhere moves the bookmark too.
    server.put(node("n1")).unwrap();
    let (kind, bookmark) = loop {
        let (kind, bookmark) = events.next().await;
        if bookmark["metadata"]["resourceVersion"] == json!(server.version().to_string()) {
            break (kind, bookmark);
        }
    };
    assert_eq!(
        (kind.as_str(), bookmark["kind"].as_str().unwrap()),
        ("BOOKMARK", "ConfigMap")
    );
    server.put(config_map("a", "1")).unwrap();
    let version = bookmark["metadata"]["resourceVersion"].as_str().unwrap();
    let mut later = caller
        .watch(&format!("{MAPS}?watch=1&resourceVersion={version}"))
        .await;
    assert_eq!(later.next_named().await, ("ADDED".into(), "a".into()));
}

#[tokio::test]
async fn a_version_before_the_history_gets_an_error_event_with_410() {
    let config = ServerConfig {
        watch_history: 3,
        ..ServerConfig::default()
    };
    let server = ApiServer::start(config).await.unwrap();
    let caller = Caller::new(&server, "tester").await;
    let start = server.version();
    for i in 0..5 {
        server.put(config_map("a", &i.to_string())).unwrap();
    }
    let mut events = caller
        .watch(&format!("{MAPS}?watch=1&resourceVersion={start}"))
        .await;
    let (kind, status) = events.next().await;
    assert_eq!(
        (kind.as_str(), &status["code"], &status["reason"]),
        ("ERROR", &json!(410), &json!("Expired"))
    );
    assert!(events.try_next().await.is_none(), "it ends there");
}

#[tokio::test]
async fn an_object_that_leaves_the_selector_is_deleted_for_the_watch_and_one_that_enters_added() {
    let (server, caller) = server_and_caller().await;
    server.put(node("n1")).unwrap();
    let mut events = caller
        .watch(&format!(
            "/api/v1/nodes?watch=1&labelSelector=pool%3Da&resourceVersion={}",
            server.version()
        ))
        .await;
    let path = "/api/v1/nodes/n1";
    let left = caller
        .merge(path, json!({"metadata": {"labels": {"pool": "b"}}}))
        .await
        .version();
    caller
        .merge(path, json!({"metadata": {"labels": {"other": "x"}}}))
        .await
        .ok();
    caller
        .merge(path, json!({"metadata": {"labels": {"pool": "a"}}}))
        .await
        .ok();
    let (kind, object) = events.next().await;
    assert_eq!(
        (kind.as_str(), &object["metadata"]["labels"]["pool"]),
        ("DELETED", &json!("a")),
        "the state before it left"
    );
    assert_eq!(object["metadata"]["resourceVersion"], json!(left.to_string()));
    assert_eq!(events.next_named().await, ("ADDED".into(), "n1".into()));
    let mut pods = caller
        .watch(&format!(
            "/api/v1/pods?watch=1&fieldSelector=status.phase%3DRunning&resourceVersion={}",
            server.version()
        ))
        .await;
    server.put(running("p", "n1")).unwrap();
    assert_eq!(pods.next_named().await, ("ADDED".into(), "p".into()));
}

#[tokio::test]
async fn a_watch_ends_at_its_timeout_and_one_object_is_watched_by_a_field_selector() {
    let (server, caller) = server_and_caller().await;
    server.put(config_map("a", "1")).unwrap();
    server.put(config_map("b", "1")).unwrap();
    let mut events = caller
        .watch(&format!(
            "{MAPS}?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3Db"
        ))
        .await;
    assert_eq!(events.next_named().await, ("ADDED".into(), "b".into()));
    assert!(events.try_next().await.is_none());
}

#[tokio::test]
async fn kubes_watcher_lists_follows_and_recovers_from_410() {
    let (server, caller) = quick_bookmarks().await;
    server.put(config_map("a", "1")).unwrap();
    let api: Api<ConfigMap> = Api::namespaced(caller.0.clone(), "default");
    let mut stream = watcher(api.clone(), watcher::Config::default())
        .default_backoff()
        .applied_objects()
        .boxed();
    let first = stream.try_next().await.unwrap().unwrap();
    assert_eq!(first.metadata.name.as_deref(), Some("a"));
    server.put(config_map("b", "1")).unwrap();
    assert_eq!(
        stream.try_next().await.unwrap().unwrap().metadata.name.as_deref(),
        Some("b")
    );
    let streaming = watcher(api.clone(), watcher::Config::default().streaming_lists());
    let initial: Vec<_> = streaming.applied_objects().take(2).try_collect().await.unwrap();
    assert_eq!(initial.len(), 2);
    let page = api.list(&ListParams::default().limit(1)).await.unwrap();
    assert_eq!(page.items.len(), 1);
    let partial = api.list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(partial.items.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_nodes_and_hundreds_of_watches_are_carried() {
    let (server, caller) = server_and_caller().await;
    for i in 0..5000 {
        server.put(node(&format!("n{i:04}"))).unwrap();
    }
    let start = server.version();
    let mut watches = Vec::new();
    for i in 0..200 {
        let path =
            format!("/api/v1/nodes?watch=1&resourceVersion={start}&fieldSelector=metadata.name%3Dn{i:04}");
        watches.push(caller.watch(&path).await);
    }
    for i in 0..200 {
        caller
            .strategic(
                &format!("/api/v1/nodes/n{i:04}"),
                json!({"spec": {"unschedulable": true}}),
            )
            .await
            .ok();
    }
    for (i, events) in watches.iter_mut().enumerate() {
        assert_eq!(events.next_named().await, ("MODIFIED".into(), format!("n{i:04}")));
    }
    let (mut seen, mut token) = (0, String::new());
    loop {
        let page = caller
            .get(&format!("/api/v1/nodes?limit=500&continue={token}"))
            .await
            .ok();
        seen += page["items"].as_array().unwrap().len();
        match page["metadata"]["continue"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, 5000);
}
