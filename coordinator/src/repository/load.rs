//! One load of one repository: root from its ConfigMap, metadata verified by drydock-images, versions
//! compared with the highest that anyone has seen, and every release's manifest and advisory reduced to
//! what the planner asks.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use drydock_api::{ImageRepository, NodeUpgrade};
use drydock_images::{
    Digest, Manifest, MetadataVersions, Repository, RepositoryConfig, StoreWatch, TrustError,
};
use drydock_plan::{ChannelRelease, ReleaseView, RepositoryView, StateFormat};
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, ResourceExt as _};
use url::Url;

/// Manifests and advisories that are fetched at once.
const PARALLEL: usize = 8;
/// More releases than this are not looked at; the metadata's own bound is higher.
const MAX_RELEASES: usize = 2048;

/// What manifests said: they never change under their digest.
pub type Cache = Arc<Mutex<HashMap<Digest, ReleaseView>>>;

/// What is to be loaded.
pub struct Order {
    /// For the ConfigMap.
    pub client: Client,
    /// The repository.
    pub repository: ImageRepository,
    /// Where its newest trusted metadata is kept.
    pub datastore: PathBuf,
    /// Told of every write there.
    pub watch: Arc<dyn StoreWatch>,
    /// Nothing below this is taken.
    pub floor: Floor,
    /// Expiry is judged by this instant.
    pub now: Timestamp,
    /// Manifests that are known.
    pub cache: Cache,
}

/// What was read and verified.
#[derive(Debug)]
pub struct Loaded {
    /// For the planner.
    pub view: RepositoryView,
    /// Versions of the metadata.
    pub versions: MetadataVersions,
}

/// The highest versions that the coordinator's own status or any agent has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Floor {
    root: Seen,
    timestamp: Seen,
    snapshot: Seen,
    targets: Seen,
}

/// A version, and who has seen it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    version: u64,
    by: String,
}

/// Why a repository could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no root to start from.
    #[error(
        "the root metadata is not in ConfigMap {namespace}/{name} under key {key}: {why}; put the repository's root.json there"
    )]
    NoRoot {
        /// Namespace of the ConfigMap.
        namespace: String,
        /// Its name.
        name: String,
        /// The key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// A URL cannot be used.
    #[error("its URL {url:?} cannot be used: {source}; correct {field}")]
    Url {
        /// The field of the ImageRepository.
        field: &'static str,
        /// What stands there.
        url: String,
        /// Why.
        source: url::ParseError,
    },
    /// The local datastore cannot be used.
    #[error("the datastore {path} cannot be made: {source}; check the coordinator's data directory")]
    Datastore {
        /// The folder.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not to be trusted, or cannot be reached.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// It shows less than was seen before.
    #[error(
        "its {role} metadata has version {found}, but {by} has seen version {seen}: it was set back, or this is another repository under the same name"
    )]
    SetBack {
        /// Which role.
        role: &'static str,
        /// What it shows.
        found: u64,
        /// What was seen.
        seen: u64,
        /// By whom.
        by: String,
    },
    /// It took too long.
    #[error("it was not read within {secs}s; check the network between coordinator and repository")]
    TooSlow {
        /// The bound.
        secs: u64,
    },
}

impl LoadError {
    /// A bounded word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoRoot { .. } => "NoRoot",
            Self::Url { .. } => "BadUrl",
            Self::Datastore { .. } => "Datastore",
            Self::Trust(error) => error.code(),
            Self::SetBack { .. } => "OlderThanSeen",
            Self::TooSlow { .. } => "TooSlow",
        }
    }

    /// Whether what was read before is no ground for anything any more, as opposed to a server that is
    /// away for a while (then expiry alone ends it).
    #[must_use]
    pub const fn distrusts(&self) -> bool {
        match self {
            Self::NoRoot { .. } | Self::Url { .. } | Self::SetBack { .. } => true,
            Self::Datastore { .. } | Self::TooSlow { .. } => false,
            Self::Trust(error) => !error.may_pass(),
        }
    }
}

