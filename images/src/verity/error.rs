//! What can go wrong while a hash tree is made, or a release's parts are held against a root hash.

use std::io;
use std::path::{Path, PathBuf};

use super::{BlockSize, MAX_IMAGE_BYTES};
use crate::manifest::VerityRoot;
use crate::names::ArtifactName;

/// Why there is no hash tree, or why a release is not built. Nothing was written then.
#[derive(Debug, thiserror::Error)]
pub enum VerityError {
    /// A file or folder did not work.
    #[error("cannot {doing} {path}: {error}")]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said; no `source`, which would be told a second time.
        error: io::Error,
    },
    /// The tree's file is there already.
    #[error("{path} is already there and is never overwritten: choose another file, or remove it yourself")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// An image without a byte, or no block asked for.
    #[error(
        "no block of the image {path} is to be hashed: name an image that is not empty, and one block or more"
    )]
    Empty {
        /// The image.
        path: PathBuf,
    },
    /// The last block is not whole.
    #[error(
        "the image {path} has {image_bytes} bytes, no multiple of its block size {block}: pad it (truncate --size=%{block} {path}), choose a --data-block-size that divides it, or leave its end out with --data-blocks {whole_blocks}"
    )]
    PartOfABlock {
        /// The image.
        path: PathBuf,
        /// Its length in bytes.
        image_bytes: u64,
        /// The block size that does not divide it.
        block: BlockSize,
        /// How many whole blocks it has.
        whole_blocks: u64,
    },
    /// More blocks were asked for than there are.
    #[error(
        "the image {path} has {image_bytes} bytes, fewer than {data_blocks} blocks of {block}: ask for at most {} with --data-blocks, or name the whole image",
        image_bytes / u64::from(block.bytes())
    )]
    Shorter {
        /// The image.
        path: PathBuf,
        /// Its length in bytes.
        image_bytes: u64,
        /// The blocks asked for.
        data_blocks: u64,
        /// Their size.
        block: BlockSize,
    },
    /// Longer than an artifact may be.
    #[error(
        "the image {path} has {image_bytes} bytes, more than the {MAX_IMAGE_BYTES} that an artifact may have: make it smaller"
    )]
    TooLong {
        /// The image.
        path: PathBuf,
        /// Its length in bytes.
        image_bytes: u64,
    },
    /// The file became shorter meanwhile.
    #[error("the image {path} ended while it was read: let nothing write to it, then run this again")]
    EndedEarly {
        /// The image.
        path: PathBuf,
    },
    /// A thread ended that should not have.
    #[error("the work was stopped: {detail}")]
    Stopped {
        /// Why.
        detail: String,
    },
    /// A flag names an artifact that the release has not.
    #[error("{flag} names {name}, which is no --artifact: correct the name, or add --artifact {name}=PATH")]
    NoArtifact {
        /// The flag.
        flag: &'static str,
        /// The name.
        name: ArtifactName,
    },
    /// A flag names an image whose root hash is not known.
    #[error(
        "{flag} names {image}, which has no root hash: add --verity-root {image}=HEX, as drydock-images verity printed it"
    )]
    NoRoot {
        /// The flag.
        flag: &'static str,
        /// The image.
        image: ArtifactName,
    },
    /// The artifact that should name the root hash does not.
    #[error(
        "artifact {by} ({path}) does not name {root}, the root hash of {image}: {found}; put roothash={root} on the kernel command line in {by}, or correct --verity-root {image}=HEX"
    )]
    RootNotNamed {
        /// The image that the root hash proves.
        image: ArtifactName,
        /// The artifact that was searched.
        by: ArtifactName,
        /// Its file.
        path: PathBuf,
        /// The root hash that was looked for.
        root: VerityRoot,
        /// What is there instead.
        found: String,
    },
    /// Image, hash tree and root hash do not belong together.
    #[error(
        "artifact {by} ({path}) is not the hash tree of {image} under the root hash {root}: {found}; make tree and root hash of the final image with drydock-images verity, and change it no more"
    )]
    TreeDiffers {
        /// The image.
        image: ArtifactName,
        /// The artifact that should be its tree.
        by: ArtifactName,
        /// The tree's file.
        path: PathBuf,
        /// The root hash that was expected.
        root: VerityRoot,
        /// What was found.
        found: String,
    },
}

impl VerityError {
    /// A word for programs, for what a release engineer can meet while all files can be read.
    #[must_use]
    pub const fn code(&self) -> Option<&'static str> {
        match self {
            Self::Exists { .. } => Some("Exists"),
            Self::RootNotNamed { .. } => Some("RootNotNamed"),
            Self::TreeDiffers { .. } => Some("TreeDiffers"),
            Self::Io { .. }
            | Self::Empty { .. }
            | Self::PartOfABlock { .. }
            | Self::Shorter { .. }
            | Self::TooLong { .. }
            | Self::EndedEarly { .. }
            | Self::Stopped { .. }
            | Self::NoArtifact { .. }
            | Self::NoRoot { .. } => None,
        }
    }

    /// For `map_err`: an I/O error with what was tried on which path.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |error| Self::Io {
            doing,
            path: path.clone(),
            error,
        }
    }
}
