//! What tests may do to the server from inside the process: fail, delay or stop the k-th write, hold a
//! watch back, cut users off. The hooks decide by who asks for what; they never touch objects.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::audit::Verb;
use super::resources::GroupResource;
use super::status::ApiError;

/// A write on its way, as rules and callbacks see it.
#[derive(Debug, Clone)]
pub struct WriteAttempt {
    /// The user of the request.
    pub user: Arc<str>,
    /// What is asked for.
    pub verb: Verb,
    /// The collection.
    pub resource: GroupResource,
    /// `status`, `eviction`, `binding` or empty.
    pub subresource: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// The object's name; empty for a create with `generateName` and for a delete of a collection.
    pub name: String,
}

/// When a rule acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The write has not taken effect, and with fail, stall or reset never will.
    Before,
    /// The write has taken effect; only its answer is at stake.
    After,
}

/// What a rule does to a write.
#[derive(Debug, Clone)]
pub enum Action {
    /// Answer with this error.
    Fail(ApiError),
    /// Answer with this code and plain text, no Status: the server's own overload answer.
    FailPlain {
        /// The HTTP code.
        code: u16,
        /// The body.
        text: String,
        /// The `Retry-After` header.
        retry_after_secs: Option<u32>,
    },
    /// Go on after this long. A delayed write takes effect even if its client has gone away.
    Delay(Duration),
    /// Go on when it is let go; with the same effect as a delay of that length.
    Hold(Held),
    /// Never answer; the connection stays open.
    Stall,
    /// Close the connection without an answer.
    Reset,
}

/// Holds writes back until it is let go; clones are the same.
#[derive(Debug, Clone)]
pub struct Held(Arc<watch::Sender<bool>>);

impl Held {
    /// One that holds.
    #[must_use]
    pub fn new() -> Held {
        Held(Arc::new(watch::Sender::new(false)))
    }

    /// What is held goes on, and what comes later is not held.
    pub fn let_go(&self) {
        self.0.send_replace(true);
    }

    pub(super) async fn until_let_go(&self) {
        // The sender lives in self, so the wait can only end by its value.
        let _ = self.0.subscribe().wait_for(|gone| *gone).await;
    }
}

impl Default for Held {
    fn default() -> Held {
        Held::new()
    }
}

/// Which writes are meant; what is not set matches all.
#[derive(Debug, Clone, Default)]
pub struct WriteMatch {
    user: Option<String>,
    verb: Option<Verb>,
    resource: Option<String>,
    subresource: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
}

impl WriteMatch {
    /// Every write.
    pub fn any() -> WriteMatch {
        WriteMatch::default()
    }

    /// Only of this user.
    #[must_use]
    pub fn user(mut self, user: &str) -> WriteMatch {
        self.user = Some(user.to_owned());
        self
    }

    /// Only this kind of write.
    #[must_use]
    pub fn verb(mut self, verb: Verb) -> WriteMatch {
        self.verb = Some(verb);
        self
    }

    /// Only this plural (`nodes`, `nodeupgrades`).
    #[must_use]
    pub fn resource(mut self, plural: &str) -> WriteMatch {
        self.resource = Some(plural.to_owned());
        self
    }

    /// Only this subresource; empty for the main endpoint.
    #[must_use]
    pub fn subresource(mut self, subresource: &str) -> WriteMatch {
        self.subresource = Some(subresource.to_owned());
        self
    }

    /// Only in this namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> WriteMatch {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Only of this object.
    #[must_use]
    pub fn name(mut self, name: &str) -> WriteMatch {
        self.name = Some(name.to_owned());
        self
    }

    fn matches(&self, attempt: &WriteAttempt) -> bool {
        let text = |wanted: &Option<String>, actual: &str| wanted.as_deref().is_none_or(|w| w == actual);
        text(&self.user, &attempt.user)
            && self.verb.is_none_or(|v| v == attempt.verb)
            && text(&self.resource, &attempt.resource.resource)
            && text(&self.subresource, &attempt.subresource)
            && text(&self.namespace, &attempt.namespace)
            && text(&self.name, &attempt.name)
    }
}

/// Counts the writes that match and acts on some of them.
#[derive(Debug, Clone)]
pub struct Rule {
    matches: WriteMatch,
    stage: Stage,
    action: Option<Action>,
    first: u64,
    times: u64,
}

