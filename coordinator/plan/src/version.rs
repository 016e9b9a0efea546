//! Versions of releases, ordered as the UAPI Version Format Specification says (`1.2~rc1` < `1.2` < `1.10`).
//! Never used to name a release: a release is its digest.

use std::{cmp::Ordering, fmt};

/// A release's version.
#[derive(Debug, Clone)]
pub struct Version(String);

impl Version {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first two numbers, for "does this change the minor version?"; what is missing is 0.
    #[must_use]
    pub fn major_minor(&self) -> (u64, u64) {
        let mut numbers = self
            .0
            .split(|c: char| !c.is_ascii_digit())
            .filter(|part| !part.is_empty())
            .map(|part| part.parse().unwrap_or(u64::MAX));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }
}

impl From<&str> for Version {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Version {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
        uapi_version::strverscmp(&self.0, &other.0)
    }
}
