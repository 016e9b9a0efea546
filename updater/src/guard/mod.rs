//! The guard: the shell around the machine of `drydock-machine`. It owns the journal, whose lock it holds
//! for as long as it lives, and boot control of the slots outside staging.
//!
//! One loop: an event comes in, [`drydock_machine::step`] decides, the journal is written, then the effect
//! is performed and its outcome is the next event. Nothing here decides. Needs no network, runtime,
//! kubelet or metadata. Can be killed anywhere; the next start mends it.

mod checks;
mod client;
mod effects;
mod kernel;
pub mod offline;
mod socket;
mod view;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drydock_machine::{
    AttemptReport, Effect, Event, GuardStatus, Journal, NextTick, Refusal, Reply, Request, Seen, Timing,
    next_tick, step,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::LoadedConfig;
use crate::node::{NodeEnv, NodeError, OpenNode};
use crate::stage::StageError;
use crate::state::{LockName, Record, StateDir, StateError, StateLock, Store};

pub use checks::run as run_checks;
pub use client::{AskError, GuardClient};
pub use effects::{boot_slot, machine_slot};
pub use view::NodeView;
use view::SlotBits;

/// The journal's file in the state folder.
pub const JOURNAL_FILE: &str = "journal.json";
/// Requests that wait for the loop.
const QUEUE: usize = 32;
/// A guard that starts waits this long for the journal's lock; another guard never gives it back.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// After so many failures to write the journal the guard goes back without (a full disk must not keep a
/// node on a release that failed).
const GO_BACK_UNWRITTEN_AFTER: u32 = 3;

impl Record for Journal {
    const KIND: &'static str = "journal";
    const MAJOR: u32 = drydock_machine::JOURNAL_MAJOR;
    const LOCK: LockName = LockName::Journal;
}

/// Why the guard stopped.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("cannot listen on {}: {source}; check that its folder can be written", path.display())]
    Socket {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("a thread of the guard ended early: {0}. This is a defect of Drydock; please report it")]
    Thread(String),
}

impl From<tokio::task::JoinError> for GuardError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Thread(error.to_string())
    }
}

/// What the parts of the guard tell its loop.
enum Message {
    Ask(Request, oneshot::Sender<Reply>),
    /// The required checks of this boot are through.
    Checked(Result<(), String>),
    /// Root asked to mark good, and the checks are through.
    CheckedFor(Request, oneshot::Sender<Reply>, Result<(), String>),
    /// The running slot was proven to hold this, or why not.
    Identified(Box<Result<crate::stage::Identity, StageError>>),
}

/// Runs until `cancel`; after that nothing more is written. Dropping the future is the same.
///
/// # Errors
/// See [`GuardError`]. What goes wrong later is reported in the guard's status, and tried again.
pub async fn run(
    config: Arc<LoadedConfig>,
    env: NodeEnv,
    cancel: CancellationToken,
) -> Result<(), GuardError> {
    let cancel = cancel.child_token();
    let _stop_when_dropped = cancel.clone().drop_guard();
    let env = env.until(&cancel);
    let (to_loop, from_parts) = mpsc::channel(QUEUE);
    let mut guard = Guard::open(config, env, to_loop, cancel.clone()).await?;
    let socket = guard.config.settings.guard_socket();
    let listener = socket::listen(&socket).map_err(|source| GuardError::Socket { path: socket, source })?;
    guard.parts.spawn(socket::serve(
        listener,
        guard.to_loop.clone(),
        guard.env.pace.guard_answer,
    ));
    guard.start_identifying();
    guard.happen(Event::Started).await?;
    guard.env.outside.notify("guarding");
    tokio::select! {
        biased;
        () = cancel.cancelled() => Ok(()),
        ended = guard.serve(from_parts) => ended,
    }
}

