//! The kubectl commands that Drydock's docs name, and what they print.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::budgets::budget;
use super::custom;
use super::talk::{Talk, config_map, pod, running};

/// Run it, write down whether it succeeded and its lines without ages and volatile numbers.
async fn told(t: &Talk, step: &str, args: &str, input: &str) -> String {
    let Some((ok, text)) = t.kubectl(args, input).await else {
        t.note(step, json!("no kubectl"));
        return String::new();
    };
    // A refused patch is shown with its whole object.
    let lines = text.lines().map(|line| match line.find("strict decoding error") {
        Some(at) if line.contains("patch: Invalid value") => line[at..].to_owned(),
        Some(_) | None => plain(line),
    });
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    t.note(step, json!([ok, lines]));
    text
}

/// A line with single spaces, and without ages.
fn plain(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let is_age = word.len() > 1
            && word.starts_with(|c: char| c.is_ascii_digit())
            && word
                .chars()
                .all(|c| c.is_ascii_digit() || matches!(c, 'd' | 'h' | 'm' | 's'))
            && word.ends_with(['s', 'm', 'h', 'd']);
        if is_age { "AGE" } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}

pub async fn get(t: Talk) {
    let node = t.node().await;
    t.pod(pod("p", &node), running()).await;
    t.map("m").await;
    t.post(
        &t.pdb(""),
        budget(
            "b",
            json!({"maxUnavailable": 1, "selector": {"matchLabels": {"app": "x"}}}),
        ),
    )
    .await
    .ok();
    super::budgets::settled(&t, "b", |_| true).await;
    t.post(custom::WIDGETS, custom::widget(&t.ns)).await.ok();
    for args in [
        format!("get node {node}"),
        format!("get node {node} -o wide"),
        format!("get node {node} -o name"),
        format!("get node {node} -o jsonpath={{.status.conditions[0].type}}"),
        "get pods".to_owned(),
        "get pods -o wide".to_owned(),
        "get pods --no-headers -l app=web".to_owned(),
        format!("get pods -A --field-selector=spec.nodeName={node}"),
        "get configmaps".to_owned(),
        "get pdb".to_owned(),
        format!("get widget {}", t.ns),
        format!("get widget {} -o wide", t.ns),
        "get pods none".to_owned(),
        "get nothings".to_owned(),
        "get leases".to_owned(),
        "get upgradepolicies".to_owned(),
        "get configmaps,pods -o name".to_owned(),
        "explain widget.spec.mode".to_owned(),
        "explain nodeupgrades.spec".to_owned(),
    ] {
        told(&t, &args.replace(&t.ns, "NS"), &args, "").await;
    }
    let resources = told(&t, "api-resources", "api-resources --api-group=drydock.dev", "").await;
    assert!(
        t.subject.kubectl.is_none() || resources.contains("nodeupgrades"),
        "{resources}"
    );
}

pub async fn describe(t: Talk) {
    let node = t.node().await;
    t.pod(pod("p", &node), running()).await;
    t.post(
        &t.pdb(""),
        budget(
            "b",
            json!({"maxUnavailable": 1, "selector": {"matchLabels": {"app": "x"}}}),
        ),
    )
    .await
    .ok();
    super::budgets::settled(&t, "b", |_| true).await;
    t.post(custom::WIDGETS, custom::widget(&t.ns)).await.ok();
    for (step, args, shows) in [
        ("a node", format!("describe node {node}"), "Unschedulable"),
        ("a pod", "describe pod p".to_owned(), "busybox:1"),
        ("a budget", "describe pdb b".to_owned(), "Max unavailable"),
        ("a widget", format!("describe widget {}", t.ns), "sha256:aa"),
    ] {
        let Some((ok, text)) = t.kubectl(&args, "").await else {
            continue;
        };
        assert!(ok && text.contains(shows), "{args}: {text}");
        // The headings: values hold ages and what admission adds.
        let heads = text
            .lines()
            .filter(|line| !line.starts_with(' '))
            .filter_map(|line| line.split(':').next());
        t.note(step, heads.map(plain).filter(|l| !l.is_empty()).collect());
    }
}

pub async fn create_apply(t: Talk) {
    let map = config_map("m");
    told(&t, "create", "create -f -", &map.to_string()).await;
    told(&t, "create twice", "create -f -", &map.to_string()).await;
    told(&t, "apply over it", "apply -f -", &map.to_string()).await;
    told(&t, "apply again", "apply -f -", &map.to_string()).await;
    let mut changed = map.clone();
    changed["data"] = json!({"other": "2"});
    told(&t, "apply a change", "apply -f -", &changed.to_string()).await;
    t.parts("the change", &t.get(&t.core("configmaps/m")).await, &["/data"]);
    told(&t, "dry run", "apply -f - --dry-run=server", &map.to_string()).await;
    told(&t, "diff", "diff -f -", &changed.to_string()).await;
    let mut widget = custom::widget(&t.ns);
    told(&t, "apply a widget", "apply -f -", &widget.to_string()).await;
    told(&t, "apply it again", "apply -f -", &widget.to_string()).await;
    widget["spec"]["count"] = json!(3);
    told(&t, "apply more", "apply -f -", &widget.to_string()).await;
    widget["spec"].as_object_mut().unwrap().remove("count");
    told(&t, "apply less", "apply -f -", &widget.to_string()).await;
    t.parts(
        "less",
        &t.get(&format!("{}/{}", custom::WIDGETS, t.ns)).await,
        &["/spec", "/metadata/generation"],
    );
    widget["spec"]["mistake"] = json!(1);
    told(&t, "apply a mistake", "apply -f -", &widget.to_string()).await;
    widget["spec"] = json!({"release": "md5:1"});
    told(&t, "apply what is refused", "apply -f -", &widget.to_string()).await;
    let budget = budget("b", json!({"minAvailable": 1}));
    told(&t, "apply a budget", "apply -f -", &budget.to_string()).await;
    told(&t, "apply it once more", "apply -f -", &budget.to_string()).await;
    told(&t, "label", "label configmap m a=b", "").await;
    told(&t, "label again", "label configmap m a=c", "").await;
    told(&t, "annotate", "annotate configmap m a=b", "").await;
    told(
        &t,
        "patch",
        r#"patch configmap m --type=merge -p {"data":{"x":"y"}}"#,
        "",
    )
    .await;
    told(&t, "delete", "delete configmap m", "").await;
    told(&t, "delete none", "delete configmap m", "").await;
    told(
        &t,
        "create an imperative",
        "create configmap i --from-literal=a=b",
        "",
    )
    .await;
    told(
        &t,
        "apply server-side",
        "apply --server-side -f -",
        &map.to_string(),
    )
    .await;
}

