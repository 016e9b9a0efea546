//! Versions, ordered as the UAPI Group's Version Format Specification (UAPI.10) says. A version is a
//! hint for order; what a release *is* says only its digest.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest version, in bytes.
pub const MAX_VERSION_BYTES: usize = 64;

/// A version of 1 to 64 characters out of `A-Za-z0-9.~^_+-`, beginning with a letter or a digit.
///
/// Two versions are equal when UAPI.10 orders neither before the other, so `1.02` equals `1.2`.
#[derive(Clone)]
pub struct Version(String);

/// A text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{found:?} is no version: write 1 to 64 characters out of A-Z a-z 0-9 . ~ ^ _ + - that begin with a letter or a digit"
)]
pub struct InvalidVersion {
    /// What was found, cut to 100 characters.
    pub found: String,
}

impl Version {
    /// The text as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b".~^_+-".contains(&b);
        let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if starts && text.len() <= MAX_VERSION_BYTES && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidVersion {
                found: text.chars().take(100).collect(),
            })
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({})", self.0)
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self.0.as_bytes(), other.0.as_bytes())
    }
}

/// UAPI.10, "Version Comparison". Every step looks at the front of what is left of both strings.
fn compare(mut a: &[u8], mut b: &[u8]) -> Ordering {
    loop {
        // Step 1: characters that are no part of a version separate, and are dropped.
        a = drop_separators(a);
        b = drop_separators(b);
        // Step 2: a tilde is older than anything, the end included (1.0~rc1 before 1.0).
        match step_over(b'~', &mut a, &mut b) {
            Ordering::Equal => {}
            decided => return decided,
        }
        // Step 3: what has ended is older than what goes on.
        if a.is_empty() || b.is_empty() {
            return a.len().cmp(&b.len());
        }
        // Steps 4 to 6: a dash is older than a caret, that than a dot, that than text.
        for mark in [b'-', b'^', b'.'] {
            match step_over(mark, &mut a, &mut b) {
                Ordering::Equal => {}
                decided => return decided,
            }
        }
        // Steps 7 and 8: numbers by value and newer than letters; letters byte by byte.
        let digits = front_is_digit(a) || front_is_digit(b);
        let class: fn(&u8) -> bool = if digits {
            u8::is_ascii_digit
        } else {
            u8::is_ascii_alphabetic
        };
        let (front_a, rest_a) = split_front(a, class);
        let (front_b, rest_b) = split_front(b, class);
        let order = if digits {
            compare_numbers(front_a, front_b)
        } else {
            front_a.cmp(front_b)
        };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
}

fn drop_separators(text: &[u8]) -> &[u8] {
    let part_of_version = |b: &u8| b.is_ascii_alphanumeric() || b"~-^.".contains(b);
    &text[text.iter().position(part_of_version).unwrap_or(text.len())..]
}

/// If only one of the two begins with `mark`, that one is older. If both do, both step over it.
fn step_over(mark: u8, a: &mut &[u8], b: &mut &[u8]) -> Ordering {
    let (in_a, in_b) = (a.first() == Some(&mark), b.first() == Some(&mark));
    if in_a && in_b {
        *a = &a[1..];
        *b = &b[1..];
    }
    in_b.cmp(&in_a)
}

fn front_is_digit(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_digit)
}

fn split_front(text: &[u8], class: fn(&u8) -> bool) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|b| !class(b)).unwrap_or(text.len()))
}

/// By value, however long: leading zeros dropped, then by length, then digit by digit. No number at
/// all is older than any number.
fn compare_numbers(a: &[u8], b: &[u8]) -> Ordering {
    let without_zeros = |n: &[u8]| n.iter().position(|d| *d != b'0').unwrap_or(n.len());
    let (short_a, short_b) = (&a[without_zeros(a)..], &b[without_zeros(b)..]);
    (!a.is_empty())
        .cmp(&!b.is_empty())
        .then(short_a.len().cmp(&short_b.len()))
        .then_with(|| short_a.cmp(short_b))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use proptest::prelude::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn the_examples_of_the_specification_hold() {
        // UAPI.10, "Examples", which include texts that this crate does not take as versions.
        for (a, order, b) in [
            ("11", Ordering::Equal, "11"),
            ("systemd-123", Ordering::Equal, "systemd-123"),
            ("bar-123", Ordering::Less, "foo-123"),
            ("123a", Ordering::Greater, "123"),
            ("123.a", Ordering::Greater, "123"),
            ("123.a", Ordering::Less, "123.b"),
            ("123a", Ordering::Greater, "123.a"),
            ("11α", Ordering::Equal, "11β"),
            ("A", Ordering::Less, "a"),
            ("", Ordering::Less, "0"),
            ("0.", Ordering::Greater, "0"),
            ("0.0", Ordering::Greater, "0"),
            ("0", Ordering::Greater, "~"),
            ("", Ordering::Greater, "~"),
            ("1_", Ordering::Equal, "1"),
            ("_1", Ordering::Equal, "1"),
            ("1_", Ordering::Less, "1.2"),
            ("1_2_3", Ordering::Greater, "1.3.3"),
            ("1+", Ordering::Equal, "1"),
            ("+1", Ordering::Equal, "1"),
            ("1+", Ordering::Less, "1.2"),
            ("1+2+3", Ordering::Greater, "1.3.3"),
            ("1.0-1", Ordering::Less, "1.0^patch"),
            ("1.0^patch", Ordering::Less, "1.0.1"),
            ("2026.9", Ordering::Less, "2026.10"),
        ] {
            assert_eq!(compare(a.as_bytes(), b.as_bytes()), order, "{a} and {b}");
        }
        assert!(version("1.0~rc1") < version("1.0"));
        assert!(version("1.0") < version("1.0-1"));
        assert_eq!(version("1.02"), version("1.2"));
        assert_eq!(version("0_1"), version("0+1"));
        assert!(version("18446744073709551616") > version("18446744073709551615"));
    }

    #[test]
    fn text_out_of_bounds_is_no_version() {
        for bad in ["", ".1", "-1", "1 2", "1/2", "ä", &"1".repeat(65)] {
            assert!(bad.parse::<Version>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn the_order_is_total(
            a in "[0-9a-bA~^.+-]{0,6}", b in "[0-9a-bA~^.+-]{0,6}", c in "[0-9a-bA~^.+-]{0,6}",
        ) {
            let [a, b, c] = [a, b, c].map(|t| version(&format!("1{t}")));
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            prop_assert_eq!(a.cmp(&a), Ordering::Equal);
            if a <= b && b <= c {
                prop_assert!(a <= c);
            }
        }
    }
}