impl Floor {
    /// From the repository's status, and from the reports of agents that were told to use it.
    #[must_use]
    pub fn of(repository: &ImageRepository, upgrades: &BTreeMap<String, NodeUpgrade>) -> Self {
        let mut floor = Self::default();
        let name = repository.name_any();
        if let Some(status) = &repository.status {
            let by = "the coordinator";
            floor.root.raise(status.root_version, by);
            floor.timestamp.raise(status.timestamp_version, by);
            floor.snapshot.raise(status.snapshot_version, by);
            floor.targets.raise(status.targets_version, by);
        }
        for (node, upgrade) in upgrades {
            let wish = upgrade.spec.wish.as_ref();
            let uses = wish.is_some_and(|wish| wish.repository == name);
            if let Some(status) = upgrade.status.as_ref().filter(|_| uses) {
                floor.root.raise(status.root_version, node);
                floor.timestamp.raise(status.timestamp_version, node);
            }
        }
        floor
    }

    fn check(&self, found: MetadataVersions) -> Result<(), LoadError> {
        let roles = [
            ("root", &self.root, found.root),
            ("timestamp", &self.timestamp, found.timestamp),
            ("snapshot", &self.snapshot, found.snapshot),
            ("targets", &self.targets, found.targets),
        ];
        for (role, seen, found) in roles {
            if found < seen.version {
                return Err(LoadError::SetBack {
                    role,
                    found,
                    seen: seen.version,
                    by: seen.by.clone(),
                });
            }
        }
        Ok(())
    }
}

impl Seen {
    fn raise(&mut self, version: Option<i64>, by: &str) {
        let version = version
            .and_then(|version| u64::try_from(version).ok())
            .unwrap_or(0);
        if version > self.version {
            *self = Self {
                version,
                by: by.to_owned(),
            };
        }
    }
}

/// Loads and verifies a repository, and reduces it.
///
/// # Errors
/// See [`LoadError`]; nothing of it may then be acted on.
pub async fn load(order: Order) -> Result<Loaded, LoadError> {
    let root = root(&order).await?;
    let made = tokio::fs::create_dir_all(&order.datastore).await;
    made.map_err(|source| LoadError::Datastore {
        path: order.datastore.display().to_string(),
        source,
    })?;
    let (name, spec) = (order.repository.name_any(), &order.repository.spec);
    let url = read_url("spec.url", &spec.url)?;
    let mut config = RepositoryConfig::new(name, url, root, order.datastore);
    let mirrors = spec.mirrors.iter().map(|url| read_url("spec.mirrors", url));
    config.mirrors = mirrors.collect::<Result<_, _>>()?;
    config.watch = order.watch;
    let repository = Repository::load(&config, order.now).await?;
    let versions = repository.versions();
    order.floor.check(versions)?;
    let mut view = RepositoryView {
        url: order.repository.spec.url.clone(),
        loaded: true,
        expires: Some(repository.expires()),
        ..RepositoryView::default()
    };
    for name in repository.channel_names() {
        let mut releases = Vec::new();
        for release in repository.channel(&name).await?.releases {
            let everywhere = repository.withdrawn(&release.digest).await?;
            releases.push(ChannelRelease {
                digest: release.digest.to_string(),
                published_at: Some(release.published_at),
                withdrawn: release.withdrawn.is_some() || everywhere.is_some(),
                stepping_stone: release.stepping_stone,
            });
        }
        view.channels.insert(name.to_string(), releases);
    }
    let digests = repository.release_digests().into_iter().take(MAX_RELEASES);
    let each = digests.map(|digest| release(&repository, digest, &order.cache));
    let mut releases = stream::iter(each).buffer_unordered(PARALLEL);
    while let Some((digest, release)) = releases.next().await {
        match release {
            Ok(release) => {
                view.releases.insert(digest.to_string(), release);
            }
            // One release that cannot be read is no reason to be blind for all; it is just not taken.
            Err(error) => tracing::warn!(%digest, %error, "a release is left out"),
        }
    }
    Ok(Loaded { view, versions })
}

fn read_url(field: &'static str, url: &str) -> Result<Url, LoadError> {
    url.parse().map_err(|source| LoadError::Url {
        field,
        url: url.to_owned(),
        source,
    })
}

async fn root(order: &Order) -> Result<Vec<u8>, LoadError> {
    let at = &order.repository.spec.root;
    let missing = |why: String| LoadError::NoRoot {
        namespace: at.namespace.clone(),
        name: at.name.clone(),
        key: at.key.clone(),
        why,
    };
    let api = Api::<ConfigMap>::namespaced(order.client.clone(), &at.namespace);
    let found = api.get_opt(&at.name).await;
    let map = found
        .map_err(|error| missing(error.to_string()))?
        .ok_or_else(|| missing("there is no such ConfigMap".to_owned()))?;
    let text = map.data.and_then(|mut data| data.remove(&at.key));
    let bytes = map.binary_data.and_then(|mut data| data.remove(&at.key));
    text.map(String::into_bytes)
        .or(bytes.map(|bytes| bytes.0))
        .ok_or_else(|| missing("it has no such key".to_owned()))
}

