//! From a root that was shipped to metadata that may be acted on (TUF 1.0, section 5). Fails closed:
//! whatever is unsigned, expired, older than seen before or mixed is an error, never a warning.

mod load;
mod store;
mod transport;
mod watch;

use std::path::PathBuf;

use jiff::Timestamp;

use crate::channel::DocumentError;
use crate::chunk::{FrameError, IndexError, PageError};
use crate::digest::Digest;
use crate::fetch::FetchError;
use crate::manifest::ManifestError;

pub(crate) use load::{Loaded, load};
pub(crate) use transport::{AskedMirrors, Origin};
pub use watch::{StoreStep, StoreWatch, StoreWrite, Unwatched};

/// The versions of the metadata that was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct MetadataVersions {
    /// Version of root.json.
    pub root: u64,
    /// Version of timestamp.json.
    pub timestamp: u64,
    /// Version of snapshot.json.
    pub snapshot: u64,
    /// Version of targets.json.
    pub targets: u64,
}

/// Why something from a repository must not be acted on.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// No signature on it is by a key that the root names for it.
    #[error(
        "{what} bears no valid signature of a key that the trusted root names for it: it is not from this repository's owners, or the trusted root is of another repository: check the repository's URL and the root that is trusted here"
    )]
    Unsigned {
        /// Which file.
        what: String,
    },
    /// Fewer distinct keys signed it than the root asks for.
    #[error(
        "{what} bears {valid} valid signatures of distinct keys where {threshold} are needed: have it signed by the others"
    )]
    UnderThreshold {
        /// Which file.
        what: String,
        /// Valid signatures by distinct keys.
        valid: u64,
        /// How many are needed.
        threshold: u64,
    },
    /// Its time is over.
    #[error(
        "{what} expired at {expired}, and it is {now}: the repository was not refreshed or is held back (drydock-images publish --timestamp-only refreshes it), or this machine's clock is wrong"
    )]
    Expired {
        /// Which file.
        what: String,
        /// When it expired.
        expired: Timestamp,
        /// The time it was judged by.
        now: Timestamp,
    },
    /// Older than what was accepted before.
    #[error(
        "the repository offers older metadata than was accepted before ({detail}): a mirror lags behind (wait for it, or fetch from another one) or someone replays it; nothing was changed"
    )]
    OlderThanSeen {
        /// Which file and which versions.
        detail: String,
    },
    /// Files that do not belong together.
    #[error(
        "the repository's metadata do not belong together ({detail}): it is being published right now (try again) or someone mixes two states of it"
    )]
    Mixed {
        /// Which files.
        detail: String,
    },
    /// The signed metadata do not list it.
    #[error("{what} is not listed in the repository's signed metadata: publish it, or check the name")]
    NotListed {
        /// What was asked for.
        what: String,
    },
    /// It was withdrawn.
    #[error("release {digest} was withdrawn at {at} ({reason}): choose another one")]
    Withdrawn {
        /// The release.
        digest: Digest,
        /// When.
        at: Timestamp,
        /// Why.
        reason: String,
    },
    /// The bytes are not the signed ones.
    #[error(
        "{what} is not what was signed ({detail}): the server or something on the way changed it, and nothing of it was used; compare the server's copy with what was published, or publish the release again"
    )]
    Tampered {
        /// Which file.
        what: String,
        /// In what way.
        detail: String,
    },
    /// The bytes stop before their end.
    #[error(
        "{what} ends after {found} of {wanted} bytes: it was cut on the way (try again) or not published whole (publish the release again)"
    )]
    Truncated {
        /// Which file.
        what: String,
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        wanted: u64,
    },
    /// There is more than the stated bound.
    #[error(
        "{what} has more than the {max_bytes} bytes it may have, and was not read further: compare the server's copy with what was published, or publish the release again"
    )]
    TooLong {
        /// Which file.
        what: String,
        /// The bound in bytes.
        max_bytes: u64,
    },
    /// Signed, but not readable.
    #[error("{what} cannot be understood: {detail}")]
    Malformed {
        /// Which file.
        what: String,
        /// Why.
        detail: String,
    },
    /// Signed, but in a format that this program does not know.
    #[error("{what}: {detail}")]
    NewerFormat {
        /// Which file.
        what: String,
        /// Which format, and what to do.
        detail: String,
    },
    /// It could not be fetched.
    #[error(transparent)]
    Unreachable(FetchError),
    /// The root that was shipped cannot be the start of trust.
    #[error(
        "the trusted root of repository {repository} cannot be used ({detail}): put the repository's own root.json into this machine's image or configuration"
    )]
    Root {
        /// The repository's configured name.
        repository: String,
        /// Why.
        detail: String,
    },
    /// What was kept on this machine cannot be read, so older metadata could not be told.
    #[error(
        "{path} is damaged ({detail}), so older metadata could not be told from newer: check this machine's disk, then restore the file, or move it away with: mv {path} {path}.damaged"
    )]
    StoreDamaged {
        /// The file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// The trust store's folder does not work.
    #[error(
        "the trust store {path} cannot be used ({detail}): check that the folder exists on a writable disk with free space"
    )]
    Store {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// The configuration makes no sense.
    #[error("repository {repository} is configured wrongly: {detail}")]
    Configuration {
        /// The repository's configured name.
        repository: String,
        /// Why.
        detail: String,
    },
}

