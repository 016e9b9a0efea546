//! A repository of releases as a node, the coordinator or an engineer sees it: verified metadata, and
//! through them every byte down to the last chunk. Nothing is handed out before it was compared with
//! what was signed.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use url::Url;

use crate::channel::{Advisory, Channel, Document, Withdrawal};
use crate::chunk::{ChunkContent, ChunkIndex, ChunkRef, MAX_FRAME_BYTES, decode_frame};
use crate::digest::Digest;
use crate::fetch::{Fetcher, RetryPolicy, Timeouts, Traffic};
use crate::layout::{self, TargetKind};
use crate::manifest::{Artifact, MAX_MANIFEST_BYTES, Manifest};
use crate::names::ChannelName;
use crate::trust::{self, AskedMirrors, Loaded, MetadataVersions, Origin, StoreWatch, TrustError, Unwatched};

/// [`RepositoryConfig::parallel_requests`] where nothing else is said.
pub const DEFAULT_PARALLEL_REQUESTS: usize = 4;

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
    fn fetcher(&self, base: &Url) -> Result<Fetcher, String> {
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

/// A chunk, and what it cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedChunk {
    /// Its bytes, compared with its digest.
    pub data: Bytes,
    /// How many bytes came over the wire for it; 0 for a run of zeros.
    pub fetched_bytes: u64,
}

/// A repository whose metadata were verified. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {
    name: String,
    base: Url,
    fetcher: Arc<Fetcher>,
    loaded: Arc<Loaded>,
}

impl Repository {
    /// Fetches and verifies the metadata as of `now`, never older than what `cfg.datastore` remembers,
    /// and remembers them. With mirrors they are all of one, the first from which they can be accepted.
    ///
    /// # Errors
    /// See [`TrustError`]; nothing of a repository may be acted on then.
    pub async fn load(cfg: &RepositoryConfig, now: Timestamp) -> Result<Self, TrustError> {
        let wrong = |detail: String| TrustError::Configuration {
            repository: cfg.name.clone(),
            detail,
        };
        let base = folder_url(&cfg.url).map_err(wrong)?;
        let fetcher = Arc::new(cfg.fetcher(&base).map_err(wrong)?);
        let loaded = load_metadata(cfg, &base, &fetcher, now).await?;
        Ok(Self {
            name: cfg.name.clone(),
            base,
            fetcher,
            loaded: Arc::new(loaded),
        })
    }

