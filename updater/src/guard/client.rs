//! The other end of the guard's socket, for agent and command line. One connection per request.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use drydock_machine::{GuardStatus, Reply, Request};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::socket::{encode, read_line};

/// Why a request was not followed.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error(
        "the guard does not answer on {}: {source}; start it with `systemctl start drydock-guard.service`",
        socket.display()
    )]
    Away {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the guard refused: {text}")]
    Refused { code: String, text: String },
}

impl AskError {
    /// A short word for programs.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Away { .. } => "NoGuard",
            Self::Refused { code, .. } => code,
        }
    }
}

/// Asks the guard of one node.
#[derive(Debug, Clone)]
pub struct GuardClient {
    socket: PathBuf,
    patience: Duration,
}

impl GuardClient {
    #[must_use]
    pub fn new(socket: &Path, patience: Duration) -> Self {
        Self {
            socket: socket.to_owned(),
            patience,
        }
    }

    /// # Errors
    /// See [`AskError`]. After [`AskError::Away`] the request may have been followed all the same.
    pub async fn ask(&self, request: &Request) -> Result<GuardStatus, AskError> {
        let away = |source| AskError::Away {
            socket: self.socket.clone(),
            source,
        };
        let answered = tokio::time::timeout(self.patience, self.talk(request)).await;
        let late = || {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer within {:?}", self.patience),
            )
        };
        match answered.unwrap_or_else(|_| Err(late())).map_err(away)? {
            Reply::Done(status) => Ok(*status),
            Reply::Refused { code, text } => Err(AskError::Refused { code, text }),
        }
    }

    async fn talk(&self, request: &Request) -> io::Result<Reply> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        stream.write_all(&encode(request)?).await?;
        let line = read_line(&mut BufReader::new(stream)).await?;
        let line = line.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up"))?;
        Ok(serde_json::from_slice(&line)?)
    }
}
