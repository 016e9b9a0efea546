//! What the embedded API must hold, asked over the wire: raw calls for the shapes that clients rely on,
//! the kube client and the real kubectl for what is done with them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod crud;
mod custom;
mod deletion;
mod eviction;
mod hooks;
mod kinds;
mod kubectl;
mod lists;
mod not_served;
mod patches;
mod replace;
mod schemas;
mod versions;
mod watches;

use std::time::Duration;

use drydock_integration::apiserver::{ApiServer, ServerConfig};
use futures::{AsyncBufReadExt, TryStreamExt};
use serde_json::{Value, json};

/// An answer: code, headers, body (a text when it is not JSON).
pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn reason(&self) -> &str {
        self.body["reason"].as_str().unwrap_or_default()
    }

    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    pub fn version(&self) -> u64 {
        self.body["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    }

    #[track_caller]
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.code), "{} {}", self.code, self.body);
        self.body
    }

    #[track_caller]
    pub fn fails(&self, code: u16, reason: &str) -> &str {
        assert_eq!((self.code, self.reason()), (code, reason), "{}", self.body);
        self.message()
    }
}

/// One user's raw calls.
#[derive(Clone)]
pub struct Caller(kube::Client);

impl Caller {
    pub async fn new(server: &ApiServer, user: &str) -> Caller {
        Caller(server.client(user).await.unwrap())
    }

    pub async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Answer {
        self.try_call(method, path, headers, body).await.unwrap()
    }

    pub async fn try_call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, kube::Error> {
        let mut request = http::Request::builder().method(method).uri(path);
        for (key, value) in headers {
            request = request.header(*key, *value);
        }
        let bytes = body.map(|b| b.to_string().into_bytes()).unwrap_or_default();
        let response = self
            .0
            .send(request.body(kube::client::Body::from(bytes)).unwrap())
            .await?;
        let (parts, body) = response.into_parts();
        let bytes = body.collect_bytes().await?;
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
        Ok(Answer {
            code: parts.status.as_u16(),
            headers: parts.headers,
            body,
        })
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], None).await
    }

    pub async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.call("GET", path, &[("accept", accept)], None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, &[("content-type", "application/json")], Some(&body))
            .await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.call("PUT", path, &[("content-type", "application/json")], Some(&body))
            .await
    }

    pub async fn merge(&self, path: &str, body: Value) -> Answer {
        self.call(
            "PATCH",
            path,
            &[("content-type", "application/merge-patch+json")],
            Some(&body),
        )
        .await
    }

    pub async fn strategic(&self, path: &str, body: Value) -> Answer {
        self.call(
            "PATCH",
            path,
            &[("content-type", "application/strategic-merge-patch+json")],
            Some(&body),
        )
        .await
    }

    pub async fn delete(&self, path: &str, body: Value) -> Answer {
        self.call(
            "DELETE",
            path,
            &[("content-type", "application/json")],
            Some(&body),
        )
        .await
    }

    pub async fn watch(&self, path: &str) -> Events {
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        let lines = self.0.request_stream(request).await.unwrap();
        Events {
            lines: Box::pin(AsyncBufReadExt::lines(lines).map_err(|e| e.to_string())),
        }
    }
}

/// The events of a watch.
pub struct Events {
    lines: std::pin::Pin<Box<dyn futures::Stream<Item = Result<String, String>> + Send>>,
}

impl Events {
    /// The next event: its type and its object.
    pub async fn next(&mut self) -> (String, Value) {
        self.try_next().await.expect("the watch goes on")
    }

    pub async fn try_next(&mut self) -> Option<(String, Value)> {
        let line = tokio::time::timeout(Duration::from_secs(20), self.lines.try_next())
            .await
            .expect("an event in time");
        let event: Value = serde_json::from_str(&line.ok()??).unwrap();
        Some((
            event["type"].as_str().unwrap().to_owned(),
            event["object"].clone(),
        ))
    }

    /// The next event that is no bookmark, as type and name.
    pub async fn next_named(&mut self) -> (String, String) {
        loop {
            let (kind, object) = self.next().await;
            if kind != "BOOKMARK" {
                return (
                    kind,
                    object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
                );
            }
        }
    }
}

pub async fn server() -> ApiServer {
    ApiServer::start(ServerConfig::default()).await.unwrap()
}

pub async fn server_and_caller() -> (ApiServer, Caller) {
    let server = server().await;
    let caller = Caller::new(&server, "tester").await;
    (server, caller)
}

pub fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"pool": "a"}}, "spec": {}, "status": {}})
}

pub fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": {"key": value}})
}

pub fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "busybox:1"}]},
    })
}

/// A pod that runs and is ready.
pub fn running(name: &str, node: &str) -> Value {
    let mut pod = pod(name, node);
    pod["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    pod
}

/// Wait until `probe` gives something, looking again after each write.
pub async fn eventually<T>(server: &ApiServer, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let mut writes = server.audit().subscribe();
    let search = async {
        loop {
            if let Some(found) = probe() {
                return found;
            }
            writes.recv().await.expect("the server runs");
        }
    };
    tokio::time::timeout(Duration::from_secs(20), search)
        .await
        .unwrap_or_else(|_| panic!("{what}: not in time"))
}
