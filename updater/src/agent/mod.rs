//! The agent: carries orders and reports between its guard and its NodeUpgrade, and stages.
//!
//! Watches its own object alone, writes its status alone. It adopts nothing by itself, arms and reboots
//! only through the guard and only after `drydock_machine::agent::check_grant` on an object read straight
//! from the server, twice. Without an object it stages and arms nothing. Can be killed anywhere.

mod arming;
mod facts;
mod object;
mod patch;
mod report;
mod staging;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use drydock_api::{LastError, NodeUpgrade};
use drydock_images::{MetadataVersions, Repository};
use drydock_machine::Request;
use drydock_machine::agent::{Decision, Facts, Order, decide};
use futures::{Stream, StreamExt};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::LoadedConfig;
use crate::guard::{AskError, GuardClient, NodeView};
use crate::node::{NodeEnv, NodeError};
use object::{OwnObject, ServerError};
use report::Local;
use staging::{Staged, Staging};

pub use staging::{highest_floor, load_repository};

/// Acts in a row before the status is written in between.
const ACTS_IN_A_ROW: usize = 8;

/// Why the agent stopped.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("a thread of the agent ended early: {0}. This is a defect of Drydock; please report it")]
    Thread(#[from] tokio::task::JoinError),
}

/// Runs until `cancel`; after that nothing more is written. Dropping the future is the same. The client
/// should have kube's hidden retries off, as [`crate::cli`] makes it.
///
/// # Errors
/// See [`AgentError`]. An API server or a guard that is away is no error: it is waited for.
pub async fn run(
    config: Arc<LoadedConfig>,
    env: NodeEnv,
    client: Client,
    cancel: CancellationToken,
) -> Result<(), AgentError> {
    let cancel = cancel.child_token();
    let _stop_when_dropped = cancel.clone().drop_guard();
    let env = env.until(&cancel);
    tokio::select! {
        biased;
        () = cancel.cancelled() => Ok(()),
        ended = serve(config, env, client, &cancel) => ended,
    }
}

async fn serve(
    config: Arc<LoadedConfig>,
    env: NodeEnv,
    client: Client,
    cancel: &CancellationToken,
) -> Result<(), AgentError> {
    let (opening, settings) = (env.clone(), config.clone());
    let node = tokio::task::spawn_blocking(move || opening.open(&settings.settings)).await??;
    let object = OwnObject::new(client, &config.settings.node_name, env.pace.api_answer);
    let only_own = watcher::Config::default().fields(&format!("metadata.name={}", object.name));
    let watch = watcher(object.api.clone(), only_own).default_backoff();
    let guard = GuardClient::new(&config.settings.guard_socket(), env.pace.guard_answer);
    env.outside.notify("following orders");
    let agent = Agent {
        view: Arc::new(NodeView::new(node)),
        guard,
        object,
        config,
        env,
        cancel: cancel.clone(),
        own: Own::Unknown,
        staging: Staging::default(),
        staging_failures: Failures::default(),
        arming_failures: Failures::default(),
        writing_failures: Failures::default(),
        errors: BTreeMap::new(),
        given_up: None,
        rebooting: None,
        answered: None,
        repository: None,
        versions: None,
        progress_told: None,
    };
    agent.follow(Box::pin(watch)).await
}

/// The agent's object, as last read.
enum Own {
    /// Not read yet: nothing is written and nothing done.
    Unknown,
    Missing,
    Present(Box<NodeUpgrade>),
}

/// Failures in a row, and when the next try may be.
#[derive(Default)]
struct Failures {
    count: u32,
    not_before: Option<Instant>,
}

impl Failures {
    fn one_more(&mut self, env: &NodeEnv) {
        self.count = self.count.saturating_add(1);
        self.not_before = Some(Instant::now() + env.pace.pause(self.count));
    }

    fn none(&mut self) {
        *self = Self::default();
    }

    fn waits(&self) -> bool {
        self.not_before.is_some_and(|at| Instant::now() < at)
    }
}

/// What an error is about; the first that stands is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    Arming,
    Staging,
    Guard,
}

