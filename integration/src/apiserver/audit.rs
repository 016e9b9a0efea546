//! The trail of writes, in the order in which they took effect. It only remembers and tells; it never
//! refuses a write.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use super::resources::GroupResource;
use super::store::{Key, Object};

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH.
    Patch,
    /// DELETE of one object.
    Delete,
    /// DELETE of a collection.
    DeleteCollection,
}

/// Who writes, and how; goes with every change.
#[derive(Debug, Clone)]
pub struct WriteContext {
    /// The user of the request, or `system:...` for what the server does itself.
    pub user: Arc<str>,
    /// What was asked for.
    pub verb: Verb,
    /// `status`, `eviction`, `binding` or empty.
    pub subresource: String,
}

impl WriteContext {
    /// A write by the server's own controller of this name.
    pub fn system(user: &str, verb: Verb, subresource: &str) -> WriteContext {
        WriteContext {
            user: user.into(),
            verb,
            subresource: subresource.to_owned(),
        }
    }
}

/// One write that took effect.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    /// Counts from 1.
    pub sequence: u64,
    /// Who.
    pub user: Arc<str>,
    /// How.
    pub verb: Verb,
    /// The collection.
    pub resource: GroupResource,
    /// `status`, `eviction`, `binding` or empty.
    pub subresource: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// The resourceVersion after it (of the removal, for a delete).
    pub version: u64,
    /// False for an update or patch that changed nothing and so made no new version.
    pub changed: bool,
    /// The object before.
    pub before: Option<Object>,
    /// The object after; none when it is gone.
    pub after: Option<Object>,
}

struct Trail {
    sequence: u64,
    kept: VecDeque<AuditEntry>,
    listeners: Vec<mpsc::UnboundedSender<AuditEntry>>,
}

/// The trail of one server; the newest entries are kept, and told to whoever subscribed.
pub struct AuditTrail {
    trail: Mutex<Trail>,
    limit: usize,
}

impl AuditTrail {
    pub(super) fn new(limit: usize) -> AuditTrail {
        let trail = Trail {
            sequence: 0,
            kept: VecDeque::new(),
            listeners: Vec::new(),
        };
        AuditTrail {
            trail: Mutex::new(trail),
            limit,
        }
    }

    /// Every later write, in order; the channel has no bound, its reader must keep up.
    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<AuditEntry> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.trail
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .listeners
            .push(sender);
        receiver
    }

    /// The writes so far (the newest [`super::ServerConfig::audit_limit`] of them), oldest first.
    pub fn entries(&self) -> Vec<AuditEntry> {
        self.trail
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .kept
            .iter()
            .cloned()
            .collect()
    }

    /// The writes after this sequence number.
    pub fn since(&self, sequence: u64) -> Vec<AuditEntry> {
        let trail = self.trail.lock().unwrap_or_else(PoisonError::into_inner);
        let start = trail.kept.partition_point(|e| e.sequence <= sequence);
        trail.kept.range(start..).cloned().collect()
    }

    pub(super) fn record(
        &self,
        context: &WriteContext,
        resource: &GroupResource,
        key: &Key,
        version: u64,
        before: Option<&Object>,
        after: Option<&Object>,
    ) {
        let mut trail = self.trail.lock().unwrap_or_else(PoisonError::into_inner);
        trail.sequence += 1;
        let changed = match (before, after) {
            (Some(before), Some(after)) => !Arc::ptr_eq(before, after),
            _ => true,
        };
        let entry = AuditEntry {
            sequence: trail.sequence,
            user: context.user.clone(),
            verb: context.verb,
            resource: resource.clone(),
            subresource: context.subresource.clone(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            version,
            changed,
            before: before.cloned(),
            after: after.cloned(),
        };
        trail
            .listeners
            .retain(|listener| listener.send(entry.clone()).is_ok());
        trail.kept.push_back(entry);
        if trail.kept.len() > self.limit {
            trail.kept.pop_front();
        }
    }
}