    /// What was fetched for it so far, metadata included.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.fetcher.traffic()
    }

    /// The configured name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The versions that were verified.
    #[must_use]
    pub fn versions(&self) -> MetadataVersions {
        self.loaded.versions
    }

    /// When the first of the metadata files expires.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.loaded.expires
    }

    /// The newest trusted root, as root.json.
    #[must_use]
    pub fn root(&self) -> &[u8] {
        &self.loaded.root_bytes
    }

    /// That the metadata are still current at `now`: staging and arming ask this.
    ///
    /// # Errors
    /// They have expired; load again.
    pub fn check_current(&self, now: Timestamp) -> Result<(), TrustError> {
        if now < self.expires() {
            return Ok(());
        }
        let what = format!("the metadata of repository {}", self.name);
        Err(TrustError::Expired {
            what,
            expired: self.expires(),
            now,
        })
    }

    /// Every release that is listed, in no order that means anything.
    #[must_use]
    pub fn release_digests(&self) -> Vec<Digest> {
        let digest = |kind| {
            if let TargetKind::Manifest(digest) = kind {
                Some(digest)
            } else {
                None
            }
        };
        self.kinds().filter_map(digest).collect()
    }

    /// The name of every channel.
    #[must_use]
    pub fn channel_names(&self) -> Vec<ChannelName> {
        let name = |kind| {
            if let TargetKind::Channel(name) = kind {
                Some(name)
            } else {
                None
            }
        };
        self.kinds().filter_map(name).collect()
    }

    fn kinds(&self) -> impl Iterator<Item = TargetKind> + '_ {
        self.loaded
            .targets
            .keys()
            .filter_map(|name| TargetKind::from_target_name(name))
    }

    /// Whether the signed metadata list that release.
    #[must_use]
    pub fn lists(&self, digest: &Digest) -> bool {
        self.loaded
            .targets
            .contains_key(&TargetKind::Manifest(*digest).target_name())
    }

    /// The manifest of a listed release.
    ///
    /// # Errors
    /// Not listed, not to be fetched, or not the manifest with that digest.
    pub async fn manifest(&self, digest: &Digest) -> Result<Manifest, TrustError> {
        let kind = TargetKind::Manifest(*digest);
        let what = format!("the manifest of release {digest} in repository {}", self.name);
        let Some(bytes) = self.target(&kind, &what, MAX_MANIFEST_BYTES as u64).await? else {
            return Err(TrustError::NotListed {
                what: format!("release {digest} of repository {}", self.name),
            });
        };
        let manifest = Manifest::parse(&bytes).map_err(|error| TrustError::manifest(&what, &error))?;
        if manifest.digest() != *digest {
            let detail = format!("it has digest {}", manifest.digest());
            return Err(TrustError::Tampered { what, detail });
        }
        Ok(manifest)
    }

    /// The manifest of a release that may be staged or armed at `now`: the metadata are current, list
    /// it, and it was not withdrawn.
    ///
    /// # Errors
    /// As [`Repository::manifest`]; expired, or withdrawn.
    pub async fn stageable(&self, digest: &Digest, now: Timestamp) -> Result<Manifest, TrustError> {
        self.check_current(now)?;
        if let Some(withdrawal) = self.withdrawn(digest).await? {
            let Withdrawal {
                digest, at, reason, ..
            } = withdrawal;
            return Err(TrustError::Withdrawn { digest, at, reason });
        }
        self.manifest(digest).await
    }

    /// A channel.
    ///
    /// # Errors
    /// Not listed, not to be fetched, or not readable.
    pub async fn channel(&self, name: &ChannelName) -> Result<Channel, TrustError> {
        let what = format!("channel {name} of repository {}", self.name);
        let Some(channel) = self
            .document::<Channel>(&TargetKind::Channel(name.clone()), &what)
            .await?
        else {
            return Err(TrustError::NotListed { what });
        };
        if channel.name == *name {
            Ok(channel)
        } else {
            Err(TrustError::Malformed {
                what,
                detail: format!("it says it is channel {}", channel.name),
            })
        }
    }

    /// The advisory on a release, if there is one.
    ///
    /// # Errors
    /// Not to be fetched, or not readable.
    pub async fn advisory(&self, digest: &Digest) -> Result<Option<Advisory>, TrustError> {
        let what = format!("the advisory on release {digest} of repository {}", self.name);
        let advisory = self
            .document::<Advisory>(&TargetKind::Advisory(*digest), &what)
            .await?;
        same_release(advisory, |advisory| advisory.digest, digest, what)
    }

    /// The withdrawal of a release, if it was withdrawn.
    ///
    /// # Errors
    /// Not to be fetched, or not readable.
    pub async fn withdrawn(&self, digest: &Digest) -> Result<Option<Withdrawal>, TrustError> {
        let what = format!("the withdrawal of release {digest} of repository {}", self.name);
        let withdrawal = self
            .document::<Withdrawal>(&TargetKind::Withdrawal(*digest), &what)
            .await?;
        same_release(withdrawal, |withdrawal| withdrawal.digest, digest, what)
    }

    /// The chunk index of an artifact.
    ///
    /// # Errors
    /// Not to be fetched, or not the index that the manifest names, or not of this artifact.
    pub async fn index(&self, artifact: &Artifact) -> Result<ChunkIndex, TrustError> {
        let what = format!("the chunk index of {} in repository {}", artifact.name, self.name);
        let path = layout::index_path(&artifact.index.digest);
        let bytes = self
            .exact(&path, &what, artifact.index.size, &artifact.index.digest)
            .await?;
        let parsed = ChunkIndex::parse(&bytes).and_then(|index| {
            index
                .check_artifact(&artifact.digest, artifact.size)
                .map(|()| index)
        });
        parsed.map_err(|error| TrustError::index(&what, &error))
    }

    /// One chunk: fetched with a bound, unpacked with a bound, nothing after it, its digest compared.
    ///
    /// # Errors
    /// Not to be fetched, or anything but exactly that chunk.
    pub async fn chunk(&self, chunk: &ChunkRef) -> Result<FetchedChunk, TrustError> {
        let length = chunk.length;
        let digest = match chunk.content {
            ChunkContent::Zeros => {
                return Ok(FetchedChunk {
                    data: vec![0; length as usize].into(),
                    fetched_bytes: 0,
                });
            }
            ChunkContent::Stored(digest) => digest,
        };
        let what = format!("chunk {} of repository {}", digest.hex(), self.name);
        let url = self.below(&layout::chunk_path(&digest))?;
        let fetched = self.fetcher.fetch(&url, MAX_FRAME_BYTES).await;
        let stored = fetched.map_err(|error| TrustError::fetching(&what, error))?;
        let fetched_bytes = stored.len() as u64;
        // Decompressing and hashing 256 KiB takes long enough to be kept off the reactor.
        let decoded = tokio::task::spawn_blocking(move || decode_frame(&stored, length, &digest)).await;
        let decoded = decoded.map_err(|error| TrustError::Malformed {
            what: what.clone(),
            detail: error.to_string(),
        })?;
        let data = decoded.map_err(|error| TrustError::frame(&what, fetched_bytes, &error))?;
        Ok(FetchedChunk {
            data: data.into(),
            fetched_bytes,
        })
    }

    async fn document<T: Document>(&self, kind: &TargetKind, what: &str) -> Result<Option<T>, TrustError> {
        let Some(bytes) = self.target(kind, what, T::MAX_BYTES).await? else {
            return Ok(None);
        };
        T::parse(&bytes)
            .map(Some)
            .map_err(|error| TrustError::document(what, &error))
    }

    /// A signed target, or None if the metadata do not list it.
    async fn target(
        &self,
        kind: &TargetKind,
        what: &str,
        max_bytes: u64,
    ) -> Result<Option<Bytes>, TrustError> {
        let name = kind.target_name();
        let Some((length, digest)) = self.loaded.targets.get(&name) else {
            return Ok(None);
        };
        if *length > max_bytes {
            return Err(TrustError::TooLong {
                what: what.to_owned(),
                max_bytes,
            });
        }
        let path = layout::target_path(&name, digest, self.loaded.consistent_snapshot);
        self.exact(&path, what, *length, digest).await.map(Some)
    }

    /// A file whose length and digest were signed.
    async fn exact(&self, path: &str, what: &str, length: u64, digest: &Digest) -> Result<Bytes, TrustError> {
        let fetched = self
            .fetcher
            .fetch_verified(&self.below(path)?, length, digest)
            .await;
        fetched.map_err(|error| TrustError::fetching(what, error))
    }

    fn below(&self, path: &str) -> Result<Url, TrustError> {
        self.base.join(path).map_err(|error| TrustError::Configuration {
            repository: self.name.clone(),
            detail: error.to_string(),
        })
    }
}

