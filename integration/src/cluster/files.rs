//! A static web server for a folder of releases, as any CDN or object store would be one. It reads
//! below its folder only, and counts what it was asked for and the bytes that it sent.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use url::Url;

/// What was asked for, and what was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Requests, those for files that do not exist included.
    pub requests: u64,
    /// Bytes of file contents.
    pub bytes: u64,
}

struct Shelf {
    folder: PathBuf,
    /// By the first part of the path: `metadata`, `targets`, `indexes`, `chunks`.
    sent: Mutex<BTreeMap<String, Sent>>,
}

impl Shelf {
    fn note(&self, path: &Path, bytes: u64) {
        let first = path.components().next().map_or_else(String::new, |part| {
            part.as_os_str().to_string_lossy().into_owned()
        });
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = sent.entry(first).or_default();
        sent.requests += 1;
        sent.bytes += bytes;
    }
}

/// A running server; it ends when this is dropped.
pub struct FileServer {
    url: Url,
    shelf: Arc<Shelf>,
    task: JoinHandle<()>,
}

impl FileServer {
    /// Serves `folder` at a free port of the loopback interface.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start(folder: &Path) -> std::io::Result<Self> {
        let shelf = Arc::new(Shelf {
            folder: folder.to_owned(),
            sent: Mutex::default(),
        });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}/", listener.local_addr()?);
        let url = url.parse().map_err(std::io::Error::other)?;
        let app = Router::new().fallback(send).with_state(shelf.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "the file server ended");
            }
        });
        Ok(Self { url, shelf, task })
    }

    /// Where it is; ends with a slash.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Bytes of file contents sent so far.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.sent().values().map(|sent| sent.bytes).sum()
    }

    /// What was sent so far, by the first part of the path.
    #[must_use]
    pub fn sent(&self) -> BTreeMap<String, Sent> {
        let sent = self.shelf.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.clone()
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn send(State(shelf): State<Arc<Shelf>>, uri: Uri) -> Response {
    let asked = percent_encoding::percent_decode_str(uri.path())
        .decode_utf8_lossy()
        .into_owned();
    let relative = Path::new(asked.trim_start_matches('/'));
    if !relative
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let found = tokio::fs::read(shelf.folder.join(relative)).await;
    shelf.note(relative, found.as_ref().map_or(0, |bytes| bytes.len() as u64));
    match found {
        Ok(bytes) => bytes.into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}
