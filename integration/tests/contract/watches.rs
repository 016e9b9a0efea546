//! Watches: their events, bookmarks and ends.

use serde_json::{Value, json};

use super::talk::{Talk, config_map};

pub async fn from_a_version(t: Talk) {
    let maps = t.core("configmaps");
    t.map("before").await;
    let version = t.get(&maps).await.version();
    t.map("a").await;
    t.merge(&format!("{maps}/a"), json!({"data": {"key": "2"}}))
        .await
        .ok();
    // A write that changes nothing is no event.
    t.merge(&format!("{maps}/a"), json!({"data": {"key": "2"}}))
        .await
        .ok();
    let last = t.delete(&format!("{maps}/a"), json!({})).await.ok();
    t.note("the answer of a delete", last);
    t.map("b").await;
    let mut events = t
        .watch(&format!("{maps}?watch=1&resourceVersion={version}"))
        .await;
    let told = events.names(4).await;
    assert_eq!(told, json!(["ADDED a", "MODIFIED a", "DELETED a", "ADDED b"]));
    t.note("from a version", told);
    let mut events = t.watch(&format!("{maps}?watch=1")).await;
    t.note("from nothing", events.names(2).await);
    let mut events = t.watch(&format!("{maps}?watch=1&resourceVersion=0")).await;
    t.note("from version 0", events.names(2).await);
    // A deleted object is shown as it was, with the version of its end.
    let mut events = t
        .watch(&format!("{maps}?watch=1&resourceVersion={version}"))
        .await;
    let (mut modified, mut deleted) = (Value::Null, Value::Null);
    while deleted.is_null() {
        let (kind, object) = events.next().await.unwrap();
        match kind.as_str() {
            "MODIFIED" => modified = object,
            "DELETED" => deleted = object,
            _ => {}
        }
    }
    let version = |o: &Value| {
        o["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    assert!(version(&deleted) > version(&modified));
    t.note("deleted", deleted);
}

pub async fn selectors(t: Talk) {
    let maps = t.core("configmaps");
    let version = t.get(&maps).await.version();
    let mut by_label = t
        .watch(&format!(
            "{maps}?watch=1&resourceVersion={version}&labelSelector=on%3Dyes"
        ))
        .await;
    let mut by_name = t
        .watch(&format!(
            "{maps}?watch=1&resourceVersion={version}&fieldSelector=metadata.name%3Da"
        ))
        .await;
    t.map("a").await;
    t.map("b").await;
    let a = format!("{maps}/a");
    t.merge(&a, json!({"metadata": {"labels": {"on": "yes"}}}))
        .await
        .ok();
    t.merge(&a, json!({"data": {"key": "2"}})).await.ok();
    t.merge(&a, json!({"metadata": {"labels": {"on": "no"}}}))
        .await
        .ok();
    t.delete(&a, json!({})).await.ok();
    let told = by_label.names(3).await;
    assert_eq!(told, json!(["ADDED a", "MODIFIED a", "DELETED a"]));
    t.note("labels", told);
    t.note("name", by_name.names(5).await);
}

pub async fn streaming_list(t: Talk) {
    let maps = t.core("configmaps");
    t.map("a").await;
    t.map("b").await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = t.watch(&format!("{maps}?{query}")).await;
    let mut told = Vec::new();
    for _ in 0..3 {
        let (kind, object) = events.next().await.unwrap();
        let name = object["metadata"]["name"].as_str().unwrap_or("-").to_owned();
        told.push(json!([
            kind,
            name,
            object["metadata"]["annotations"],
            object["kind"]
        ]));
    }
    told[..2].sort_by_key(Value::to_string);
    assert_eq!(told[2][0], "BOOKMARK");
    t.note("with bookmarks", json!(told));
    t.map("c").await;
    t.note("goes on", events.names(1).await);
    for (step, query) in [
        ("without a match", "sendInitialEvents=true"),
        (
            "of the wrong match",
            "sendInitialEvents=true&resourceVersionMatch=Exact&resourceVersion=5",
        ),
        (
            "not, with a match",
            "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&timeoutSeconds=1",
        ),
        ("a time that is no number", "timeoutSeconds=x"),
        ("a match alone", "resourceVersionMatch=NotOlderThan"),
        (
            "with a limit and a token",
            "limit=2&continue=abc&timeoutSeconds=1",
        ),
    ] {
        let answer = t.get(&format!("{maps}?watch=1&{query}")).await;
        let code = answer.code;
        let told = if code == 200 { json!(200) } else { answer.outcome() };
        t.note(step, told);
    }
}

pub async fn too_old(t: Talk) {
    // A kind that came late: the real server's history of it begins with its CRD. The embedded one forgets
    // by number.
    let maps = super::custom::WIDGETS;
    t.post(maps, super::custom::widget(&t.ns)).await.ok();
    for i in 0..510 {
        let body = json!({"spec": {"open": {"i": i}}});
        t.merge(&format!("{maps}/{}", t.ns), body).await.ok();
    }
    let mut events = t.watch(&format!("{maps}?watch=1&resourceVersion=1")).await;
    let (kind, status) = events.next().await.unwrap();
    assert_eq!((kind.as_str(), &status["code"]), ("ERROR", &json!(410)));
    t.note("a watch from before the history", json!([kind, status]));
    assert!(events.next().await.is_none(), "the watch ends with the error");
    let bad = t.get(&format!("{maps}?watch=1&resourceVersion=abc")).await;
    t.told("a watch from no version", bad);
}

pub async fn one_object(t: Talk) {
    let maps = t.core("configmaps");
    t.map("a").await;
    let path = format!("{maps}?watch=1&fieldSelector=metadata.name%3Da&resourceVersion=0&timeoutSeconds=20");
    let mut events = t.watch(&path).await;
    t.delete(&format!("{maps}/a"), json!({})).await.ok();
    t.post(&maps, config_map("a")).await.ok();
    let told = events.names(3).await;
    t.note("deleted and made again", told);
}

pub async fn ends(t: Talk) {
    let maps = t.core("configmaps");
    t.map("a").await;
    let version = t.get(&maps).await.version();
    t.map("b").await;
    let path = format!("{maps}?watch=1&timeoutSeconds=5&allowWatchBookmarks=true&resourceVersion={version}");
    let mut events = t.watch(&path).await;
    let mut kinds = Vec::new();
    while let Some((kind, _)) = events.next().await {
        kinds.push(kind);
    }
    let bookmarks = kinds.iter().filter(|kind| *kind == "BOOKMARK").count();
    kinds.retain(|kind| kind != "BOOKMARK");
    t.note("events until the end", json!(kinds));
    t.note("a bookmark before the end", json!(bookmarks > 0));
}

pub async fn table(t: Talk) {
    let maps = t.core("configmaps");
    t.map("a").await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let path = format!("{maps}?watch=1&timeoutSeconds=2&resourceVersion=0");
    let answer = t.send("GET", &path, &[("accept", accept)], Value::Null).await;
    let text = match answer.body {
        Value::String(text) => text,
        one => one.to_string(),
    };
    let mut first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let rows = &mut first["object"]["rows"][0];
    let cells = &mut rows["cells"];
    *cells = json!(cells.as_array().unwrap()[..2]);
    for column in first["object"]["columnDefinitions"].as_array_mut().unwrap() {
        column.as_object_mut().unwrap().remove("description");
    }
    t.note("the first event", first);
}
