//! The link to the API server: the client that every part of a replica uses, and what each answer
//! teaches about the server: its clock (`Date`), whether it can be reached, whether it is overloaded.
//! It never retries (a refusal of a PodDisruptionBudget must be seen, not slept over), and once it is
//! shut it sends nothing more.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use kube::{Client, client::Body, client::ClientBuilder};
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

use crate::{clock::Clock, metrics::Metrics};

/// How many intervals without an API server are remembered.
const MAX_OUTAGES: usize = 64;
/// How long the server may take to begin an answer that is no watch.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// A connection on which nothing was read for so long is dropped. Bookmarks come once a minute.
const SILENCE: Duration = Duration::from_secs(100);

/// An interval in which the API server gave this replica no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// When the first request failed.
    pub start: Timestamp,
    /// When the next answer came; None: it lasts.
    pub end: Option<Timestamp>,
}

/// What the answers have taught so far.
#[derive(Debug, Default)]
struct Learned {
    skew: Option<SignedDuration>,
    last_answer: Option<Instant>,
    outages: VecDeque<Outage>,
    busy_until: Option<Instant>,
    shut: bool,
}

/// The link of one replica. Clones share what was learned.
#[derive(Clone)]
pub struct Link {
    learned: Arc<Mutex<Learned>>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

/// Why a request was not sent.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The replica is being stopped.
    #[error("this replica has stopped; nothing more is sent")]
    Shut,
    /// No answer began in time.
    #[error("the API server did not begin to answer within {}s", ANSWER_WITHIN.as_secs())]
    NoAnswer,
}

impl Link {
    /// A link that has learned nothing yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        Self {
            learned: Arc::default(),
            clock,
            metrics,
        }
    }

    /// A client over this link: no hidden retries, bounded silence.
    ///
    /// # Errors
    /// When the configuration names certificates or credentials that cannot be used.
    pub fn client(&self, mut config: kube::Config) -> Result<Client, kube::Error> {
        config.default_retry = false;
        config.read_timeout = Some(SILENCE);
        config.reset_reader_on_write = true;
        Ok(ClientBuilder::try_from(config)?
            .with_layer(&LinkLayer { link: self.clone() })
            .build())
    }

    /// Server's clock minus this machine's, as of the last answer; zero within a second, because the
    /// header has whole seconds. None: no answer had a `Date` yet.
    #[must_use]
    pub fn skew(&self) -> Option<SignedDuration> {
        self.lock().skew
    }

    /// For how long no answer came. None: there never was one.
    #[must_use]
    pub fn silent_for(&self) -> Option<Duration> {
        self.lock().last_answer.map(|at| at.elapsed())
    }

    /// The intervals without an API server, oldest first.
    #[must_use]
    pub fn outages(&self) -> Vec<Outage> {
        self.lock().outages.iter().copied().collect()
    }

    /// Notes an interval that was learned elsewhere: nobody led between the last leader's sign of life
    /// and this replica's first.
    pub fn note_outage(&self, outage: Outage) {
        self.lock().push_outage(outage);
    }

    /// Until when everything that can wait is to wait, after the server said that it is overloaded.
    #[must_use]
    pub fn busy_until(&self) -> Option<Instant> {
        self.lock().busy_until.filter(|until| *until > Instant::now())
    }

    /// Ends this link: every later request fails before it is sent.
    pub fn shut(&self) {
        self.lock().shut = true;
    }

    fn lock(&self) -> MutexGuard<'_, Learned> {
        // What is inside is replaced whole, never left half changed: a panic elsewhere does not spoil it.
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered<B>(&self, response: &Response<B>) {
        let (now, at) = (self.clock.now(), Instant::now());
        self.metrics.api_answer(response.status());
        let mut learned = self.lock();
        learned.last_answer = Some(at);
        if let Some(outage) = learned.outages.back_mut()
            && outage.end.is_none()
        {
            outage.end = Some(now);
        }
        if let Some(date) = response.headers().get(header::DATE).and_then(|d| d.to_str().ok())
            && let Ok(date) = jiff::fmt::rfc2822::parse(date)
        {
            learned.skew = Some(whole_second_skew(date.timestamp(), now));
        }
        let overloaded = response.status() == StatusCode::TOO_MANY_REQUESTS && !is_json(response);
        if overloaded || response.status() == StatusCode::SERVICE_UNAVAILABLE {
            let pause = retry_after(response).unwrap_or(Duration::from_secs(1));
            learned.busy_until = Some(at + pause);
        }
    }

    fn failed(&self) {
        let now = self.clock.now();
        self.metrics.api_unreachable();
        let mut learned = self.lock();
        let lasting = learned.outages.back().is_some_and(|outage| outage.end.is_none());
        if !lasting {
            learned.push_outage(Outage {
                start: now,
                end: None,
            });
        }
    }
}

