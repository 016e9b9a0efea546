//! One recurrence: RFC 5545 rule, first start in local time, IANA time zone, duration.
//!
//! The rule is run on wall-clock time (as if in UTC), so that DST cannot double or drop a day; each start
//! is then placed in the time zone. Never iterates without a bound.

use std::time::Duration;

use chrono::{Datelike as _, TimeZone as _, Timelike as _};
use drydock_api::{Recurrence, Span};
use jiff::{
    SignedDuration, Timestamp, ToSpan as _, civil,
    tz::{AmbiguousOffset, TimeZone},
};
use rrule::{Frequency, RRule, RRuleSet, Tz, Unvalidated};

use super::{add, sub};

/// Most starts that are looked at in one question.
const MOST: usize = 20_000;

/// A recurrence that was understood.
#[derive(Debug, Clone)]
pub struct Recurring {
    start: civil::DateTime,
    zone: TimeZone,
    duration: Duration,
    rule: Option<RRule<Unvalidated>>,
}

/// Why a recurrence cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecurrenceError {
    /// The start.
    #[error("start `{0}` is no local time; write it like 2026-11-02T22:00:00")]
    Start(String),
    /// The time zone.
    #[error("time zone `{0}` is not known; use an IANA name such as Europe/Berlin or UTC")]
    Zone(String),
    /// The duration.
    #[error("duration {0} is shorter than a minute")]
    Duration(String),
    /// The rule.
    #[error("rrule `{rule}` cannot be used: {why}")]
    Rule {
        /// As it is written.
        rule: String,
        /// Why.
        why: String,
    },
}

impl Recurring {
    /// Reads a recurrence.
    ///
    /// # Errors
    ///
    /// What of it cannot be understood, and how it should be written.
    pub fn parse(when: &Recurrence) -> Result<Self, RecurrenceError> {
        let start: civil::DateTime = when
            .start
            .parse()
            .map_err(|_| RecurrenceError::Start(cut(&when.start)))?;
        let zone = TimeZone::get(&when.time_zone).map_err(|_| RecurrenceError::Zone(cut(&when.time_zone)))?;
        if when.duration.duration() < Duration::from_secs(60) {
            return Err(RecurrenceError::Duration(when.duration.to_string()));
        }
        let mut recurring = Self {
            start,
            zone,
            duration: when.duration.duration(),
            rule: None,
        };
        if let Some(text) = &when.rrule {
            let bad = |why: String| RecurrenceError::Rule {
                rule: cut(text),
                why: cut(&why),
            };
            let rule = recurring.read_rule(text).map_err(bad)?;
            // Runs the rule's own checks once, so that `spans` cannot meet an error.
            let first = fake_utc(start).ok_or_else(|| bad("its start is out of range".into()))?;
            rule.clone()
                .build(first)
                .map_err(|error| bad(error.to_string()))?;
            recurring.rule = Some(rule);
        }
        Ok(recurring)
    }

