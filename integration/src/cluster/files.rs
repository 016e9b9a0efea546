//! A static web server for a folder of releases, as any CDN or object store would be one. It reads
//! below its folder only, and counts the bytes that it sent.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use url::Url;

struct Shelf {
    folder: PathBuf,
    sent_bytes: AtomicU64,
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
            sent_bytes: AtomicU64::new(0),
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
        self.shelf.sent_bytes.load(Ordering::Relaxed)
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
    match tokio::fs::read(shelf.folder.join(relative)).await {
        Ok(bytes) => {
            shelf.sent_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            bytes.into_response()
        }
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}
