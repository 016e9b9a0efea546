//! What a hash tree depends on beside the image, each value within its bounds, and the salt and UUID that
//! are derived from the image where none are given.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use sha2::Digest as _;
use uuid::Uuid;

use crate::digest::Digest;

/// The longest salt that the superblock holds, in bytes.
pub const MAX_SALT_BYTES: usize = 256;

/// The hash of blocks. Both have a digest whose length is a power of two, so no digest is padded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HashAlgorithm {
    /// SHA-256, veritysetup's default.
    #[default]
    Sha256,
    /// SHA-512.
    Sha512,
}

/// A hash that is not made here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no hash that is made here: write sha256 or sha512")]
pub struct InvalidHashAlgorithm {
    /// What was found, cut to 100 characters.
    pub found: String,
}

impl HashAlgorithm {
    /// Its name in the kernel's crypto API, the superblock and veritysetup.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The length of a digest in bytes, a power of two.
    #[must_use]
    pub const fn digest_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for HashAlgorithm {
    type Err = InvalidHashAlgorithm;

    fn from_str(text: &str) -> Result<Self, InvalidHashAlgorithm> {
        [Self::Sha256, Self::Sha512]
            .into_iter()
            .find(|algorithm| algorithm.name() == text)
            .ok_or_else(|| InvalidHashAlgorithm {
                found: text.chars().take(100).collect(),
            })
    }
}

/// The size of a block in bytes: a power of two, 512 to 65,536.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BlockSize(u32);

/// A number that is no block size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{found:?} is no block size: write a power of two from {} to {}; Linux opens data blocks up to its page size, which is 4096 on most machines",
    BlockSize::MIN_BYTES,
    BlockSize::MAX_BYTES
)]
pub struct InvalidBlockSize {
    /// What was found, cut to 100 characters.
    pub found: String,
}

impl BlockSize {
    /// The smallest.
    pub const MIN_BYTES: u32 = 512;
    /// The largest.
    pub const MAX_BYTES: u32 = 65_536;
    /// veritysetup's default.
    pub const DEFAULT: Self = Self(4096);

    /// A block size of so many bytes.
    ///
    /// # Errors
    /// No power of two, or out of bounds.
    pub fn new(bytes: u32) -> Result<Self, InvalidBlockSize> {
        if bytes.is_power_of_two() && (Self::MIN_BYTES..=Self::MAX_BYTES).contains(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(InvalidBlockSize {
                found: bytes.to_string(),
            })
        }
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }
}

impl fmt::Display for BlockSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for BlockSize {
    type Err = InvalidBlockSize;

    fn from_str(text: &str) -> Result<Self, InvalidBlockSize> {
        let invalid = || InvalidBlockSize {
            found: text.chars().take(100).collect(),
        };
        Self::new(text.parse().map_err(|_| invalid())?)
    }
}

/// What is hashed before each block: 0 to [`MAX_SALT_BYTES`] bytes. Its text is hex, or `-` for none.
#[derive(Clone, PartialEq, Eq)]
pub struct Salt(Vec<u8>);

/// A text that is no salt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSalt {
    /// Not hex.
    #[error("{found:?} is no salt: write an even number of hex digits, or - for no salt")]
    NotHex {
        /// What was found, cut to 100 characters.
        found: String,
    },
    /// More than the superblock holds.
    #[error("the salt has {length} bytes, where 0 to {MAX_SALT_BYTES} are allowed: write a shorter one")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
}

impl Salt {
    /// No salt.
    #[must_use]
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// A salt of these bytes.
    ///
    /// # Errors
    /// More than [`MAX_SALT_BYTES`].
    pub fn new(bytes: Vec<u8>) -> Result<Self, InvalidSalt> {
        if bytes.len() > MAX_SALT_BYTES {
            return Err(InvalidSalt::TooLong { length: bytes.len() });
        }
        Ok(Self(bytes))
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            f.write_str("-")
        } else {
            f.write_str(&hex::encode(&self.0))
        }
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Salt {
    type Err = InvalidSalt;

    fn from_str(text: &str) -> Result<Self, InvalidSalt> {
        if text == "-" {
            return Ok(Self::none());
        }
        match hex::decode(text) {
            Ok(bytes) if !bytes.is_empty() => Self::new(bytes),
            Ok(_) | Err(_) => Err(InvalidSalt::NotHex {
                found: text.chars().take(100).collect(),
            }),
        }
    }
}

impl Serialize for Salt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// All that a hash tree and its root depend on beside the image's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// The hash.
    pub algorithm: HashAlgorithm,
    /// The size of the image's blocks.
    pub data_block: BlockSize,
    /// The size of the tree's blocks.
    pub hash_block: BlockSize,
    /// How many blocks of the image are hashed, at least 1.
    pub data_blocks: u64,
    /// What is hashed before each block.
    pub salt: Salt,
}

