//! Superblocks of dm-verity. One that is accepted is written and read back the same, and the tree that it
//! speaks of has a bounded size and one block at its top.
#![no_main]

use drydock_images::verity::{
    Geometry, Header, MAX_IMAGE_BYTES, MAX_SALT_BYTES, SUPERBLOCK_BYTES, Superblock,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut bytes = [0; SUPERBLOCK_BYTES];
    let length = data.len().min(SUPERBLOCK_BYTES);
    bytes[..length].copy_from_slice(&data[..length]);
    let Ok(superblock) = Superblock::parse(&bytes) else {
        return;
    };
    assert_eq!(
        Superblock::parse(&superblock.to_bytes()).as_ref(),
        Ok(&superblock)
    );
    let parameters = &superblock.parameters;
    assert!(parameters.salt.as_bytes().len() <= MAX_SALT_BYTES);
    assert!((1..=MAX_IMAGE_BYTES).contains(&parameters.data_bytes()));

    let geometry = Geometry::new(parameters, Header::Superblock);
    let hash_block_bytes = u64::from(parameters.hash_block.bytes());
    let mut below = parameters.data_blocks;
    let mut next = geometry.file_bytes() / hash_block_bytes;
    for level in geometry.levels() {
        // Each holds the digests of the one below it, in as few blocks as there can be, and lies before it.
        assert!(level.blocks * geometry.digests_per_block() >= below);
        assert!((level.blocks - 1) * geometry.digests_per_block() < below);
        assert_eq!(level.first_block + level.blocks, next);
        (below, next) = (level.blocks, level.first_block);
    }
    assert_eq!(below, 1, "the root is one block");
    assert_eq!(next, 1, "the superblock lies in the first hash block");
    assert!(geometry.file_bytes() <= MAX_IMAGE_BYTES);
});