struct Guard {
    config: Arc<LoadedConfig>,
    env: NodeEnv,
    view: Arc<NodeView>,
    store: Store<Journal>,
    lock: Arc<StateLock>,
    journal: Journal,
    timing: Timing,
    /// What is wrong from the start (config, journal), and what went wrong last.
    standing_problems: Vec<String>,
    last_problem: Option<String>,
    unwritten: u32,
    /// What the checks came to, where the journal could not take it: it is told again at the next tick.
    owed: Option<Event>,
    checks_running: bool,
    /// Since when the running slot is being hashed, as counted so far.
    hashing_since: Option<Duration>,
    running_digest: Option<String>,
    to_loop: mpsc::Sender<Message>,
    parts: JoinSet<()>,
    cancel: CancellationToken,
}

impl Guard {
    async fn open(
        config: Arc<LoadedConfig>,
        env: NodeEnv,
        to_loop: mpsc::Sender<Message>,
        cancel: CancellationToken,
    ) -> Result<Self, GuardError> {
        let (opening, settings) = (env.clone(), config.clone());
        let opened = tokio::task::spawn_blocking(move || -> Result<_, GuardError> {
            let node = opening.open(&settings.settings)?;
            let store = Store::<Journal>::new(&node.state, JOURNAL_FILE);
            let lock = lock_journal(&node.state)?;
            let (journal, lost) = store.load(&lock)?.split();
            Ok((node, store, lock, journal.unwrap_or_default(), lost))
        });
        let (node, store, lock, journal, lost) = opened.await??;
        let mut problems = config_problems(&config);
        problems.extend(lost.map(|lost| lost.to_string()));
        problems.extend(node.running.as_ref().err().map(ToString::to_string));
        let timing = Timing {
            shutdown: env.pace.shutdown,
            confirm_wait: config.settings.confirm_wait,
        };
        Ok(Self {
            view: Arc::new(NodeView::new(node)),
            config,
            env,
            store,
            lock: Arc::new(lock),
            journal,
            timing,
            standing_problems: problems,
            last_problem: None,
            unwritten: 0,
            owed: None,
            checks_running: false,
            hashing_since: None,
            running_digest: None,
            to_loop,
            parts: JoinSet::new(),
            cancel,
        })
    }

    fn node(&self) -> &OpenNode {
        self.view.node()
    }

    async fn serve(&mut self, mut from_parts: mpsc::Receiver<Message>) -> Result<(), GuardError> {
        loop {
            let pause = self.pause().await?;
            tokio::select! {
                message = from_parts.recv() => match message {
                    Some(message) => self.hear(message).await?,
                    None => return Ok(()),
                },
                () = sleep_at_most(pause) => {
                    self.count_hashing().await?;
                    match self.owed.take() {
                        Some(outcome) => self.judge(outcome).await?,
                        None => { self.happen(Event::Tick).await?; }
                    }
                }
            }
        }
    }

    async fn hear(&mut self, message: Message) -> Result<(), GuardError> {
        match message {
            Message::Ask(request @ Request::MarkGood(_), answer) => self.check_for(request, answer),
            Message::Ask(request, answer) => {
                let reply = self.ask(request).await?;
                // Who asked may be gone; what was done stays done.
                let _gone = answer.send(reply);
            }
            Message::Checked(outcome) => {
                self.checks_running = false;
                let event = match outcome {
                    Ok(()) => Event::ChecksPassed,
                    Err(text) => Event::ChecksFailed { text },
                };
                self.judge(event).await?;
            }
            Message::CheckedFor(request, answer, outcome) => {
                let reply = match outcome {
                    Ok(()) => self.ask(request).await?,
                    Err(text) => Reply::Refused {
                        code: "HealthCheck".to_owned(),
                        text,
                    },
                };
                // What was marked good may have a record now (`adopt`).
                self.start_identifying();
                let _gone = answer.send(reply);
            }
            Message::Identified(identity) => {
                self.count_hashing().await?;
                self.hashing_since = None;
                match *identity {
                    Ok(identity) => self.running_digest = identity.release().map(|d| d.to_string()),
                    Err(error) => self.note(&format!("the running slot could not be proven: {error}")),
                }
                self.happen(Event::Tick).await?;
            }
        }
        Ok(())
    }

