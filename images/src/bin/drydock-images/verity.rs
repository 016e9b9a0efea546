//! `verity`, and the proof of root hashes before a build.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;

use drydock_images::ArtifactName;
use drydock_images::build::ArtifactSource;
use drydock_images::verity::{self as library, Claims, FormatRequest, Header, Proof, Proven};

use crate::args::{RootArgs, VerityArgs};
use crate::show::{Show, bytes};

pub async fn verity(args: VerityArgs, show: &Show) -> anyhow::Result<()> {
    let mut request = FormatRequest {
        image: args.image,
        tree: args.tree,
        algorithm: args.hash,
        data_block: args.data_block_size,
        hash_block: args.hash_block_size,
        data_blocks: args.data_blocks,
        salt: args.salt,
        uuid: args.uuid,
        header: if args.no_superblock {
            Header::Absent
        } else {
            Header::Superblock
        },
        progress: drydock_images::Progress::none(),
    };
    let data_bytes = match request.data_blocks {
        Some(blocks) => blocks.saturating_mul(u64::from(request.data_block.bytes())),
        None => length_bytes(&request.image),
    };
    let total = data_bytes.saturating_mul(request.reads());
    let (progress, bar) = show.bar(total, "hashing");
    request.progress = progress;
    let tree = library::format(request).await;
    bar.finish_and_clear();
    let tree = tree?;
    let uuid = tree.uuid.map_or_else(
        || "none: there is no superblock".to_owned(),
        |uuid| uuid.to_string(),
    );
    let data_bytes = tree.data_blocks * u64::from(tree.data_block_size.bytes());
    let text = format!(
        "Root    {}\nSalt    {}\nUUID    {uuid}\nImage   {}: {} in {} blocks of {}, {}\nTree    {}: {}, {} hash blocks of {}\nBoot    put on the kernel's command line: {}\n        and build the release with: --verity-root NAME={}",
        tree.root,
        tree.salt,
        tree.image.display(),
        bytes(data_bytes),
        tree.data_blocks,
        tree.data_block_size,
        tree.algorithm,
        tree.tree.display(),
        bytes(tree.tree_bytes),
        tree.hash_blocks,
        tree.hash_block_size,
        tree.kernel_command_line,
        tree.root,
    );
    show.result(&tree, &text)
}

/// Proves what is claimed of the artifacts' root hashes, before anything is built.
pub async fn prove(
    args: &RootArgs,
    artifacts: &[ArtifactSource],
    show: &Show,
) -> anyhow::Result<Vec<Proven>> {
    let claims = Claims {
        cmdlines: args.verity_cmdline.iter().map(|claim| claim.0.clone()).collect(),
        trees: args.verity_tree.iter().map(|claim| claim.0.clone()).collect(),
    };
    let hashed =
        |image: &ArtifactName| claims.trees.iter().filter(|claim| claim.image == *image).count() as u64;
    let total = artifacts
        .iter()
        .map(|artifact| length_bytes(&artifact.path) * hashed(&artifact.name))
        .sum();
    let (progress, bar) = show.bar(total, "proving");
    let proven = library::prove(artifacts.to_vec(), claims, progress).await;
    bar.finish_and_clear();
    Ok(proven?)
}

/// Each proof in one line for people.
pub fn proven_text(proven: &[Proven]) -> String {
    let line = |proven: &Proven| {
        let Proven { image, by, proof, .. } = proven;
        match proof {
            Proof::Uki => format!("\nVerity  {by} names the root hash of {image} (the .cmdline of its UKI)"),
            Proof::Text => format!("\nVerity  {by} names the root hash of {image}"),
            Proof::Bytes => format!("\nVerity  {by} has the root hash of {image} somewhere in its bytes"),
            Proof::HashTree => format!("\nVerity  {by} is the hash tree of {image}"),
        }
    };
    proven.iter().map(line).collect()
}

/// For a bar only: what cannot be read is told by who reads it.
fn length_bytes(path: &Path) -> u64 {
    let length = File::open(path).and_then(|mut file| file.seek(SeekFrom::End(0)));
    length.unwrap_or(0)
}
