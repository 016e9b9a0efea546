//! What changes about a release after it was made: channels, advisories, withdrawals. Each is a
//! signed target of its own, and none changes a release's digest.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::canonical;
use crate::digest::Digest;
use crate::names::ChannelName;
use crate::version::Version;

/// The format of these documents that is written, and the newest that is read.
pub const DOCUMENT_FORMAT: u32 = 1;
/// The longest channel, in bytes.
pub const MAX_CHANNEL_BYTES: u64 = 1024 * 1024;
/// The most releases in a channel.
pub const MAX_CHANNEL_RELEASES: usize = 2048;
/// The longest advisory, in bytes.
pub const MAX_ADVISORY_BYTES: u64 = 256 * 1024;
/// The longest withdrawal, in bytes.
pub const MAX_WITHDRAWAL_BYTES: u64 = 16 * 1024;
/// The most vulnerabilities in an advisory.
pub const MAX_VULNERABILITIES: usize = 1024;
/// The longest reason of a withdrawal, in characters.
pub const MAX_REASON_CHARS: usize = 1000;
/// The longest notes of an advisory, in characters.
pub const MAX_NOTES_CHARS: usize = 32 * 1024;

/// Why bytes are no such document.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Longer than is allowed for its kind.
    #[error("the {what} has {length} bytes, more than the {max} allowed")]
    TooLong {
        /// Which document.
        what: &'static str,
        /// Its length in bytes.
        length: u64,
        /// The bound in bytes.
        max: u64,
    },
    /// Written in a format that this program does not know.
    #[error(
        "the {what} has format {found}, this program reads up to {DOCUMENT_FORMAT}: update Drydock on this machine first"
    )]
    NewerFormat {
        /// Which document.
        what: &'static str,
        /// The format it says it has.
        found: u64,
    },
    /// Not JSON of the expected shape.
    #[error("the {what} cannot be read: {source}")]
    Shape {
        /// Which document.
        what: &'static str,
        /// What was wrong.
        source: serde_json::Error,
    },
    /// Of the expected shape, but breaking a bound.
    #[error("the {what} breaks a rule: {rule}")]
    Rule {
        /// Which document.
        what: &'static str,
        /// Which rule.
        rule: String,
    },
}

/// A document that is read from a signed target and written into one.
pub trait Document: Serialize + for<'de> Deserialize<'de> {
    /// What it is called in errors.
    const WHAT: &'static str;
    /// The longest one, in bytes.
    const MAX_BYTES: u64;

    /// Checks the bounds that its shape alone does not keep.
    ///
    /// # Errors
    /// The rule that is broken.
    fn check(&self) -> Result<(), String>;

    /// Reads a document; unknown fields of this format are ignored.
    ///
    /// # Errors
    /// Too long, a newer format, not the expected shape, or a broken rule.
    fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        #[derive(Deserialize)]
        struct Head {
            format: u64,
        }
        let (what, max, length) = (Self::WHAT, Self::MAX_BYTES, bytes.len() as u64);
        if length > max {
            return Err(DocumentError::TooLong { what, length, max });
        }
        let shape = |source| DocumentError::Shape { what, source };
        let head: Head = serde_json::from_slice(bytes).map_err(shape)?;
        if head.format > u64::from(DOCUMENT_FORMAT) {
            return Err(DocumentError::NewerFormat {
                what,
                found: head.format,
            });
        }
        let document: Self = serde_json::from_slice(bytes).map_err(shape)?;
        document
            .check()
            .map_err(|rule| DocumentError::Rule { what, rule })?;
        Ok(document)
    }

    /// The canonical bytes.
    ///
    /// # Errors
    /// A broken rule, or longer than allowed.
    fn to_bytes(&self) -> Result<Vec<u8>, DocumentError> {
        let what = Self::WHAT;
        let bytes = canonical::to_vec(self).map_err(|source| DocumentError::Shape { what, source })?;
        Self::parse(&bytes)?;
        Ok(bytes)
    }
}

/// A named, ordered list of releases: ascending by version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Channel {
    /// The major format.
    pub format: u32,
    /// Its name.
    pub name: ChannelName,
    /// Its releases, ascending by version.
    pub releases: Vec<ChannelRelease>,
}

/// One release in a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChannelRelease {
    /// The release.
    pub digest: Digest,
    /// Its version, as in its manifest.
    pub version: Version,
    /// When it came into this channel.
    pub published_at: Timestamp,
    /// Set when it was withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<WithdrawnMark>,
    /// A node below it goes through it before it goes further.
    #[serde(default)]
    pub stepping_stone: bool,
}

/// That and why a release was withdrawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WithdrawnMark {
    /// Why, in words for people.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

impl Channel {
    /// The newest release that was not withdrawn.
    #[must_use]
    pub fn latest(&self) -> Option<&ChannelRelease> {
        self.releases
            .iter()
            .rev()
            .find(|release| release.withdrawn.is_none())
    }

