//! Fetching one file over https, http or from a folder: never more bytes than the bound that was
//! stated, never longer than the time that was stated, and trusting nothing that comes back.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use url::Url;

/// The most redirects that are followed for one request.
pub const MAX_REDIRECTS: usize = 3;

/// How long one try may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection stands.
    pub connect: Duration,
    /// Without a single byte coming in.
    pub idle: Duration,
    /// One try from its start to its last byte, so that a trickle ends too.
    pub attempt: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(20),
            attempt: Duration::from_secs(120),
        }
    }
}

/// How often a fetch is tried again after an error that may pass. Pauses double, with jitter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all, the first one included.
    pub tries: u32,
    /// The pause after the first try.
    pub first_pause: Duration,
    /// No pause is longer.
    pub longest_pause: Duration,
    /// No try begins, and none goes on, after this long.
    pub total: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            tries: 5,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(15),
            total: Duration::from_secs(300),
        }
    }
}

/// Why a file could not be fetched.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// The server, or the folder, does not have it.
    #[error(
        "{url} does not exist on the server: check the repository's URL, and that it was published whole"
    )]
    NotFound {
        /// What was asked for.
        url: String,
    },
    /// There is more than the stated bound.
    #[error(
        "{url} has more than the {max_bytes} bytes it may have: it is not what the repository's metadata describes"
    )]
    TooLong {
        /// What was asked for.
        url: String,
        /// The bound in bytes.
        max_bytes: u64,
    },
    /// A scheme other than https, http and file, or a file URL that is no path.
    #[error("{url} cannot be fetched: write an https, http or file URL")]
    Scheme {
        /// What was asked for.
        url: String,
    },
    /// The server refuses, or sends elsewhere where nobody may follow.
    #[error("{url} was refused ({detail}): check the repository's URL and the server's configuration")]
    Refused {
        /// What was asked for.
        url: String,
        /// The status or the reason.
        detail: String,
    },
    /// An error that may pass, after the last try.
    #[error(
        "{url} could not be reached in {tries} tries ({detail}): check the network, the proxy and the server, it is tried again later"
    )]
    Unreachable {
        /// What was asked for.
        url: String,
        /// How many tries there were.
        tries: u32,
        /// What the last one ended with.
        detail: String,
    },
}

impl FetchError {
    /// That the server does not have the file, which for the next root is an answer and no error.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// One way to fetch, with its timeouts and retries.
#[derive(Debug)]
pub struct Fetcher {
    timeouts: Timeouts,
    retry: RetryPolicy,
    extra_roots: Vec<reqwest::Certificate>,
    places: Semaphore,
    // Made when first needed, so that a folder needs no TLS certificates on the machine.
    client: OnceLock<Result<reqwest::Client, String>>,
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
        let extra_roots = reqwest::Certificate::from_pem_bundle(ca_pem)
            .map_err(|error| format!("the certificate authorities cannot be read: {error}"))?;
        Ok(Self {
            timeouts,
            retry,
            extra_roots,
            places: Semaphore::new(parallel.max(1)),
            client: OnceLock::new(),
        })
    }

