//! Watches: a cursor into a collection's history that wakes with every change. A watch that falls
//! behind the history gets an ERROR event with 410; one that is held back by a hook reads nothing, so
//! that all comes, in order, when it is let go.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, Response, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::answer::{Body, View};
use super::core::Core;
use super::hooks::Reach;
use super::list::{MATCH, named_version, refuse};
use super::object;
use super::query::Query;
use super::resources::Resource;
use super::selector::Filter;
use super::status::{ApiError, FieldError};
use super::store::{Change, Object};
use super::table;

/// Changes read at once.
const BATCH: usize = 256;
/// How long a watch lasts that sets no limit: the real server takes 30 to 60 minutes.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(45 * 60);
/// Ends the initial events of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// The parameters of a watch, read.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    version: u64,
    bookmarks: bool,
    timeout: Duration,
    start: Start,
}

/// What a watch shows before the changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// All that is there, and where that ends to those who take bookmarks.
    InitialEvents,
    /// Nothing: the changes after the version, or from now on without one.
    Changes,
}

impl WatchOptions {
    /// Read them from the query.
    pub fn parse(query: &Query) -> Result<WatchOptions, ApiError> {
        let timeout = query.number("timeoutSeconds")?.unwrap_or(0);
        let mut send_initial_events = query.flag("sendInitialEvents");
        let mut matches = query.text(MATCH);
        let from_nowhere = matches!(query.text("resourceVersion"), None | Some("0"));
        if send_initial_events.is_none() && matches.is_none() && from_nowhere {
            // A watch from nowhere is a streaming list (`SetListOptionsDefaults`).
            (send_initial_events, matches) = (Some(true), Some("NotOlderThan"));
        }
        let mut errors = Vec::new();
        let mut forbidden = |why: &str| errors.push(FieldError::forbidden(MATCH, why));
        if send_initial_events.is_some() && matches != Some("NotOlderThan") {
            forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        if let Some(matches) = matches {
            if send_initial_events.is_none() {
                forbidden("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
            }
            if query.text("continue").is_some() {
                forbidden("resourceVersionMatch is forbidden when continue is provided");
            }
            if matches != "NotOlderThan" {
                errors.push(FieldError::not_supported(
                    MATCH,
                    &json!(matches),
                    &["NotOlderThan".to_owned()],
                ));
            }
        }
        refuse(&errors)?;
        Ok(WatchOptions {
            version: named_version(query)?.unwrap_or(0),
            bookmarks: query.flag("allowWatchBookmarks").unwrap_or(false),
            timeout: match u64::try_from(timeout) {
                Ok(0) => DEFAULT_TIMEOUT,
                Ok(secs) => Duration::from_secs(secs),
                Err(_) => Duration::ZERO,
            },
            start: if send_initial_events == Some(true) {
                Start::InitialEvents
            } else {
                Start::Changes
            },
        })
    }
}

struct Watch {
    core: Arc<Core>,
    resource: Arc<Resource>,
    filter: Filter,
    view: View,
    user: Arc<str>,
    bookmarks: bool,
    cursor: u64,
    has_sent_headers: bool,
    newest: watch::Receiver<u64>,
    reach: watch::Receiver<Reach>,
    deadline: Instant,
    ticker: Interval,
    pending: VecDeque<Bytes>,
    is_over: bool,
}

/// The answer to a watch: a stream of events that lasts until its time is over.
pub fn watch(
    core: &Arc<Core>,
    user: &Arc<str>,
    resource: &Arc<Resource>,
    filter: Filter,
    view: View,
    options: &WatchOptions,
) -> Response<Body> {
    let newest = core.store.subscribe(&resource.stored_as);
    let interval = core.config.bookmark_interval;
    let mut ticker = tokio::time::interval_at(Instant::now() + interval, interval);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch {
        core: core.clone(),
        resource: resource.clone(),
        filter,
        view,
        user: user.clone(),
        bookmarks: options.bookmarks,
        cursor: options.version,
        has_sent_headers: false,
        newest,
        reach: core.hooks.reach(),
        deadline: Instant::now() + options.timeout,
        ticker,
        pending: VecDeque::new(),
        is_over: false,
    };
    match options.start {
        Start::InitialEvents => watch.push_initial(options.version),
        Start::Changes if options.version == 0 => watch.cursor = core.store.version(),
        Start::Changes => {}
    }
    let frames = stream::unfold(watch, |mut watch| async move {
        let bytes = watch.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), watch))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl Watch {
    /// The next event, or none when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let is_held = self
                .reach
                .borrow_and_update()
                .is_held(&self.user, &self.resource.plural);
            if !is_held {
                if let Some(bytes) = self.pending.pop_front() {
                    return Some(bytes);
                }
                if self.is_over {
                    return None;
                }
                self.newest.borrow_and_update();
                self.read_changes();
                if !self.pending.is_empty() || self.is_over {
                    continue;
                }
            }
            tokio::select! {
                () = self.core.shutdown.cancelled() => return None,
                () = tokio::time::sleep_until(self.deadline) => return None,
                _ = self.reach.changed() => {}
                _ = self.newest.changed(), if !is_held => {}
                _ = self.ticker.tick(), if !is_held && self.bookmarks => {
                    self.read_changes();
                    // A watch may start at a version that is still to come.
                    if !self.is_over && self.cursor <= self.core.store.version() {
                        self.push_bookmark(false);
                    }
                }
            }
        }
    }

