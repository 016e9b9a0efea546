//! A case's talk with one server: raw calls in a namespace of its own, and what is written down of the
//! answers.

use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{AsyncBufReadExt, Stream, TryStreamExt};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::subject::Subject;
use super::transcript::Transcript;

/// How long is waited for what a controller does.
const PATIENCE: Duration = Duration::from_secs(40);

/// An answer: code, warnings, body (a text when it is not JSON).
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub warnings: Vec<String>,
    pub body: Value,
}

impl Answer {
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.code), "{} {}", self.code, self.body);
        self.body
    }

    pub fn version(&self) -> String {
        let version = &self.body["metadata"]["resourceVersion"];
        version.as_str().unwrap_or_default().to_owned()
    }

    /// A set: the real server names some twice, and several in no certain order.
    fn causes(&self) -> Value {
        let mut causes = self.body["details"]["causes"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for cause in &mut causes {
            if cause["field"] == "patch" {
                cause["message"] = json!(tail(cause["message"].as_str().unwrap_or_default()));
            }
        }
        causes.sort_by_key(Value::to_string);
        causes.dedup();
        json!(causes)
    }

    /// The message, where it is the server's own and not that of what reads JSON, selectors or tokens for
    /// it: those are Go's words there, and Rust's here, and nobody may look for them.
    fn words(&self, causes: &Value) -> Value {
        const READERS: [&str; 10] = [
            "json parse error",
            "cannot be handled as",
            "the object provided is unrecognized",
            "the API version in the data",
            "error decoding patch",
            "Invalid JSON Patch",
            "invalid continue token",
            "unable to parse requirement",
            "found '",
            "parsing time",
        ];
        let message = self.body["message"].as_str().unwrap_or_default();
        let causes = causes.as_array().map_or(&[][..], Vec::as_slice);
        if causes.len() > 1 {
            return json!("(its causes)");
        }
        if causes.iter().any(|cause| cause["field"] == "patch") {
            return json!(tail(message));
        }
        let is_strict = message.contains("strict decoding error");
        if matches!(self.code, 405 | 406 | 415)
            || (!is_strict && self.code == 400 && READERS.iter().any(|words| message.contains(words)))
        {
            return json!("(words)");
        }
        self.body["message"].clone()
    }

    /// Code, and of a Status that refuses what clients and people read in it.
    pub fn outcome(&self) -> Value {
        let mut told = json!({"code": self.code});
        if self.code >= 400 || self.body["kind"] == "Status" {
            told["status"] = self.body["status"].clone();
            told["reason"] = self.body["reason"].clone();
            told["causes"] = self.causes();
            told["message"] = self.words(&told["causes"]);
            let retry = &self.body["details"]["retryAfterSeconds"];
            if !retry.is_null() {
                told["retryAfterSeconds"] = retry.clone();
            }
        }
        if !self.warnings.is_empty() {
            told["warnings"] = json!(self.warnings);
        }
        told
    }
}

/// What is said of a patched object, without the object; and not the words of what reads JSON.
fn tail(message: &str) -> &str {
    match message.rfind("strict decoding error") {
        Some(at) => &message[at..],
        None => "(words)",
    }
}

/// One case on one server.
#[derive(Clone)]
pub struct Talk {
    pub subject: Arc<Subject>,
    pub transcript: Transcript,
    /// A namespace of its own; also a good stem for names in no namespace.
    pub ns: String,
}

impl Talk {
    /// Start with a new namespace.
    pub async fn begin(subject: Arc<Subject>, case: &str, transcript: Transcript) -> Talk {
        let ns = case.replace("::", "-").replace('_', "-");
        let talk = Talk {
            subject,
            transcript,
            ns,
        };
        talk.post("/api/v1/namespaces", json!({"metadata": {"name": talk.ns}}))
            .await
            .ok();
        talk
    }

