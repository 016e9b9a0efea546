//! Requests with their whole answer: code, warnings and body.

use std::time::Duration;

use kube::client::Body;
use serde_json::Value;

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    /// The texts of `Warning` headers, which clients show to people.
    pub warnings: Vec<String>,
    pub body: Value,
}

impl Answer {
    /// The Status' message.
    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    /// The body of a success without warnings.
    pub fn clean(self) -> Value {
        assert!(
            (200..300).contains(&self.code) && self.warnings.is_empty(),
            "{self:#?}"
        );
        self.body
    }
}

pub async fn ask(client: &kube::Client, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let kind = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let bytes = body.map_or_else(Vec::new, |body| serde_json::to_vec(body).unwrap());
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .body(Body::from(bytes))
        .unwrap();
    let answer = client.send(request).await.unwrap();
    let warnings = answer.headers().get_all("warning").iter();
    let warnings = warnings.map(|text| text.to_str().unwrap().to_owned()).collect();
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect_bytes().await.unwrap();
    let body = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    Answer { code, warnings, body }
}

pub async fn get(client: &kube::Client, path: &str) -> Answer {
    ask(client, "GET", path, None).await
}

pub async fn post(client: &kube::Client, path: &str, body: &Value) -> Answer {
    ask(client, "POST", path, Some(body)).await
}

/// Asks until the answer is what is wanted; the last answer if it never is.
pub async fn until<F: Future<Output = Answer>>(
    patience: Duration,
    mut ask: impl FnMut() -> F,
    is_wanted: impl Fn(&Answer) -> bool,
) -> Answer {
    let end = tokio::time::Instant::now() + patience;
    loop {
        let answer = ask().await;
        if is_wanted(&answer) {
            return answer;
        }
        assert!(
            tokio::time::Instant::now() < end,
            "not within {patience:?}: {answer:#?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
