//! A static web server for a folder of releases, as any CDN or object store would be one. It reads
//! below its folder only, and counts what it was asked for and the bytes that it sent.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use axum::response::{IntoResponse as _, Response};
use axum::serve::ListenerExt as _;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, SeekFrom};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::io::ReaderStream;
use url::Url;

/// Read from a file at a time: with less, this server is what limits a node.
const PIECE_BYTES: usize = 256 * 1024;

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
    /// By the folder of the file: `metadata`, `targets`, `indexes`, `packs`, `deltas`.
    sent: Mutex<BTreeMap<String, Sent>>,
}

impl Shelf {
    fn note(&self, path: &Path, bytes: u64) {
        let folder = path.parent().and_then(Path::file_name);
        let folder = folder.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = sent.entry(folder).or_default();
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
        // As web servers do: without it the end of an answer waits for the node's delayed acknowledgement.
        let listener = listener.tap_io(|connection| {
            if let Err(error) = connection.set_nodelay(true) {
                tracing::warn!(%error, "a connection of the file server may be slow");
            }
        });
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

    /// What was sent so far, by the folder of the file.
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

async fn send(State(shelf): State<Arc<Shelf>>, request: Request) -> Response {
    let asked = percent_encoding::percent_decode_str(request.uri().path())
        .decode_utf8_lossy()
        .into_owned();
    let relative = Path::new(asked.trim_start_matches('/'));
    if !relative
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let range = request.headers().get(RANGE).and_then(|range| range.to_str().ok());
    match open(&shelf.folder.join(relative), range).await {
        Ok((response, bytes)) => {
            shelf.note(relative, bytes);
            response
        }
        Err(_) => {
            shelf.note(relative, 0);
            StatusCode::NOT_FOUND.into_response()
        }
    }
}

/// A file, or the range of it that was asked for, and how many bytes that is.
async fn open(path: &Path, range: Option<&str>) -> std::io::Result<(Response, u64)> {
    let mut file = tokio::fs::File::open(path).await?;
    let metadata = file.metadata().await?;
    if !metadata.is_file() {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    let whole = metadata.len();
    let wanted = range
        .and_then(bounds)
        .map(|(first, last)| first..last.min(whole.saturating_sub(1)) + 1);
    let Some(wanted) = wanted else {
        return Ok((
            Body::from_stream(ReaderStream::with_capacity(file, PIECE_BYTES)).into_response(),
            whole,
        ));
    };
    if wanted.is_empty() {
        let of = [(CONTENT_RANGE, format!("bytes */{whole}"))];
        return Ok(((StatusCode::RANGE_NOT_SATISFIABLE, of).into_response(), 0));
    }
    file.seek(SeekFrom::Start(wanted.start)).await?;
    let bytes = wanted.end - wanted.start;
    let of = [
        (
            CONTENT_RANGE,
            format!("bytes {}-{}/{whole}", wanted.start, wanted.end - 1),
        ),
        (CONTENT_LENGTH, bytes.to_string()),
    ];
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(bytes), PIECE_BYTES));
    Ok(((StatusCode::PARTIAL_CONTENT, of, body).into_response(), bytes))
}

/// The first and the last byte of `bytes=FIRST-LAST` or `bytes=FIRST-`; what else a range may be is served
/// whole, as a server is free to.
fn bounds(range: &str) -> Option<(u64, u64)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let last = if last.is_empty() {
        Some(u64::MAX - 1)
    } else {
        last.parse().ok()
    };
    Some((first.parse().ok()?, last?))
}