async fn release(
    repository: &Repository,
    digest: Digest,
    cache: &Cache,
) -> (Digest, Result<ReleaseView, TrustError>) {
    let known = cache
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&digest)
        .cloned();
    let view = match known {
        Some(view) => view,
        None => match repository.manifest(&digest).await {
            Ok(manifest) => reduce(&manifest),
            Err(error) => return (digest, Err(error)),
        },
    };
    cache
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(digest, view.clone());
    // The advisory may change, so it is never taken from the cache.
    let advisory = repository.advisory(&digest).await;
    let with_advisory = advisory.map(|advisory| ReleaseView {
        security: advisory.is_some_and(|advisory| !advisory.vulnerabilities.is_empty()),
        ..view
    });
    (digest, with_advisory)
}

fn reduce(manifest: &Manifest) -> ReleaseView {
    let carries = &manifest.carries;
    let state = carries.state.pieces().into_iter().map(|(piece, format)| {
        let format = StateFormat {
            writes: format.writes,
            reads_from: format.reads_from,
        };
        (piece.to_owned(), format)
    });
    let version = |version: &drydock_images::Version| drydock_plan::Version::from(version.as_str());
    ReleaseView {
        version: version(&manifest.version),
        min_from: manifest.min_from.as_ref().map(version),
        floor: manifest.floor.as_ref().map(version),
        kubelet: carries
            .kubelet
            .as_ref()
            .map(|kubelet| kubelet.as_str().to_owned()),
        guard: carries.guard.is_some(),
        state: state.collect(),
        security: false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use drydock_api::{ImageRepositoryStatus, NodeUpgradeSpec, NodeUpgradeStatus};
    use serde_json::json;

    fn repository(status: ImageRepositoryStatus) -> ImageRepository {
        let mut repository: ImageRepository = serde_json::from_value(json!({
            "apiVersion": "drydock.dev/v1alpha1", "kind": "ImageRepository", "metadata": {"name": "os"},
            "spec": {"url": "https://images.example/os", "root": {"name": "r", "namespace": "n"}}
        }))
        .unwrap();
        repository.status = Some(status);
        repository
    }

    fn node(repository: &str, timestamp: i64) -> NodeUpgrade {
        let wish = json!({"repository": repository, "url": "u", "digest": "d", "version": "1"});
        let spec = NodeUpgradeSpec {
            wish: Some(serde_json::from_value(wish).unwrap()),
            ..NodeUpgradeSpec::default()
        };
        let mut upgrade = NodeUpgrade::new("n1", spec);
        upgrade.status = Some(NodeUpgradeStatus {
            timestamp_version: Some(timestamp),
            ..NodeUpgradeStatus::default()
        });
        upgrade
    }

    const fn found(timestamp: u64) -> MetadataVersions {
        MetadataVersions {
            root: 1,
            timestamp,
            snapshot: 5,
            targets: 5,
        }
    }

    #[test]
    fn metadata_below_what_anyone_has_seen_is_refused_and_the_witness_named() {
        let status = ImageRepositoryStatus {
            timestamp_version: Some(7),
            ..ImageRepositoryStatus::default()
        };
        let own = Floor::of(&repository(status.clone()), &BTreeMap::new());
        assert!(own.check(found(7)).is_ok());
        let refused = own.check(found(6)).unwrap_err();
        assert!(refused.to_string().contains("the coordinator"), "{refused}");
        let nodes = BTreeMap::from([("n1".to_owned(), node("os", 9))]);
        let with_agent = Floor::of(&repository(status.clone()), &nodes);
        let refused = with_agent.check(found(8)).unwrap_err();
        assert_eq!(refused.code(), "OlderThanSeen");
        assert!(refused.to_string().contains("n1 has seen version 9"), "{refused}");
        let elsewhere = BTreeMap::from([("n1".to_owned(), node("other", 9))]);
        assert!(Floor::of(&repository(status), &elsewhere).check(found(8)).is_ok());
    }
}
