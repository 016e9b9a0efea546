//! One transfer through all of its tries: what is wanted, what came so far and from whom, and what to
//! ask for next. Whether pieces of several answers belong together is judged by whoever knows the
//! signed digest, never here.

use std::sync::Arc;

use bytes::Bytes;

use super::error::{Ended, FetchError};
use super::limit::Limit;
use super::mirrors::{Ranges, Source};
use super::pace::Pace;
use super::pool::Pool;
use super::traffic::Counters;

/// What is wanted of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// All of it, of which there may be so many bytes at most.
    Whole { max_bytes: u64 },
    /// Exactly the bytes from `start` up to `end`, which is not one of them and lies behind `start`.
    Range { start: u64, end: u64 },
}

impl Want {
    pub const fn start(self) -> u64 {
        match self {
            Self::Whole { .. } => 0,
            Self::Range { start, .. } => start,
        }
    }

    /// The most bytes that are kept.
    pub const fn most_bytes(self) -> u64 {
        match self {
            Self::Whole { max_bytes } => max_bytes,
            Self::Range { start, end } => end - start,
        }
    }

    pub fn too_long(self, source: &Source) -> Ended {
        Ended::ForGood(FetchError::TooLong {
            url: source.url.to_string(),
            max_bytes: self.most_bytes(),
        })
    }
}

/// Which answers may become one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joining {
    /// Those of one mirror: for files that may change, which another mirror may have in another version.
    OneMirror,
    /// Those of any mirror: for files that never change under their name, judged by a signed digest.
    AnyMirror,
}

/// What says that a file is still the same, fit for `If-Range` (RFC 9110, 13.1.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Validator(pub String);

/// What came so far.
#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: Vec<u8>,
    /// The mirror of every answer that is in `bytes`, in order.
    from: Vec<usize>,
    /// The version of the last answer, where its server told one.
    validator: Option<Validator>,
}

impl Held {
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// What comes next is of this answer.
    pub fn begin_answer(&mut self, mirror: usize, validator: Option<Validator>) {
        if self.bytes.is_empty() {
            self.from.clear();
        }
        self.from.push(mirror);
        self.validator = validator;
    }

    fn last(&self) -> Option<usize> {
        self.from.last().copied()
    }
}

/// What one request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// First byte, and the one behind the last where it is known. None: the whole file.
    pub range: Option<(u64, Option<u64>)>,
    /// Only if the file still is this one; else all of it.
    pub if_range: Option<Validator>,
}

impl Asked {
    /// The value of the header `Range`.
    pub fn header(&self) -> Option<String> {
        self.range.map(|(first, end)| match end {
            Some(end) => format!("bytes={first}-{}", end - 1),
            None => format!("bytes={first}-"),
        })
    }
}

/// All of a file that was wanted.
#[derive(Debug)]
pub(super) struct Got {
    pub bytes: Bytes,
    /// The mirror of every answer that is in it.
    pub from: Vec<usize>,
}

/// A transfer under way.
#[derive(Debug)]
pub(super) struct Transfer<'a> {
    pub want: Want,
    pub joining: Joining,
    pub held: Held,
    pub pace: Pace,
    /// What the try found out about its mirror.
    pub ranges: Option<Ranges>,
    /// The try that is under way began with bytes of earlier ones.
    resumed: bool,
    /// The server does not go on where it is asked to: every try begins anew.
    anew: bool,
    limit: Option<&'a Limit>,
    counters: &'a Counters,
    pool: &'a Arc<Pool>,
}

impl<'a> Transfer<'a> {
    pub fn new(
        want: Want,
        joining: Joining,
        pace: Pace,
        limit: Option<&'a Limit>,
        (counters, pool): (&'a Counters, &'a Arc<Pool>),
    ) -> Self {
        Self {
            want,
            joining,
            held: Held::default(),
            pace,
            ranges: None,
            resumed: false,
            anew: false,
            limit,
            counters,
            pool,
        }
    }

    /// Prepares a try at `mirror`: what it asks for.
    pub fn ask(&mut self, mirror: usize) -> Asked {
        self.ranges = None;
        let same = self.held.last() == Some(mirror);
        if self.anew || (self.joining == Joining::OneMirror && !same) {
            self.held.clear();
        }
        self.resumed = self.held.len() > 0;
        let first = self.want.start() + self.held.len();
        let range = match self.want {
            Want::Whole { .. } if !self.resumed => None,
            Want::Whole { .. } => Some((first, None)),
            Want::Range { end, .. } => Some((first, Some(end))),
        };
        let if_range = self.held.validator.clone().filter(|_| same && self.resumed);
        Asked { range, if_range }
    }

    /// Whether a range that was wanted is whole, however its last try ended.
    pub fn is_full(&self) -> bool {
        match self.want {
            // Only the end of an answer tells that a file is whole.
            Want::Whole { .. } => false,
            Want::Range { start, end } => self.held.len() == end - start,
        }
    }

    /// The answer does not go on where it was asked to. A part that was only asked for to go on with
    /// is no loss: the file is fetched anew.
    pub fn does_not_fit(&mut self, source: &Source, detail: String) -> Ended {
        self.held.clear();
        match self.want {
            Want::Whole { .. } if self.resumed => {
                self.anew = true;
                Ended::MayPass(detail)
            }
            Want::Whole { .. } | Want::Range { .. } => Ended::ForGood(FetchError::Refused {
                url: source.url.to_string(),
                detail,
            }),
        }
    }

    /// The file ends before what is wanted.
    pub fn too_short(&mut self, source: &Source, found_bytes: Option<u64>) -> Ended {
        self.held.clear();
        match self.want {
            Want::Range { end, .. } if !self.resumed => Ended::ForGood(FetchError::TooShort {
                url: source.url.to_string(),
                wanted_bytes: end,
                found_bytes,
            }),
            Want::Range { .. } | Want::Whole { .. } => {
                Ended::MayPass("the file became shorter while it was fetched".to_owned())
            }
        }
    }

    /// What is wanted goes on with this piece.
    pub fn keep(&mut self, piece: &[u8]) {
        if let Want::Range { start, end } = self.want
            && self.held.bytes.is_empty()
        {
            // At once: to grow would take twice the memory for a moment.
            self.held.bytes = self.pool.take(usize::try_from(end - start).unwrap_or_default());
        }
        self.held.bytes.extend_from_slice(piece);
    }

    /// One request goes out.
    pub fn counts_request(&self) {
        self.counters.request();
    }

    /// Bytes came in, kept or not: they are counted, and paid for where there is a limit.
    pub async fn received(&mut self, bytes: u64) {
        self.counters.body(bytes);
        self.pace.received(bytes);
        if let Some(limit) = self.limit {
            let waited = limit.pay(bytes).await;
            self.pace.held_back(waited);
        }
    }

    /// Forgets what a mirror contributed that said what cannot be.
    pub fn distrust(&mut self, mirror: usize) {
        if self.held.from.contains(&mirror) {
            self.held.clear();
        }
    }

    pub fn done(self) -> Got {
        Got {
            bytes: self.pool.lend(self.held.bytes),
            from: self.held.from,
        }
    }
}