    /// The path of a core kind (`configmaps`, `pods/p`) in the namespace.
    pub fn core(&self, rest: &str) -> String {
        format!("/api/v1/namespaces/{}/{rest}", self.ns)
    }

    /// The same of a kind of another group: `policy/v1`, `poddisruptionbudgets/b`.
    pub fn of(&self, group: &str, rest: &str) -> String {
        format!("/apis/{group}/namespaces/{}/{rest}", self.ns)
    }

    pub fn pdb(&self, rest: &str) -> String {
        self.of("policy/v1", &format!("poddisruptionbudgets{rest}"))
    }

    /// Write a step down.
    pub fn note(&self, step: &str, told: Value) {
        self.transcript.note(step, told);
    }

    /// Write an answer's outcome down, and give it back.
    pub fn told(&self, step: &str, answer: Answer) -> Answer {
        self.note(step, answer.outcome());
        answer
    }

    /// The same for an answer that must have this code, on both servers.
    #[track_caller]
    pub fn expect(&self, step: &str, code: u16, answer: Answer) -> Answer {
        let answer = self.told(step, answer);
        assert_eq!(answer.code, code, "{step}: {}", answer.body);
        answer
    }

    /// Write down these parts of the body, by JSON pointers, with the outcome.
    pub fn parts(&self, step: &str, answer: &Answer, pointers: &[&str]) {
        let mut told = answer.outcome();
        for pointer in pointers {
            told[*pointer] = answer.body.pointer(pointer).cloned().unwrap_or_default();
        }
        self.note(step, told);
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
        let mut request = http::Request::builder().method(method).uri(path);
        for (key, value) in headers {
            request = request.header(*key, *value);
        }
        let text = match &body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        self.ask(request, text).await
    }

    /// With a body that need not be JSON.
    pub async fn raw(&self, method: &str, path: &str, kind: &str, body: &str) -> Answer {
        let request = http::Request::builder().method(method).uri(path);
        self.ask(request.header("content-type", kind), body.to_owned())
            .await
    }

    async fn ask(&self, request: http::request::Builder, body: String) -> Answer {
        let bytes = body.into_bytes();
        let client = &self.subject.client;
        let answer = client
            .send(request.body(Body::from(bytes)).unwrap())
            .await
            .unwrap();
        let warnings = answer.headers().get_all("warning").iter();
        let warnings = warnings.map(|w| w.to_str().unwrap().to_owned()).collect();
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect_bytes().await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
        Answer { code, warnings, body }
    }