/// Loads the metadata from each mirror alone, and from all together, with every retry, only if none
/// would do. A mirror that is away, lags or lies stops no one while another is good: what each says,
/// also that there is no newer root, counts as what a repository without mirrors says.
async fn load_metadata(
    cfg: &RepositoryConfig,
    base: &Url,
    fetcher: &Arc<Fetcher>,
    now: Timestamp,
) -> Result<Loaded, TrustError> {
    let from = |origin| {
        let origin = Origin {
            fetcher: Arc::clone(fetcher),
            mirrors: origin,
        };
        trust::load(cfg, base, origin, now)
    };
    if cfg.mirrors.is_empty() {
        return from(AskedMirrors::All).await;
    }
    for mirror in fetcher.mirrors() {
        match from(AskedMirrors::One(mirror)).await {
            Err(error) if error.is_of_the_mirror() => {
                tracing::warn!(repository = %cfg.name, mirror, %error, "another mirror is asked for the metadata");
                fetcher.rest_mirror(mirror);
            }
            outcome @ (Ok(_) | Err(_)) => return outcome,
        }
    }
    from(AskedMirrors::All).await
}

fn same_release<T>(
    document: Option<T>,
    of: impl Fn(&T) -> Digest,
    digest: &Digest,
    what: String,
) -> Result<Option<T>, TrustError> {
    match document {
        Some(document) if of(&document) != *digest => {
            let detail = format!("it speaks of release {}", of(&document));
            Err(TrustError::Malformed { what, detail })
        }
        other => Ok(other),
    }
}

/// The URL with a slash at its end, so that what is below it can be joined to it.
fn folder_url(url: &Url) -> Result<Url, String> {
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
