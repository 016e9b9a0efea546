//! Is this file the hash tree of that image, under that root hash? The tree is made anew with the parameters
//! of its own superblock and compared block by block. Bytes after the tree are not looked at: the kernel does
//! not read them either.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::blocks::{Image, length_bytes};
use super::parameters::Parameters;
use super::tree::HashBlock;
use super::{Geometry, Header, SUPERBLOCK_BYTES, Superblock, VerityError};
use crate::manifest::VerityRoot;
use crate::progress::Progress;

/// The first place where the tree is another.
struct Difference {
    text: String,
}

/// Why they do not belong together, in words for people, or `None`.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn tree_fault(
    image: &Path,
    tree: &Path,
    root: &VerityRoot,
    progress: &Progress,
) -> Result<Option<String>, VerityError> {
    let unreadable = VerityError::io("read the hash tree", tree);
    let mut tree_file = File::open(tree).map_err(&unreadable)?;
    let tree_bytes = length_bytes(&mut tree_file).map_err(&unreadable)?;
    let mut header = [0; SUPERBLOCK_BYTES];
    if tree_bytes < SUPERBLOCK_BYTES as u64 {
        return Ok(Some(format!(
            "it has {tree_bytes} bytes, fewer than a superblock"
        )));
    }
    tree_file.read_exact_at(&mut header, 0).map_err(&unreadable)?;
    let parameters = match Superblock::parse(&header) {
        Ok(superblock) => superblock.parameters,
        Err(error) => return Ok(Some(error.to_string())),
    };
    let geometry = Geometry::new(&parameters, Header::Superblock);
    // veritysetup does not pad a file that holds nothing but the superblock.
    if geometry.hash_blocks() > 0 && tree_bytes < geometry.file_bytes() {
        let whole = geometry.file_bytes();
        return Ok(Some(format!("it ends after {tree_bytes} of {whole} bytes")));
    }
    let failed = VerityError::io("read the image", image);
    let image_bytes = File::open(image)
        .and_then(|mut file| length_bytes(&mut file))
        .map_err(failed)?;
    let data_bytes = parameters.data_bytes();
    if image_bytes < data_bytes {
        let text = format!("it was made of {data_bytes} bytes, and the image has {image_bytes}");
        return Ok(Some(text));
    }
    let mut image = Image::open(image, parameters.data_block, Some(parameters.data_blocks))?;
    let mut first: Option<Difference> = None;
    let made = image.tree(&parameters, &geometry, None, progress, |block| {
        if first.is_none() {
            let found = read_block(&tree_file, &block).map_err(&unreadable)?;
            first = difference(&block, &found, &parameters);
        }
        Ok(())
    })?;
    Ok(verdict(root, &VerityRoot::of_digest(&made), first))
}

fn read_block(tree: &File, block: &HashBlock<'_>) -> io::Result<Vec<u8>> {
    let mut found = vec![0; block.bytes.len()];
    tree.read_exact_at(&mut found, block.offset_bytes)?;
    Ok(found)
}

fn difference(block: &HashBlock<'_>, found: &[u8], parameters: &Parameters) -> Option<Difference> {
    let at = block
        .bytes
        .iter()
        .zip(found)
        .position(|(made, found)| made != found)?;
    let offset = block.offset_bytes + at as u64;
    let digest_bytes = parameters.algorithm.digest_bytes();
    let digests_per_block = (block.bytes.len() / digest_bytes) as u64;
    let data_block = block.index * digests_per_block + (at / digest_bytes) as u64;
    let text = if block.level == 0 && data_block < parameters.data_blocks {
        format!("the image's block {data_block} has another hash there (byte {offset} of the tree)")
    } else {
        format!("byte {offset} of the tree differs")
    };
    Some(Difference { text })
}

fn verdict(expected: &VerityRoot, made: &VerityRoot, first: Option<Difference>) -> Option<String> {
    match (made == expected, first) {
        (true, None) => None,
        (true, Some(Difference { text })) => Some(format!(
            "the image has that root hash, but the tree is damaged or another one: {text}"
        )),
        (false, None) => Some(format!(
            "image and tree belong together, but their root hash is {}",
            made.as_str()
        )),
        (false, Some(Difference { text })) => Some(format!(
            "with the tree's salt the image has the root hash {}, and {text}",
            made.as_str()
        )),
    }
}
