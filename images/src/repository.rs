//! A repository of releases as a node, the coordinator or an engineer sees it: verified metadata, and
//! through them every byte down to the last chunk. Nothing is handed out before it was compared with
//! what was signed.

mod config;
mod content;

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use url::Url;

use crate::channel::{Advisory, Channel, Document, Withdrawal};
use crate::delta::Delta;
use crate::digest::Digest;
use crate::fetch::{Fetcher, Traffic};
use crate::layout::{self, TargetKind};
use crate::manifest::{MAX_MANIFEST_BYTES, Manifest};
use crate::names::ChannelName;
use crate::trust::{self, AskedMirrors, Loaded, MetadataVersions, Origin, TrustError};

use config::folder_url;
pub use config::{DEFAULT_PARALLEL_REQUESTS, Limits, RepositoryConfig};

/// Longer ranges of a pack are fetched in several requests, in bytes.
pub const MAX_RANGE_BYTES: u64 = 1 << 20;

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

    /// [`RepositoryConfig::parallel_requests`], at least one.
    #[must_use]
    pub fn parallel_requests(&self) -> usize {
        self.fetcher.parallel()
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

    /// How to get from one release to another, if there is a delta for that pair.
    ///
    /// # Errors
    /// Not to be fetched, or not readable.
    pub async fn delta(&self, from: &Digest, to: &Digest) -> Result<Option<Delta>, TrustError> {
        let what = format!("the delta from {from} to {to} of repository {}", self.name);
        let kind = TargetKind::Delta { from: *from, to: *to };
        let delta = self.document::<Delta>(&kind, &what).await?;
        match delta {
            Some(delta) if (delta.from, delta.to) != (*from, *to) => Err(TrustError::Malformed {
                what,
                detail: format!("it leads from {} to {}", delta.from, delta.to),
            }),
            other => Ok(other),
        }
    }

    /// The bytes of the document that says how to get from one release to another, if there is one.
    #[must_use]
    pub fn delta_bytes(&self, from: &Digest, to: &Digest) -> Option<u64> {
        let kind = TargetKind::Delta { from: *from, to: *to };
        let listed = self.loaded.targets.get(&kind.target_name());
        listed.map(|(length, _)| *length)
    }

    /// The pairs of releases for which there is a delta: what a node runs, and what it gets.
    #[must_use]
    pub fn deltas(&self) -> Vec<(Digest, Digest)> {
        let pair = |kind| {
            if let TargetKind::Delta { from, to } = kind {
                Some((from, to))
            } else {
                None
            }
        };
        self.kinds().filter_map(pair).collect()
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
