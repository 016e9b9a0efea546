//! One request over https or http, and as much of its body as is wanted. Nothing is recoded, and no
//! more is read than may be kept, or has to be passed over where a server knows no ranges.

use std::sync::{Arc, OnceLock};

use reqwest::header::{ACCEPT_ENCODING, IF_RANGE, RANGE};
use reqwest::{Client, Response};
use url::{Host, Url};

use super::answer::{self, Answer, Unfit};
use super::error::{Ended, FetchError};
use super::mirrors::{Ranges, Source};
use super::traffic::Counters;
use super::transfer::{Asked, Joining, Transfer, Validator, Want};
use super::{MAX_REDIRECTS, Timeouts};

/// The clients, each made when first needed, so that a folder needs no TLS certificates on the machine.
#[derive(Debug)]
pub(super) struct Http {
    timeouts: Timeouts,
    extra_roots: Vec<reqwest::Certificate>,
    /// Its requests are counted here for every redirect that is followed.
    counters: Arc<Counters>,
    usual: OnceLock<Result<Client, String>>,
    /// For this machine itself, which no proxy can reach.
    loopback: OnceLock<Result<Client, String>>,
}

impl Http {
    /// `ca_pem` holds further certificate authorities in PEM; it may be empty.
    pub fn new(timeouts: Timeouts, ca_pem: &[u8], counters: Arc<Counters>) -> Result<Self, String> {
        let extra_roots = reqwest::Certificate::from_pem_bundle(ca_pem)
            .map_err(|error| format!("the certificate authorities cannot be read: {error}"))?;
        Ok(Self {
            timeouts,
            extra_roots,
            counters,
            usual: OnceLock::new(),
            loopback: OnceLock::new(),
        })
    }

