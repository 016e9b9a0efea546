//! Fetching one file, or a part of one, over https, http or from a folder, from any of a repository's
//! mirrors: never more bytes than the bound that was stated, never slower than was stated, going on
//! where a try broke off, and trusting nothing that comes back.

mod answer;
mod error;
mod file;
mod http;
mod limit;
mod mirrors;
mod pace;
mod policy;
mod pool;
mod traffic;
mod transfer;
mod tried;

use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use url::Url;

use crate::digest::Digest;

use error::Ended;
pub use error::FetchError;
use http::Http;
use limit::Limit;
pub use mirrors::MIRROR_REST;
use mirrors::{Mirrors, Ranges, Source};
use pace::Pace;
pub use policy::{RetryPolicy, Timeouts};
use pool::Pool;
use traffic::Counters;
pub use traffic::Traffic;
use transfer::{Got, Joining, Transfer, Want};
use tried::Tried;

/// The most redirects that are followed for one request.
pub const MAX_REDIRECTS: usize = 3;

/// One way to fetch, with its mirrors, timeouts and retries. What it learns of servers it forgets with
/// its end.
#[derive(Debug)]
pub struct Fetcher {
    timeouts: Timeouts,
    retry: RetryPolicy,
    parallel: usize,
    places: Semaphore,
    mirrors: Mirrors,
    limit: Option<Limit>,
    counters: Arc<Counters>,
    pool: Arc<Pool>,
    http: Http,
}

impl Fetcher {
    /// A fetcher of at most `parallel` files at a time (at least one); `ca_pem` holds further certificate authorities in PEM (it may be empty).
    ///
    /// # Errors
    /// `ca_pem` is no PEM.
    pub fn new(
        timeouts: Timeouts,
        retry: RetryPolicy,
        parallel: usize,
        ca_pem: &[u8],
    ) -> Result<Self, String> {
        let counters = Arc::new(Counters::default());
        let http = Http::new(timeouts.clone(), ca_pem, Arc::clone(&counters))?;
        Ok(Self {
            timeouts,
            retry,
            parallel: parallel.max(1),
            places: Semaphore::new(parallel.max(1)),
            mirrors: Mirrors::new(Vec::new()),
            limit: None,
            counters,
            pool: Arc::default(),
            http,
        })
    }

    /// Tells it of mirrors: `bases` are folder URLs that end with a slash and hold the same files. What
    /// is asked for below the first one may be fetched below any.
    #[must_use]
    pub fn with_mirrors(mut self, bases: Vec<Url>) -> Self {
        self.mirrors = Mirrors::new(bases);
        self
    }

    /// Lets all its transfers together receive so many bytes a second on average.
    #[must_use]
    pub fn with_limit(mut self, bytes_per_second: NonZeroU64) -> Self {
        self.limit = Some(Limit::new(bytes_per_second, Instant::now()));
        self
    }

    /// All bytes of `url`, of which there may be `max_bytes` at most. They are of one mirror, because
    /// a file without a signed digest may be another one elsewhere.
    ///
    /// # Errors
    /// See [`FetchError`]. Errors that may pass were tried again, at every mirror.
    pub async fn fetch(&self, url: &Url, max_bytes: u64) -> Result<Bytes, FetchError> {
        let job = Job {
            want: Want::Whole { max_bytes },
            joining: Joining::OneMirror,
            sources: self.mirrors.sources(url),
            tries: self.retry.tries,
        };
        Ok(self.transfer(url, job).await?.bytes)
    }

    /// As [`Fetcher::fetch`], but from one mirror, and in one try.
    pub(crate) async fn fetch_from(
        &self,
        mirror: usize,
        url: &Url,
        max_bytes: u64,
    ) -> Result<Bytes, FetchError> {
        let mut sources = self.mirrors.sources(url);
        sources.retain(|source| source.mirror == mirror);
        let job = Job {
            want: Want::Whole { max_bytes },
            joining: Joining::OneMirror,
            sources,
            tries: 1,
        };
        Ok(self.transfer(url, job).await?.bytes)
    }

