//! What the head of an HTTP answer says, held against what was asked (RFC 9110, 14 and 15). Pure: no
//! body is read here.

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, HeaderMap, HeaderName, LAST_MODIFIED};

use super::transfer::{Asked, Validator};

/// What the body is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The file from its first byte.
    Whole,
    /// From the first byte that was asked for up to `end`, which is not one of them.
    Part { end: u64 },
}

/// Why there is no body to read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    NotFound,
    MayPass(String),
    Refused(String),
    /// The file ends before what was asked for; its length where that was said.
    TooShort(Option<u64>),
    /// A part, but not the one that was asked for.
    OtherPart(String),
}

/// Judges the head of an answer.
pub(super) fn judge(status: StatusCode, headers: &HeaderMap, asked: &Asked) -> Result<Answer, Unfit> {
    match (status.as_u16(), asked.range) {
        (200, _) => Ok(Answer::Whole),
        (206, Some((first, end))) => part(headers, first, end),
        (416, Some(_)) => Err(Unfit::TooShort(unsatisfied_length(headers))),
        // Object stores answer 403 for what does not exist where listing is not allowed.
        (403 | 404 | 410, _) => Err(Unfit::NotFound),
        (408 | 425 | 429 | 500..=599, _) => Err(Unfit::MayPass(format!("the server answers {status}"))),
        _ => Err(Unfit::Refused(format!("the server answers {status}"))),
    }
}

fn part(headers: &HeaderMap, first: u64, end: Option<u64>) -> Result<Answer, Unfit> {
    let kind = text(headers, CONTENT_TYPE).unwrap_or_default();
    if kind
        .trim_start()
        .to_ascii_lowercase()
        .starts_with("multipart/byteranges")
    {
        return Err(Unfit::OtherPart(
            "the server answers with several parts".to_owned(),
        ));
    }
    let said = text(headers, CONTENT_RANGE).unwrap_or_default();
    let other = || {
        Unfit::OtherPart(format!(
            "it was asked for bytes {first} to {}, the server answers with Content-Range {said:?}",
            end.map_or_else(|| "the end".to_owned(), |end| (end - 1).to_string())
        ))
    };
    let found = ContentRange::parse(said).ok_or_else(other)?;
    match end {
        _ if found.first != first => Err(other()),
        Some(end) if found.end == end => Ok(Answer::Part { end }),
        Some(end) if found.end < end && found.length == Some(found.end) => Err(Unfit::TooShort(found.length)),
        None if found.length == Some(found.end) => Ok(Answer::Part { end: found.end }),
        Some(_) | None => Err(other()),
    }
}

/// `bytes first-last/length`.
#[derive(Debug, PartialEq, Eq)]
struct ContentRange {
    first: u64,
    /// Behind the last byte.
    end: u64,
    /// Of the file; None where the server does not know it.
    length: Option<u64>,
}

impl ContentRange {
    fn parse(text: &str) -> Option<Self> {
        let (range, length) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.trim().split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        let end = last.checked_add(1)?;
        let length = match length.trim() {
            "*" => None,
            length => Some(number(length)?),
        };
        (first < end && length.is_none_or(|length| end <= length)).then_some(Self { first, end, length })
    }
}

/// Of `bytes */length`.
fn unsatisfied_length(headers: &HeaderMap) -> Option<u64> {
    let said = text(headers, CONTENT_RANGE)?;
    number(said.trim().strip_prefix("bytes */")?)
}

/// Digits alone: `parse` would take a sign too.
fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