    /// Where a node on `running` goes next: to the first stepping stone above it, else to the latest.
    /// None if nothing above it is left.
    #[must_use]
    pub fn next_from(&self, running: &Version) -> Option<&ChannelRelease> {
        let above = || {
            self.releases
                .iter()
                .filter(|release| release.withdrawn.is_none() && release.version > *running)
        };
        above()
            .find(|release| release.stepping_stone)
            .or_else(|| above().next_back())
    }

    /// The entry of that release.
    #[must_use]
    pub fn find(&self, digest: &Digest) -> Option<&ChannelRelease> {
        self.releases.iter().find(|release| release.digest == *digest)
    }
}

impl Document for Channel {
    const WHAT: &'static str = "channel";
    const MAX_BYTES: u64 = MAX_CHANNEL_BYTES;

    fn check(&self) -> Result<(), String> {
        if self.releases.len() > MAX_CHANNEL_RELEASES {
            let count = self.releases.len();
            return Err(format!(
                "{count} releases, more than the {MAX_CHANNEL_RELEASES} allowed"
            ));
        }
        for (position, release) in self.releases.iter().enumerate() {
            let earlier = &self.releases[..position];
            if earlier
                .last()
                .is_some_and(|before| before.version > release.version)
            {
                return Err(format!(
                    "{} does not stand in the order of versions",
                    release.version
                ));
            }
            if earlier.iter().any(|before| before.digest == release.digest) {
                return Err(format!("{} is listed twice", release.digest));
            }
            if let Some(mark) = &release.withdrawn {
                check_text("reason", &mark.reason, MAX_REASON_CHARS)?;
            }
        }
        Ok(())
    }
}

/// Notes on a release and the vulnerabilities that it fixes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Advisory {
    /// The major format.
    pub format: u32,
    /// The release.
    pub digest: Digest,
    /// Notes for people.
    #[serde(default)]
    pub notes: String,
    /// What it fixes.
    #[serde(default)]
    pub vulnerabilities: Vec<Vulnerability>,
}

/// One vulnerability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Vulnerability {
    /// Its identifier, for example `CVE-2026-12345`.
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
}

/// How bad a vulnerability is, as CVSS names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Severity {
    /// Not known, or a word that this program does not know.
    Unknown,
    /// Low.
    Low,
    /// Medium.
    Medium,
    /// High.
    High,
    /// Critical.
    Critical,
}

/// A text that is no severity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no severity: write unknown, low, medium, high or critical")]
pub struct InvalidSeverity(String);

impl FromStr for Severity {
    type Err = InvalidSeverity;

    fn from_str(text: &str) -> Result<Self, InvalidSeverity> {
        match text {
            "unknown" => Ok(Self::Unknown),
            "low" => Ok(Self::Low),
            "medium" => Ok(Self::Medium),
            "high" => Ok(Self::High),
            "critical" => Ok(Self::Critical),
            _ => Err(InvalidSeverity(text.chars().take(100).collect())),
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unknown => "unknown",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        })
    }
}

impl From<String> for Severity {
    fn from(text: String) -> Self {
        text.parse().unwrap_or(Self::Unknown)
    }
}

impl From<Severity> for String {
    fn from(severity: Severity) -> Self {
        severity.to_string()
    }
}

impl Advisory {
    /// The worst severity it lists.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.vulnerabilities
            .iter()
            .map(|vulnerability| vulnerability.severity)
            .max()
    }
}

impl Document for Advisory {
    const WHAT: &'static str = "advisory";
    const MAX_BYTES: u64 = MAX_ADVISORY_BYTES;

    fn check(&self) -> Result<(), String> {
        check_text("notes", &self.notes, MAX_NOTES_CHARS)?;
        let count = self.vulnerabilities.len();
        if count > MAX_VULNERABILITIES {
            return Err(format!(
                "{count} vulnerabilities, more than the {MAX_VULNERABILITIES} allowed"
            ));
        }
        let identifier = |id: &str| {
            (1..=64).contains(&id.len())
                && id
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
        };
        match self
            .vulnerabilities
            .iter()
            .find(|vulnerability| !identifier(&vulnerability.id))
        {
            None => Ok(()),
            Some(bad) => Err(format!(
                "{:?} is no identifier",
                bad.id.chars().take(100).collect::<String>()
            )),
        }
    }
}

/// That a release was withdrawn, wherever it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Withdrawal {
    /// The major format.
    pub format: u32,
    /// The release.
    pub digest: Digest,
    /// Why, in words for people.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

impl Document for Withdrawal {
    const WHAT: &'static str = "withdrawal";
    const MAX_BYTES: u64 = MAX_WITHDRAWAL_BYTES;

    fn check(&self) -> Result<(), String> {
        check_text("reason", &self.reason, MAX_REASON_CHARS)
    }
}

/// Text for people, never for a terminal's control: bounded, and no control characters but new lines
/// and tabs.
fn check_text(what: &str, text: &str, max_chars: usize) -> Result<(), String> {
    if text.chars().count() > max_chars {
        return Err(format!("the {what} has more than {max_chars} characters"));
    }
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err(format!("the {what} has control characters in it"));
    }
    Ok(())
}