impl TrustError {
    /// One of a small fixed set of words, for metrics, conditions and reports.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unsigned { .. } => "Unsigned",
            Self::UnderThreshold { .. } => "UnderThreshold",
            Self::Expired { .. } => "Expired",
            Self::OlderThanSeen { .. } => "OlderThanSeen",
            Self::Mixed { .. } => "MixedMetadata",
            Self::NotListed { .. } => "NotListed",
            Self::Withdrawn { .. } => "Withdrawn",
            Self::Tampered { .. } => "Tampered",
            Self::Truncated { .. } => "Truncated",
            Self::TooLong { .. } => "TooLong",
            Self::Malformed { .. } => "Malformed",
            Self::NewerFormat { .. } => "NewerFormat",
            Self::Unreachable(FetchError::NotFound { .. }) => "NotFound",
            Self::Unreachable(FetchError::TooLong { .. }) => "TooLong",
            Self::Unreachable(FetchError::TooShort { .. }) => "Truncated",
            Self::Unreachable(FetchError::NotAsSigned { .. }) => "Tampered",
            Self::Unreachable(
                FetchError::Scheme { .. } | FetchError::Refused { .. } | FetchError::Unreachable { .. },
            ) => "Unreachable",
            Self::Root { .. } => "BadRoot",
            Self::StoreDamaged { .. } => "TrustStoreDamaged",
            Self::Store { .. } => "TrustStoreUnusable",
            Self::Configuration { .. } => "BadConfiguration",
        }
    }

    /// Whether trying again later, with nothing else changed, may help.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(FetchError::Unreachable { .. }) | Self::Mixed { .. } => true,
            Self::Unreachable(_)
            | Self::Unsigned { .. }
            | Self::UnderThreshold { .. }
            | Self::Expired { .. }
            | Self::OlderThanSeen { .. }
            | Self::NotListed { .. }
            | Self::Withdrawn { .. }
            | Self::Tampered { .. }
            | Self::Truncated { .. }
            | Self::TooLong { .. }
            | Self::Malformed { .. }
            | Self::NewerFormat { .. }
            | Self::Root { .. }
            | Self::StoreDamaged { .. }
            | Self::Store { .. }
            | Self::Configuration { .. } => false,
        }
    }

    /// Whether it is about what a mirror handed out, or did not, so that another one may do better.
    pub(crate) const fn is_of_the_mirror(&self) -> bool {
        match self {
            Self::Unsigned { .. }
            | Self::UnderThreshold { .. }
            | Self::Expired { .. }
            | Self::OlderThanSeen { .. }
            | Self::Mixed { .. }
            | Self::Tampered { .. }
            | Self::Truncated { .. }
            | Self::TooLong { .. }
            | Self::Malformed { .. }
            | Self::NewerFormat { .. }
            | Self::Unreachable(
                FetchError::NotFound { .. }
                | FetchError::TooLong { .. }
                | FetchError::TooShort { .. }
                | FetchError::NotAsSigned { .. }
                | FetchError::Refused { .. }
                | FetchError::Unreachable { .. },
            ) => true,
            Self::Unreachable(FetchError::Scheme { .. })
            | Self::NotListed { .. }
            | Self::Withdrawn { .. }
            | Self::Root { .. }
            | Self::StoreDamaged { .. }
            | Self::Store { .. }
            | Self::Configuration { .. } => false,
        }
    }

    /// A fetch that failed; what came, but not as it must be, is named after what it was for.
    pub(crate) fn fetching(what: &str, error: FetchError) -> Self {
        match error {
            FetchError::TooLong { max_bytes, .. } => Self::TooLong {
                what: what.to_owned(),
                max_bytes,
            },
            FetchError::TooShort {
                wanted_bytes,
                found_bytes: Some(found),
                ..
            } => Self::Truncated {
                what: what.to_owned(),
                found,
                wanted: wanted_bytes,
            },
            FetchError::NotAsSigned { found, .. } => Self::Tampered {
                what: what.to_owned(),
                detail: format!("it has digest {found}"),
            },
            other @ (FetchError::TooShort { .. }
            | FetchError::NotFound { .. }
            | FetchError::Scheme { .. }
            | FetchError::Refused { .. }
            | FetchError::Unreachable { .. }) => Self::Unreachable(other),
        }
    }

    pub(crate) fn manifest(what: &str, error: &ManifestError) -> Self {
        let (what, detail) = (what.to_owned(), error.to_string());
        match error {
            ManifestError::NewerFormat { .. } => Self::NewerFormat { what, detail },
            ManifestError::TooLong { .. } => Self::TooLong {
                what,
                max_bytes: crate::manifest::MAX_MANIFEST_BYTES as u64,
            },
            ManifestError::Shape(_) | ManifestError::Rule(_) => Self::Malformed { what, detail },
        }
    }

    pub(crate) fn document(what: &str, error: &DocumentError) -> Self {
        let (what, detail) = (what.to_owned(), error.to_string());
        match error {
            DocumentError::NewerFormat { .. } => Self::NewerFormat { what, detail },
            DocumentError::TooLong { max, .. } => Self::TooLong {
                what,
                max_bytes: *max,
            },
            DocumentError::Shape { .. } | DocumentError::Rule { .. } => Self::Malformed { what, detail },
        }
    }

    pub(crate) fn index(what: &str, error: &IndexError) -> Self {
        let (what, detail) = (what.to_owned(), error.to_string());
        match error {
            IndexError::NewerFormat { .. } => Self::NewerFormat { what, detail },
            IndexError::Magic
            | IndexError::OlderFormat { .. }
            | IndexError::Rule(_)
            | IndexError::Length { .. }
            | IndexError::Sum { .. }
            | IndexError::Artifact { .. } => Self::Malformed { what, detail },
        }
    }

    pub(crate) fn page(what: &str, error: &PageError) -> Self {
        let (what, detail) = (what.to_owned(), error.to_string());
        match error {
            PageError::Rule(_) => Self::Malformed { what, detail },
            PageError::Other(_) => Self::Tampered { what, detail },
        }
    }

    /// A frame, or a chunk in it, that is not what was signed.
    #[must_use]
    pub fn frame(what: &str, error: &FrameError) -> Self {
        let (what, detail) = (what.to_owned(), error.to_string());
        match error {
            FrameError::Length { .. } | FrameError::Digest { .. } => Self::Tampered { what, detail },
            // Signed as it is, so whoever built the release has to mend it.
            FrameError::NoFrame
            | FrameError::CutOff
            | FrameError::Trailing { .. }
            | FrameError::ContentSize { .. }
            | FrameError::TooLarge { .. }
            | FrameError::Chunk { .. }
            | FrameError::Broken(_) => Self::Malformed { what, detail },
        }
    }
}