    /// Exactly the bytes of `url` from `range.start` up to `range.end`, which is not one of them. Their
    /// digest must be known to the caller: a transfer that broke off may go on at another mirror. From
    /// a server without ranges ([`Fetcher::serves_ranges`]) the file is read from its beginning.
    ///
    /// # Errors
    /// See [`FetchError`]. Errors that may pass were tried again, at every mirror.
    pub async fn fetch_range(&self, url: &Url, range: Range<u64>) -> Result<Bytes, FetchError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let job = Job {
            want: of(&range),
            joining: Joining::AnyMirror,
            sources: self.mirrors.sources(url),
            tries: self.retry.tries,
        };
        Ok(self.transfer(url, job).await?.bytes)
    }

    /// A file whose length and digest were signed. One that is not as signed at one mirror is fetched
    /// whole from each other before that is the answer.
    ///
    /// # Errors
    /// As [`Fetcher::fetch`]; [`FetchError::TooShort`] and [`FetchError::NotAsSigned`].
    pub async fn fetch_verified(&self, url: &Url, length: u64, digest: &Digest) -> Result<Bytes, FetchError> {
        let check = |bytes: Bytes| std::future::ready(as_signed(url, bytes, length, digest));
        self.fetch_checked(url, length, check).await?
    }

    /// As [`Fetcher::fetch_verified`], for a file that is judged by `check`.
    ///
    /// # Errors
    /// As [`Fetcher::fetch`]; inside, what `check` said of the first answer, if it took none.
    pub async fn fetch_checked<T, E, F>(
        &self,
        url: &Url,
        max_bytes: u64,
        check: impl Fn(Bytes) -> F,
    ) -> Result<Result<T, E>, FetchError>
    where
        F: Future<Output = Result<T, E>>,
    {
        self.checked(url, Want::Whole { max_bytes }, check).await
    }

    /// As [`Fetcher::fetch_range`], but what `check` does not take at one mirror is fetched whole from
    /// each other before that is the answer.
    ///
    /// # Errors
    /// As [`Fetcher::fetch_range`]; inside, what `check` said of the first answer, if it took none.
    pub async fn fetch_range_checked<T, E, F>(
        &self,
        url: &Url,
        range: Range<u64>,
        check: impl Fn(Bytes) -> F,
    ) -> Result<Result<T, E>, FetchError>
    where
        F: Future<Output = Result<T, E>>,
    {
        if range.is_empty() {
            return Ok(check(Bytes::new()).await);
        }
        self.checked(url, of(&range), check).await
    }

    /// Whether the mirror that the next range is asked of serves ranges; None before any was asked of
    /// it. Where it does not, many ranges of one file cost a multiple of the file. Folders do.
    #[must_use]
    pub fn serves_ranges(&self) -> Option<bool> {
        let seen = self.mirrors.ranges(Instant::now())?;
        Some(seen == Ranges::Served)
    }

    /// So many files, or ranges of them, are fetched at the same time at most; at least one.
    #[must_use]
    pub fn parallel(&self) -> usize {
        self.parallel
    }

    /// What came over the wire for all its transfers so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.counters.traffic()
    }

    /// The mirrors in the order in which they are asked now.
    pub(crate) fn mirrors(&self) -> Vec<usize> {
        self.mirrors.order(Instant::now())
    }

    /// Asks a mirror after all others for a while: what it said cannot be.
    pub(crate) fn rest_mirror(&self, mirror: usize) {
        self.mirrors.failed(mirror, Instant::now());
    }

    async fn checked<T, E, F>(
        &self,
        url: &Url,
        want: Want,
        check: impl Fn(Bytes) -> F,
    ) -> Result<Result<T, E>, FetchError>
    where
        F: Future<Output = Result<T, E>>,
    {
        let mut sources = self.mirrors.sources(url);
        let job = |joining, sources| Job {
            want,
            joining,
            sources,
            tries: self.retry.tries,
        };
        let together = job(Joining::AnyMirror, sources.clone());
        let got = self.transfer(url, together).await?;
        let wrong = match check(got.bytes).await {
            Ok(taken) => return Ok(Ok(taken)),
            Err(wrong) => wrong,
        };
        // One answer alone is that mirror's fault; of several nobody knows whose.
        if let [sole] = got.from[..] {
            self.mirrors.failed(sole, Instant::now());
            sources.retain(|source| source.mirror != sole);
        }
        self.mirrors.sort(&mut sources, Instant::now());
        for source in sources {
            let mirror = source.mirror;
            let alone = job(Joining::OneMirror, vec![source]);
            match self.transfer(url, alone).await {
                Ok(got) => match check(got.bytes).await {
                    Ok(taken) => return Ok(Ok(taken)),
                    Err(_) => self.mirrors.failed(mirror, Instant::now()),
                },
                Err(error) => tracing::debug!(%url, mirror, %error, "another mirror does not have it either"),
            }
        }
        Ok(Err(wrong))
    }

    /// Tries every source in turn until all is there, all said no, or the time is over. Pauses come
    /// only after all of them failed.
    async fn transfer(&self, url: &Url, job: Job) -> Result<Got, FetchError> {
        let Job {
            want,
            joining,
            mut sources,
            tries,
        } = job;
        // Waiting here costs no try's time. The semaphore is never closed.
        let _place = self.places.acquire().await;
        let pace = Pace::begin(&self.timeouts, self.retry.total, Instant::now());
        let mut transfer = Transfer::new(
            want,
            joining,
            pace,
            self.limit.as_ref(),
            (&self.counters, &self.pool),
        );
        let mut tried = Tried::new(sources.len());
        let mut pauses = self.pauses(tries);
        loop {
            match want {
                Want::Whole { .. } => self.mirrors.sort(&mut sources, Instant::now()),
                Want::Range { .. } => self.mirrors.sort_for_range(&mut sources, Instant::now()),
            }
            if self.round(&sources, &mut transfer, &mut tried).await {
                for mirror in tried.lagging() {
                    self.mirrors.failed(mirror, Instant::now());
                }
                return Ok(transfer.done());
            }
            let Some(pause) = pauses.next().filter(|_| tried.may_go_on()) else {
                return Err(tried.into_error(url));
            };
            tracing::debug!(%url, ?pause, "fetch is tried again");
            if transfer.pace.pause(pause).await.is_err() {
                tried.out_of_time(transfer.pace.total());
                return Err(tried.into_error(url));
            }
        }
    }

    /// One try at each source that may still do; gives whether all is there.
    async fn round(&self, sources: &[Source], transfer: &mut Transfer<'_>, tried: &mut Tried) -> bool {
        for source in sources {
            if !tried.may_ask(source) {
                continue;
            }
            tried.begin();
            transfer.pace.begin_try(Instant::now());
            let ended = match source.url.scheme() {
                "https" | "http" => self.http.read(source, transfer).await,
                "file" => file::read(source, transfer).await,
                _ => Err(Ended::ForGood(FetchError::Scheme {
                    url: source.url.to_string(),
                })),
            };
            if let Some(seen) = transfer.ranges {
                self.mirrors.saw(source.mirror, seen);
            }
            let Err(ended) = ended else { return true };
            tracing::debug!(url = %source.url, ?ended, "a try failed");
            match ended {
                // It broke behind the last byte that was wanted.
                Ended::MayPass(_) if transfer.is_full() => return true,
                Ended::MayPass(detail) => {
                    self.mirrors.failed(source.mirror, Instant::now());
                    tried.failed(source, detail);
                }
                // Others may not have it either; which is judged at the end.
                Ended::ForGood(error @ FetchError::NotFound { .. }) => tried.settled(source, error),
                Ended::ForGood(error) => {
                    transfer.distrust(source.mirror);
                    self.mirrors.failed(source.mirror, Instant::now());
                    tried.settled(source, error);
                }
                Ended::OutOfTime => {
                    tried.out_of_time(transfer.pace.total());
                    return false;
                }
            }
        }
        false
    }

    fn pauses(&self, tries: u32) -> impl Iterator<Item = Duration> + use<> {
        ExponentialBuilder::default()
            .with_min_delay(self.retry.first_pause)
            .with_max_delay(self.retry.longest_pause)
            .with_max_times(tries.saturating_sub(1) as usize)
            .with_jitter()
            .build()
    }
}

/// One transfer that is to be done.
struct Job {
    want: Want,
    joining: Joining,
    sources: Vec<Source>,
    /// At each of them.
    tries: u32,
}

const fn of(range: &Range<u64>) -> Want {
    Want::Range {
        start: range.start,
        end: range.end,
    }
}

fn as_signed(url: &Url, bytes: Bytes, length: u64, digest: &Digest) -> Result<Bytes, FetchError> {
    let found_bytes = bytes.len() as u64;
    if found_bytes < length {
        return Err(FetchError::TooShort {
            url: url.to_string(),
            wanted_bytes: length,
            found_bytes: Some(found_bytes),
        });
    }
    let found = Digest::of(&bytes);
    if found == *digest {
        Ok(bytes)
    } else {
        let url = url.to_string();
        Err(FetchError::NotAsSigned { url, found })
    }
}
