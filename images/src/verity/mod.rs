//! dm-verity: the hash tree of an image and its root hash, byte for byte as `veritysetup format` of
//! cryptsetup makes them, and the proof that a release's parts name that root. It never opens a
//! device-mapper device and never decides whether a root may be trusted.
//!
//! The kernel's `Documentation/admin-guide/device-mapper/verity.rst` says of the format that is made here:
//!
//! > 1 is the current format that should be used for new devices. The salt is prepended when hashing and
//! > each digest is padded with zeroes to the power of two.
//!
//! > Each node in the tree is a cryptographic hash. If it is a leaf node, the hash of some data block on
//! > disk is calculated. If it is an intermediary node, the hash of a number of child nodes is calculated.
//! > Each entry in the tree is a collection of neighboring nodes that fit in one block. [...] The hashes are
//! > linearly-ordered in this entry and any unaligned trailing space is ignored but included when
//! > calculating the parent node.
//!
//! > Directly following the header (and with sector number padded to the next hash block boundary) are the
//! > hash blocks which are stored a depth at a time (starting from the root), sorted in order of increasing
//! > index.
//!
//! The header is cryptsetup's superblock, specified in <https://gitlab.com/cryptsetup/cryptsetup/wikis/DMVerity>;
//! the kernel never reads it. [`geometry`](Geometry), superblock, tree and the words of a command line are
//! arithmetic without I/O; the image is read in [`format`] and [`prove`] alone.

mod blocks;
mod claims;
mod cmdline;
mod error;
mod format;
mod geometry;
mod parameters;
mod superblock;
mod tree;
mod tree_check;
mod uki;

pub use claims::{Claim, Claims, Proof, Proven, prove};
pub use error::VerityError;
pub use format::{FormatRequest, HashTree, format};
pub use geometry::{Geometry, Header, Level};
pub use parameters::{
    BlockSize, HashAlgorithm, InvalidBlockSize, InvalidHashAlgorithm, InvalidSalt, MAX_SALT_BYTES,
    Parameters, Salt,
};
pub use superblock::{SUPERBLOCK_BYTES, Superblock, SuperblockError};
pub use uki::{MAX_CMDLINE_BYTES, UkiError, cmdlines as uki_cmdlines};

/// The longest image that a hash tree is made of, in bytes: the longest artifact of a release.
pub const MAX_IMAGE_BYTES: u64 = crate::chunk::MAX_ARTIFACT_BYTES;

#[cfg(test)]
mod tests;
