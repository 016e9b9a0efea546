//! cryptsetup's superblock in front of a hash tree, version 1, 512 bytes. Bytes in, fields out; a field that
//! this program does not make is refused, never guessed.
//!
//! From cryptsetup's wiki page DMVerity, all numbers little endian:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `verity`, two zero bytes |
//! | 8 | 4 | superblock version, 1 |
//! | 12 | 4 | hash type, 1 (0 is that of Chrome OS) |
//! | 16 | 16 | UUID of the hash device |
//! | 32 | 32 | name of the hash, ended by zeros |
//! | 64 | 4 | data block size in bytes |
//! | 68 | 4 | hash block size in bytes |
//! | 72 | 8 | number of data blocks |
//! | 80 | 2 | salt size in bytes |
//! | 82 | 6 | padding |
//! | 88 | 256 | salt |
//! | 344 | 168 | padding |

use uuid::Uuid;

use super::MAX_IMAGE_BYTES;
use super::parameters::{
    BlockSize, HashAlgorithm, InvalidBlockSize, InvalidHashAlgorithm, InvalidSalt, Parameters, Salt,
};

/// The length of the superblock in bytes.
pub const SUPERBLOCK_BYTES: usize = 512;

const SIGNATURE: [u8; 8] = *b"verity\0\0";
const VERSION: u32 = 1;
const HASH_TYPE: u32 = 1;

/// What a superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// The UUID of the hash device.
    pub uuid: Uuid,
    /// All that the tree depends on.
    pub parameters: Parameters,
}

/// Why bytes are no superblock that this program reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// Another signature.
    #[error(
        "it does not begin with a dm-verity superblock (a tree made with --no-superblock cannot be checked)"
    )]
    Signature,
    /// A version that this program does not know.
    #[error("its superblock has version {version}, this program reads {VERSION}")]
    Version {
        /// The version found.
        version: u32,
    },
    /// A hash type that this program does not make.
    #[error("its hash type is {hash_type}, this program makes {HASH_TYPE} (veritysetup --format=1)")]
    HashType {
        /// The type found.
        hash_type: u32,
    },
    /// Another hash.
    #[error("its hash: {0}")]
    Algorithm(#[from] InvalidHashAlgorithm),
    /// A block size out of bounds.
    #[error("its block size: {0}")]
    BlockSize(#[from] InvalidBlockSize),
    /// A salt out of bounds.
    #[error("{0}")]
    Salt(#[from] InvalidSalt),
    /// No data, or more than a release may hold.
    #[error("it is made for {data_blocks} data blocks, where 1 block to {MAX_IMAGE_BYTES} bytes are allowed")]
    DataBlocks {
        /// The number found.
        data_blocks: u64,
    },
}

impl Superblock {
    /// Its bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; SUPERBLOCK_BYTES] {
        let Parameters {
            algorithm,
            data_block,
            hash_block,
            data_blocks,
            salt,
        } = &self.parameters;
        let (name, salt) = (algorithm.name().as_bytes(), salt.as_bytes());
        // A salt has 256 bytes at most.
        let salt_bytes = salt.len() as u16;
        let mut bytes = [0; SUPERBLOCK_BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &SIGNATURE);
        put(8, &VERSION.to_le_bytes());
        put(12, &HASH_TYPE.to_le_bytes());
        put(16, self.uuid.as_bytes());
        put(32, name);
        put(64, &data_block.bytes().to_le_bytes());
        put(68, &hash_block.bytes().to_le_bytes());
        put(72, &data_blocks.to_le_bytes());
        put(80, &salt_bytes.to_le_bytes());
        put(88, salt);
        bytes
    }

    /// Reads a superblock. Padding is not looked at, as cryptsetup does not.
    ///
    /// # Errors
    /// No superblock, or a field that this program does not make.
    pub fn parse(bytes: &[u8; SUPERBLOCK_BYTES]) -> Result<Self, SuperblockError> {
        if bytes[..8] != SIGNATURE {
            return Err(SuperblockError::Signature);
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(SuperblockError::Version { version });
        }
        let hash_type = u32_at(bytes, 12);
        if hash_type != HASH_TYPE {
            return Err(SuperblockError::HashType { hash_type });
        }
        let salt_bytes = usize::from(u16::from_le_bytes([bytes[80], bytes[81]]));
        let salt = match bytes[88..344].get(..salt_bytes) {
            Some(salt) => Salt::new(salt.to_vec())?,
            None => return Err(InvalidSalt::TooLong { length: salt_bytes }.into()),
        };
        let name = bytes[32..64].split(|byte| *byte == 0).next().unwrap_or_default();
        let (low, high) = (u32_at(bytes, 72), u32_at(bytes, 76));
        let parameters = Parameters {
            algorithm: String::from_utf8_lossy(name).parse::<HashAlgorithm>()?,
            data_block: BlockSize::new(u32_at(bytes, 64))?,
            hash_block: BlockSize::new(u32_at(bytes, 68))?,
            data_blocks: u64::from(high) << 32 | u64::from(low),
            salt,
        };
        if parameters.data_blocks == 0 || parameters.data_bytes() > MAX_IMAGE_BYTES {
            let data_blocks = parameters.data_blocks;
            return Err(SuperblockError::DataBlocks { data_blocks });
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&bytes[16..32]);
        Ok(Self {
            uuid: Uuid::from_bytes(uuid),
            parameters,
        })
    }
}

fn u32_at(bytes: &[u8; SUPERBLOCK_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Superblock {
        Superblock {
            uuid: Uuid::from_bytes([7; 16]),
            parameters: Parameters {
                algorithm: HashAlgorithm::Sha512,
                data_block: BlockSize::new(1024).unwrap(),
                hash_block: BlockSize::DEFAULT,
                data_blocks: 77,
                salt: "00ff".parse().unwrap(),
            },
        }
    }

    #[test]
    fn what_was_written_is_what_is_read() {
        assert_eq!(Superblock::parse(&sample().to_bytes()), Ok(sample()));
        let mut longest = sample();
        longest.parameters.salt = Salt::new(vec![9; 256]).unwrap();
        assert_eq!(Superblock::parse(&longest.to_bytes()), Ok(longest));
    }

    #[test]
    fn a_field_that_is_not_made_here_is_refused() {
        let refused = |at: usize, value: &[u8]| {
            let mut bytes = sample().to_bytes();
            bytes[at..at + value.len()].copy_from_slice(value);
            Superblock::parse(&bytes).unwrap_err()
        };
        assert_eq!(refused(0, b"Verity"), SuperblockError::Signature);
        assert_eq!(refused(8, &[2]), SuperblockError::Version { version: 2 });
        assert_eq!(refused(12, &[0]), SuperblockError::HashType { hash_type: 0 });
        assert!(matches!(refused(32, b"sha1\0\0"), SuperblockError::Algorithm(_)));
        assert!(matches!(refused(64, &[1]), SuperblockError::BlockSize(_)));
        assert!(matches!(refused(68, &[0; 4]), SuperblockError::BlockSize(_)));
        assert!(matches!(refused(80, &[1, 1]), SuperblockError::Salt(_)));
        for count in [0, u64::MAX, MAX_IMAGE_BYTES / 1024 + 1] {
            let error = refused(72, &count.to_le_bytes());
            assert_eq!(error, SuperblockError::DataBlocks { data_blocks: count });
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), SUPERBLOCK_BYTES)) {
            let _ = Superblock::parse(bytes.as_slice().try_into().unwrap());
            bytes[..16].copy_from_slice(&sample().to_bytes()[..16]);
            let _ = Superblock::parse(bytes.as_slice().try_into().unwrap());
        }
    }
}
