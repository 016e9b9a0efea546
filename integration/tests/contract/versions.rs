//! What `resourceVersion` and its match mean in lists and gets.

use serde_json::json;

use super::talk::{Talk, names};

pub async fn options(t: Talk) {
    for name in ["a", "b", "c"] {
        t.map(name).await;
    }
    let maps = t.core("configmaps");
    let then = t.get(&format!("{maps}?limit=1")).await.version();
    t.delete(&format!("{maps}/a"), json!({})).await.ok();
    for query in [
        "",
        "resourceVersion=0",
        "resourceVersion=THEN",
        "resourceVersion=THEN&limit=2",
        "resourceVersion=THEN&limit=0",
        "resourceVersion=THEN&limit=1&resourceVersionMatch=NotOlderThan",
        "resourceVersion=THEN&resourceVersionMatch=NotOlderThan",
        "resourceVersion=THEN&resourceVersionMatch=Exact",
        "resourceVersion=THEN&resourceVersionMatch=Exact&limit=2",
        "resourceVersion=0&resourceVersionMatch=Exact",
        "resourceVersionMatch=Exact",
        "resourceVersion=THEN&resourceVersionMatch=Nearly",
        "resourceVersion=abc",
        "sendInitialEvents=true",
        "limit=1&resourceVersion=0&resourceVersionMatch=NotOlderThan",
    ] {
        let answer = t.get(&format!("{maps}?{}", query.replace("THEN", &then))).await;
        let mut told = answer.outcome();
        told["names"] = names(&answer.body);
        told["goes on"] = json!(
            answer.body["metadata"]["continue"]
                .as_str()
                .is_some_and(|c| !c.is_empty())
        );
        t.note(&format!("list {query}"), told);
    }
    for (step, query) in [
        ("ahead", "resourceVersion=100000000"),
        (
            "exactly ahead",
            "resourceVersion=100000000&resourceVersionMatch=Exact",
        ),
    ] {
        let answer = t.get(&format!("{maps}?{query}")).await;
        t.note(
            step,
            json!([
                answer.code,
                answer.body["reason"],
                answer.body["details"]["causes"]
            ]),
        );
        assert_eq!(answer.code, 504);
    }
}

/// A page shows the version of its first, whatever happens in between.
pub async fn pages_of_one_version(t: Talk) {
    for i in 0..6 {
        t.map(&format!("m{i}")).await;
    }
    let maps = t.core("configmaps");
    let first = t.get(&format!("{maps}?limit=2")).await;
    let (version, mut token) = (first.version(), first.body["metadata"]["continue"].clone());
    let mut seen = vec![names(&first.body)];
    while let Some(next) = token.as_str().filter(|next| !next.is_empty()) {
        t.delete(&format!("{maps}/m5"), json!({})).await;
        let page = t.get(&format!("{maps}?limit=2&continue={next}")).await;
        assert_eq!(page.version(), version, "each page is of the first one's version");
        seen.push(names(&page.body));
        token = page.body["metadata"]["continue"].clone();
    }
    assert_eq!(json!(seen), json!([["m0", "m1"], ["m2", "m3"], ["m4", "m5"]]));
    t.note("pages", json!(seen));
}

pub async fn gets(t: Talk) {
    let made = t.map("a").await;
    let path = t.core("configmaps/a");
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    t.expect(
        "at a version",
        200,
        t.get(&format!("{path}?resourceVersion={version}")).await,
    );
    t.expect(
        "at version 0",
        200,
        t.get(&format!("{path}?resourceVersion=0")).await,
    );
    t.told("no number", t.get(&format!("{path}?resourceVersion=abc")).await);
    let ahead = t.get(&format!("{path}?resourceVersion=100000000")).await;
    t.note("ahead", json!([ahead.code, ahead.body["reason"]]));
    let got = t.get(&path).await;
    t.note("all of it", got.body.clone());
    t.expect("none", 404, t.get(&t.core("configmaps/none")).await);
    t.expect("no such kind", 404, t.get(&t.core("nothings/none")).await);
    t.expect("no such group", 404, t.get("/apis/example.org/v1/things").await);
}