impl Rule {
    /// Act on the first write that matches, once.
    pub fn new(matches: WriteMatch, stage: Stage, action: Action) -> Rule {
        Rule {
            matches,
            stage,
            action: Some(action),
            first: 1,
            times: 1,
        }
    }

    /// Only count.
    pub fn count(matches: WriteMatch) -> Rule {
        Rule {
            matches,
            stage: Stage::Before,
            action: None,
            first: 1,
            times: u64::MAX,
        }
    }

    /// Act from the k-th matching write on, counted from 1.
    #[must_use]
    pub fn nth(mut self, k: u64) -> Rule {
        self.first = k.max(1);
        self
    }

    /// Act on this many matching writes in a row.
    #[must_use]
    pub fn times(mut self, times: u64) -> Rule {
        self.times = times;
        self
    }

    /// Act on all of them from the first on.
    #[must_use]
    pub fn always(self) -> Rule {
        self.times(u64::MAX)
    }
}

struct LiveRule {
    rule: Rule,
    seen: watch::Sender<u64>,
    acted: watch::Sender<u64>,
    removed: AtomicBool,
}

/// A rule at work. It stays until removed, also when this handle is dropped.
#[derive(Clone)]
pub struct RuleHandle(Arc<LiveRule>);

impl RuleHandle {
    /// How many writes have matched.
    pub fn seen(&self) -> u64 {
        *self.0.seen.borrow()
    }

    /// How many times the rule has acted.
    pub fn acted_so_far(&self) -> u64 {
        *self.0.acted.borrow()
    }

    /// Wait until the rule has acted this many times.
    pub async fn acted(&self, times: u64) {
        let mut acted = self.0.acted.subscribe();
        // The sender lives in the same Arc, so the wait can only end by the count.
        let _ = acted.wait_for(|n| *n >= times).await;
    }

    /// Wait until this many writes have matched.
    pub async fn reached(&self, count: u64) {
        let mut seen = self.0.seen.subscribe();
        let _ = seen.wait_for(|n| *n >= count).await;
    }

    /// Act no more. A write that is already stalled stays so.
    pub fn remove(&self) {
        self.0.removed.store(true, Ordering::SeqCst);
    }
}

/// Which watches are meant; what is not set matches all.
#[derive(Debug, Clone, Default)]
pub struct WatchMatch {
    user: Option<String>,
    resource: Option<String>,
}

impl WatchMatch {
    /// Every watch.
    pub fn any() -> WatchMatch {
        WatchMatch::default()
    }

    /// Only of this user.
    #[must_use]
    pub fn user(mut self, user: &str) -> WatchMatch {
        self.user = Some(user.to_owned());
        self
    }

    /// Only of this plural.
    #[must_use]
    pub fn resource(mut self, plural: &str) -> WatchMatch {
        self.resource = Some(plural.to_owned());
        self
    }

    fn matches(&self, user: &str, plural: &str) -> bool {
        self.user.as_deref().is_none_or(|u| u == user) && self.resource.as_deref().is_none_or(|r| r == plural)
    }
}

/// Holds watches back until dropped or released; events wait, in order, and come then.
pub struct WatchHold {
    hooks: Arc<HooksInner>,
    id: u64,
}

impl WatchHold {
    /// Let the events flow.
    pub fn release(self) {}
}

impl Drop for WatchHold {
    fn drop(&mut self) {
        self.hooks
            .change_reach(|reach| reach.holds.retain(|(id, _)| *id != self.id));
    }
}

/// Makes the API unreachable until dropped or ended: open connections of those meant are closed and
/// none of their requests is answered.
pub struct Outage {
    hooks: Arc<HooksInner>,
    id: u64,
}

impl Outage {
    /// Let them through again.
    pub fn end(self) {}
}

impl Drop for Outage {
    fn drop(&mut self) {
        self.hooks
            .change_reach(|reach| reach.outages.retain(|(id, _)| *id != self.id));
    }
}

/// Who is cut off and which watches are held.
#[derive(Debug, Clone, Default)]
pub(super) struct Reach {
    /// None: everyone.
    outages: Vec<(u64, Option<String>)>,
    holds: Vec<(u64, WatchMatch)>,
}

