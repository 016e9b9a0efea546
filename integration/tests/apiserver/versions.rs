//! What `resourceVersion`, `resourceVersionMatch`, `limit`, `continue` and `sendInitialEvents` mean, case
//! by case as apiserver v0.36 has it (`storage.ValidateListOptions`, `cacher.ShouldDelegateList`,
//! `computeListLimit`, `SetListOptionsDefaults`, `watchCache.getAllEventsSinceLocked`).

use std::time::Duration;

use serde_json::{Value, json};

use super::{config_map, running, server_and_caller};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn names(list: &Value) -> String {
    let items = list["items"].as_array().unwrap().iter();
    let names: Vec<_> = items.map(|o| o["metadata"]["name"].as_str().unwrap()).collect();
    names.join(" ")
}

#[tokio::test]
async fn a_list_shows_the_version_that_its_options_ask_for() {
    let (server, caller) = server_and_caller().await;
    for name in ["a", "b", "c"] {
        server.put(config_map(name, "1")).unwrap();
    }
    let then = server.version();
    server.delete("", "configmaps", "default", "a").unwrap();
    let now = server.version();
    let all_then = ("a b c", then, false);
    for (query, (shown, version, goes_on)) in [
        (String::new(), ("b c", now, false)),
        ("resourceVersion=0".into(), ("b c", now, false)),
        (format!("resourceVersion={then}"), ("b c", now, false)),
        (format!("resourceVersion={then}&limit=2"), ("a b", then, true)),
        (format!("resourceVersion={then}&limit=0"), ("b c", now, false)),
        (
            format!("resourceVersion={then}&limit=1&resourceVersionMatch=NotOlderThan"),
            ("b", now, true),
        ),
        (
            format!("resourceVersion={then}&resourceVersionMatch=NotOlderThan"),
            ("b c", now, false),
        ),
        (
            format!("resourceVersion={then}&resourceVersionMatch=Exact"),
            all_then,
        ),
        (
            format!("resourceVersion={then}&resourceVersionMatch=Exact&limit=2"),
            ("a b", then, true),
        ),
        ("limit=1".into(), ("b", now, true)),
        // From the cache "any version will do", and then the limit is not kept.
        ("limit=1&resourceVersion=0".into(), ("b c", now, false)),
        (
            "limit=1&resourceVersion=0&resourceVersionMatch=NotOlderThan".into(),
            ("b c", now, false),
        ),
        ("limit=-1".into(), ("b c", now, false)),
    ] {
        let answer = caller.get(&format!("{MAPS}?{query}")).await;
        assert_eq!(answer.version(), version, "{query}");
        let list = answer.ok();
        assert_eq!(names(&list), shown, "{query}");
        assert_eq!(list["metadata"]["continue"].is_string(), goes_on, "{query}");
    }
}

#[tokio::test]
async fn a_page_under_a_selector_goes_on_as_long_as_anything_is_left() {
    let (server, caller) = server_and_caller().await;
    for (name, app) in [("a", "x"), ("b", "y"), ("c", "x"), ("d", "y")] {
        let mut map = config_map(name, "1");
        map["metadata"]["labels"] = json!({"app": app});
        server.put(map).unwrap();
    }
    let pages = |selector: &'static str| {
        let caller = caller.clone();
        async move {
            let (mut seen, mut token) = (Vec::new(), String::new());
            loop {
                let query = format!("{MAPS}?limit=1&{selector}&continue={token}");
                let page = caller.get(&query).await.ok();
                assert_eq!(
                    page["metadata"].get("remainingItemCount"),
                    None,
                    "not known under a selector"
                );
                seen.push(names(&page));
                match page["metadata"]["continue"].as_str() {
                    Some(next) => token = next.to_owned(),
                    None => return seen,
                }
            }
        }
    };
    // The server does not look ahead: behind the last match an empty page may come.
    assert_eq!(pages("labelSelector=app%3Dx").await, ["a", "c", ""]);
    assert_eq!(pages("labelSelector=app%3Dy").await, ["b", "d"]);
    assert_eq!(pages("fieldSelector=metadata.name%3Da").await, ["a"], "one key");
}