    async fn typed(&self, method: &str, path: &str, kind: &str, body: Value) -> Answer {
        self.send(method, path, &[("content-type", kind)], body).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], Value::Null).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.typed("POST", path, "application/json", body).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.typed("PUT", path, "application/json", body).await
    }

    pub async fn delete(&self, path: &str, body: Value) -> Answer {
        self.typed("DELETE", path, "application/json", body).await
    }

    pub async fn merge(&self, path: &str, body: Value) -> Answer {
        self.typed("PATCH", path, "application/merge-patch+json", body)
            .await
    }

    pub async fn json_patch(&self, path: &str, body: Value) -> Answer {
        self.typed("PATCH", path, "application/json-patch+json", body)
            .await
    }

    pub async fn strategic(&self, path: &str, body: Value) -> Answer {
        self.typed("PATCH", path, "application/strategic-merge-patch+json", body)
            .await
    }

    /// Ask until the answer is what is wanted.
    pub async fn until(&self, what: &str, path: &str, is_wanted: impl Fn(&Answer) -> bool) -> Answer {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.get(path).await;
            if is_wanted(&answer) {
                return answer;
            }
            assert!(Instant::now() < end, "{what}: not in time: {}", answer.body);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub async fn until_gone(&self, path: &str) {
        self.until("it goes", path, |a| a.code == 404).await;
    }

    pub async fn watch(&self, path: &str) -> Events {
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        let lines = self.subject.client.request_stream(request).await.unwrap();
        Events(Box::pin(lines.lines().map_err(|e| e.to_string())))
    }

    /// A config map in the namespace.
    pub async fn map(&self, name: &str) -> Value {
        self.post(&self.core("configmaps"), config_map(name)).await.ok()
    }

    /// A node, named after the namespace, that is ready.
    pub async fn node(&self) -> String {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.ns}});
        self.post("/api/v1/nodes", node).await.ok();
        let ready = json!({"conditions": [{"type": "Ready", "status": "True"}], "capacity": {"cpu": "4", "pods": "110"}, "allocatable": {"cpu": "4", "pods": "110"}});
        let path = format!("/api/v1/nodes/{}", self.ns);
        self.merge(&format!("{path}/status"), json!({"status": ready}))
            .await
            .ok();
        self.merge(&path, json!({"spec": {"taints": null}})).await.ok();
        self.ns.clone()
    }

    /// A pod, with the status that its kubelet would have written.
    pub async fn pod(&self, pod: Value, status: Value) -> Value {
        let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
        self.post(&self.core("pods"), pod).await.ok();
        let path = self.core(&format!("pods/{name}/status"));
        self.merge(&path, json!({"status": status})).await.ok()
    }

    /// kubectl: whether it succeeded, and both outputs. None: there is none here.
    pub async fn kubectl(&self, args: &str, input: &str) -> Option<(bool, String)> {
        let mut child = self.command(args)?.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // One that does not read is not our failure: its outcome is looked at.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let done = tokio::time::timeout(Duration::from_secs(90), child.wait_with_output()).await;
        let output = done
            .unwrap_or_else(|_| panic!("kubectl {args}: not in time"))
            .unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Some((output.status.success(), text))
    }

    pub fn command(&self, args: &str) -> Option<tokio::process::Command> {
        let mut command = tokio::process::Command::new(self.subject.kubectl.as_ref()?);
        command
            .args(args.split_whitespace())
            .arg(format!("--namespace={}", self.ns))
            .env("KUBECONFIG", self.subject.home.path().join("config"))
            .env("HOME", self.subject.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Some(command)
    }
}

/// The events of a watch.
pub struct Events(Pin<Box<dyn Stream<Item = Result<String, String>> + Send>>);

impl Events {
    /// The next event; none when the watch has ended.
    pub async fn next(&mut self) -> Option<(String, Value)> {
        let line = tokio::time::timeout(PATIENCE, self.0.try_next()).await;
        let event: Value = serde_json::from_str(&line.expect("an event in time").ok()??).unwrap();
        Some((
            event["type"].as_str().unwrap().to_owned(),
            event["object"].clone(),
        ))
    }

    /// The next `count` events that are no bookmarks, as "TYPE name".
    pub async fn names(&mut self, count: usize) -> Value {
        let mut told = Vec::new();
        while told.len() < count {
            let (kind, object) = self.next().await.expect("the watch goes on");
            if kind != "BOOKMARK" {
                told.push(format!(
                    "{kind} {}",
                    object["metadata"]["name"].as_str().unwrap_or("-")
                ));
            }
        }
        json!(told)
    }
}

pub fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": "1"}})
}

/// A pod on a node, with labels `app: web`.
pub fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "busybox:1"}]},
    })
}

/// The status of a pod that runs and is ready.
pub fn running() -> Value {
    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})
}

/// An object without what is empty.
pub fn lean(object: &Value) -> Value {
    let is_empty =
        |value: &Value| value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
    match object {
        Value::Object(map) => {
            let kept = map.iter().map(|(key, value)| (key.clone(), lean(value)));
            Value::Object(kept.filter(|(_, value)| !is_empty(value)).collect())
        }
        Value::Array(items) => items.iter().map(lean).collect(),
        other => other.clone(),
    }
}

/// The names of a list's items.
pub fn names(list: &Value) -> Value {
    let items = list["items"].as_array().into_iter().flatten();
    items.map(|o| o["metadata"]["name"].clone()).collect()
}
