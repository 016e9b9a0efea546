//! The fetcher as tough sees it. A file that does not exist is told apart from one that could not be
//! fetched, because for the next root the first is the end of the chain and the second must not be.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream;
use tough::{Transport, TransportError, TransportErrorKind, TransportStream};
use url::Url;

use crate::fetch::Fetcher;
use crate::layout::TIMESTAMP_FILE;
use crate::repository::Limits;

/// Where metadata come from.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub fetcher: Arc<Fetcher>,
    pub mirrors: AskedMirrors,
}

/// Which mirrors are asked for metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AskedMirrors {
    /// All, as for any other file.
    All,
    /// One alone, once for each file.
    One(usize),
}

/// Fetches metadata for tough, each file whole and bounded.
#[derive(Debug, Clone)]
pub(super) struct MetadataTransport {
    pub origin: Origin,
    pub limits: Limits,
}

impl MetadataTransport {
    /// The bound of a file, by its name: bytes that come slowly but steadily earn time, so each file has
    /// no more of them than its own role needs.
    fn max_bytes(&self, url: &Url) -> u64 {
        let name = url.path().rsplit('/').next().unwrap_or_default();
        let role = |role: &str| name == role || name.ends_with(&format!(".{role}"));
        if name == TIMESTAMP_FILE {
            self.limits.timestamp_bytes
        } else if role("root.json") {
            self.limits.root_bytes
        } else if role("snapshot.json") {
            self.limits.snapshot_bytes
        } else {
            self.limits.targets_bytes
        }
    }
}

#[async_trait]
impl Transport for MetadataTransport {
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        let Origin { fetcher, mirrors } = &self.origin;
        let fetched = match mirrors {
            AskedMirrors::All => fetcher.fetch(&url, self.max_bytes(&url)).await,
            AskedMirrors::One(mirror) => fetcher.fetch_from(*mirror, &url, self.max_bytes(&url)).await,
        };
        match fetched {
            Ok(bytes) => Ok(Box::pin(stream::iter([Ok(bytes)]))),
            Err(error) if error.is_not_found() => Err(TransportError::new_with_cause(
                TransportErrorKind::FileNotFound,
                url,
                error,
            )),
            // tough takes an error of this call, while it looks for the next root, for "there is none",
            // and goes on with the old one. An error inside the stream ends the load.
            Err(error) => {
                let failed = TransportError::new_with_cause(TransportErrorKind::Other, url, error);
                Ok(Box::pin(stream::iter([Err(failed)])))
            }
        }
    }
}