    fn push(&mut self, kind: &str, object: &Value) {
        let mut line = json!({"type": kind, "object": object}).to_string();
        line.push('\n');
        self.pending.push_back(Bytes::from(line));
    }

    /// All that is there, at least as new as `not_older`.
    fn push_initial(&mut self, not_older: u64) {
        let newest = self.core.store.version();
        if not_older > newest {
            let error = ApiError::version_too_large(not_older, newest);
            self.push("ERROR", &error.body());
            self.is_over = true;
            return;
        }
        // At the newest version nothing can be too old.
        let Ok(snapshot) = self.core.store.snapshot(&self.resource.stored_as, None) else {
            return;
        };
        for object in snapshot.objects.values() {
            if self.filter.matches(object) {
                self.push_object("ADDED", object);
            }
        }
        self.cursor = snapshot.version;
        if self.bookmarks {
            self.push_bookmark(true);
        }
    }

    fn push_object(&mut self, kind: &str, object: &Object) {
        let now = self.core.clock.now();
        let mut shown = self.view.object(&self.resource, object, now);
        if matches!(self.view, View::Table(_)) && self.has_sent_headers {
            shown["columnDefinitions"] = Value::Null;
        }
        self.has_sent_headers = true;
        self.push(kind, &shown);
    }

    fn push_bookmark(&mut self, ends_initial_events: bool) {
        let mut metadata = json!({"resourceVersion": self.cursor.to_string()});
        if ends_initial_events {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let bookmark = match self.view {
            View::Plain => {
                json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata})
            }
            View::Metadata => table::metadata_only(&json!({"metadata": metadata})),
            View::Table(_) => {
                json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": null, "rows": []})
            }
        };
        self.push("BOOKMARK", &bookmark);
    }

    fn read_changes(&mut self) {
        match self
            .core
            .store
            .changes_since(&self.resource.stored_as, self.cursor, BATCH)
        {
            Ok((changes, newest)) => {
                let is_all = changes.len() < BATCH;
                for change in changes {
                    self.cursor = change.version;
                    self.push_change(&change);
                }
                if is_all {
                    // Nothing of this collection lies between here and the newest version.
                    self.cursor = self.cursor.max(newest);
                }
            }
            Err(too_old) => {
                let message = format!("too old resource version: {} ({})", self.cursor, too_old.oldest);
                self.push("ERROR", &ApiError::expired(message).body());
                self.is_over = true;
            }
        }
    }

    /// What a change means to one who sees only what the filter lets through.
    fn push_change(&mut self, change: &Change) {
        let before = change.old.as_ref().filter(|o| self.filter.matches(o)).cloned();
        let after = change.new.as_ref().filter(|o| self.filter.matches(o)).cloned();
        match (before, after) {
            (None, None) => {}
            (None, Some(after)) => self.push_object("ADDED", &after),
            (Some(_), Some(after)) => self.push_object("MODIFIED", &after),
            (Some(before), None) => {
                let last = change.last.clone().unwrap_or_else(|| {
                    let mut last = Value::clone(&before);
                    object::set_meta(&mut last, "resourceVersion", json!(change.version.to_string()));
                    Arc::new(last)
                });
                self.push_object("DELETED", &last);
            }
        }
    }
}