    /// The outcome of the checks. It is kept until the journal has it: a full disk must not lose it.
    async fn judge(&mut self, outcome: Event) -> Result<(), GuardError> {
        if let Outcome::Failed(_) = self.happen(outcome.clone()).await? {
            self.owed = Some(outcome);
        }
        Ok(())
    }

    /// A request, answered after its effect.
    async fn ask(&mut self, request: Request) -> Result<Reply, GuardError> {
        let event = match request {
            Request::Status => return self.done().await,
            Request::Arm(arm) | Request::Rollback(arm) => {
                if let Some(text) = self.kernel_is_unguarded(&arm).await? {
                    return Ok(Reply::Refused {
                        code: "UnguardedKernel".to_owned(),
                        text,
                    });
                }
                Event::Arm(arm)
            }
            Request::Disarm { attempt } => Event::Disarm { attempt },
            Request::Reboot { attempt } => Event::Reboot { attempt },
            Request::Verdict(verdict) => Event::Verdict(verdict),
            Request::MarkGood(good) => Event::MarkGood(good),
            Request::Forgive { attempts } => Event::Forgive { attempts },
        };
        match self.happen(event).await? {
            Outcome::Done => self.done().await,
            Outcome::Refused(refusal) => Ok(Reply::Refused {
                code: refusal.code().to_owned(),
                text: refusal.to_string(),
            }),
            Outcome::Failed(text) => Ok(Reply::Refused {
                code: "EffectFailed".to_owned(),
                text,
            }),
        }
    }

    async fn done(&mut self) -> Result<Reply, GuardError> {
        Ok(match self.bits().await? {
            Ok(bits) => {
                let problems = self.standing_problems.iter().chain(&self.last_problem);
                let problems = problems.chain(&bits.table_problem).cloned().collect();
                Reply::Done(Box::new(GuardStatus::new(
                    &self.journal,
                    &self.seen(bits),
                    problems,
                )))
            }
            Err(text) => Reply::Refused {
                code: "Disk".to_owned(),
                text,
            },
        })
    }

    /// One event and all that follows from it. An error of the disk or the journal is no end of the guard:
    /// it is noted, and the next tick tries again.
    async fn happen(&mut self, event: Event) -> Result<Outcome, GuardError> {
        let mut events = VecDeque::from([event]);
        let mut outcome = Outcome::Done;
        while let Some(event) = events.pop_front() {
            let seen = match self.see().await? {
                Ok(seen) => seen,
                Err(text) => {
                    self.note(&text);
                    return Ok(Outcome::Failed(text));
                }
            };
            let next = step(&self.journal, &seen, &self.timing, event);
            if let Some(refusal) = next.refused {
                outcome = Outcome::Refused(refusal);
            }
            if next.journal != self.journal
                && let Err(text) = self.write(next.journal, next.effect).await?
            {
                self.note(&text);
                return Ok(Outcome::Failed(text));
            }
            let Some(effect) = next.effect else { continue };
            tracing::info!(?effect, "performing");
            let done = self.perform(effect).await?;
            let failed = match &done {
                Event::EffectFailed { text, .. } => Some(text.as_str()),
                Event::TooLate(_) => Some("the grant was over before this could be done"),
                _ => None,
            };
            if let Some(text) = failed {
                self.note(text);
                outcome = Outcome::Failed(text.to_owned());
            }
            events.push_back(done);
        }
        if matches!(outcome, Outcome::Done) {
            self.last_problem = None;
        }
        Ok(outcome)
    }

    /// The journal is on the medium when this returns `Ok(Ok)`.
    async fn write(
        &mut self,
        journal: Journal,
        effect: Option<Effect>,
    ) -> Result<Result<(), String>, GuardError> {
        let (store, lock, new) = (self.store.clone(), self.lock.clone(), journal.clone());
        let saved = tokio::task::spawn_blocking(move || store.save(&lock, &new)).await?;
        match saved {
            Ok(()) => self.unwritten = 0,
            Err(error) => {
                self.unwritten += 1;
                let go_back = matches!(effect, Some(Effect::GoBack { .. }));
                if !(go_back && self.unwritten > GO_BACK_UNWRITTEN_AFTER) {
                    return Ok(Err(format!("the journal could not be written: {error}")));
                }
                self.note(&format!("going back without the journal: {error}"));
            }
        }
        let before = self.attempt();
        self.journal = journal;
        self.tell(before.as_ref());
        Ok(Ok(()))
    }

