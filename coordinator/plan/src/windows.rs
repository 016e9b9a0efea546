//! Windows and freezes: when nodes may be disrupted.
//!
//! A stretch of time is half-open: its start belongs to it, its end does not. It belongs to the day it
//! starts on, also past midnight. Recurrences are computed in local wall-clock time and then placed in the
//! time zone: in a DST gap a start moves forward to the first instant that exists, in an overlap it is the
//! first of the two. Never looks at a clock.

mod recurrence;

use std::time::Duration;

use drydock_api::{FreezeScope, Span, UpgradePolicySpec};
use jiff::{SignedDuration, Timestamp};

pub use recurrence::{RecurrenceError, Recurring};

/// How far ahead windows are looked for, in days: first near, then farther if nothing was found. The last
/// finds a 29th of February.
const HORIZONS: [i64; 3] = [35, 400, 3300];

/// What makes a freeze concern an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The first or second number of the version changes.
    pub minor: bool,
    /// The advisory names a CVE.
    pub security: bool,
}

/// The windows and freezes of one policy around one instant.
#[derive(Debug, Clone)]
pub struct Calendar {
    /// None: always open.
    windows: Option<Vec<Span>>,
    freezes: Vec<(FreezeScope, Vec<Span>)>,
    horizon: Timestamp,
}

