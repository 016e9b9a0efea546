//! What can go wrong while a release is made, signed or published.

use std::io;
use std::path::{Path, PathBuf};

use crate::channel::DocumentError;
use crate::chunk::{IndexError, PageError};
use crate::digest::Digest;
use crate::manifest::ManifestError;

/// Why a release could not be made, signed or published. Nothing a reader sees has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// A file or folder did not work.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something is already there that would be overwritten.
    #[error("{path} is already there and is never overwritten: choose another folder, or remove it yourself")]
    Exists {
        /// The file or folder.
        path: PathBuf,
    },
    /// Another program is publishing into the same repository.
    #[error(
        "another drydock-images is writing to this repository (it holds {path}): wait until it has ended, then run this again"
    )]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
    /// A value that was asked for makes no sense.
    #[error("{0}")]
    Request(String),
    /// A key file cannot be used.
    #[error("the key {path} cannot be used: {detail}")]
    Key {
        /// The key file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// Too few of the keys that a role needs are at hand.
    #[error(
        "{role} needs {needed} signatures and the keys in {dir} give {found}: put the missing key files (.pk8) there; needed are any {needed} of {wanted}"
    )]
    KeysMissing {
        /// Which role.
        role: String,
        /// The folder that was searched.
        dir: PathBuf,
        /// How many signatures are needed.
        needed: u64,
        /// How many the keys give.
        found: usize,
        /// The key IDs that may sign, shortened.
        wanted: String,
    },
    /// The repository's own files contradict each other.
    #[error("the repository {path} cannot be changed safely: {detail}")]
    Repository {
        /// The repository's folder, or a file in it.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// A release's folder is not what its manifest says.
    #[error("the release in {path} is not whole: {detail}; build it again")]
    Release {
        /// The file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// The repository does not list it.
    #[error(
        "{what} is not in the repository {path}: publish it first, or check its name with: drydock-images inspect {path}"
    )]
    NotListed {
        /// What was asked for.
        what: String,
        /// The repository's folder.
        path: PathBuf,
    },
    /// It was withdrawn, and is not promoted any more.
    #[error("release {digest} was withdrawn ({reason}): build another one")]
    Withdrawn {
        /// The release.
        digest: Digest,
        /// Why it was withdrawn.
        reason: String,
    },
    /// No artifact's delta is worth its bytes.
    #[error(
        "a delta from {from} to {to} would save less than a tenth of what nodes fetch without it, so none is made"
    )]
    SavesTooLittle {
        /// The release that nodes run.
        from: Digest,
        /// The release that they get.
        to: Digest,
    },
    /// The manifest that would come out breaks a rule.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The document that would come out breaks a rule.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The index that would come out breaks a rule.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The page that would come out breaks a rule.
    #[error(transparent)]
    Page(#[from] PageError),
}

impl ReleaseError {
    /// For `map_err`: an I/O error with what was tried on which path.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            doing,
            path: path.clone(),
            source,
        }
    }
}
