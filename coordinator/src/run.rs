//! One replica: stands for election and, while it leads, observes, plans and executes. It can run several
//! times in one process, and dropping its future ends every write at once.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use drydock_plan::{Plan, World, fence::highest_term, plan};
use jiff::Timestamp;
use kube::{Api, Client, api::PostParams};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    execute::{End, Events, Executor},
    lead::{Elector, Lost, Tenure},
    link::{Link, Outage},
    metrics::Metrics,
    observe::Observer,
    repository::{Desk, Finished},
    serve::serve,
    settings::Settings,
};

/// Shortest and longest pause after a plan that failed.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Why a replica cannot run at all.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The client cannot be made from the configuration.
    #[error("no client can be made from the configuration of the cluster: {0}")]
    Client(#[source] Box<kube::Error>),
    /// The pages cannot be served.
    #[error("/metrics cannot be served: {0}; choose another address")]
    Serve(#[from] std::io::Error),
}

/// Why leading ended.
#[derive(Debug)]
enum Ended {
    Lost(Lost),
    StepDown { seen: i64 },
    TermTooLow { highest: i64 },
    GaveUp,
    Canceled,
}

/// Runs one replica until `cancel`, then gives the Lease up if it holds it.
///
/// # Errors
/// When the configuration can never work; everything else is tried again.
pub async fn run(
    settings: Settings,
    config: kube::Config,
    clock: Arc<dyn Clock>,
    cancel: CancellationToken,
) -> Result<(), RunError> {
    let metrics = Metrics::new();
    let link = Link::new(Arc::clone(&clock), metrics.clone());
    let client = link
        .client(config)
        .map_err(|error| RunError::Client(Box::new(error)))?;
    let _shut = ShutOnDrop(link.clone());
    let in_step = Arc::new(AtomicBool::new(true));
    let replica = Replica {
        settings: &settings,
        client,
        link: link.clone(),
        clock,
        metrics: metrics.clone(),
        in_step: Arc::clone(&in_step),
    };
    let pages = async {
        match settings.listen {
            Some(address) => serve(address, metrics, link, Arc::new(move || ready(&in_step))).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        served = pages => served.map_err(RunError::Serve),
        () = replica.stand(&cancel) => Ok(()),
    }
}

fn ready(in_step: &AtomicBool) -> Result<(), String> {
    if in_step.load(Ordering::Relaxed) {
        Ok(())
    } else {
        Err("this leader has not listed everything yet".to_owned())
    }
}

/// Nothing is sent any more once the replica's future is gone.
struct ShutOnDrop(Link);

impl Drop for ShutOnDrop {
    fn drop(&mut self) {
        self.0.shut();
    }
}

/// What a replica has for as long as it lives.
struct Replica<'a> {
    settings: &'a Settings,
    client: Client,
    link: Link,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    in_step: Arc<AtomicBool>,
}

impl Replica<'_> {
    /// Stands for election again and again.
    async fn stand(&self, cancel: &CancellationToken) {
        let leases = Api::namespaced(self.client.clone(), &self.settings.namespace);
        let settings = &self.settings.lease;
        let mut elector = Elector::new(leases, settings, &self.settings.identity, &*self.clock);
        loop {
            let mut tenure = tokio::select! {
                () = cancel.cancelled() => return,
                tenure = elector.acquire() => tenure,
            };
            let (term, leading) = (tenure.term, tenure.clone());
            tracing::info!(identity = self.settings.identity, term, "leads");
            self.metrics.leading(Some(term));
            self.note_interregnum(&tenure);
            // Only one of these goes on: when the Lease is lost, the leading future is dropped here.
            let ended = tokio::select! {
                biased;
                () = cancel.cancelled() => Ended::Canceled,
                lost = elector.hold(&mut tenure) => Ended::Lost(lost),
                ended = self.lead(&leading) => ended,
            };
            leading.gate.shut();
            self.metrics.leading(None);
            self.in_step.store(true, Ordering::Relaxed);
            tracing::info!(term, "leads no more");
            let pause = match ended {
                Ended::Lost(lost) => {
                    tracing::warn!(term, %lost, "another replica may lead now");
                    settings.retry
                }
                Ended::Canceled => {
                    elector.give_up(tenure).await;
                    return;
                }
                Ended::StepDown { seen } => {
                    elector.terms_above(seen);
                    elector.give_up(tenure).await;
                    settings.retry
                }
                Ended::TermTooLow { highest } => {
                    // The Lease was made anew. Who held the old one may believe in it for a while.
                    elector.terms_above(highest);
                    elector.give_up(tenure).await;
                    settings.duration
                }
                Ended::GaveUp => {
                    elector.give_up(tenure).await;
                    settings.duration
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// If nobody led for longer than a change of leaders takes, no node heard a word in that time.
    fn note_interregnum(&self, tenure: &Tenure) {
        let now = self.clock.now();
        let Some(start) = tenure.previous_sign.filter(|sign| *sign < now) else {
            return;
        };
        let usual = self.settings.lease.duration * 2;
        let lasted = Duration::try_from(now.duration_since(start)).unwrap_or_default();
        if lasted > usual {
            self.link.note_outage(Outage {
                start,
                end: Some(now),
            });
        }
    }

    /// Observes, plans and executes until leading has to end.
    async fn lead(&self, tenure: &Tenure) -> Ended {
        self.in_step.store(false, Ordering::Relaxed);
        let observer = Observer::start(
            &self.client,
            self.settings,
            &self.link,
            &self.clock,
            &self.metrics,
        );
        let events = Events::new(self.client.clone(), &self.settings.identity);
        let executor = Executor {
            client: self.client.clone(),
            observer: &observer,
            gate: &tenure.gate,
            term: tenure.term,
            link: &self.link,
            clock: &*self.clock,
            metrics: &self.metrics,
            events: &events,
            parallel: self.settings.parallel,
        };
        if let Err(ended) = self.wait_in_step(&observer, tenure.term).await {
            return ended;
        }
        self.in_step.store(true, Ordering::Relaxed);
        let mut desk = Desk::new(
            self.client.clone(),
            Arc::clone(&self.clock),
            self.settings.data_dir.clone(),
            Arc::clone(&self.settings.store_watch),
        );
        let mut pause = BACKOFF.0;
        loop {
            let mut changes = observer.changes();
            changes.borrow_and_update();
            desk.begin_due(&observer.repositories.items(), &observer.upgrades.items());
            let world = observer.world(tenure.term, self.settings, desk.views());
            let began = Instant::now();
            let Some(made) = self.plan(world).await else {
                return Ended::GaveUp;
            };
            let interval = self.settings.min_interval.max(began.elapsed() * 2);
            let wake_at = made.wake_at;
            match executor.execute(made.actions).await {
                End::Done { actions: 0 } => {
                    pause = BACKOFF.0;
                    self.wait(&mut changes, wake_at, &mut desk, &executor).await;
                    sleep(interval).await;
                }
                End::Done { .. } => {
                    pause = BACKOFF.0;
                    sleep(interval).await;
                }
                End::Stale { .. } => {
                    // The fresh object is in the cache already, or comes with the watch.
                    sleep(pause.min(Duration::from_secs(1))).await;
                    pause = (pause * 2).min(BACKOFF.1);
                }
                End::Failed { .. } => {
                    sleep(pause).await;
                    pause = (pause * 2).min(BACKOFF.1);
                }
                End::StepDown { seen } => return Ended::StepDown { seen },
                End::GiveUpLease => return Ended::GaveUp,
                End::NotLeading => return Ended::Lost(Lost::NotRenewed),
            }
        }
    }

    /// Waits until everything was listed after the Lease was taken. A term there that is not below this
    /// leader's means that the Lease had forgotten it.
    async fn wait_in_step(&self, observer: &Observer, term: i64) -> Result<(), Ended> {
        let mut changes = observer.changes();
        while let Err(missing) = observer.in_step() {
            tracing::debug!(missing, "leading begins when everything was listed");
            let _ = tokio::time::timeout(self.settings.poll_ceiling, changes.changed()).await;
        }
        let (policies, upgrades, nodes) = (
            observer.policies.items(),
            observer.upgrades.items(),
            observer.nodes.items(),
        );
        let highest = highest_term(policies.values(), upgrades.values(), nodes.values());
        if highest >= term {
            tracing::warn!(
                highest,
                term,
                "the Lease did not know of a term that objects carry"
            );
            return Err(Ended::TermTooLow { highest });
        }
        Ok(())
    }

    /// Plans off this task, so that the Lease is renewed meanwhile. None: the planner broke; another
    /// replica may have more luck, and nothing was written.
    async fn plan(&self, world: World) -> Option<Plan> {
        let began = Instant::now();
        let made = tokio::task::spawn_blocking(move || plan(&world)).await;
        self.metrics.planned(began.elapsed());
        match made {
            Ok(made) => {
                self.count(&made);
                Some(made)
            }
            Err(error) => {
                tracing::error!(%error, "the planner broke");
                None
            }
        }
    }

    fn count(&self, made: &Plan) {
        let mut phases = BTreeMap::new();
        let mut reasons = BTreeMap::new();
        for node in made.nodes.values() {
            let policy = match node.policies.as_slice() {
                [only] => only.as_str(),
                [] => "none",
                _ => "several",
            };
            let key = (policy.to_owned(), node.phase.name().to_owned());
            *phases.entry(key).or_insert(0) += 1;
            if let Some(note) = node.notes.first() {
                let key = (policy.to_owned(), note.reason.name().to_owned());
                *reasons.entry(key).or_insert(0) += 1;
            }
        }
        self.metrics.set_nodes(&phases, &reasons);
        for note in &made.notes {
            tracing::debug!(reason = note.reason.name(), text = note.text, "holds everything");
        }
    }

    /// Waits for something to plan about: a change, an instant that the planner named, a repository, or
    /// the ceiling.
    async fn wait(
        &self,
        changes: &mut tokio::sync::watch::Receiver<u64>,
        wake_at: Option<Timestamp>,
        desk: &mut Desk,
        executor: &Executor<'_>,
    ) {
        let now = self.clock.now();
        let ceiling = self.settings.poll_ceiling;
        let until_wake = wake_at.map_or(ceiling, |at| {
            Duration::try_from(at.duration_since(now)).unwrap_or_default()
        });
        let mut until = Instant::now() + until_wake.min(ceiling);
        if let Some(due) = desk.next_due() {
            until = until.min(due);
        }
        let seen = |name: &str| executor.observer.repositories.get(name);
        tokio::select! {
            _ = changes.changed() => {}
            () = sleep_until(until) => {}
            finished = desk.finished(seen) => self.report(executor, finished).await,
        }
    }

    /// Writes the status of a repository. If that fails, the next load tries again.
    async fn report(&self, executor: &Executor<'_>, finished: Finished) {
        let Some(status) = finished.status else { return };
        let feed = &executor.observer.repositories;
        let Some(mut repository) = feed.get(&finished.name) else {
            return;
        };
        repository.status = Some(status);
        if executor.gate.pass().is_err() {
            return;
        }
        let api: Api<drydock_api::ImageRepository> = Api::all(self.client.clone());
        let written = api
            .replace_status(&finished.name, &PostParams::default(), &repository)
            .await;
        if let Err(error) = written {
            tracing::warn!(repository = finished.name, %error, "its status was not written");
        }
    }
}