impl Reach {
    pub(super) fn is_cut_off(&self, user: &str) -> bool {
        self.outages
            .iter()
            .any(|(_, who)| who.as_deref().is_none_or(|w| w == user))
    }

    pub(super) fn is_everyone_cut_off(&self) -> bool {
        self.outages.iter().any(|(_, who)| who.is_none())
    }

    pub(super) fn is_held(&self, user: &str, plural: &str) -> bool {
        self.holds.iter().any(|(_, m)| m.matches(user, plural))
    }
}

type Callback = Arc<dyn Fn(&WriteAttempt, Stage) -> Option<Action> + Send + Sync>;

struct HooksInner {
    rules: Mutex<Vec<Arc<LiveRule>>>,
    callbacks: Mutex<Vec<Callback>>,
    reach: watch::Sender<Reach>,
    next_id: AtomicU64,
}

impl HooksInner {
    fn change_reach(&self, change: impl FnOnce(&mut Reach)) {
        self.reach.send_modify(change);
    }

    fn id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::SeqCst)
    }
}

/// The hooks of one server; clones are the same hooks.
#[derive(Clone)]
pub struct Hooks(Arc<HooksInner>);

impl Hooks {
    pub(super) fn new() -> Hooks {
        Hooks(Arc::new(HooksInner {
            rules: Mutex::new(Vec::new()),
            callbacks: Mutex::new(Vec::new()),
            reach: watch::Sender::new(Reach::default()),
            next_id: AtomicU64::new(1),
        }))
    }

    /// Put a rule to work.
    pub fn add(&self, rule: Rule) -> RuleHandle {
        let live = Arc::new(LiveRule {
            rule,
            seen: watch::Sender::new(0),
            acted: watch::Sender::new(0),
            removed: AtomicBool::new(false),
        });
        self.0
            .rules
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(live.clone());
        RuleHandle(live)
    }

    /// Ask `callback` at each write, before and after; the first action that anyone gives is taken.
    pub fn intercept(
        &self,
        callback: impl Fn(&WriteAttempt, Stage) -> Option<Action> + Send + Sync + 'static,
    ) {
        self.0
            .callbacks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::new(callback));
    }

    /// Take all rules and callbacks away.
    pub fn clear(&self) {
        self.0
            .rules
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.0
            .callbacks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Hold these watches back, those that run and those that start.
    pub fn hold_watches(&self, matches: WatchMatch) -> WatchHold {
        let id = self.0.id();
        self.0.change_reach(|reach| reach.holds.push((id, matches)));
        WatchHold {
            hooks: self.0.clone(),
            id,
        }
    }

    /// Cut this user off.
    pub fn cut_off(&self, user: &str) -> Outage {
        self.outage(Some(user.to_owned()))
    }

    /// Cut everyone off.
    pub fn cut_off_all(&self) -> Outage {
        self.outage(None)
    }

    fn outage(&self, who: Option<String>) -> Outage {
        let id = self.0.id();
        self.0.change_reach(|reach| reach.outages.push((id, who)));
        Outage {
            hooks: self.0.clone(),
            id,
        }
    }

    pub(super) fn reach(&self) -> watch::Receiver<Reach> {
        self.0.reach.subscribe()
    }

    /// What is to be done to this write at this stage.
    pub(super) fn action(&self, attempt: &WriteAttempt, stage: Stage) -> Option<Action> {
        let rules: Vec<_> = self
            .0
            .rules
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut chosen = None;
        for live in rules {
            let rule = &live.rule;
            if rule.stage != stage || live.removed.load(Ordering::SeqCst) || !rule.matches.matches(attempt) {
                continue;
            }
            let mut count = 0;
            live.seen.send_modify(|seen| {
                *seen += 1;
                count = *seen;
            });
            let in_turn = count >= rule.first && count - rule.first < rule.times;
            if let (true, None, Some(action)) = (in_turn, &chosen, &rule.action) {
                chosen = Some(action.clone());
                live.acted.send_modify(|acted| *acted += 1);
            }
        }
        let callbacks: Vec<_> = self
            .0
            .callbacks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        chosen.or_else(|| callbacks.iter().find_map(|callback| callback(attempt, stage)))
    }
}