    fn attempt(&self) -> Option<AttemptReport> {
        AttemptReport::of(&self.journal, &self.node().boot_id)
    }

    /// Each step of an attempt is a line of the log: on a node cut off from its cluster it is all that its
    /// owner has.
    fn tell(&self, before: Option<&AttemptReport>) {
        let Some(now) = self.attempt() else { return };
        let step =
            |attempt: &AttemptReport| (attempt.attempt.clone(), attempt.phase, attempt.boot_id.clone());
        if before.map(step) == Some(step(&now)) {
            return;
        }
        tracing::info!(
            attempt = now.attempt,
            release = now.digest,
            state = now.state.as_str(),
            code = now.code,
            "attempt: {:?}{}",
            now.phase,
            now.text.map(|text| format!(": {text}")).unwrap_or_default()
        );
    }

    /// The node as it is now, or why it cannot be seen.
    async fn see(&self) -> Result<Result<Seen, String>, GuardError> {
        Ok(self.bits().await?.map(|bits| self.seen(bits)))
    }

    async fn bits(&self) -> Result<Result<SlotBits, String>, GuardError> {
        let view = self.view.clone();
        Ok(tokio::task::spawn_blocking(move || view.bits()).await?)
    }

    fn seen(&self, bits: SlotBits) -> Seen {
        Seen {
            boot_id: self.node().boot_id.clone(),
            running: self.node().running.as_ref().ok().map(|slot| machine_slot(*slot)),
            running_digest: self.running_digest.clone(),
            a: bits.a,
            b: bits.b,
            next: bits.next,
            loader_counts: self.config.settings.loader.counts_tries(),
            checks_running: self.checks_running,
            now: self.env.outside.since_boot(),
        }
    }

    /// How long until a tick is due; `None`: until something happens.
    async fn pause(&self) -> Result<Option<Duration>, GuardError> {
        let retry = self.env.pace.guard_retry;
        let Ok(seen) = self.see().await? else {
            return Ok(Some(retry));
        };
        let due = match next_tick(&self.journal, &seen, &self.timing) {
            NextTick::Never => None,
            NextTick::Retry => Some(retry),
            NextTick::At(at) => Some(at.saturating_sub(seen.now)),
        };
        // What could not be written is tried again, whatever else is waited for.
        let again = (self.unwritten > 0 || self.owed.is_some()).then_some(retry);
        Ok(due.into_iter().chain(again).min())
    }

    fn note(&mut self, text: &str) {
        tracing::warn!("{text}");
        self.last_problem = Some(text.to_owned());
    }

    /// Is this boot a trial whose checks or word are still out?
    fn on_trial(&self) -> bool {
        let running = self.node().running.as_ref().ok().map(|slot| machine_slot(*slot));
        self.journal
            .current
            .as_ref()
            .is_some_and(|attempt| Some(attempt.target) == running)
    }
}

/// The journal's lock, when whoever holds it for a moment is through: a command of root's without a guard,
/// or the last write of a guard that was just stopped.
fn lock_journal(state: &StateDir) -> Result<StateLock, StateError> {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match state.try_lock(LockName::Journal) {
            Err(StateError::LockHeld { .. }) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

/// What came of an event.
enum Outcome {
    Done,
    Refused(Refusal),
    /// An effect, or the journal.
    Failed(String),
}

async fn sleep_at_most(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

/// What a person has to mend in the configuration; the guard starts all the same.
#[must_use]
pub fn config_problems(config: &LoadedConfig) -> Vec<String> {
    if config.unknown_fields.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "the configuration has fields that this Drydock does not know ({}); nothing is staged until they are \
         removed or Drydock is newer",
        config.unknown_fields.join(", ")
    )]
}