#[tokio::test]
async fn what_the_options_may_not_say_together_is_refused_with_its_causes() {
    let (server, caller) = server_and_caller().await;
    server.put(config_map("a", "1")).unwrap();
    server.put(config_map("b", "1")).unwrap();
    let first = caller.get(&format!("{MAPS}?limit=1")).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let now = server.version();
    let ahead = now + 1000;
    let table: Vec<(String, u16, &str, &str)> = vec![
        (
            "resourceVersionMatch=Exact".into(),
            422,
            "Invalid",
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "resourceVersionMatch=Exact&resourceVersion=0".into(),
            422,
            "Invalid",
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        (
            format!("resourceVersionMatch=Newest&resourceVersion={now}"),
            422,
            "Invalid",
            "Unsupported value: \"Newest\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
        ),
        (
            format!("resourceVersionMatch=NotOlderThan&resourceVersion={now}&continue={token}"),
            422,
            "Invalid",
            "resourceVersionMatch is forbidden when continue is provided",
        ),
        (
            "sendInitialEvents=true".into(),
            422,
            "Invalid",
            "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
        ),
        (
            format!("continue={token}&resourceVersion={now}"),
            400,
            "BadRequest",
            "specifying resource version is not allowed when using continue",
        ),
        (
            "continue=zz".into(),
            400,
            "BadRequest",
            "invalid continue token: continue key is not valid",
        ),
        (
            "resourceVersion=x".into(),
            400,
            "BadRequest",
            "invalid resource version: resourceVersion: Invalid value: \"x\"",
        ),
        (
            "limit=x".into(),
            400,
            "BadRequest",
            "strconv.ParseInt: parsing \"x\"",
        ),
        (
            format!("resourceVersion={ahead}"),
            504,
            "Timeout",
            "Too large resource version",
        ),
        (
            format!("resourceVersion={ahead}&resourceVersionMatch=Exact"),
            504,
            "Timeout",
            "Too large resource version",
        ),
        (
            "watch=1&sendInitialEvents=true".into(),
            422,
            "Invalid",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (
            "watch=1&resourceVersionMatch=NotOlderThan".into(),
            422,
            "Invalid",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        (
            "watch=1&resourceVersionMatch=Exact&sendInitialEvents=true".into(),
            422,
            "Invalid",
            "Unsupported value: \"Exact\": supported values: \"NotOlderThan\"",
        ),
        (
            format!("watch=1&resourceVersionMatch=NotOlderThan&sendInitialEvents=true&continue={token}"),
            422,
            "Invalid",
            "resourceVersionMatch is forbidden when continue is provided",
        ),
        (
            "watch=1&resourceVersion=x".into(),
            500,
            "",
            "resourceVersion: Invalid value: \"x\"",
        ),
        (
            "watch=1&timeoutSeconds=x".into(),
            400,
            "BadRequest",
            "strconv.ParseInt: parsing \"x\"",
        ),
    ];
    for (query, code, reason, words) in table {
        let answer = caller.get(&format!("{MAPS}?{query}")).await;
        let message = answer.fails(code, reason);
        assert!(message.contains(words), "{query}: {message}");
        if code == 422 {
            assert!(
                message.starts_with("ListOptions.meta.k8s.io \"\" is invalid: "),
                "{message}"
            );
            assert!(
                answer.body["details"]["causes"][0]["field"].is_string(),
                "{query}"
            );
        }
    }
    assert_eq!(
        caller
            .get(&format!("{MAPS}?continue={token}&resourceVersion=0"))
            .await
            .code,
        200
    );
}

#[tokio::test]
async fn a_get_waits_for_no_version_that_is_not_there() {
    let (server, caller) = server_and_caller().await;
    server.put(config_map("a", "1")).unwrap();
    let path = format!("{MAPS}/a");
    for version in [0, 1, server.version()] {
        assert_eq!(
            caller
                .get(&format!("{path}?resourceVersion={version}"))
                .await
                .code,
            200
        );
    }
    let ahead = server.version() + 1000;
    caller
        .get(&format!("{path}?resourceVersion={ahead}"))
        .await
        .fails(504, "Timeout");
    // `watch` means something for a collection alone.
    assert_eq!(
        caller.get(&format!("{path}?watch=1")).await.ok()["kind"],
        "ConfigMap"
    );
}

#[tokio::test]
async fn a_version_that_was_compacted_is_gone_for_lists_of_it_alone() {
    let (server, caller) = server_and_caller().await;
    for name in ["a", "b", "c"] {
        server.put(config_map(name, "1")).unwrap();
    }
    let then = server.version();
    let first = caller.get(&format!("{MAPS}?limit=1")).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    server.delete("", "configmaps", "default", "b").unwrap();
    server.put(config_map("b2", "1")).unwrap();
    server.compact();
    for query in ["resourceVersionMatch=Exact", "limit=2"] {
        assert_eq!(
            caller
                .get(&format!("{MAPS}?resourceVersion={then}&{query}"))
                .await
                .fails(410, "Expired"),
            "The resourceVersion for the provided list is too old."
        );
    }
    let latest = caller.get(&format!("{MAPS}?resourceVersion={then}")).await.ok();
    assert_eq!(names(&latest), "a b2 c", "at least as new as a version long gone");
    let gone = caller.get(&format!("{MAPS}?limit=1&continue={token}")).await;
    gone.fails(410, "Expired");
    // The token in the answer goes on behind the first page, at the newest version, page by page.
    let on = gone.body["metadata"]["continue"].as_str().unwrap();
    let second = caller.get(&format!("{MAPS}?limit=1&continue={on}")).await;
    assert_eq!(second.version(), server.version());
    let second = second.ok();
    assert_eq!(names(&second), "b2");
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = caller.get(&format!("{MAPS}?limit=1&continue={token}")).await.ok();
    assert_eq!(names(&third), "c");
    let mut events = caller
        .watch(&format!("{MAPS}?watch=1&resourceVersion={then}"))
        .await;
    let (kind, status) = events.next().await;
    assert_eq!((kind.as_str(), &status["code"]), ("ERROR", &json!(410)));
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .starts_with(&format!("too old resource version: {then} ("))
    );
}

#[tokio::test]
async fn a_watch_starts_where_its_options_say() {
    let (server, caller) = server_and_caller().await;
    server.put(config_map("a", "1")).unwrap();
    let then = server.version();
    server.put(config_map("b", "1")).unwrap();
    let not_older = "resourceVersionMatch=NotOlderThan";
    for (query, shown) in [
        // Without a version or with 0 a watch is a streaming list, and says where that ends.
        ("allowWatchBookmarks=true".to_owned(), "+a +b |"),
        ("allowWatchBookmarks=true&resourceVersion=0".into(), "+a +b |"),
        ("resourceVersion=0".into(), "+a +b"),
        (format!("allowWatchBookmarks=true&resourceVersion={then}"), "+b"),
        (
            format!("sendInitialEvents=true&{not_older}&allowWatchBookmarks=true"),
            "+a +b |",
        ),
        (format!("sendInitialEvents=true&{not_older}"), "+a +b"),
        (
            format!("sendInitialEvents=true&{not_older}&allowWatchBookmarks=true&resourceVersion={then}"),
            "+a +b |",
        ),
        (format!("sendInitialEvents=false&{not_older}"), ""),
        (
            format!("sendInitialEvents=false&{not_older}&resourceVersion=0"),
            "",
        ),
        (
            format!("sendInitialEvents=false&{not_older}&resourceVersion={then}"),
            "+b",
        ),
    ] {
        let mut events = caller.watch(&format!("{MAPS}?watch=true&{query}")).await;
        let mut seen = Vec::new();
        server.put(config_map("z", &query)).unwrap();
        loop {
            let (kind, object) = events.next().await;
            if object["metadata"]["name"] == "z" {
                break;
            }
            match kind.as_str() {
                "BOOKMARK" => {
                    let ends = &object["metadata"]["annotations"]["k8s.io/initial-events-end"];
                    assert_eq!(ends, "true", "{query}");
                    seen.push("|".to_owned());
                }
                "ADDED" => seen.push(format!("+{}", object["metadata"]["name"].as_str().unwrap())),
                other => panic!("{query}: {other}"),
            }
        }
        assert_eq!(seen.join(" "), shown, "{query}");
        server.delete("", "configmaps", "default", "z").unwrap();
    }
}

#[tokio::test]
async fn a_watch_from_the_future_waits_and_a_streaming_list_from_there_fails() {
    let (server, caller) = server_and_caller().await;
    server.put(config_map("a", "1")).unwrap();
    let ahead = server.version() + 2;
    let mut events = caller
        .watch(&format!(
            "{MAPS}?watch=1&resourceVersion={ahead}&allowWatchBookmarks=1"
        ))
        .await;
    for name in ["b", "c", "d"] {
        server.put(config_map(name, "1")).unwrap();
    }
    assert_eq!(
        events.next_named().await,
        ("ADDED".into(), "d".into()),
        "what came up to that version is not shown"
    );
    let far = server.version() + 1000;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = caller
        .watch(&format!("{MAPS}?watch=1&{query}&resourceVersion={far}"))
        .await;
    let (kind, status) = events.next().await;
    assert_eq!(
        (kind.as_str(), &status["code"], &status["reason"]),
        ("ERROR", &json!(504), &json!("Timeout"))
    );
    assert!(events.try_next().await.is_none(), "it ends there");
}

#[tokio::test]
async fn no_bookmark_tells_a_version_that_was_not_reached() {
    let config = drydock_integration::apiserver::ServerConfig {
        bookmark_interval: Duration::from_millis(10),
        ..Default::default()
    };
    let server = drydock_integration::apiserver::ApiServer::start(config)
        .await
        .unwrap();
    let caller = super::Caller::new(&server, "tester").await;
    let ahead = server.version() + 3;
    let query = format!("watch=1&allowWatchBookmarks=true&resourceVersion={ahead}&timeoutSeconds=1");
    let mut events = caller.watch(&format!("{MAPS}?{query}")).await;
    assert!(
        events.try_next().await.is_none(),
        "nothing to tell before that version"
    );
    server.put(running("p", "n1")).unwrap();
}