    fn read_rule(&self, text: &str) -> Result<RRule<Unvalidated>, String> {
        let mut parts = Vec::new();
        for part in text.trim().trim_start_matches("RRULE:").split(';') {
            if part.is_empty() {
                continue;
            }
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| format!("`{part}` is not of the form KEY=VALUE"))?;
            match key.to_ascii_uppercase().as_str() {
                "UNTIL" => parts.push(format!("UNTIL={}", self.until(value)?)),
                "EXDATE" | "RDATE" | "DTSTART" => return Err(format!("{key} does not belong in it")),
                key => parts.push(format!("{key}={value}")),
            }
        }
        let rule: RRule<Unvalidated> = parts.join(";").parse().map_err(|error| format!("{error}"))?;
        match rule.get_freq() {
            Frequency::Daily | Frequency::Weekly | Frequency::Monthly | Frequency::Yearly => Ok(rule),
            other => Err(format!(
                "FREQ={other} is finer than a day; use DAILY, WEEKLY, MONTHLY or YEARLY"
            )),
        }
    }

    /// UNTIL as wall-clock time of this zone, written as if it were UTC.
    fn until(&self, value: &str) -> Result<String, String> {
        let bad = || format!("UNTIL={value} is no time; write it like 20261231T235959Z");
        let digits = value.trim_end_matches('Z');
        let local = if digits.len() == 8 {
            format!("{digits}T235959")
        } else {
            digits.to_owned()
        };
        let mut local = civil::DateTime::strptime("%Y%m%dT%H%M%S", &local).map_err(|_| bad())?;
        if value.ends_with('Z') {
            let instant = TimeZone::UTC.to_timestamp(local).map_err(|_| bad())?;
            local = self.zone.to_datetime(instant);
        }
        Ok(local.strftime("%Y%m%dT%H%M%SZ").to_string())
    }

    /// Every occurrence that has an instant in `[from, to)`, in order of start, none twice.
    #[must_use]
    pub fn spans(&self, from: Timestamp, to: Timestamp) -> Vec<Span> {
        let mut spans: Vec<Span> = self
            .starts(from, to)
            .into_iter()
            .filter_map(|local| self.place(local))
            .map(|start| Span {
                start,
                end: add(start, self.duration),
            })
            .filter(|span| span.end > from && span.start < to)
            .collect();
        spans.sort_by_key(|span| span.start);
        spans.dedup();
        spans
    }

    /// Wall-clock starts around `[from, to)`: all that could have an instant in it.
    fn starts(&self, from: Timestamp, to: Timestamp) -> Vec<civil::DateTime> {
        let Some(rule) = &self.rule else {
            return vec![self.start];
        };
        // A day more on each side covers every offset between wall-clock time and UTC.
        let day = Duration::from_secs(86_400);
        let earliest = TimeZone::UTC.to_datetime(sub(sub(from, self.duration), day));
        let latest = TimeZone::UTC.to_datetime(add(to, day));
        let Some(set) = fake_utc(self.skip_to(rule, earliest))
            .and_then(|first| rule.clone().build(first).ok())
            .map(RRuleSet::limit)
        else {
            return Vec::new();
        };
        set.into_iter()
            .take(MOST)
            .filter_map(|start| real_civil(&start))
            .take_while(|start| *start < latest)
            .filter(|start| *start >= earliest && *start >= self.start)
            .collect()
    }

    /// A later start from which the rule gives the same starts, so that old rules cost no more than new
    /// ones: whole periods on, where nothing counts from the first.
    fn skip_to(&self, rule: &RRule<Unvalidated>, earliest: civil::DateTime) -> civil::DateTime {
        let period = match rule.get_freq() {
            Frequency::Daily => i64::from(rule.get_interval()),
            Frequency::Weekly => 7 * i64::from(rule.get_interval()),
            _ => return self.start,
        };
        if rule.get_count().is_some() || period <= 0 {
            return self.start;
        }
        let days = earliest
            .date()
            .since((jiff::Unit::Day, self.start.date()))
            .map_or(0, |span| i64::from(span.get_days()));
        let periods = (days / period - 1).max(0);
        self.start
            .checked_add((periods * period).days())
            .unwrap_or(self.start)
    }

    /// The instant of a wall-clock start in this zone.
    fn place(&self, local: civil::DateTime) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(local);
        match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => ambiguous.earlier().ok(),
            AmbiguousOffset::Gap { .. } => {
                let before = ambiguous.earlier().ok()?;
                let just_before = before.checked_sub(SignedDuration::from_secs(1)).ok()?;
                self.zone
                    .following(just_before)
                    .next()
                    .map(|change| change.timestamp())
            }
        }
    }
}

fn fake_utc(local: civil::DateTime) -> Option<chrono::DateTime<Tz>> {
    Tz::UTC
        .with_ymd_and_hms(
            i32::from(local.year()),
            u32::from(local.month().unsigned_abs()),
            u32::from(local.day().unsigned_abs()),
            u32::from(local.hour().unsigned_abs()),
            u32::from(local.minute().unsigned_abs()),
            u32::from(local.second().unsigned_abs()),
        )
        .single()
}

fn real_civil(start: &chrono::DateTime<Tz>) -> Option<civil::DateTime> {
    let small = |n: u32| i8::try_from(n).ok();
    civil::DateTime::new(
        i16::try_from(start.year()).ok()?,
        small(start.month())?,
        small(start.day())?,
        small(start.hour())?,
        small(start.minute())?,
        small(start.second())?,
        0,
    )
    .ok()
}

fn cut(text: &str) -> String {
    text.chars().take(120).collect()
}