pub async fn cordon_drain(t: Talk) {
    let node = t.node().await;
    told(&t, "cordon", &format!("cordon {node}"), "").await;
    t.parts(
        "cordoned",
        &t.get(&format!("/api/v1/nodes/{node}")).await,
        &["/spec/unschedulable"],
    );
    told(&t, "cordon again", &format!("cordon {node}"), "").await;
    told(&t, "uncordon", &format!("uncordon {node}"), "").await;
    t.parts(
        "uncordoned",
        &t.get(&format!("/api/v1/nodes/{node}")).await,
        &["/spec/unschedulable"],
    );
    let mut web = pod("web", &node);
    web["metadata"]["labels"][super::subject::KUBELET] = json!("plays");
    web["spec"]["terminationGracePeriodSeconds"] = json!(1);
    t.pod(web, running()).await;
    told(
        &t,
        "drain what nobody controls",
        &format!("drain {node} --timeout=5s"),
        "",
    )
    .await;
    t.post(&t.pdb(""), budget("b", json!({"minAvailable": 1})))
        .await
        .ok();
    super::budgets::settled(&t, "b", |s| s["currentHealthy"] == 1).await;
    let refused = t.kubectl(&format!("drain {node} --force --timeout=3s"), "").await;
    if let Some((ok, text)) = refused {
        let words = "Cannot evict pod as it would violate the pod's disruption budget";
        t.note("drain against a budget", json!([ok, text.contains(words)]));
    }
    t.delete(&t.pdb("/b"), json!({})).await.ok();
    told(&t, "drain", &format!("drain {node} --force --timeout=60s"), "").await;
    if t.subject.kubectl.is_some() {
        t.expect("the pod is gone", 404, t.get(&t.core("pods/web")).await);
        t.parts(
            "drained",
            &t.get(&format!("/api/v1/nodes/{node}")).await,
            &["/spec/unschedulable"],
        );
    }
}

pub async fn wait(t: Talk) {
    let node = t.node().await;
    told(
        &t,
        "ready",
        &format!("wait --for=condition=Ready node/{node} --timeout=20s"),
        "",
    )
    .await;
    told(
        &t,
        "not in time",
        &format!("wait --for=condition=Odd node/{node} --timeout=1s"),
        "",
    )
    .await;
    let label = format!("wait --for=jsonpath={{.metadata.labels.slot}}=b node/{node} --timeout=30s");
    let waits = told(&t, "a label that comes", &label, "");
    let comes = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        t.merge(
            &format!("/api/v1/nodes/{node}"),
            json!({"metadata": {"labels": {"slot": "b"}}}),
        )
        .await
        .ok();
    };
    tokio::join!(waits, comes);
    t.post(custom::WIDGETS, custom::widget(&t.ns)).await.ok();
    let widget = format!("{}/{}", custom::WIDGETS, t.ns);
    let gone = format!("wait --for=delete widget/{} --timeout=30s", t.ns);
    let waits = t.kubectl(&gone, "");
    let goes = async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        t.delete(&widget, json!({})).await.ok();
    };
    // What it prints depends on whether it still sees the object.
    let (waited, ()) = tokio::join!(waits, goes);
    t.note("an object that goes", json!(waited.map(|(ok, _)| ok)));
    told(
        &t,
        "a CRD",
        "wait --for=condition=Established crd/nodeupgrades.drydock.dev --timeout=20s",
        "",
    )
    .await;
}

pub async fn watch(t: Talk) {
    let node = t.node().await;
    t.map("first").await;
    let Some(mut nodes) = lines(&t, &format!("get node {node} -w")) else {
        return;
    };
    let mut seen = vec![next(&mut nodes).await, next(&mut nodes).await];
    told(&t, "cordon", &format!("cordon {node}"), "").await;
    seen.push(next(&mut nodes).await);
    t.note("a node", json!(seen));
    let mut maps = lines(&t, "get configmaps -w --output-watch-events --no-headers").unwrap();
    let mut seen: Vec<Value> = vec![next(&mut maps).await];
    t.map("second").await;
    t.delete(&t.core("configmaps/second"), json!({})).await.ok();
    seen.push(next(&mut maps).await);
    seen.push(next(&mut maps).await);
    t.note("config maps", json!(seen));
}

struct Lines {
    _child: tokio::process::Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

fn lines(t: &Talk, args: &str) -> Option<Lines> {
    let mut child = t.command(args)?.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    Some(Lines { _child: child, lines })
}

async fn next(lines: &mut Lines) -> Value {
    let line = tokio::time::timeout(std::time::Duration::from_secs(40), lines.lines.next_line());
    json!(plain(
        &line.await.expect("a line in time").unwrap().expect("it runs on")
    ))
}
