//! Where every hash block lies: arithmetic only, no hash and no file.

use super::parameters::Parameters;
use super::superblock::SUPERBLOCK_BYTES;

/// Whether a superblock lies before the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// In the first hash block, as veritysetup needs it to open the tree by the root hash alone.
    Superblock,
    /// No: who opens the tree must know every parameter.
    Absent,
}

/// One level of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Its first block, counted in hash blocks from the beginning of the file.
    pub first_block: u64,
    /// How many hash blocks it has.
    pub blocks: u64,
}

/// The shape of a hash tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    hash_block_bytes: u64,
    digests_per_block: u64,
    header_blocks: u64,
    /// From the level of the data blocks' hashes up to the one whose only block makes the root.
    levels: Vec<Level>,
}

impl Geometry {
    /// The shape that these parameters give. An image of one block has no level: its hash is the root.
    #[must_use]
    pub fn new(parameters: &Parameters, header: Header) -> Self {
        let hash_block_bytes = u64::from(parameters.hash_block.bytes());
        // At least 8: the smallest block is 512 bytes, the longest digest 64. A power of two, as both are.
        let digests_per_block = hash_block_bytes / parameters.algorithm.digest_bytes() as u64;
        let header_blocks = match header {
            Header::Superblock => (SUPERBLOCK_BYTES as u64).div_ceil(hash_block_bytes),
            Header::Absent => 0,
        };
        let mut levels = Vec::new();
        let mut below = parameters.data_blocks;
        while below > 1 {
            below = below.div_ceil(digests_per_block);
            levels.push(Level {
                first_block: 0,
                blocks: below,
            });
        }
        // "Stored a depth at a time (starting from the root)".
        let mut next = header_blocks;
        for level in levels.iter_mut().rev() {
            level.first_block = next;
            next += level.blocks;
        }
        Self {
            hash_block_bytes,
            digests_per_block,
            header_blocks,
            levels,
        }
    }

    /// The levels, from the data blocks' hashes up.
    #[must_use]
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// How many digests one hash block holds.
    #[must_use]
    pub const fn digests_per_block(&self) -> u64 {
        self.digests_per_block
    }

    /// The hash blocks of all levels together.
    #[must_use]
    pub fn hash_blocks(&self) -> u64 {
        self.levels.iter().map(|level| level.blocks).sum()
    }

    /// The length of the file in bytes, with the superblock's block.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        (self.header_blocks + self.hash_blocks()) * self.hash_block_bytes
    }

    /// Where block `index` of `level` begins, in bytes.
    #[must_use]
    pub(super) fn offset_bytes(&self, level: usize, index: u64) -> u64 {
        let first = self.levels.get(level).map_or(0, |level| level.first_block);
        (first + index) * self.hash_block_bytes
    }

    pub(super) const fn hash_block_bytes(&self) -> u64 {
        self.hash_block_bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::verity::{BlockSize, HashAlgorithm, MAX_IMAGE_BYTES, Salt};

    fn parameters(algorithm: HashAlgorithm, hash_block: u32, data_blocks: u64) -> Parameters {
        Parameters {
            algorithm,
            data_block: BlockSize::DEFAULT,
            hash_block: BlockSize::new(hash_block).unwrap(),
            data_blocks,
            salt: Salt::none(),
        }
    }

    #[test]
    fn levels_lie_from_the_root_down() {
        let shape = |blocks| {
            let parameters = parameters(HashAlgorithm::Sha256, 4096, blocks);
            let geometry = Geometry::new(&parameters, Header::Superblock);
            let levels = geometry.levels().iter().map(|l| (l.first_block, l.blocks));
            (levels.collect::<Vec<_>>(), geometry.file_bytes() / 4096)
        };
        assert_eq!(shape(1), (vec![], 1));
        assert_eq!(shape(2), (vec![(1, 1)], 2));
        assert_eq!(shape(128), (vec![(1, 1)], 2));
        assert_eq!(shape(129), (vec![(2, 2), (1, 1)], 4));
        assert_eq!(shape(16_384), (vec![(2, 128), (1, 1)], 130));
        assert_eq!(shape(16_385), (vec![(4, 129), (2, 2), (1, 1)], 133));
        // 64 GiB.
        let largest = shape(1 << 24);
        assert_eq!(largest.0, [(1034, 131_072), (10, 1024), (2, 8), (1, 1)]);
        assert_eq!(largest.1 * 4096, 541_106_176);
    }

    #[test]
    fn without_a_superblock_the_root_block_comes_first() {
        let parameters = parameters(HashAlgorithm::Sha512, 512, 9);
        let geometry = Geometry::new(&parameters, Header::Absent);
        assert_eq!(geometry.digests_per_block(), 8);
        assert_eq!(geometry.offset_bytes(1, 0), 0);
        assert_eq!(geometry.offset_bytes(0, 1), 1024);
        assert_eq!(geometry.file_bytes(), 3 * 512);
    }

    proptest! {
        /// cryptsetup's own formula: level i has ceil(blocks / digests per block ^ (i + 1)) blocks, the
        /// levels lie one after the other, and the topmost has one.
        #[test]
        fn the_levels_are_those_of_cryptsetup(
            blocks in 1..=MAX_IMAGE_BYTES / 512,
            hash_block_bits in 9u32..=16,
            wide in any::<bool>(),
        ) {
            let algorithm = if wide { HashAlgorithm::Sha512 } else { HashAlgorithm::Sha256 };
            let geometry = Geometry::new(&parameters(algorithm, 1 << hash_block_bits, blocks), Header::Superblock);
            let bits = geometry.digests_per_block().ilog2();
            let mut end = 1;
            for (i, level) in geometry.levels().iter().enumerate().rev() {
                let shift = bits * (u32::try_from(i).unwrap() + 1);
                let covered = 1u128 << shift;
                prop_assert_eq!(u128::from(level.blocks), (u128::from(blocks) + covered - 1) >> shift);
                prop_assert_eq!(level.first_block, end);
                end += level.blocks;
            }
            prop_assert_eq!(end << hash_block_bits, geometry.file_bytes());
            prop_assert_eq!(geometry.levels().last().map_or(1, |top| top.blocks), 1);
            prop_assert_eq!(geometry.levels().is_empty(), blocks == 1);
        }
    }
}
