//! The Lease: taken, renewed and given up by `replace` with the resourceVersion that was read, so that
//! of two candidates one meets a conflict.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, api::PostParams};
use tokio::time::{Instant, sleep, timeout};

use super::Gate;
use crate::clock::Clock;
use drydock_api::annotation;

/// How a replica stands for election.
#[derive(Debug, Clone)]
pub struct LeaseSettings {
    /// Name of the Lease object.
    pub name: String,
    /// How long others wait, from when they saw a change, before they take the Lease.
    pub duration: Duration,
    /// How long the leader goes on without a renewal that succeeded; shorter than `duration`.
    pub renew_deadline: Duration,
    /// Between two tries.
    pub retry: Duration,
}

impl Default for LeaseSettings {
    fn default() -> Self {
        Self {
            name: "drydock-coordinator".to_owned(),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Why the Lease could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The API server refused or gave no answer.
    #[error("the Lease {name} could not be read or written: {source}; check the Role of the coordinator")]
    Api {
        /// The Lease.
        name: String,
        /// What it said.
        source: Box<kube::Error>,
    },
}

/// Why this replica leads no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// Another replica holds the Lease.
    #[error("the Lease is held by {0}")]
    TakenBy(String),
    /// It could not be renewed in time.
    #[error("the Lease could not be renewed in time")]
    NotRenewed,
    /// The Lease is gone.
    #[error("the Lease was deleted")]
    Deleted,
}

/// A Lease that this replica holds.
#[derive(Debug, Clone)]
pub struct Tenure {
    /// The term of this leading.
    pub term: i64,
    /// Passed by every write.
    pub gate: Gate,
    /// When the last leader showed its last sign of life, by its own clock; None if there was none.
    pub previous_sign: Option<Timestamp>,
    lease: Lease,
}

/// The record as last seen, and when it was seen to change, by the monotonic clock.
#[derive(Debug)]
struct Seen {
    resource_version: Option<String>,
    at: Instant,
}

/// Stands for election under one identity, which no other process may ever have.
pub struct Elector<'a> {
    leases: Api<Lease>,
    settings: &'a LeaseSettings,
    identity: &'a str,
    clock: &'a dyn Clock,
    seen: Option<Seen>,
    term_floor: i64,
}

impl<'a> Elector<'a> {
    /// A candidate that has seen nothing yet.
    #[must_use]
    pub fn new(
        leases: Api<Lease>,
        settings: &'a LeaseSettings,
        identity: &'a str,
        clock: &'a dyn Clock,
    ) -> Self {
        Self {
            leases,
            settings,
            identity,
            clock,
            seen: None,
            term_floor: 0,
        }
    }

    /// The next term will be above this one: it was found in an object, and the Lease did not know it.
    pub fn terms_above(&mut self, term: i64) {
        self.term_floor = self.term_floor.max(term);
    }