struct Agent {
    config: Arc<LoadedConfig>,
    env: NodeEnv,
    view: Arc<NodeView>,
    guard: GuardClient,
    object: OwnObject,
    cancel: CancellationToken,
    own: Own,
    staging: Staging,
    staging_failures: Failures,
    arming_failures: Failures,
    writing_failures: Failures,
    errors: BTreeMap<About, LastError>,
    /// The attempt whose grant was found wanting.
    given_up: Option<String>,
    /// The attempt for which this process saw the reboot called.
    rebooting: Option<String>,
    /// UID and generation of the order that was acted on last.
    answered: Option<(String, i64)>,
    repository: Option<Repository>,
    versions: Option<MetadataVersions>,
    /// When progress alone was last written.
    progress_told: Option<Instant>,
}

impl Agent {
    async fn follow(
        mut self,
        mut watch: impl Stream<Item = watcher::Result<watcher::Event<NodeUpgrade>>> + Unpin,
    ) -> Result<(), AgentError> {
        let mut resync = Instant::now();
        let mut listed = false;
        loop {
            let poll = Instant::now() + self.env.pace.guard_poll;
            tokio::select! {
                event = watch.next() => match event {
                    Some(Ok(watcher::Event::Init)) => listed = false,
                    Some(Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => {
                        listed = true;
                        self.take(object);
                    }
                    Some(Ok(watcher::Event::InitDone)) if listed => {}
                    Some(Ok(watcher::Event::InitDone | watcher::Event::Delete(_))) => self.read().await,
                    Some(Err(error)) => tracing::info!("watching the own NodeUpgrade: {error}"),
                    None => resync = Instant::now(),
                },
                staged = self.staging.ended() => self.staged(staged),
                () = sleep_until(poll.min(resync)) => {}
            }
            if Instant::now() >= resync {
                self.read().await;
                resync = Instant::now() + self.env.pace.resync;
            }
            self.round().await?;
        }
    }

    /// What the watch tells; it may lag behind what was read or written.
    fn take(&mut self, object: NodeUpgrade) {
        let version = |object: &NodeUpgrade| object.resource_version()?.parse::<u64>().ok();
        if let Own::Present(held) = &self.own
            && held.uid() == object.uid()
            && version(held) > version(&object)
        {
            return;
        }
        self.own = Own::Present(Box::new(object));
    }

    /// Straight from the server.
    async fn read(&mut self) {
        match self.object.read().await {
            Ok(Some((object, _))) => self.own = Own::Present(Box::new(object)),
            Ok(None) => self.own = Own::Missing,
            Err(error) => tracing::info!("reading the own NodeUpgrade: {error}"),
        }
    }

    /// Acts as long as there is something to do, and makes the status true.
    async fn round(&mut self) -> Result<(), AgentError> {
        for _ in 0..ACTS_IN_A_ROW {
            let order = match &self.own {
                Own::Unknown => return Ok(()),
                Own::Missing => Order::default(),
                Own::Present(object) => object::order(object),
            };
            let (facts, mut local) = self.gather(&order).await?;
            let decision = decide(&order, &facts);
            local.arming = match &decision {
                Decision::Arm { attempt } => Some(attempt.clone()),
                _ => None,
            };
            let answers = !matches!(
                decision,
                Decision::Disarm { .. } | Decision::Tell(_) | Decision::Forgive(_) | Decision::StopStaging
            );
            if answers && matches!(self.own, Own::Present(_)) {
                self.answered = Some((order.uid.clone(), order.generation));
                local.answered.clone_from(&self.answered);
            }
            self.tell(&order, &facts, &local).await;
            if !self.act(decision, &order, &facts).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// True if something was done, so that there may be more to do.
    async fn act(&mut self, decision: Decision, order: &Order, facts: &Facts) -> Result<bool, AgentError> {
        match decision {
            Decision::Rest => Ok(false),
            Decision::Stage if self.staging_failures.waits() => Ok(false),
            Decision::Stage => {
                self.start_staging(order, facts).await?;
                Ok(true)
            }
            Decision::StopStaging => {
                self.staging.stop();
                self.staging_failures.none();
                Ok(true)
            }
            Decision::Forgive(attempts) => Ok(self.ask(Request::Forgive { attempts }).await.is_some()),
            Decision::Tell(verdict) => Ok(self.ask(Request::Verdict(verdict)).await.is_some()),
            Decision::Disarm { attempt } => {
                self.rebooting = None;
                Ok(self.ask(Request::Disarm { attempt }).await.is_some())
            }
            Decision::Arm { .. } if self.arming_failures.waits() => Ok(false),
            Decision::Arm { attempt } => self.arm(&attempt).await,
            Decision::Reboot { attempt } if self.rebooting.as_ref() == Some(&attempt) => Ok(false),
            Decision::Reboot { attempt } => self.reboot(&attempt).await,
        }
    }

    /// Asks the guard; a refusal is noted, and is no success.
    async fn ask(&mut self, request: Request) -> Option<drydock_machine::GuardStatus> {
        match self.guard.ask(&request).await {
            Ok(status) => {
                self.errors.remove(&About::Guard);
                Some(status)
            }
            Err(error) => {
                self.note(About::Guard, error.code(), &error);
                None
            }
        }
    }

    /// Makes the status on the server true, at once for transitions, now and then for progress.
    async fn tell(&mut self, order: &Order, facts: &Facts, local: &Local) {
        let Own::Present(object) = &self.own else { return };
        if self.writing_failures.waits() {
            return;
        }
        let held = object.status.clone().unwrap_or_default();
        let mut wanted = report::report(order, facts, local, &held);
        let recently = |at: Instant| Instant::now() < at + self.env.pace.status_every;
        if self.progress_told.is_some_and(recently) {
            wanted.progress.clone_from(&held.progress);
        }
        let progress = wanted.progress != held.progress;
        match self.object.write(object, &wanted).await {
            Ok(None) => self.writing_failures.none(),
            Ok(Some(written)) => {
                self.writing_failures.none();
                if progress {
                    self.progress_told = Some(Instant::now());
                }
                self.take(written);
            }
            Err(error) => {
                tracing::warn!("the status could not be written: {error}");
                self.writing_failures.one_more(&self.env);
                let gone = matches!(&error, ServerError::Kube(kube::Error::Api(answer)) if [404, 409].contains(&answer.code));
                if gone {
                    self.read().await;
                }
            }
        }
    }

    /// Starts to write the wish into the other slot.
    async fn start_staging(&mut self, order: &Order, facts: &Facts) -> Result<(), AgentError> {
        let Some(wish) = order.wish.clone() else {
            return Ok(());
        };
        let view = self.view.clone();
        let record = tokio::task::spawn_blocking(move || {
            let running = view.node().running.as_ref().ok().copied();
            running.and_then(|running| view.record(running))
        });
        let record = record.await?;
        let terms = staging::terms(&self.config.settings, &wish, order, facts, record.as_ref());
        tracing::info!(release = wish.digest, "staging");
        self.staging.start(staging::Job {
            config: self.config.clone(),
            env: self.env.clone(),
            view: self.view.clone(),
            wish,
            terms,
        });
        Ok(())
    }

    fn staged(&mut self, staged: Staged) {
        if let Some(repository) = staged.repository {
            self.versions = Some(repository.versions());
            self.repository = Some(repository);
        }
        match staged.outcome {
            Ok(record) => {
                tracing::info!(release = %record.release, "staged");
                self.staging_failures.none();
                self.errors.remove(&About::Staging);
            }
            Err(error) => {
                tracing::warn!(release = staged.digest, "staging failed: {error}");
                self.staging_failures.one_more(&self.env);
                self.note(About::Staging, error.code(), &error);
            }
        }
    }

    fn note(&mut self, about: About, code: &str, error: &dyn std::fmt::Display) {
        let text = error.to_string();
        tracing::warn!(code, "{text}");
        self.errors.insert(
            about,
            LastError {
                code: code.to_owned(),
                text,
            },
        );
    }
}

/// A guard that is away is to be asked again; one that refuses is not.
fn is_away(error: &AskError) -> bool {
    match error {
        AskError::Away { .. } => true,
        AskError::Refused { .. } => false,
    }
}

/// How long reading metadata again before arming may take.
const METADATA_PATIENCE: Duration = Duration::from_secs(60);