impl Learned {
    fn push_outage(&mut self, outage: Outage) {
        if self.outages.len() == MAX_OUTAGES {
            self.outages.pop_front();
        }
        let at = self.outages.partition_point(|known| known.start <= outage.start);
        self.outages.insert(at, outage);
    }
}

/// The `Date` header says the second that has begun: up to one second of difference is none.
fn whole_second_skew(date: Timestamp, now: Timestamp) -> SignedDuration {
    let raw = date.duration_since(now);
    let second = SignedDuration::from_secs(1);
    if raw.is_negative() {
        (raw + second).min(SignedDuration::ZERO)
    } else {
        raw
    }
}

fn is_json<B>(response: &Response<B>) -> bool {
    response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with("application/json"))
}

/// `Retry-After` in seconds, at most a minute.
fn retry_after<B>(response: &Response<B>) -> Option<Duration> {
    let text = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    let secs: u64 = text.trim().parse().ok()?;
    Some(Duration::from_secs(secs.clamp(1, 60)))
}

#[derive(Clone)]
struct LinkLayer {
    link: Link,
}

impl<S> Layer<S> for LinkLayer {
    type Service = LinkService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LinkService {
            inner,
            link: self.link.clone(),
        }
    }
}

struct LinkService<S> {
    inner: S,
    link: Link,
}

impl<S, B> Service<Request<Body>> for LinkService<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let link = self.link.clone();
        if link.lock().shut {
            return Box::pin(std::future::ready(Err(LinkError::Shut.into())));
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            match tokio::time::timeout(ANSWER_WITHIN, answer).await {
                Ok(Ok(response)) => {
                    link.answered(&response);
                    Ok(response)
                }
                Ok(Err(error)) => {
                    link.failed();
                    Err(error.into())
                }
                Err(_) => {
                    link.failed();
                    Err(LinkError::NoAnswer.into())
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_second_that_the_header_cuts_off_is_no_skew() {
        let now = at("2026-11-23T10:00:00.900Z");
        assert_eq!(
            whole_second_skew(at("2026-11-23T10:00:00Z"), now),
            SignedDuration::ZERO
        );
        assert_eq!(
            whole_second_skew(at("2026-11-23T09:59:00Z"), now),
            SignedDuration::from_millis(-59_900)
        );
        assert_eq!(
            whole_second_skew(at("2026-11-23T10:01:00Z"), now),
            SignedDuration::from_millis(59_100)
        );
    }

    #[test]
    fn an_outage_begins_with_the_first_failure_and_ends_with_the_next_answer() {
        let link = Link::new(Arc::new(crate::clock::SystemClock), Metrics::new());
        link.failed();
        link.failed();
        assert_eq!(link.outages().len(), 1);
        assert!(link.outages().iter().all(|outage| outage.end.is_none()));
        link.answered(&Response::new(()));
        link.failed();
        let outages = link.outages();
        assert_eq!(outages.len(), 2);
        assert!(outages.first().unwrap().end.is_some());
    }

    #[test]
    fn only_the_servers_own_overload_answer_makes_everything_wait() {
        let link = Link::new(Arc::new(crate::clock::SystemClock), Metrics::new());
        let answer = |kind: &str| {
            Response::builder()
                .status(429)
                .header(header::CONTENT_TYPE, kind)
                .header(header::RETRY_AFTER, "5")
                .body(())
                .unwrap()
        };
        link.answered(&answer("application/json"));
        assert!(link.busy_until().is_none());
        link.answered(&answer("text/plain; charset=utf-8"));
        assert!(link.busy_until().is_some());
    }
}
