//! What becomes of lists and watches whose version the server has forgotten. These run alone.

use std::time::Duration;

use drydock_integration::realcluster::ControlPlane;
use serde_json::{Value, json};

use super::talk::{Talk, names};

/// Forget all versions but the newest: what the API server itself does every five minutes.
pub async fn of_etcd(cluster: &ControlPlane) {
    let id = cluster.process_ids()["etcd"];
    let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap();
    let url = line
        .split(|byte| *byte == 0)
        .find_map(|arg| {
            std::str::from_utf8(arg)
                .ok()?
                .strip_prefix("--listen-client-urls=")
        })
        .unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = |path: &str, body: Value| {
        let request = http.post(format!("{url}/v3/{path}")).json(&body);
        async move { request.send().await.unwrap().json::<Value>().await.unwrap() }
    };
    let answer = ask("kv/range", json!({"key": "AA=="})).await;
    let revision = answer["header"]["revision"].clone();
    let answer = ask("kv/compaction", json!({"revision": revision, "physical": true})).await;
    assert!(answer.get("error").is_none(), "{answer}");
    // The API server looks for it in this key ("compact_rev_key"), where it writes it itself.
    let key = "Y29tcGFjdF9yZXZfa2V5";
    let text = revision.as_str().unwrap();
    let value = k8s_openapi::ByteString(text.as_bytes().to_vec());
    ask("kv/put", json!({"key": key, "value": value})).await;
}

/// The next page of a list whose version is forgotten, and how to go on.
pub async fn old_pages(t: Talk) {
    for name in ["a", "b", "c", "d"] {
        t.map(name).await;
    }
    let maps = t.core("configmaps");
    let first = t.get(&format!("{maps}?limit=2")).await;
    let token = first.body["metadata"]["continue"].as_str().unwrap();
    let version = first.version();
    t.delete(&format!("{maps}/c"), json!({})).await.ok();
    t.subject.compact().await;
    let query = format!("{maps}?limit=2&continue={token}");
    let mut expired = t.get(&query).await;
    for _ in 0..300 {
        if expired.code != 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        expired = t.get(&query).await;
    }
    let expired = t.expect("the next page", 410, expired);
    let token = expired.body["metadata"]["continue"].as_str().unwrap();
    let rest = t.get(&format!("{maps}?limit=2&continue={token}")).await.ok();
    t.note("the rest, as it is now", json!([names(&rest), rest["metadata"]]));
    assert_eq!(names(&rest), json!(["d"]));
    let exact = format!("{maps}?resourceVersion={version}&resourceVersionMatch=Exact");
    t.told("a list of exactly that version", t.get(&exact).await);
    t.told(
        "the same with a limit",
        t.get(&format!("{maps}?resourceVersion={version}&limit=2")).await,
    );
}

/// A watch that runs goes on; one from before the history is told so.
pub async fn old_watch(t: Talk) {
    let maps = t.core("configmaps");
    t.map("a").await;
    let version = t.get(&maps).await.version();
    let mut events = t
        .watch(&format!("{maps}?watch=1&resourceVersion={version}"))
        .await;
    t.map("b").await;
    // It has seen what there was: one that lags behind may be told 410.
    t.note("a running watch", events.names(1).await);
    t.subject.compact().await;
    t.map("c").await;
    t.note("goes on", events.names(1).await);
    let widgets = super::custom::WIDGETS;
    let mut events = t.watch(&format!("{widgets}?watch=1&resourceVersion=1")).await;
    let (kind, status) = events.next().await.unwrap();
    t.note(
        "a watch from long before",
        json!([kind, status["code"], status["reason"]]),
    );
}
