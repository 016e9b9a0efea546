//! Where a repository is, what is trusted at the start, and within which bounds it is fetched. Nothing
//! is fetched here.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;

use url::Url;

use crate::fetch::{Fetcher, RetryPolicy, Timeouts};
use crate::trust::{StoreWatch, Unwatched};

/// [`RepositoryConfig::parallel_requests`] where nothing else is said.
pub const DEFAULT_PARALLEL_REQUESTS: usize = 3;

/// The most bytes of each metadata file, and the most roots in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of root.json.
    pub root_bytes: u64,
    /// Of timestamp.json.
    pub timestamp_bytes: u64,
    /// Of snapshot.json.
    pub snapshot_bytes: u64,
    /// Of targets.json.
    pub targets_bytes: u64,
    /// New roots since the one that is trusted.
    pub root_updates: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            root_bytes: 512 * 1024,
            timestamp_bytes: 64 * 1024,
            snapshot_bytes: 512 * 1024,
            targets_bytes: 8 * 1024 * 1024,
            root_updates: 1024,
        }
    }
}

/// Where a repository is and what is trusted at the start.
#[derive(Debug, Clone)]
pub struct RepositoryConfig {
    /// What it is called in messages.
    pub name: String,
    /// Its https, http or file URL; `metadata/`, `targets/`, `chunks/` and `indexes/` are below it.
    pub url: Url,
    /// URLs of other places that hold the same files. One that fails, or whose files are not as signed,
    /// is left for the next. What they hold is trusted no more and no less than what `url` holds.
    pub mirrors: Vec<Url>,
    /// The bytes of the root.json that came with this machine's own image or configuration.
    pub shipped_root: Vec<u8>,
    /// The folder where the newest root, timestamp and snapshot are remembered; one per repository.
    pub datastore: PathBuf,
    /// Told of every write to it; nobody where nothing else is said.
    pub watch: Arc<dyn StoreWatch>,
    /// Bounds of the metadata.
    pub limits: Limits,
    /// How fast one try of a fetch must go on.
    pub timeouts: Timeouts,
    /// How often a fetch is tried again.
    pub retry: RetryPolicy,
    /// The most files that are fetched at a time. Plain web servers queue few connections, and what
    /// does not fit is dropped and costs a second each.
    pub parallel_requests: usize,
    /// What all its fetches together may receive; no limit where nothing else is said.
    pub max_bytes_per_second: Option<NonZeroU64>,
    /// Further certificate authorities for https, in PEM; may be empty.
    pub ca_certificates_pem: Vec<u8>,
}

impl RepositoryConfig {
    /// A configuration with default bounds, timeouts and retries.
    #[must_use]
    pub fn new(name: impl Into<String>, url: Url, shipped_root: Vec<u8>, datastore: PathBuf) -> Self {
        Self {
            name: name.into(),
            url,
            mirrors: Vec::new(),
            shipped_root,
            datastore,
            watch: Arc::new(Unwatched),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            retry: RetryPolicy::default(),
            parallel_requests: DEFAULT_PARALLEL_REQUESTS,
            max_bytes_per_second: None,
            ca_certificates_pem: Vec::new(),
        }
    }

    /// What fetches from all its places.
    pub(super) fn fetcher(&self, base: &Url) -> Result<Fetcher, String> {
        let mut bases = vec![base.clone()];
        for mirror in &self.mirrors {
            let folder = folder_url(mirror)?;
            if bases.contains(&folder) {
                return Err(format!(
                    "the mirror {mirror} is named twice, or is the repository's own URL"
                ));
            }
            bases.push(folder);
        }
        let (timeouts, retry) = (self.timeouts.clone(), self.retry.clone());
        let fetcher = Fetcher::new(timeouts, retry, self.parallel_requests, &self.ca_certificates_pem)?;
        let fetcher = fetcher.with_mirrors(bases);
        Ok(match self.max_bytes_per_second {
            Some(most) => fetcher.with_limit(most),
            None => fetcher,
        })
    }
}

/// The URL with a slash at its end, so that what is below it can be joined to it.
pub(super) fn folder_url(url: &Url) -> Result<Url, String> {
    if !matches!(url.scheme(), "https" | "http" | "file") {
        return Err(format!(
            "its URL {url} has scheme {}; write https, http or file",
            url.scheme()
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!(
            "its URL {url} has a query or a fragment, to which no file can be joined"
        ));
    }
    let mut folder = url.clone();
    if !folder.path().ends_with('/') {
        folder.set_path(&format!("{}/", url.path()));
    }
    Ok(folder)
}