    /// Asks `source` for what `transfer` still wants, and reads it.
    pub async fn read(&self, source: &Source, transfer: &mut Transfer<'_>) -> Result<(), Ended> {
        let failed = |error| failed(source, error);
        let client = self.client(&source.url)?;
        let asked = transfer.ask(source.mirror);
        let mut request = client.get(source.url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(range) = asked.header() {
            request = request.header(RANGE, range);
        }
        if let Some(validator) = &asked.if_range {
            request = request.header(IF_RANGE, &validator.0);
        }
        transfer.counts_request();
        let response = transfer.pace.within(request.send()).await?.map_err(failed)?;
        let judged = answer::judge(response.status(), response.headers(), &asked);
        let answer = judged.map_err(|unfit| unfit_ended(source, transfer, unfit))?;
        let validator = answer::validator(response.headers());
        match answer {
            Answer::Part { end } => part(source, transfer, response, end, validator).await,
            Answer::Whole => whole(source, transfer, response, &asked, validator).await,
        }
    }

    fn client(&self, url: &Url) -> Result<&Client, Ended> {
        let made = match url.host() {
            Some(Host::Domain("localhost")) => self.loopback(),
            Some(Host::Ipv4(address)) if address.is_loopback() => self.loopback(),
            Some(Host::Ipv6(address)) if address.is_loopback() => self.loopback(),
            Some(Host::Domain(_) | Host::Ipv4(_) | Host::Ipv6(_)) | None => {
                self.usual.get_or_init(|| self.make(|builder| builder))
            }
        };
        made.as_ref()
            .map_err(|error| Ended::MayPass(format!("no HTTP client: {error}")))
    }

    fn loopback(&self) -> &Result<Client, String> {
        self.loopback
            .get_or_init(|| self.make(reqwest::ClientBuilder::no_proxy))
    }

    fn make(&self, and: impl Fn(reqwest::ClientBuilder) -> reqwest::ClientBuilder) -> Result<Client, String> {
        // Idle times are the transfer's own: the client's would run while the own limit holds back.
        let builder = || {
            let counters = Arc::clone(&self.counters);
            let policy = reqwest::redirect::Policy::custom(move |attempt| redirect(attempt, &counters));
            let builder = Client::builder()
                .user_agent(concat!("drydock/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(self.timeouts.connect)
                .redirect(policy);
            and(builder)
        };
        let roots = || self.extra_roots.clone();
        // A small image may have no authorities of its own. Then only those named count, for https; what
        // is fetched is verified by its signature in any case.
        let with_system = builder().tls_certs_merge(roots()).build();
        with_system
            .or_else(|_| builder().tls_certs_only(roots()).build())
            .map_err(|error| whole_text(&error))
    }
}

/// The part that was asked for, and not a byte more.
async fn part(
    source: &Source,
    transfer: &mut Transfer<'_>,
    response: Response,
    end: u64,
    validator: Option<Validator>,
) -> Result<(), Ended> {
    transfer.ranges = Some(Ranges::Served);
    let wanted = end - transfer.want.start();
    if wanted > transfer.want.most_bytes() {
        return Err(transfer.want.too_long(source));
    }
    let left = wanted - transfer.held.len();
    transfer.held.begin_answer(source.mirror, validator);
    let body = Body {
        skip: 0,
        keep: left,
        then: Then::End,
    };
    if body.read(source, transfer, response).await? < left {
        return Err(Ended::MayPass(
            "the answer ended before its part was whole".to_owned(),
        ));
    }
    Ok(())
}

/// The whole file: all that was wanted, or the answer of a server that has no ranges, or of one whose
/// file changed.
async fn whole(
    source: &Source,
    transfer: &mut Transfer<'_>,
    response: Response,
    asked: &Asked,
    validator: Option<Validator>,
) -> Result<(), Ended> {
    let changed = asked.if_range.is_some() && asked.if_range != validator;
    if asked.range.is_some() && !changed {
        transfer.ranges = Some(Ranges::Ignored);
    }
    if changed || transfer.joining == Joining::OneMirror {
        transfer.held.clear();
    }
    let length = response.content_length();
    let skip = transfer.want.start() + transfer.held.len();
    let keep = transfer.want.most_bytes() - transfer.held.len();
    let then = match transfer.want {
        Want::Whole { max_bytes } if length.is_some_and(|length| length > max_bytes) => {
            return Err(transfer.want.too_long(source));
        }
        Want::Range { end, .. } if length.is_some_and(|length| length < end) => {
            return Err(transfer.too_short(source, length));
        }
        Want::Whole { .. } => Then::End,
        Want::Range { .. } => Then::Whatever,
    };
    transfer.held.begin_answer(source.mirror, validator);
    let body = Body { skip, keep, then };
    let kept = body.read(source, transfer, response).await?;
    match transfer.want {
        Want::Range { .. } if kept < keep => Err(transfer.too_short(source, None)),
        Want::Range { .. } | Want::Whole { .. } => Ok(()),
    }
}

/// How a body is read.
struct Body {
    /// Passed over first.
    skip: u64,
    /// Kept then, at most.
    keep: u64,
    then: Then,
}

/// What may follow what is kept.
#[derive(PartialEq, Eq)]
enum Then {
    /// Nothing.
    End,
    /// It is not looked at.
    Whatever,
}

impl Body {
    /// Reads to what may be kept, or to the body's end; gives how much was kept.
    async fn read(
        mut self,
        source: &Source,
        transfer: &mut Transfer<'_>,
        mut response: Response,
    ) -> Result<u64, Ended> {
        let mut kept = 0;
        while kept < self.keep || self.then == Then::End {
            let piece = transfer.pace.within(response.chunk()).await?;
            let Some(piece) = piece.map_err(|error| failed(source, error))? else {
                break;
            };
            let came = piece.len() as u64;
            let skipped = self.skip.min(came);
            self.skip -= skipped;
            let fresh = came - skipped;
            let left = self.keep - kept;
            if fresh > left && self.then == Then::End {
                return Err(transfer.want.too_long(source));
            }
            let taken = fresh.min(left);
            // Both are at most the piece's length.
            transfer.keep(&piece[skipped as usize..(skipped + taken) as usize]);
            kept += taken;
            transfer.received(came).await;
        }
        Ok(kept)
    }
}

fn unfit_ended(source: &Source, transfer: &mut Transfer<'_>, unfit: Unfit) -> Ended {
    let url = || source.url.to_string();
    match unfit {
        Unfit::NotFound => Ended::ForGood(FetchError::NotFound { url: url() }),
        Unfit::MayPass(detail) => Ended::MayPass(detail),
        Unfit::Refused(detail) => Ended::ForGood(FetchError::Refused { url: url(), detail }),
        Unfit::TooShort(found) => transfer.too_short(source, found),
        Unfit::OtherPart(detail) => transfer.does_not_fit(source, detail),
    }
}

fn failed(source: &Source, error: reqwest::Error) -> Ended {
    let detail = whole_text(&error.without_url());
    if detail.contains(REDIRECT_REFUSED) {
        let url = source.url.to_string();
        Ended::ForGood(FetchError::Refused { url, detail })
    } else {
        Ended::MayPass(detail)
    }
}

/// In every error of [`redirect`], so that it is told from errors that may pass.
const REDIRECT_REFUSED: &str = "this redirect is not followed";

/// Follows a few redirects, never from https to anything else, never to another scheme.
fn redirect(attempt: reqwest::redirect::Attempt<'_>, counters: &Counters) -> reqwest::redirect::Action {
    let secure = attempt.previous().iter().any(|url| url.scheme() == "https");
    let allowed = match attempt.url().scheme() {
        "https" => true,
        "http" => !secure,
        _ => false,
    };
    if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error(format!("{REDIRECT_REFUSED}: more than {MAX_REDIRECTS} of them"))
    } else if allowed {
        counters.request();
        attempt.follow()
    } else {
        let to = attempt.url().scheme().to_owned();
        attempt.error(format!(
            "{REDIRECT_REFUSED}: from {} to {to}",
            if secure { "https" } else { "http" }
        ))
    }
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
