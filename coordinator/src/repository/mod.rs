//! The releases that policies choose from: every ImageRepository's metadata is loaded, verified and read
//! again in its interval. What is older than the coordinator or any agent has seen is refused. It never
//! chooses a release.

mod load;
mod report;

pub use load::{Cache, Floor, LoadError, Loaded, Order, load};
pub use report::status_of;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use drydock_api::{ImageRepository, ImageRepositoryStatus, NodeUpgrade};
use drydock_images::StoreWatch;
use drydock_plan::RepositoryView;
use kube::Client;
use tokio::{task::JoinSet, time::Instant};

use crate::clock::Clock;

/// Shortest and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// However short an interval is written, metadata is not read more often than this.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// How long one load may take.
const LOAD_WITHIN: Duration = Duration::from_secs(120);

/// What is known of every repository, and the loads that are under way. Dropping it ends them.
pub struct Desk {
    client: Client,
    clock: Arc<dyn Clock>,
    data_dir: PathBuf,
    watch: Arc<dyn StoreWatch>,
    shelves: BTreeMap<String, Shelf>,
    loads: JoinSet<(String, Result<Loaded, LoadError>)>,
}

/// One repository.
#[derive(Default)]
struct Shelf {
    /// UID and generation that are wanted: another one is loaded at once.
    of: (Option<String>, Option<i64>),
    view: RepositoryView,
    cache: Cache,
    next: Option<Instant>,
    loading: bool,
    failures: u32,
}

/// A load that has ended, and the status that says so.
#[derive(Debug)]
pub struct Finished {
    /// The repository.
    pub name: String,
    /// The new status, where it differs from the one that was seen.
    pub status: Option<ImageRepositoryStatus>,
}

impl Desk {
    /// A desk without repositories.
    #[must_use]
    pub fn new(client: Client, clock: Arc<dyn Clock>, data_dir: PathBuf, watch: Arc<dyn StoreWatch>) -> Self {
        Self {
            client,
            clock,
            data_dir,
            watch,
            shelves: BTreeMap::new(),
            loads: JoinSet::new(),
        }
    }

    /// What the planner sees.
    #[must_use]
    pub fn views(&self) -> BTreeMap<String, RepositoryView> {
        let shelves = self.shelves.iter();
        shelves
            .map(|(name, shelf)| (name.clone(), shelf.view.clone()))
            .collect()
    }

    /// Begins every load that is due, and forgets repositories that are gone.
    pub fn begin_due(
        &mut self,
        repositories: &BTreeMap<String, ImageRepository>,
        upgrades: &BTreeMap<String, NodeUpgrade>,
    ) {
        self.shelves.retain(|name, _| repositories.contains_key(name));
        for (name, repository) in repositories {
            let of = (repository.metadata.uid.clone(), repository.metadata.generation);
            let shelf = self.shelves.entry(name.clone()).or_default();
            if shelf.of != of {
                // A changed repository is another one until it was read.
                *shelf = Shelf {
                    loading: shelf.loading,
                    of,
                    ..Shelf::default()
                };
                shelf.view.url.clone_from(&repository.spec.url);
            }
            let due = shelf.next.is_none_or(|next| next <= Instant::now());
            if shelf.loading || !due {
                continue;
            }
            shelf.loading = true;
            let uid = repository.metadata.uid.as_deref().unwrap_or("new");
            let order = Order {
                client: self.client.clone(),
                repository: repository.clone(),
                datastore: self.data_dir.join("repositories").join(format!("{name}.{uid}")),
                watch: Arc::clone(&self.watch),
                floor: Floor::of(repository, upgrades),
                now: self.clock.now(),
                cache: Arc::clone(&shelf.cache),
            };
            let name = name.clone();
            self.loads.spawn(async move {
                let loaded = match tokio::time::timeout(LOAD_WITHIN, load(order)).await {
                    Ok(loaded) => loaded,
                    Err(_) => Err(LoadError::TooSlow {
                        secs: LOAD_WITHIN.as_secs(),
                    }),
                };
                (name, loaded)
            });
        }
    }

    /// When the next load is due; None while nothing is known.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let waiting = self.shelves.values().filter(|shelf| !shelf.loading);
        waiting.filter_map(|shelf| shelf.next).min()
    }

    /// Waits for the next load to end; for ever if none is under way. Safe to drop at any time.
    pub async fn finished(&mut self, seen: impl Fn(&str) -> Option<ImageRepository>) -> Finished {
        loop {
            let Some(ended) = self.loads.join_next().await else {
                std::future::pending::<()>().await;
                continue;
            };
            let (name, result) = match ended {
                Ok(ended) => ended,
                Err(error) => {
                    tracing::error!(%error, "a load of a repository broke off");
                    self.shelves.values_mut().for_each(|shelf| shelf.loading = false);
                    continue;
                }
            };
            let (Some(repository), Some(shelf)) = (seen(&name), self.shelves.get_mut(&name)) else {
                continue;
            };
            shelf.take(&repository, &result);
            let old = repository.status.clone().unwrap_or_default();
            let status = status_of(&repository, &result, self.clock.now());
            return Finished {
                name,
                status: (status != old).then_some(status),
            };
        }
    }
}

impl Shelf {
    fn take(&mut self, repository: &ImageRepository, result: &Result<Loaded, LoadError>) {
        self.loading = false;
        let interval = repository.spec.refresh_interval.duration().max(MIN_INTERVAL);
        let pause = match result {
            Ok(loaded) => {
                self.failures = 0;
                self.view = loaded.view.clone();
                interval
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                tracing::warn!(%error, failures = self.failures, "a repository could not be read");
                self.view.error = Some(error.to_string());
                if error.distrusts() {
                    // What was read before is no ground for anything once the repository lies.
                    self.view.loaded = false;
                }
                let doubled = BACKOFF.0 * 2u32.saturating_pow(self.failures.clamp(1, 10) - 1);
                doubled.min(BACKOFF.1).min(interval.max(BACKOFF.0))
            }
        };
        // What was changed meanwhile is read at once.
        let current = self.of == (repository.metadata.uid.clone(), repository.metadata.generation);
        self.next = current.then(|| Instant::now() + pause);
    }
}
