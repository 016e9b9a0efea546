//! One kind of object, followed by list and watch: what is kept of each object, how old the last sign of
//! life is, and how far the server's history has been seen. It never writes.
//!
//! kube's own `watcher` hides bookmarks, and a bookmark is what tells a quiet cluster from a dead watch.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, pin_mut};
use kube::{
    Api, Resource, ResourceExt as _,
    api::{ListParams, WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use crate::metrics::Metrics;

/// Objects per page of a list: the reduced form is kept, a page of full Nodes is about 10 MB.
const PAGE: u32 = 500;
/// A watch from which nothing came for so long is begun again. Bookmarks come once a minute.
const SILENCE: Duration = Duration::from_secs(90);
/// The server ends a watch after so long.
const WATCH_SECS: u32 = 290;
/// Shortest and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// What is kept of one object.
#[derive(Debug, Clone)]
pub struct Kept<V> {
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// What the conversion left.
    pub value: V,
}

/// Followed objects of one kind, by `name` or `namespace/name`. Clones share them.
#[derive(Debug)]
pub struct Feed<V> {
    kind: &'static str,
    state: Arc<Mutex<State<V>>>,
    changed: tokio::sync::watch::Sender<u64>,
    same: fn(&V, &V) -> bool,
}

impl<V> Clone for Feed<V> {
    fn clone(&self) -> Self {
        Self {
            kind: self.kind,
            state: Arc::clone(&self.state),
            changed: self.changed.clone(),
            same: self.same,
        }
    }
}

#[derive(Debug)]
struct State<V> {
    items: BTreeMap<String, Kept<V>>,
    /// The resourceVersion of the last list: events up to it are in it already.
    listed_at: u64,
    /// The resourceVersion up to which list and watch have shown everything, removals included.
    seen: u64,
    last_sign: Option<Instant>,
    error: Option<String>,
}

/// Which objects of the kind are followed.
#[derive(Debug, Clone, Default)]
pub struct Selected {
    /// A field selector; None: all.
    pub fields: Option<String>,
    /// A label selector; None: all.
    pub labels: Option<String>,
}

/// Why a watch ended.
enum End {
    /// The server ended it, or it fell silent; go on from where it was.
    Resume,
    /// What was seen is too old for the server; list again.
    ListAgain,
    /// It failed.
    Failed(String),
}

impl<V: Clone + Send + Sync + 'static> Feed<V> {
    /// A feed that has seen nothing; `changed` counts up with every change, but not where `same` says
    /// that an object is what it was.
    #[must_use]
    pub fn new(
        kind: &'static str,
        changed: tokio::sync::watch::Sender<u64>,
        same: fn(&V, &V) -> bool,
    ) -> Self {
        Self {
            kind,
            state: Arc::new(Mutex::new(State {
                items: BTreeMap::new(),
                listed_at: 0,
                seen: 0,
                last_sign: None,
                error: None,
            })),
            changed,
            same,
        }
    }

    /// The kind, the time since the last list, event or bookmark (None: nothing was ever listed), and
    /// the last failure, until something works again.
    #[must_use]
    pub fn sign(&self) -> (&'static str, Option<Duration>, Option<String>) {
        let state = self.lock();
        (
            self.kind,
            state.last_sign.map(|at| at.elapsed()),
            state.error.clone(),
        )
    }

    /// All that is kept, in order of names.
    #[must_use]
    pub fn items(&self) -> BTreeMap<String, V> {
        let state = self.lock();
        let items = state.items.iter();
        items
            .map(|(key, kept)| (key.clone(), kept.value.clone()))
            .collect()
    }

    /// One object.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<V> {
        self.lock().items.get(key).map(|kept| kept.value.clone())
    }

    /// Puts the answer of a write of one's own over what is kept, until the watch has caught up: no plan
    /// is ever made from anything older than one's own last write. An answer that comes later than the
    /// watch has shown what became of the object changes nothing: it may be gone again.
    pub fn put(&self, key: &str, kept: Kept<V>) {
        let mut state = self.lock();
        let version = ordinal(&kept.resource_version);
        let shown = version > 0 && version <= state.seen;
        if !shown && !state.is_newer_than(key, version) {
            state.items.insert(key.to_owned(), kept);
        }
        drop(state);
        self.bump();
    }

    /// Watches until it is dropped: from `from` on, or from a list.
    pub async fn follow<K>(
        self,
        api: Api<K>,
        selected: Selected,
        from: Option<String>,
        keep: impl Fn(K) -> Option<V> + Send,
        metrics: Metrics,
    ) where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        K::DynamicType: Default,
    {
        let (mut pause, mut known) = (BACKOFF.0, from);
        'list: loop {
            let listed = match known.take() {
                Some(version) => Ok(version),
                None => self.list(&api, &selected, &keep).await,
            };
            let mut from = match listed {
                Ok(version) => version,
                Err(error) => {
                    self.failed(&error.to_string());
                    sleep(jittered(pause)).await;
                    pause = (pause * 2).min(BACKOFF.1);
                    continue 'list;
                }
            };
            loop {
                let began = Instant::now();
                let end = self.watch(&api, &selected, &keep, &mut from).await;
                metrics.watch_restarted(self.kind);
                if began.elapsed() > BACKOFF.1 {
                    pause = BACKOFF.0;
                }
                match end {
                    End::Resume if began.elapsed() > BACKOFF.0 => continue,
                    End::Resume => {}
                    End::ListAgain => continue 'list,
                    End::Failed(error) => self.failed(&error),
                }
                sleep(jittered(pause)).await;
                pause = (pause * 2).min(BACKOFF.1);
            }
        }
    }

    /// Lists everything from the server, page by page, and replaces what is kept in one move.
    ///
    /// # Errors
    /// When a page could not be had; what is kept is then as before.
    pub async fn list<K>(
        &self,
        api: &Api<K>,
        selected: &Selected,
        keep: &impl Fn(K) -> Option<V>,
    ) -> Result<String, kube::Error>
    where
        K: Resource + Clone + Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        let mut params = ListParams::default().limit(PAGE);
        params.field_selector.clone_from(&selected.fields);
        params.label_selector.clone_from(&selected.labels);
        let mut items = BTreeMap::new();
        let version = loop {
            let page = api.list(&params).await?;
            for object in page.items {
                if let (key, Some(kept)) = reduce(object, keep) {
                    items.insert(key, kept);
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => break page.metadata.resource_version.unwrap_or_default(),
            }
        };
        let mut state = self.lock();
        let listed_at = ordinal(&version);
        for (key, kept) in std::mem::take(&mut state.items) {
            // An own write that the list did not see yet.
            if ordinal(&kept.resource_version) > listed_at {
                items.insert(key, kept);
            }
        }
        state.items = items;
        state.listed_at = state.listed_at.max(listed_at);
        state.seen = state.seen.max(listed_at);
        state.last_sign = Some(Instant::now());
        state.error = None;
        drop(state);
        self.bump();
        Ok(version)
    }

    async fn watch<K>(
        &self,
        api: &Api<K>,
        selected: &Selected,
        keep: &impl Fn(K) -> Option<V>,
        from: &mut String,
    ) -> End
    where
        K: Resource + Clone + Debug + DeserializeOwned + 'static,
        K::DynamicType: Default,
    {
        let mut params = WatchParams::default().timeout(WATCH_SECS);
        params.field_selector.clone_from(&selected.fields);
        params.label_selector.clone_from(&selected.labels);
        let stream = match api.watch(&params, from).await {
            Ok(stream) => stream,
            Err(kube::Error::Api(status)) if status.code == 410 => return End::ListAgain,
            Err(error) => return End::Failed(error.to_string()),
        };
        pin_mut!(stream);
        loop {
            let event = match timeout(SILENCE, stream.next()).await {
                Err(_) | Ok(None) => return End::Resume,
                Ok(Some(Err(kube::Error::Api(status)))) if status.code == 410 => return End::ListAgain,
                Ok(Some(Err(error))) => return End::Failed(error.to_string()),
                Ok(Some(Ok(event))) => event,
            };
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    *from = object.resource_version().unwrap_or_default();
                    let (key, kept) = reduce(object, keep);
                    self.apply(&key, kept, from);
                }
                WatchEvent::Deleted(object) => {
                    *from = object.resource_version().unwrap_or_default();
                    self.apply(&key_of(&object), None, from);
                }
                WatchEvent::Bookmark(bookmark) => {
                    *from = bookmark.metadata.resource_version;
                    // No change, so nobody is woken: its instant is read with the next plan.
                    self.lock().sign(from);
                }
                WatchEvent::Error(status) if status.code == 410 => return End::ListAgain,
                WatchEvent::Error(status) => return End::Failed(status.message),
            }
        }
    }

    fn apply(&self, key: &str, kept: Option<Kept<V>>, version: &str) {
        let mut state = self.lock();
        state.sign(version);
        if state.listed_at >= ordinal(version) || state.is_newer_than(key, ordinal(version)) {
            return;
        }
        let before = match &kept {
            Some(kept) => state.items.insert(key.to_owned(), kept.clone()),
            None => state.items.remove(key),
        };
        drop(state);
        match (before, kept) {
            (Some(before), Some(after)) if (self.same)(&before.value, &after.value) => {}
            (None, None) => {}
            _ => self.bump(),
        }
    }

    fn failed(&self, error: &str) {
        tracing::warn!(kind = self.kind, error, "a watch failed; it is begun again");
        self.lock().error = Some(error.chars().take(400).collect());
        self.bump();
    }

    fn bump(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> State<V> {
    /// The watch has shown everything up to this version.
    fn sign(&mut self, version: &str) {
        self.seen = self.seen.max(ordinal(version));
        self.last_sign = Some(Instant::now());
        self.error = None;
    }

    fn is_newer_than(&self, key: &str, version: u64) -> bool {
        let kept = self.items.get(key);
        kept.is_some_and(|kept| ordinal(&kept.resource_version) > version)
    }
}

/// `namespace/name`, or the name alone where there is no namespace.
fn key_of<K: Resource>(object: &K) -> String {
    let meta = object.meta();
    let name = meta.name.as_deref().unwrap_or_default();
    match meta.namespace.as_deref() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

fn reduce<K: Resource, V>(object: K, keep: &impl Fn(K) -> Option<V>) -> (String, Option<Kept<V>>) {
    let meta = object.meta();
    let resource_version = meta.resource_version.clone().unwrap_or_default();
    let key = key_of(&object);
    let kept = keep(object).map(|value| Kept {
        resource_version,
        value,
    });
    (key, kept)
}

/// resourceVersions of one kind are decimal numbers that rise (KEP-5504). One that is none counts as the
/// oldest: nothing is then waited for, and preconditions alone keep writes apart.
pub(crate) fn ordinal(resource_version: &str) -> u64 {
    resource_version.parse().unwrap_or(0)
}

/// Half to the whole of a pause, so that replicas do not come back all at once.
fn jittered(pause: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_u128() as u8;
    pause.mul_f64(0.5 + f64::from(random) / 512.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn feed() -> Feed<&'static str> {
        Feed::new("NodeUpgrade", tokio::sync::watch::Sender::new(0), |a, b| a == b)
    }

    fn kept(resource_version: &str, value: &'static str) -> Kept<&'static str> {
        Kept {
            resource_version: resource_version.to_owned(),
            value,
        }
    }

    #[test]
    fn the_answer_of_a_write_stands_until_the_watch_has_caught_up() {
        let feed = feed();
        feed.apply("node-1", Some(kept("5", "old")), "5");
        feed.put("node-1", kept("7", "written"));
        assert_eq!(feed.get("node-1"), Some("written"));
        feed.apply("node-1", Some(kept("6", "between")), "6");
        assert_eq!(feed.get("node-1"), Some("written"));
        feed.apply("node-1", Some(kept("8", "later")), "8");
        assert_eq!(feed.get("node-1"), Some("later"));
    }

    #[test]
    fn an_answer_that_comes_after_the_removal_does_not_bring_the_object_back() {
        let feed = feed();
        feed.apply("node-1", Some(kept("5", "old")), "5");
        feed.apply("node-1", Some(kept("7", "written")), "7");
        feed.apply("node-1", None, "8");
        feed.put("node-1", kept("7", "written"));
        assert_eq!(feed.get("node-1"), None);
        // One made again afterwards is another thing.
        feed.put("node-1", kept("9", "made again"));
        assert_eq!(feed.get("node-1"), Some("made again"));
    }

    #[test]
    fn where_versions_are_no_numbers_the_answer_stands() {
        let feed = feed();
        feed.put("node-1", kept("a3f", "written"));
        assert_eq!(feed.get("node-1"), Some("written"));
    }
}
