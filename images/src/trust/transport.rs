//! The fetcher as tough sees it. A file that does not exist is told apart from one that could not be
//! fetched, because for the next root the first is the end of the chain and the second must not be.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream;
use tough::{Transport, TransportError, TransportErrorKind, TransportStream};
use url::Url;

use crate::fetch::Fetcher;

/// Fetches metadata for tough, each file whole and bounded.
#[derive(Debug, Clone)]
pub(super) struct MetadataTransport {
    pub fetcher: Arc<Fetcher>,
    pub max_bytes: u64,
}

#[async_trait]
impl Transport for MetadataTransport {
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        match self.fetcher.fetch(&url, self.max_bytes).await {
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
