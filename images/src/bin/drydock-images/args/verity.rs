//! The part of the command line that is about dm-verity: `verity`, and what `build` is told of root hashes.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use drydock_images::verity::{BlockSize, Claim, HashAlgorithm, Salt};
use drydock_images::{ArtifactName, VerityRoot};
use uuid::Uuid;

use super::parse;

const DERIVED: &str = "\
The tree is byte for byte that of `veritysetup format --salt SALT --uuid UUID`.

Where no salt or UUID is given, veritysetup draws random ones. Here they are derived from the image, so that \
the same image always makes the same tree and root hash. The salt is the SHA-256 of these lines, each ended \
by a newline, with the SHA-256 of the bytes that are hashed:

  drydock verity salt
  image sha256:HEX
  hash sha256
  data-block-size 4096
  hash-block-size 4096
  data-blocks N

The UUID is the first 16 bytes of the SHA-256 of the same lines, with 'uuid' in the place of 'salt' in the \
first one and a last line 'salt HEX', made a UUID of version 8. The salt goes before every block: to derive \
one, the image is read twice.";

/// What to hash, and how.
#[derive(Debug, Args)]
#[command(after_long_help = DERIVED)]
pub struct VerityArgs {
    /// The image or block device; it is only read.
    pub image: PathBuf,
    /// The file to make for the hash tree; it must not be there yet.
    #[arg(long, value_name = "FILE")]
    pub tree: PathBuf,
    /// The salt, 1 to 256 bytes, or - for none. Without it, one is derived from the image.
    #[arg(long, value_name = "HEX|-")]
    pub salt: Option<Salt>,
    /// The superblock's UUID. Without it, one is derived from the image.
    #[arg(long, conflicts_with = "no_superblock", value_parser = uuid)]
    pub uuid: Option<Uuid>,
    /// The hash of blocks, sha256 or sha512.
    #[arg(long, default_value_t)]
    pub hash: HashAlgorithm,
    /// The size of the image's blocks in bytes, a power of two from 512 to 65536; Linux opens blocks up to
    /// its page size.
    #[arg(long, value_name = "BYTES", default_value_t = BlockSize::DEFAULT)]
    pub data_block_size: BlockSize,
    /// The size of the tree's blocks in bytes, a power of two from 512 to 65536.
    #[arg(long, value_name = "BYTES", default_value_t = BlockSize::DEFAULT)]
    pub hash_block_size: BlockSize,
    /// Hash so many blocks and leave the rest of the image out.
    #[arg(long, value_name = "N")]
    pub data_blocks: Option<u64>,
    /// Write the tree alone: who opens it must know salt and sizes, and build cannot check it.
    #[arg(long)]
    pub no_superblock: bool,
}

/// What `build` is told of root hashes.
#[derive(Debug, Args)]
pub struct RootArgs {
    /// The dm-verity root hash of an artifact; may be given again.
    #[arg(long, value_name = "NAME=HEX")]
    pub verity_root: Vec<NamedRoot>,
    /// The artifact whose kernel command line must name the root hash of NAME: a UKI (its .cmdline
    /// sections), a text such as a command line or a boot loader's entry, or a boot partition (all its
    /// bytes). Where it does not, nothing is built. May be given again.
    #[arg(long, value_name = "NAME=ARTIFACT")]
    pub verity_cmdline: Vec<ClaimArg>,
    /// The artifact that must be the hash tree of NAME: it is made anew and compared, and where it or the
    /// root hash differs, nothing is built. May be given again.
    #[arg(long, value_name = "NAME=ARTIFACT")]
    pub verity_tree: Vec<ClaimArg>,
}

/// `NAME=HEX`.
#[derive(Debug, Clone)]
pub struct NamedRoot {
    pub name: ArtifactName,
    pub root: VerityRoot,
}

impl FromStr for NamedRoot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, root) = text.split_once('=').ok_or("write NAME=HEX")?;
        Ok(Self {
            name: parse(name)?,
            root: parse(root)?,
        })
    }
}

fn uuid(text: &str) -> Result<Uuid, String> {
    let wanted = "write 32 hex digits as 8-4-4-4-12, or leave --uuid out";
    Uuid::parse_str(text).map_err(|_| wanted.to_owned())
}

/// `NAME=ARTIFACT`.
#[derive(Debug, Clone)]
pub struct ClaimArg(pub Claim);

impl FromStr for ClaimArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (image, by) = text.split_once('=').ok_or("write NAME=ARTIFACT")?;
        Ok(Self(Claim {
            image: parse(image)?,
            by: parse(by)?,
        }))
    }
}
