//! What all parts of one server share: the store, the registry of resources, the clock, the users.
//! It never speaks HTTP.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ServerConfig;
use super::audit::AuditTrail;
use super::hooks::Hooks;
use super::resources::Registry;
use super::store::Store;

/// The server's clock: the machine's, set off by an amount that may change at any time.
pub struct Clock {
    offset_millis: AtomicI64,
}

impl Clock {
    fn new(offset: SignedDuration) -> Clock {
        let clock = Clock {
            offset_millis: AtomicI64::new(0),
        };
        clock.set_offset(offset);
        clock
    }

    /// Set off from now on, to the millisecond.
    pub fn set_offset(&self, offset: SignedDuration) {
        let millis = i64::try_from(offset.as_millis()).unwrap_or(if offset.is_negative() {
            i64::MIN
        } else {
            i64::MAX
        });
        self.offset_millis.store(millis, Ordering::SeqCst);
    }

    /// What the server believes the time to be.
    pub fn now(&self) -> Timestamp {
        let offset = SignedDuration::from_millis(self.offset_millis.load(Ordering::SeqCst));
        let now = Timestamp::now();
        now.checked_add(offset).unwrap_or(now)
    }
}

/// The users and their bearer tokens; a user exists from when its name is first asked for.
#[derive(Default)]
pub struct Users {
    by_token: Mutex<HashMap<String, Arc<str>>>,
}

impl Users {
    /// The token of this user.
    pub fn token(&self, user: &str) -> String {
        let mut users = self.by_token.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((token, _)) = users.iter().find(|(_, name)| &***name == user) {
            return token.clone();
        }
        let token = uuid::Uuid::new_v4().simple().to_string();
        users.insert(token.clone(), user.into());
        token
    }

    /// Whose token this is.
    pub fn find(&self, token: &str) -> Option<Arc<str>> {
        self.by_token
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(token)
            .cloned()
    }
}

/// The inside of one server.
pub struct Core {
    /// How it was started.
    pub config: ServerConfig,
    /// The objects.
    pub store: Store,
    /// The resources that are served.
    pub registry: Registry,
    /// The trail of writes.
    pub audit: Arc<AuditTrail>,
    /// What tests asked for.
    pub hooks: Hooks,
    /// The server's time.
    pub clock: Clock,
    /// Who may come.
    pub users: Users,
    /// Cancelled when the server ends.
    pub shutdown: CancellationToken,
    /// Everything that runs.
    pub tasks: TaskTracker,
}

impl Core {
    /// An empty server.
    pub fn new(config: ServerConfig) -> Core {
        let audit = Arc::new(AuditTrail::new(config.audit_limit));
        Core {
            store: Store::new(config.watch_history, audit.clone()),
            registry: Registry::new(),
            audit,
            hooks: Hooks::new(),
            clock: Clock::new(config.clock_offset),
            users: Users::default(),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            config,
        }
    }

    /// Run `work` after `delay`, unless the server ends first.
    pub fn later(self: &Arc<Self>, delay: Duration, work: impl FnOnce(&Arc<Core>) + Send + 'static) {
        let core = self.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = core.shutdown.cancelled() => {}
                () = tokio::time::sleep(delay) => work(&core),
            }
        });
    }
}
