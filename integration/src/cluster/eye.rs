//! Feeds the observer: the API's trail of writes, and what happens on the nodes, in one order. What
//! happened in the API before something happened on a node is always seen before it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::apiserver::audit::AuditEntry;
use crate::observer::{ApiWrite, Knowledge, KnownRelease, Observer, Report, Seen};

struct Inner {
    observer: Observer,
    trail: UnboundedReceiver<AuditEntry>,
}

/// The observer of a running cluster.
pub struct Eye {
    inner: Mutex<Inner>,
}

impl Eye {
    /// An eye on this trail, which must have been subscribed to before anything was written.
    #[must_use]
    pub fn new(knowledge: Knowledge, trail: UnboundedReceiver<AuditEntry>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                observer: Observer::new(knowledge),
                trail,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok(entry) = inner.trail.try_recv() {
            let write = api_write(entry);
            inner.observer.see(Timestamp::now(), Seen::Api(write));
        }
        inner
    }

    /// Takes note of what happened on a node.
    pub fn note(&self, seen: Seen) {
        self.lock().observer.see(Timestamp::now(), seen);
    }

    /// Learns of a release that was built.
    pub fn learn(&self, release: KnownRelease) {
        self.lock().observer.learn(release);
    }

    /// Looks at what was written since, so that its time is about right; call it often.
    pub fn catch_up(&self) {
        drop(self.lock());
    }

    /// What was checked so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.lock().observer.report().clone()
    }

    /// The last look; see [`Observer::finish`].
    #[must_use]
    pub fn finish(&self, kept: &[&str]) -> Report {
        let mut inner = self.lock();
        inner.observer.finish(Timestamp::now(), kept);
        inner.observer.report().clone()
    }
}

fn api_write(entry: AuditEntry) -> ApiWrite {
    ApiWrite {
        user: entry.user.to_string(),
        resource: entry.resource.resource.to_string(),
        subresource: entry.subresource,
        namespace: entry.namespace,
        name: entry.name,
        before: entry.before,
        after: entry.after,
    }
}
