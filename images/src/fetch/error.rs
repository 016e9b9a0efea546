//! Why a file could not be fetched, for people, and how one try ended, for whoever decides about the
//! next one.

use crate::digest::Digest;

/// Why a file could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The server, or the folder, does not have it; with mirrors, each of them said so.
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
    /// There is less than what was asked for.
    #[error(
        "{url} is shorter than the {wanted_bytes} bytes it must have{}: it is not what the repository's metadata describes",
        .found_bytes.map_or_else(String::new, |found| format!(" (it has {found})"))
    )]
    TooShort {
        /// What was asked for.
        url: String,
        /// Where what was asked for ends.
        wanted_bytes: u64,
        /// How long it is, where the server said so.
        found_bytes: Option<u64>,
    },
    /// The right length, but not the content that was signed, at any of the mirrors.
    #[error("{url} is not what was signed, it has digest {found}: check who can write to the server")]
    NotAsSigned {
        /// What was asked for.
        url: String,
        /// The digest of what came.
        found: Digest,
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
        /// How many tries there were, at all mirrors together.
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

/// How one try at one mirror ended, when not with all that was wanted.
#[derive(Debug)]
pub(super) enum Ended {
    /// Another try may do better. What was received stays.
    MayPass(String),
    /// This mirror will not say anything else about this file.
    ForGood(FetchError),
    /// The time for all tries together is over.
    OutOfTime,
}