    /// All bytes of `url`, of which there may be `max_bytes` at most.
    ///
    /// # Errors
    /// See [`FetchError`]. Errors that may pass were tried again.
    pub async fn fetch(&self, url: &Url, max_bytes: u64) -> Result<Bytes, FetchError> {
        // Waiting here costs no try's time. The semaphore is never closed.
        let _place = self.places.acquire().await;
        let tries = AtomicU32::new(0);
        let backoff = ExponentialBuilder::default()
            .with_min_delay(self.retry.first_pause)
            .with_max_delay(self.retry.longest_pause)
            .with_max_times(self.retry.tries.saturating_sub(1) as usize)
            .with_jitter();
        let once = || {
            tries.fetch_add(1, Ordering::Relaxed);
            self.once(url, max_bytes)
        };
        let all = once
            .retry(backoff)
            .when(|error| matches!(error, Once::MayPass(_)))
            .notify(|error, pause| tracing::debug!(%url, ?error, ?pause, "fetch is tried again"));
        let outcome = tokio::time::timeout(self.retry.total, all).await;
        let tries = tries.load(Ordering::Relaxed);
        let unreachable = |detail| FetchError::Unreachable {
            url: url.to_string(),
            tries,
            detail,
        };
        match outcome {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(Once::ForGood(error))) => Err(error),
            Ok(Err(Once::MayPass(detail))) => Err(unreachable(detail)),
            Err(_) => Err(unreachable(format!("not done within {:?}", self.retry.total))),
        }
    }

    async fn once(&self, url: &Url, max_bytes: u64) -> Result<Bytes, Once> {
        let attempt = async {
            match url.scheme() {
                "https" | "http" => self.http(url, max_bytes).await,
                "file" => file(url, max_bytes).await,
                _ => Err(Once::ForGood(FetchError::Scheme { url: url.to_string() })),
            }
        };
        let limit = self.timeouts.attempt;
        let late = |_| Once::MayPass(format!("not done within {limit:?}"));
        tokio::time::timeout(limit, attempt).await.map_err(late)?
    }

    fn client(&self) -> Result<&reqwest::Client, Once> {
        let made = self.client.get_or_init(|| {
            let builder = || {
                reqwest::Client::builder()
                    .user_agent(concat!("drydock/", env!("CARGO_PKG_VERSION")))
                    .connect_timeout(self.timeouts.connect)
                    .read_timeout(self.timeouts.idle)
                    .redirect(reqwest::redirect::Policy::custom(redirect))
            };
            let roots = || self.extra_roots.clone();
            // A small image may have no authorities of its own. Then only those named count, for https; what
            // is fetched is verified by its signature in any case.
            let with_system = builder().tls_certs_merge(roots()).build();
            with_system
                .or_else(|_| builder().tls_certs_only(roots()).build())
                .map_err(|error| whole_text(&error))
        });
        made.as_ref()
            .map_err(|error| Once::MayPass(format!("no HTTP client: {error}")))
    }

    async fn http(&self, url: &Url, max_bytes: u64) -> Result<Bytes, Once> {
        let failed = |error: reqwest::Error| {
            let detail = whole_text(&error.without_url());
            if detail.contains(REDIRECT_REFUSED) {
                Once::ForGood(FetchError::Refused {
                    url: url.to_string(),
                    detail,
                })
            } else {
                Once::MayPass(detail)
            }
        };
        let too_long = || {
            Once::ForGood(FetchError::TooLong {
                url: url.to_string(),
                max_bytes,
            })
        };
        let mut response = self.client()?.get(url.clone()).send().await.map_err(failed)?;
        let status = response.status();
        match status.as_u16() {
            200 => {}
            // Object stores answer 403 for what does not exist where listing is not allowed.
            403 | 404 | 410 => return Err(Once::ForGood(FetchError::NotFound { url: url.to_string() })),
            408 | 425 | 429 | 500..=599 => return Err(Once::MayPass(format!("the server answers {status}"))),
            _ => {
                let detail = format!("the server answers {status}");
                return Err(Once::ForGood(FetchError::Refused {
                    url: url.to_string(),
                    detail,
                }));
            }
        }
        if response.content_length().is_some_and(|length| length > max_bytes) {
            return Err(too_long());
        }
        let mut body = BytesMut::new();
        while let Some(piece) = response.chunk().await.map_err(failed)? {
            if (body.len() + piece.len()) as u64 > max_bytes {
                return Err(too_long());
            }
            body.extend_from_slice(&piece);
        }
        Ok(body.freeze())
    }
}

/// How one try ended.
#[derive(Debug)]
enum Once {
    MayPass(String),
    ForGood(FetchError),
}

/// In every error of [`redirect`], so that it is told from errors that may pass.
const REDIRECT_REFUSED: &str = "this redirect is not followed";

/// Follows a few redirects, never from https to anything else, never to another scheme.
fn redirect(attempt: reqwest::redirect::Attempt<'_>) -> reqwest::redirect::Action {
    let secure = attempt.previous().iter().any(|url| url.scheme() == "https");
    let allowed = match attempt.url().scheme() {
        "https" => true,
        "http" => !secure,
        _ => false,
    };
    if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error(format!("{REDIRECT_REFUSED}: more than {MAX_REDIRECTS} of them"))
    } else if allowed {
        attempt.follow()
    } else {
        let to = attempt.url().scheme().to_owned();
        attempt.error(format!(
            "{REDIRECT_REFUSED}: from {} to {to}",
            if secure { "https" } else { "http" }
        ))
    }
}

async fn file(url: &Url, max_bytes: u64) -> Result<Bytes, Once> {
    let path = url
        .to_file_path()
        .map_err(|()| Once::ForGood(FetchError::Scheme { url: url.to_string() }))?;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Once::ForGood(FetchError::NotFound { url: url.to_string() }),
        io::ErrorKind::PermissionDenied => Once::ForGood(FetchError::Refused {
            url: url.to_string(),
            detail: error.to_string(),
        }),
        _ => Once::MayPass(error.to_string()),
    };
    // A pipe or a device would never end.
    if !tokio::fs::metadata(&path).await.map_err(failed)?.is_file() {
        let detail = "it is no regular file".to_owned();
        return Err(Once::ForGood(FetchError::Refused {
            url: url.to_string(),
            detail,
        }));
    }
    let mut body = Vec::new();
    let mut bounded = tokio::fs::File::open(&path)
        .await
        .map_err(failed)?
        .take(max_bytes.saturating_add(1));
    bounded.read_to_end(&mut body).await.map_err(failed)?;
    if body.len() as u64 > max_bytes {
        return Err(Once::ForGood(FetchError::TooLong {
            url: url.to_string(),
            max_bytes,
        }));
    }
    Ok(body.into())
}

/// An error with everything below it: reqwest hides the reason in its sources.
fn whole_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        let line = cause.to_string();
        if !text.contains(&line) {
            text = format!("{text}: {line}");
        }
        below = cause.source();
    }
    text
}
