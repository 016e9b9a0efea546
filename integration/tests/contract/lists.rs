//! Pages and selectors of lists.

use serde_json::json;

use super::talk::{Talk, config_map, names, pod, running};

pub async fn pages(t: Talk) {
    for name in ["a", "b", "c", "d", "e"] {
        let mut map = config_map(name);
        map["metadata"]["labels"] = json!({"odd": (["a", "c", "e"].contains(&name).to_string())});
        t.post(&t.core("configmaps"), map).await.ok();
    }
    let maps = t.core("configmaps");
    for (step, query) in [
        ("plain", ""),
        ("selector", "&labelSelector=odd%3Dtrue"),
        ("selector at the end", "&labelSelector=odd%3Dfalse"),
        ("one name", "&fieldSelector=metadata.name%3Da"),
    ] {
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let page = t
                .get(&format!("{maps}?limit=2{query}&continue={token}"))
                .await
                .ok();
            seen.push(json!([names(&page), page["metadata"]["remainingItemCount"]]));
            match page["metadata"]["continue"].as_str() {
                Some(next) if !next.is_empty() => next.clone_into(&mut token),
                Some(_) | None => break,
            }
        }
        t.note(step, json!(seen));
    }
    let first = t.get(&format!("{maps}?limit=2")).await;
    t.parts("the first page", &first, &["/metadata", "/kind", "/apiVersion"]);
    let token = first.body["metadata"]["continue"].as_str().unwrap();
    // One consistent version: what happened since is not seen.
    t.delete(&format!("{maps}/c"), json!({})).await.ok();
    t.post(&maps, config_map("cc")).await.ok();
    let rest = t.get(&format!("{maps}?limit=10&continue={token}")).await.ok();
    assert_eq!(names(&rest), json!(["c", "d", "e"]));
    let version = first.version();
    for (step, query) in [
        (
            "a token with a version",
            format!("continue={token}&resourceVersion={version}"),
        ),
        (
            "a token with version 0",
            format!("continue={token}&resourceVersion=0"),
        ),
        (
            "a token with a match",
            format!("continue={token}&resourceVersionMatch=Exact"),
        ),
        ("no token of ours", "limit=2&continue=abc".to_owned()),
        ("a limit that is no number", "limit=many".to_owned()),
        ("a limit below nothing", "limit=-1".to_owned()),
        (
            "any version keeps no limit",
            "limit=1&resourceVersion=0".to_owned(),
        ),
    ] {
        let answer = t.get(&format!("{maps}?{query}")).await;
        let mut told = answer.outcome();
        told["names"] = names(&answer.body);
        t.note(step, told);
    }
}

pub async fn label_selectors(t: Talk) {
    for (name, labels) in [
        ("a", json!({"app": "web", "tier": "front"})),
        ("b", json!({"app": "web"})),
        ("c", json!({"app": "db", "tier": ""})),
        ("d", json!({})),
    ] {
        let mut map = config_map(name);
        map["metadata"]["labels"] = labels;
        t.post(&t.core("configmaps"), map).await.ok();
    }
    for selector in [
        "app=web",
        "app==web",
        "app!=web",
        "app in (web,db)",
        "app notin (web)",
        "tier",
        "!tier",
        "tier=",
        "app=web,tier!=front",
        "",
        "app=",
        "=web",
        "app in web",
        "app=web,",
        "a b",
        "app=we b",
        "-app=web",
        "app>1",
        "app=wéb",
    ] {
        let encoded = encode(selector);
        let path = format!("{}?labelSelector={encoded}", t.core("configmaps"));
        let answer = t.get(&path).await;
        let mut told = answer.outcome();
        told["names"] = names(&answer.body);
        t.note(&format!("labels: {selector}"), told);
    }
}