impl Parameters {
    /// How many bytes of the image are hashed.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.data_blocks
            .saturating_mul(u64::from(self.data_block.bytes()))
    }

    /// The same with the salt that stands for an image of that digest, 32 bytes: the SHA-256 of a text
    /// that names the image and every parameter. The same image always gets the same one.
    #[must_use]
    pub fn with_derived_salt(self, image: &Digest) -> Self {
        let salt = Digest::of(self.lines("salt", image).as_bytes());
        Self {
            salt: Salt(salt.as_bytes().to_vec()),
            ..self
        }
    }

    /// The UUID that stands for the tree of an image of that digest: the first 16 bytes of the SHA-256 of
    /// a text that names the image and every parameter with the salt, as version 8 of RFC 9562.
    #[must_use]
    pub fn derived_uuid(&self, image: &Digest) -> Uuid {
        let text = format!("{}salt {}\n", self.lines("uuid", image), self.salt);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&Digest::of(text.as_bytes()).as_bytes()[..16]);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }

    fn lines(&self, what: &str, image: &Digest) -> String {
        format!(
            "drydock verity {what}\nimage {image}\nhash {}\ndata-block-size {}\nhash-block-size {}\ndata-blocks {}\n",
            self.algorithm, self.data_block, self.hash_block, self.data_blocks
        )
    }

    pub(super) fn hasher(&self) -> BlockHasher {
        let salt = self.salt.as_bytes();
        match self.algorithm {
            HashAlgorithm::Sha256 => BlockHasher::Sha256(sha2::Sha256::new_with_prefix(salt)),
            HashAlgorithm::Sha512 => BlockHasher::Sha512(sha2::Sha512::new_with_prefix(salt)),
        }
    }
}

/// The hash of one block: the salt was taken in already, each block starts from there.
#[derive(Clone)]
pub(super) enum BlockHasher {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl BlockHasher {
    /// Appends the digest of `block` to `digests`.
    pub(super) fn append(&self, block: &[u8], digests: &mut Vec<u8>) {
        match self {
            Self::Sha256(salted) => digests.extend_from_slice(&salted.clone().chain_update(block).finalize()),
            Self::Sha512(salted) => digests.extend_from_slice(&salted.clone().chain_update(block).finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn parameters() -> Parameters {
        Parameters {
            algorithm: HashAlgorithm::Sha256,
            data_block: BlockSize::DEFAULT,
            hash_block: BlockSize::DEFAULT,
            data_blocks: 1,
            salt: Salt::none(),
        }
    }

    #[test]
    fn values_out_of_bounds_are_refused() {
        for bad in ["0", "256", "513", "4095", "131072", "-1", "4k", ""] {
            assert!(bad.parse::<BlockSize>().is_err(), "{bad}");
        }
        for good in ["512", "1024", "4096", "65536"] {
            assert_eq!(good.parse::<BlockSize>().unwrap().to_string(), good);
        }
        let longest = "aB".repeat(256);
        assert_eq!(longest.parse::<Salt>().unwrap().as_bytes(), [0xab; 256]);
        for bad in ["", "0", "abc", "xy", "--", &"00".repeat(257)] {
            assert!(bad.parse::<Salt>().is_err(), "{bad}");
        }
        assert_eq!("-".parse::<Salt>().unwrap(), Salt::none());
        assert!("md5".parse::<HashAlgorithm>().is_err());
    }

    /// The texts are in `docs/release-format.md`, so that another program can derive the same.
    #[test]
    fn salt_and_uuid_are_derived_as_documented() {
        let image = Digest::of(b"");
        let lines = "image sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\nhash sha256\ndata-block-size 4096\nhash-block-size 4096\ndata-blocks 1\n";
        let salted = parameters().with_derived_salt(&image);
        let salt = Digest::of(format!("drydock verity salt\n{lines}").as_bytes());
        assert_eq!(salted.salt.as_bytes(), salt.as_bytes());
        let uuid = Digest::of(format!("drydock verity uuid\n{lines}salt {}\n", salt.hex()).as_bytes());
        let derived = salted.derived_uuid(&image);
        assert_eq!(derived.get_version_num(), 8);
        assert_eq!(derived.simple().to_string()[..12], uuid.hex()[..12]);
        assert_ne!(derived, parameters().derived_uuid(&image));
    }

    #[test]
    fn every_parameter_changes_what_is_derived() {
        let image = Digest::of(b"image");
        let first = parameters().with_derived_salt(&image).salt;
        let small = BlockSize::new(512).unwrap();
        for other in [
            Parameters {
                algorithm: HashAlgorithm::Sha512,
                ..parameters()
            },
            Parameters {
                data_block: small,
                ..parameters()
            },
            Parameters {
                hash_block: small,
                ..parameters()
            },
            Parameters {
                data_blocks: 2,
                ..parameters()
            },
        ] {
            assert_ne!(other.with_derived_salt(&image).salt, first);
        }
        assert_ne!(parameters().with_derived_salt(&Digest::of(b"other")).salt, first);
    }
}
