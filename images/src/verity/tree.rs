//! The hash tree, grown from the data blocks' digests in order. It holds one block per level, hands out each
//! block once it is full, and neither reads nor writes anything itself.

use super::geometry::Geometry;
use super::parameters::BlockHasher;

/// A hash block that is full, or the last of its level.
pub(super) struct HashBlock<'a> {
    /// Its level; 0 holds the data blocks' digests.
    pub(super) level: usize,
    /// Its place in the level.
    pub(super) index: u64,
    /// Where it begins in the file, in bytes.
    pub(super) offset_bytes: u64,
    /// Its bytes: digests, then zeros.
    pub(super) bytes: &'a [u8],
}

/// A tree that is growing.
pub(super) struct TreeBuilder<'a> {
    geometry: &'a Geometry,
    hasher: BlockHasher,
    open: Vec<OpenBlock>,
    root: Vec<u8>,
}

/// The block of a level that is being filled.
struct OpenBlock {
    digests: Vec<u8>,
    index: u64,
}

impl<'a> TreeBuilder<'a> {
    pub(super) fn new(geometry: &'a Geometry, hasher: BlockHasher) -> Self {
        let open = geometry.levels().iter().map(|_| OpenBlock {
            digests: Vec::new(),
            index: 0,
        });
        Self {
            geometry,
            hasher,
            open: open.collect(),
            root: Vec::new(),
        }
    }

    /// Takes in the digest of the next data block.
    ///
    /// # Errors
    /// Those of `each`, which gets every block that is full by it.
    pub(super) fn push<E>(
        &mut self,
        digest: &[u8],
        each: &mut impl FnMut(HashBlock<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.push_at(0, digest.to_vec(), each)
    }

    /// Ends the tree after the last data block and returns the root digest.
    ///
    /// # Errors
    /// Those of `each`, which gets the last block of each level.
    pub(super) fn finish<E>(
        mut self,
        each: &mut impl FnMut(HashBlock<'_>) -> Result<(), E>,
    ) -> Result<Vec<u8>, E> {
        for level in 0..self.open.len() {
            if !self.open[level].digests.is_empty() {
                let digest = self.close(level, each)?;
                self.push_at(level + 1, digest, each)?;
            }
        }
        Ok(self.root)
    }

    /// The digest goes into its level; a block that is full by it is closed, and its digest goes up.
    fn push_at<E>(
        &mut self,
        mut level: usize,
        mut digest: Vec<u8>,
        each: &mut impl FnMut(HashBlock<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(open) = self.open.get_mut(level) {
            open.digests.extend_from_slice(&digest);
            if (open.digests.len() as u64) < self.geometry.hash_block_bytes() {
                return Ok(());
            }
            digest = self.close(level, each)?;
            level += 1;
        }
        self.root = digest;
        Ok(())
    }

    fn close<E>(
        &mut self,
        level: usize,
        each: &mut impl FnMut(HashBlock<'_>) -> Result<(), E>,
    ) -> Result<Vec<u8>, E> {
        let open = &mut self.open[level];
        // A hash block has 65,536 bytes at most.
        open.digests.resize(self.geometry.hash_block_bytes() as usize, 0);
        each(HashBlock {
            level,
            index: open.index,
            offset_bytes: self.geometry.offset_bytes(level, open.index),
            bytes: &open.digests,
        })?;
        let mut digest = Vec::new();
        self.hasher.append(&open.digests, &mut digest);
        open.digests.clear();
        open.index += 1;
        Ok(digest)
    }
}