pub async fn field_selectors(t: Talk) {
    let node = t.node().await;
    t.pod(pod("on", &node), running()).await;
    t.pod(pod("done", &node), json!({"phase": "Succeeded"})).await;
    let mut loose = pod("loose", "");
    loose["spec"] = json!({"containers": [{"name": "c", "image": "i"}], "schedulerName": "nobody"});
    t.post(&t.core("pods"), loose).await.ok();
    let event = |name: &str, kind: &str, reason: &str| {
        json!({
            "metadata": {"name": name}, "reason": reason, "type": "Normal",
            "involvedObject": {"kind": kind, "name": "x", "namespace": t.ns, "uid": "u1", "apiVersion": "v1"},
        })
    };
    for (name, kind, reason) in [
        ("e1", "Pod", "Started"),
        ("e2", "Node", "Started"),
        ("e3", "Pod", "Killing"),
    ] {
        t.post(&t.core("events"), event(name, kind, reason)).await.ok();
    }
    let by_node = format!("spec.nodeName={node}");
    let here = format!("metadata.namespace={}", t.ns);
    let events_v1 = t.of("events.k8s.io/v1", "events");
    for (what, path, selector) in [
        ("pods", t.core("pods"), by_node.as_str()),
        ("pods", t.core("pods"), "spec.nodeName="),
        ("pods", t.core("pods"), "spec.nodeName!="),
        ("pods", t.core("pods"), "status.phase=Running"),
        (
            "pods",
            t.core("pods"),
            "status.phase!=Succeeded,status.phase!=Failed",
        ),
        ("pods", t.core("pods"), "metadata.name=on"),
        ("pods", t.core("pods"), "metadata.name==on,status.phase=Running"),
        ("pods", t.core("pods"), &here),
        ("pods", t.core("pods"), "metadata.namespace=elsewhere"),
        ("pods", t.core("pods"), "spec.restartPolicy=Always"),
        ("pods", t.core("pods"), "spec.schedulerName=nobody"),
        ("pods", t.core("pods"), "spec.containers=c"),
        ("pods", t.core("pods"), "nonsense"),
        ("all pods", "/api/v1/pods".to_owned(), by_node.as_str()),
        (
            "nodes",
            "/api/v1/nodes".to_owned(),
            "metadata.name=lists-field-selectors",
        ),
        (
            "nodes",
            "/api/v1/nodes".to_owned(),
            "spec.unschedulable=true,metadata.name=lists-field-selectors",
        ),
        ("nodes", "/api/v1/nodes".to_owned(), "status.phase=x"),
        (
            "namespaces",
            "/api/v1/namespaces".to_owned(),
            "metadata.name=lists-field-selectors",
        ),
        (
            "namespaces",
            "/api/v1/namespaces".to_owned(),
            "status.phase=Active,metadata.name=lists-field-selectors",
        ),
        ("events", t.core("events"), "involvedObject.name=x"),
        (
            "events",
            t.core("events"),
            "involvedObject.kind=Pod,reason=Started",
        ),
        (
            "events",
            t.core("events"),
            "involvedObject.uid=u1,involvedObject.kind=Node",
        ),
        ("events", t.core("events"), "type=Warning"),
        ("events", t.core("events"), "regarding.name=x"),
        ("events.k8s.io", events_v1.clone(), "regarding.name=x"),
        ("events.k8s.io", events_v1, "regarding.kind=Pod"),
        ("config maps", t.core("configmaps"), "data.key=1"),
        (
            "leases",
            t.of("coordination.k8s.io/v1", "leases"),
            "spec.holderIdentity=x",
        ),
        ("budgets", t.pdb(""), "metadata.name=b"),
        (
            "upgrades",
            "/apis/drydock.dev/v1alpha1/nodeupgrades".to_owned(),
            "metadata.name=none",
        ),
        (
            "upgrades",
            "/apis/drydock.dev/v1alpha1/nodeupgrades".to_owned(),
            "spec.node=none",
        ),
    ] {
        let answer = t.get(&format!("{path}?fieldSelector={}", encode(selector))).await;
        let mut told = answer.outcome();
        told["names"] = names(&answer.body);
        t.note(&format!("{what}: {}", selector.replace(&t.ns, "NS")), told);
    }
}

fn encode(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