/// What an answer's version is known by, if that is strong: an ETag that is not weak, or a time of
/// change that is over for a second when the server answers (RFC 9110, 8.8.2.2).
pub(super) fn validator(headers: &HeaderMap) -> Option<Validator> {
    if let Some(tag) = text(headers, ETAG) {
        return tag.starts_with('"').then(|| Validator(tag.to_owned()));
    }
    let changed = text(headers, LAST_MODIFIED)?;
    let time = |text: &str| -> Option<Timestamp> { DateTimeParser::new().parse_timestamp(text).ok() };
    let (answered_at, changed_at) = (time(text(headers, DATE)?)?, time(changed)?);
    let age = answered_at.as_second().checked_sub(changed_at.as_second())?;
    (age >= 1).then(|| Validator(changed.to_owned()))
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    fn asked(first: u64, end: Option<u64>) -> Asked {
        Asked {
            range: Some((first, end)),
            if_range: None,
        }
    }

    #[test]
    fn only_the_part_that_was_asked_for_is_taken() {
        // What was said, whether it is taken for 10 to 19, and for 10 to the end.
        let table = [
            ("bytes 10-19/100", true, false),
            ("bytes 10-19/20", true, true),
            ("bytes 10-19/*", true, false),
            ("bytes 10-99/100", false, true),
            ("bytes 0-19/100", false, false),
            ("bytes 10-18/100", false, false),
            ("bytes 10-20/100", false, false),
            ("bytes 11-19/100", false, false),
            ("bytes 10-19/15", false, false),
            ("bytes +10-19/100", false, false),
            ("bytes 10-18446744073709551615/*", false, false),
            ("bytes */100", false, false),
            ("10-19/100", false, false),
            ("", false, false),
        ];
        for (said, bounded, open) in table {
            let headers = headers(&[(CONTENT_RANGE, said)]);
            let judged = |end| judge(StatusCode::PARTIAL_CONTENT, &headers, &asked(10, end));
            assert_eq!(
                judged(Some(20)).is_ok(),
                bounded,
                "{said}: {:?}",
                judged(Some(20))
            );
            assert_eq!(judged(None).is_ok(), open, "{said}: {:?}", judged(None));
        }
        let several = headers(&[
            (CONTENT_RANGE, "bytes 10-19/100"),
            (CONTENT_TYPE, "Multipart/ByteRanges; boundary=x"),
        ]);
        let judged = judge(StatusCode::PARTIAL_CONTENT, &several, &asked(10, Some(20)));
        assert!(matches!(judged, Err(Unfit::OtherPart(_))), "{judged:?}");
        let unasked = judge(StatusCode::PARTIAL_CONTENT, &several, &Asked::default());
        assert!(matches!(unasked, Err(Unfit::Refused(_))), "{unasked:?}");
    }

    #[test]
    fn a_file_that_ends_too_early_is_told_from_a_server_that_errs() {
        let short = headers(&[(CONTENT_RANGE, "bytes 10-14/15")]);
        let judged = judge(StatusCode::PARTIAL_CONTENT, &short, &asked(10, Some(20)));
        assert_eq!(judged, Err(Unfit::TooShort(Some(15))));
        for (said, length) in [("bytes */7", Some(7)), ("nonsense", None)] {
            let headers = headers(&[(CONTENT_RANGE, said)]);
            let judged = judge(StatusCode::RANGE_NOT_SATISFIABLE, &headers, &asked(10, Some(20)));
            assert_eq!(judged, Err(Unfit::TooShort(length)));
        }
    }

    #[test]
    fn only_what_is_strong_says_that_a_file_is_still_the_same() {
        let (old, new) = ("Wed, 25 Nov 2026 10:00:00 GMT", "Wed, 25 Nov 2026 10:00:01 GMT");
        let table = [
            (vec![(ETAG, "\"abc\"")], Some("\"abc\"")),
            (vec![(ETAG, "W/\"abc\"")], None),
            (vec![(LAST_MODIFIED, old), (DATE, new)], Some(old)),
            (vec![(LAST_MODIFIED, new), (DATE, new)], None),
            (vec![(LAST_MODIFIED, old)], None),
            (vec![(LAST_MODIFIED, "yesterday"), (DATE, new)], None),
            (vec![], None),
        ];
        for (pairs, wanted) in table {
            let found = validator(&headers(&pairs)).map(|validator| validator.0);
            assert_eq!(found.as_deref(), wanted, "{pairs:?}");
        }
    }
}