    /// Waits until this replica holds the Lease. Errors of the API server are logged and tried again.
    pub async fn acquire(&mut self) -> Tenure {
        loop {
            match self.try_acquire().await {
                Ok(Some(tenure)) => return tenure,
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "no election yet"),
            }
            sleep(self.settings.retry).await;
        }
    }

    /// One try. None: someone else holds it, or took it in the same moment.
    ///
    /// # Errors
    /// When the Lease can be neither read nor written.
    pub async fn try_acquire(&mut self) -> Result<Option<Tenure>, LeaseError> {
        let began = Instant::now();
        let found = self
            .leases
            .get_opt(&self.settings.name)
            .await
            .map_err(|e| self.error(e))?;
        let Some(mut lease) = found else {
            let fresh = Lease {
                metadata: ObjectMeta {
                    name: Some(self.settings.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: None,
            };
            let term = self.term_floor + 1;
            return self.write_taken(fresh, began, term, None).await;
        };
        let resource_version = lease.metadata.resource_version.clone();
        let changed = self
            .seen
            .as_ref()
            .is_none_or(|seen| seen.resource_version != resource_version);
        if changed {
            self.seen = Some(Seen {
                resource_version,
                at: began,
            });
        }
        let spec = lease.spec.take().unwrap_or_default();
        let held = spec
            .holder_identity
            .as_deref()
            .is_some_and(|holder| !holder.is_empty());
        let unchanged_for = self
            .seen
            .as_ref()
            .map_or(Duration::ZERO, |seen| seen.at.elapsed());
        if held && unchanged_for < self.wait_for(&spec) {
            return Ok(None);
        }
        let previous_sign = spec.renew_time.as_ref().map(|time| time.0);
        let term = term_of(&lease).max(self.term_floor) + 1;
        lease.spec = Some(spec);
        self.write_taken(lease, began, term, previous_sign).await
    }

    /// The holder may have been told a longer duration than this replica: the longer one counts.
    fn wait_for(&self, spec: &LeaseSpec) -> Duration {
        let holders = spec.lease_duration_seconds.unwrap_or(0);
        self.settings
            .duration
            .max(Duration::from_secs(u64::try_from(holders).unwrap_or(0)))
    }

    async fn write_taken(
        &mut self,
        mut lease: Lease,
        began: Instant,
        term: i64,
        previous_sign: Option<Timestamp>,
    ) -> Result<Option<Tenure>, LeaseError> {
        let missing = lease.metadata.resource_version.is_none();
        let now = MicroTime(self.clock.now());
        let spec = lease.spec.get_or_insert_default();
        let transitions = spec.lease_transitions.unwrap_or(0);
        *spec = LeaseSpec {
            holder_identity: Some(self.identity.to_owned()),
            lease_duration_seconds: Some(whole_secs(self.settings.duration)),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(if missing { 0 } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        };
        set_term(&mut lease, term);
        let written = if missing {
            self.leases.create(&PostParams::default(), &lease).await
        } else {
            self.leases
                .replace(&self.settings.name, &PostParams::default(), &lease)
                .await
        };
        match written {
            Ok(lease) => Ok(Some(Tenure {
                term,
                gate: Gate::open(began, self.settings.renew_deadline),
                previous_sign,
                lease,
            })),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(self.error(error)),
        }
    }

    /// Renews until that fails for the renew deadline, or another holds the Lease. The gate is shut
    /// when this returns.
    pub async fn hold(&mut self, tenure: &mut Tenure) -> Lost {
        let lost = loop {
            let left = tenure.gate.open_until().saturating_duration_since(Instant::now());
            if left.is_zero() {
                break Lost::NotRenewed;
            }
            sleep(self.settings.retry.min(left)).await;
            match timeout(left, self.renew(tenure)).await {
                Ok(Ok(())) => {}
                Ok(Err(Some(lost))) => break lost,
                Ok(Err(None)) | Err(_) => {}
            }
        };
        tenure.gate.shut();
        lost
    }

    /// Writes the Lease once more. `Err(None)`: no answer, or one that says nothing; try again.
    async fn renew(&self, tenure: &mut Tenure) -> Result<(), Option<Lost>> {
        let began = Instant::now();
        let mut next = tenure.lease.clone();
        if let Some(spec) = next.spec.as_mut() {
            spec.renew_time = Some(MicroTime(self.clock.now()));
        }
        set_term(&mut next, tenure.term);
        let written = self
            .leases
            .replace(&self.settings.name, &PostParams::default(), &next)
            .await;
        match written {
            Ok(lease) => {
                tenure.lease = lease;
                tenure.gate.extend(began, self.settings.renew_deadline);
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                // Somebody wrote: a label by a person, or another leader. Only the first is no end. An
                // own write whose answer was lost looks the same.
                match self.leases.get_opt(&self.settings.name).await {
                    Ok(None) => Err(Some(Lost::Deleted)),
                    Ok(Some(lease)) if self.is_ours(&lease, tenure.term) => {
                        tenure.lease = lease;
                        Err(None)
                    }
                    Ok(Some(lease)) => Err(Some(Lost::TakenBy(holder(&lease)))),
                    Err(error) => {
                        tracing::warn!(%error, "the Lease was not renewed");
                        Err(None)
                    }
                }
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Err(Some(Lost::Deleted)),
            Err(error) => {
                tracing::warn!(%error, "the Lease was not renewed");
                Err(None)
            }
        }
    }

    /// Gives the Lease up, so that another replica need not wait. It is no failure if that fails: the
    /// Lease then runs out.
    pub async fn give_up(&self, tenure: Tenure) {
        tenure.gate.shut();
        let mut lease = tenure.lease;
        if let Some(spec) = lease.spec.as_mut() {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(self.clock.now()));
        }
        let params = PostParams::default();
        let write = self.leases.replace(&self.settings.name, &params, &lease);
        match timeout(self.settings.retry, write).await {
            Ok(Ok(_)) => tracing::info!("the Lease was given up"),
            Ok(Err(error)) => tracing::warn!(%error, "the Lease runs out by itself"),
            Err(_) => tracing::warn!("the Lease runs out by itself"),
        }
    }

    fn is_ours(&self, lease: &Lease, term: i64) -> bool {
        holder(lease) == self.identity && term_of(lease) <= term
    }

    fn error(&self, source: kube::Error) -> LeaseError {
        LeaseError::Api {
            name: self.settings.name.clone(),
            source: Box::new(source),
        }
    }
}

fn holder(lease: &Lease) -> String {
    lease
        .spec
        .as_ref()
        .and_then(|spec| spec.holder_identity.clone())
        .unwrap_or_default()
}

fn term_of(lease: &Lease) -> i64 {
    let annotations = lease.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(annotation::TERM))
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn set_term(lease: &mut Lease, term: i64) {
    lease
        .metadata
        .annotations
        .get_or_insert_default()
        .insert(annotation::TERM.to_owned(), term.to_string());
}

/// Whole seconds, rounded up: others must not wait less than was meant.
fn whole_secs(span: Duration) -> i32 {
    let up = u64::from(span.subsec_nanos() > 0);
    i32::try_from(span.as_secs() + up).unwrap_or(i32::MAX)
}
