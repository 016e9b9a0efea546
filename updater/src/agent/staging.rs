//! Staging under way: one task, its progress, its outcome. Stops when it is dropped.

use std::sync::Arc;
use std::sync::Mutex;

use drydock_api::Progress;
use drydock_images::{Digest, Repository, RepositoryConfig, TrustError, Version};
use drydock_machine::agent::{Facts, Order, Wish};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{LoadedConfig, RepositorySettings, Settings};
use crate::disk::gate::WriteGate;
use crate::guard::NodeView;
use crate::node::NodeEnv;
use crate::stage::{Reuse, StageError, StageJob, StageProgress, Terms, stage};
use crate::state::{LockName, SlotRecord, TrustGate};

/// What a staging came to; the repository is kept for its metadata.
pub(super) struct Staged {
    pub digest: String,
    pub repository: Option<Repository>,
    pub outcome: Result<SlotRecord, StageError>,
}

/// At most one staging.
#[derive(Default)]
pub(super) struct Staging {
    task: JoinSet<Staged>,
    digest: Option<String>,
    cancel: CancellationToken,
    progress: Arc<Mutex<Option<StageProgress>>>,
}

impl Staging {
    pub fn digest(&self) -> Option<&String> {
        self.digest.as_ref()
    }

    pub fn progress(&self) -> Option<Progress> {
        let bytes = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let progress = *self
            .progress
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        progress.map(|progress| Progress {
            total_bytes: bytes(progress.total),
            done_bytes: bytes(progress.done),
            reused_bytes: bytes(progress.reused),
            fetched_bytes: bytes(progress.fetched),
        })
    }

    pub fn start(&mut self, job: Job) {
        self.stop();
        self.cancel = CancellationToken::new();
        self.digest = Some(job.wish.digest.clone());
        let (cancel, progress) = (self.cancel.clone(), self.progress.clone());
        *progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
        self.task.spawn(job.run(cancel, progress));
    }

    /// The slot stays unbootable; what is right in it is used next time.
    pub fn stop(&mut self) {
        self.cancel.cancel();
        self.task.abort_all();
        self.task = JoinSet::new();
        self.digest = None;
    }

    /// The end of the staging under way; pending for ever without one.
    pub async fn ended(&mut self) -> Staged {
        match self.task.join_next().await {
            Some(Ok(staged)) => {
                self.digest = None;
                staged
            }
            Some(Err(error)) => Staged {
                digest: self.digest.take().unwrap_or_default(),
                repository: None,
                outcome: Err(StageError::Stopped(error.to_string())),
            },
            None => std::future::pending().await,
        }
    }
}

/// All that a staging needs.
pub(super) struct Job {
    pub config: Arc<LoadedConfig>,
    pub env: NodeEnv,
    pub view: Arc<NodeView>,
    pub wish: Wish,
    pub terms: Terms,
}

impl Job {
    async fn run(self, cancel: CancellationToken, told: Arc<Mutex<Option<StageProgress>>>) -> Staged {
        let digest = self.wish.digest.clone();
        let mut repository = None;
        let outcome = self.stage(cancel, told, &mut repository).await;
        Staged {
            digest,
            repository,
            outcome,
        }
    }

    async fn stage(
        self,
        cancel: CancellationToken,
        told: Arc<Mutex<Option<StageProgress>>>,
        loaded: &mut Option<Repository>,
    ) -> Result<SlotRecord, StageError> {
        let stopped = |why: &str| StageError::Stopped(why.to_owned());
        let release: Digest = self
            .wish
            .digest
            .parse()
            .map_err(|_| stopped("the wish names no digest"))?;
        let node = self.view.node();
        let running = node
            .running
            .clone()
            .map_err(|error| StageError::Stopped(error.to_string()))?;
        let state = node.state.clone();
        let lock = tokio::task::spawn_blocking(move || state.try_lock(LockName::Slot));
        let lock = lock
            .await
            .map_err(|error| StageError::Stopped(error.to_string()))??;
        let settings = &self.config.settings;
        let known = settings.repository(&self.wish.repository);
        let known = known.ok_or_else(|| stopped("the repository is not configured"))?;
        let now = self.env.outside.wall();
        let repository = load_repository(settings, known, now, &self.env.gate).await?;
        *loaded = Some(repository.clone());
        let job = StageJob {
            repository,
            release,
            terms: self.terms,
            control: node.control.clone(),
            state: node.state.clone(),
            lock: Arc::new(lock),
            target: running.other(),
            running,
            reuse: Reuse::Running,
            progress: Arc::new(move |progress| {
                *told.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(progress);
            }),
        };
        stage(job, now, cancel).await
    }
}

/// Loads a configured repository; its trust store is in the state folder, one per repository, and its
/// writes pass the gate.
///
/// # Errors
/// As [`Repository::load`]; the shipped root or a certificate cannot be read.
pub async fn load_repository(
    settings: &Settings,
    known: &RepositorySettings,
    now: jiff::Timestamp,
    gate: &Arc<dyn WriteGate>,
) -> Result<Repository, TrustError> {
    const MAX_FILE_BYTES: u64 = 1 << 20;
    let read = |path: &std::path::Path| {
        let name = known.name.clone();
        let path = path.to_owned();
        async move {
            let shown = path.display().to_string();
            let read = tokio::task::spawn_blocking(move || {
                let mut bytes = Vec::new();
                let file = std::fs::File::open(&path)?;
                std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_FILE_BYTES), &mut bytes)?;
                Ok::<_, std::io::Error>(bytes)
            });
            let wrong = |why: String| TrustError::Configuration {
                repository: name.clone(),
                detail: format!("{shown} cannot be read: {why}"),
            };
            read.await
                .map_err(|e| wrong(e.to_string()))?
                .map_err(|e| wrong(e.to_string()))
        }
    };
    let root = read(&known.root).await?;
    let datastore = settings.state_dir.join("trust").join(&known.name);
    let mut config = RepositoryConfig::new(known.name.clone(), known.url.clone(), root, datastore);
    config.mirrors = known.mirrors.clone();
    config.parallel_requests = settings.fetches_at_once;
    config.max_bytes_per_second = settings.max_bytes_per_second;
    config.watch = Arc::new(TrustGate::new(Arc::clone(gate)));
    if let Some(certificates) = &known.ca_certificates {
        config.ca_certificates_pem = read(certificates).await?;
    }
    Repository::load(&config, now).await
}

/// What this node demands of the wish.
pub(super) fn terms(
    settings: &Settings,
    wish: &Wish,
    order: &Order,
    facts: &Facts,
    running: Option<&SlotRecord>,
) -> Terms {
    let journal_floor = facts.guard.as_ref().and_then(|guard| guard.floor.as_ref());
    let barred = facts
        .failed
        .iter()
        .map(|failed| &failed.digest)
        .chain(&order.failed);
    Terms {
        board: settings.board.clone(),
        arch: settings.arch.clone(),
        floor: highest_floor(settings.floor.as_ref(), journal_floor),
        running_version: running.map(|record| record.version.clone()),
        allow_downgrade: settings.allow_downgrade && wish.allow_downgrade,
        barred: barred.filter_map(|digest| digest.parse().ok()).collect(),
    }
}

/// The higher of a configured and a journalled floor.
#[must_use]
pub fn highest_floor(configured: Option<&Version>, journal: Option<&String>) -> Option<Version> {
    let journal: Option<Version> = journal.and_then(|floor| floor.parse().ok());
    configured.cloned().max(journal)
}