impl Calendar {
    /// The calendar of a policy, around `now`.
    ///
    /// # Errors
    ///
    /// Every window and freeze that cannot be understood, each named.
    pub fn new(spec: &UpgradePolicySpec, now: Timestamp) -> Result<Self, Vec<String>> {
        let mut wrong = Vec::new();
        let named = |kind: &str, index: usize, name: &Option<String>| match name {
            Some(name) => format!("{kind} {name}"),
            None => format!("{kind} {}", index + 1),
        };
        let mut windows = Vec::new();
        for (index, window) in spec.windows.iter().enumerate() {
            match Recurring::parse(&window.when) {
                Ok(recurring) => windows.push(recurring),
                Err(error) => wrong.push(format!("{}: {error}", named("window", index, &window.name))),
            }
        }
        let mut freezes = Vec::new();
        for (index, freeze) in spec.freezes.iter().enumerate() {
            match Recurring::parse(&freeze.when) {
                Ok(recurring) => freezes.push((freeze.scope, recurring)),
                Err(error) => wrong.push(format!("{}: {error}", named("freeze", index, &freeze.name))),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let mut calendar = Self {
            windows: None,
            freezes: Vec::new(),
            horizon: now,
        };
        for days in HORIZONS {
            calendar.horizon = add(now, Duration::from_secs(days.unsigned_abs() * 86_400));
            calendar.freezes = freezes
                .iter()
                .map(|(scope, recurring)| (*scope, union(recurring.spans(now, calendar.horizon))))
                .collect();
            if windows.is_empty() {
                return Ok(calendar);
            }
            let spans = union(
                windows
                    .iter()
                    .flat_map(|recurring| recurring.spans(now, calendar.horizon))
                    .collect(),
            );
            let found = !spans.is_empty();
            calendar.windows = Some(spans);
            if found {
                break;
            }
        }
        Ok(calendar)
    }

    /// The stretches in which this kind of upgrade may be under way, from `now` on, within the horizon.
    #[must_use]
    pub fn open(&self, kind: Kind) -> Vec<Span> {
        let all = [Span {
            start: Timestamp::MIN,
            end: Timestamp::MAX,
        }];
        self.without_freezes(self.windows.as_deref().unwrap_or(&all), kind)
    }

    /// The stretches that no freeze of this kind covers, whatever windows say.
    #[must_use]
    pub fn thawed(&self, kind: Kind) -> Vec<Span> {
        let all = [Span {
            start: Timestamp::MIN,
            end: Timestamp::MAX,
        }];
        self.without_freezes(&all, kind)
    }

    fn without_freezes(&self, spans: &[Span], kind: Kind) -> Vec<Span> {
        let mut open = spans.to_vec();
        for (scope, spans) in &self.freezes {
            if concerns(*scope, kind) {
                open = without(&open, spans);
            }
        }
        open
    }

    /// Whether a window is open at `at`, freezes apart.
    #[must_use]
    pub fn in_window(&self, at: Timestamp) -> bool {
        self.windows
            .as_deref()
            .is_none_or(|spans| spans.iter().any(|span| contains(span, at)))
    }

    /// Whether a freeze that concerns this kind covers `at`.
    #[must_use]
    pub fn frozen(&self, kind: Kind, at: Timestamp) -> bool {
        self.freezes
            .iter()
            .filter(|(scope, _)| concerns(*scope, kind))
            .any(|(_, spans)| spans.iter().any(|span| contains(span, at)))
    }

    /// The window that is open at `at`, or the next one, freezes apart. None: no window is declared, or
    /// none comes.
    #[must_use]
    pub fn next_window(&self, at: Timestamp) -> Option<Span> {
        self.windows.as_ref()?.iter().find(|span| span.end > at).cloned()
    }

    /// Length of the longest window ahead; None where it is always open.
    #[must_use]
    pub fn longest(&self) -> Option<Duration> {
        let spans = self.windows.as_ref()?;
        Some(spans.iter().map(length).max().unwrap_or_default())
    }

    /// Until where the calendar was computed.
    #[must_use]
    pub fn horizon(&self) -> Timestamp {
        self.horizon
    }
}

fn concerns(scope: FreezeScope, kind: Kind) -> bool {
    match scope {
        FreezeScope::NoUpgrades => true,
        FreezeScope::NoMinorUpgrades => kind.minor,
        FreezeScope::OnlySecurity => !kind.security,
    }
}

/// The stretch of `open` that holds `at`: until when it may go on. Half-open.
#[must_use]
pub fn open_until(open: &[Span], at: Timestamp) -> Option<Timestamp> {
    open.iter().find(|span| contains(span, at)).map(|span| span.end)
}

/// Whether something of this length, begun at `at`, ends within the stretch of `open` that holds `at`.
#[must_use]
pub fn fits(open: &[Span], at: Timestamp, need: Duration) -> bool {
    open_until(open, at).is_some_and(|end| add(at, need) <= end)
}

/// The first instant from `at` on that lies in `open` with room for `need`.
#[must_use]
pub fn next_start(open: &[Span], at: Timestamp, need: Duration) -> Option<Timestamp> {
    open.iter()
        .map(|span| (span.start.max(at), span.end))
        .find(|(start, end)| start < end && add(*start, need) <= *end)
        .map(|(start, _)| start)
}

/// The windows of a policy that ended before `now`, merged, the newest last; at most `count`, looked for in
/// the last `days` days.
#[must_use]
pub fn past_windows(spec: &UpgradePolicySpec, now: Timestamp, days: u64, count: usize) -> Vec<Span> {
    let from = sub(now, Duration::from_secs(days * 86_400));
    let spans = spec
        .windows
        .iter()
        .filter_map(|window| Recurring::parse(&window.when).ok())
        .flat_map(|recurring| recurring.spans(from, now))
        .collect();
    let ended: Vec<Span> = union(spans)
        .into_iter()
        .filter(|span| span.end <= now && span.start >= from)
        .collect();
    let skip = ended.len().saturating_sub(count);
    ended.into_iter().skip(skip).collect()
}

/// Whether the half-open stretch holds the instant.
#[must_use]
pub fn contains(span: &Span, at: Timestamp) -> bool {
    span.start <= at && at < span.end
}

/// An instant and a length; at the end of time it stays there.
#[must_use]
pub fn add(at: Timestamp, length: Duration) -> Timestamp {
    SignedDuration::try_from(length)
        .ok()
        .and_then(|length| at.checked_add(length).ok())
        .unwrap_or(Timestamp::MAX)
}

/// An instant less a length; at the beginning of time it stays there.
#[must_use]
pub fn sub(at: Timestamp, length: Duration) -> Timestamp {
    SignedDuration::try_from(length)
        .ok()
        .and_then(|length| at.checked_sub(length).ok())
        .unwrap_or(Timestamp::MIN)
}

/// From one instant to a later one; nothing if it is not later.
#[must_use]
pub fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

fn length(span: &Span) -> Duration {
    between(span.start, span.end)
}

/// Sorted, overlapping and adjacent ones merged.
fn union(mut spans: Vec<Span>) -> Vec<Span> {
    spans.retain(|span| span.start < span.end);
    spans.sort_by_key(|span| (span.start, span.end));
    let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match merged.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => merged.push(span),
        }
    }
    merged
}

/// What of `open` none of `closed` covers; both sorted and merged.
fn without(open: &[Span], closed: &[Span]) -> Vec<Span> {
    let mut left = Vec::with_capacity(open.len());
    let mut ahead = closed.iter().peekable();
    for span in open {
        let mut start = span.start;
        while ahead.next_if(|hole| hole.end <= start).is_some() {}
        for hole in ahead.clone().take_while(|hole| hole.start < span.end) {
            if start < hole.start {
                left.push(Span {
                    start,
                    end: hole.start,
                });
            }
            start = start.max(hole.end);
        }
        if start < span.end {
            left.push(Span { start, end: span.end });
        }
    }
    left
}
