//! The guard's Unix socket, for root alone: one JSON request per line, one JSON answer per line.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use drydock_machine::{MAX_LINE_BYTES, Reply, Request};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::Message;

/// Connections at the same time; more wait.
const MAX_CONNECTIONS: usize = 16;

/// Only the guard that holds the journal's lock gets here, so a socket that is there is a dead one's.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

pub(super) async fn serve(listener: UnixListener, to_loop: mpsc::Sender<Message>, idle: Duration) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Ok(permit) = room.clone().acquire_owned().await {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                let to_loop = to_loop.clone();
                connections.spawn(async move {
                    let _permit = permit;
                    if let Err(error) = talk(stream, &to_loop, idle).await {
                        tracing::debug!("a connection to the guard ended: {error}");
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, say: there is nothing to do but wait.
                tracing::warn!("cannot take a connection: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn talk(stream: UnixStream, to_loop: &mpsc::Sender<Message>, idle: Duration) -> io::Result<()> {
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::new(from);
    loop {
        let line = match tokio::time::timeout(idle, read_line(&mut from)).await {
            Ok(line) => line?,
            Err(_) => return Ok(()),
        };
        let Some(line) = line else { return Ok(()) };
        let reply = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => {
                let (answer, answered) = oneshot::channel();
                let stopping = || io::Error::other("the guard is stopping");
                to_loop
                    .send(Message::Ask(request, answer))
                    .await
                    .map_err(|_| stopping())?;
                answered.await.map_err(|_| stopping())?
            }
            Err(error) => Reply::Refused {
                code: "NotUnderstood".to_owned(),
                text: format!("the guard does not understand the request: {error}"),
            },
        };
        to.write_all(&encode(&reply)?).await?;
    }
}

/// One line with its line feed, bounded.
pub(super) fn encode<T: serde::Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    if line.len() > MAX_LINE_BYTES {
        return Err(io::Error::other(format!(
            "{} bytes, more than {MAX_LINE_BYTES}",
            line.len()
        )));
    }
    Ok(line)
}

/// The next line; `None` at the end.
pub(super) async fn read_line<R: tokio::io::AsyncRead + Unpin>(
    from: &mut BufReader<R>,
) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let bound = u64::try_from(MAX_LINE_BYTES).unwrap_or(u64::MAX);
    from.take(bound).read_until(b'\n', &mut line).await?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a line without end, or longer than {MAX_LINE_BYTES} bytes"),
        )),
    }
}
