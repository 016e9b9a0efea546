//! Making a hash tree in a file, as `veritysetup format` does. The file appears whole or not at all, and the
//! same image and parameters give the same bytes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use uuid::Uuid;

use super::blocks::Image;
use super::{
    BlockSize, Geometry, HashAlgorithm, Header, Parameters, SUPERBLOCK_BYTES, Salt, Superblock, VerityError,
};
use crate::digest::Hasher;
use crate::manifest::VerityRoot;
use crate::progress::Progress;

/// What to make.
#[derive(Debug, Clone)]
pub struct FormatRequest {
    /// The image or block device, which is read and never written.
    pub image: PathBuf,
    /// The file to make; it must not be there yet.
    pub tree: PathBuf,
    /// The hash.
    pub algorithm: HashAlgorithm,
    /// The size of the image's blocks.
    pub data_block: BlockSize,
    /// The size of the tree's blocks.
    pub hash_block: BlockSize,
    /// How many blocks to hash; without it all, of which the last must be whole.
    pub data_blocks: Option<u64>,
    /// The salt; without it [`Parameters::with_derived_salt`], for which the image is read twice.
    pub salt: Option<Salt>,
    /// The superblock's UUID; without it [`Parameters::derived_uuid`].
    pub uuid: Option<Uuid>,
    /// Whether to write a superblock.
    pub header: Header,
    /// Told about every byte read.
    pub progress: Progress,
}

impl FormatRequest {
    /// How often the image is read.
    #[must_use]
    pub const fn reads(&self) -> u64 {
        if self.salt.is_some() { 1 } else { 2 }
    }
}

/// A hash tree that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HashTree {
    /// The root hash: what the kernel's command line must name.
    pub root: VerityRoot,
    /// The salt; `-` for none.
    pub salt: Salt,
    /// The superblock's UUID, where there is a superblock.
    pub uuid: Option<Uuid>,
    /// The hash.
    pub algorithm: HashAlgorithm,
    /// The size of the image's blocks in bytes.
    pub data_block_size: BlockSize,
    /// The size of the tree's blocks in bytes.
    pub hash_block_size: BlockSize,
    /// The blocks of the image that are hashed.
    pub data_blocks: u64,
    /// The blocks of the tree, without the superblock's.
    pub hash_blocks: u64,
    /// The image.
    pub image: PathBuf,
    /// The tree's file.
    pub tree: PathBuf,
    /// The length of the tree's file in bytes.
    pub tree_bytes: u64,
    /// What systemd-veritysetup-generator needs on the kernel's command line.
    pub kernel_command_line: String,
}

/// Makes the hash tree of an image.
///
/// # Errors
/// An image that is empty, too long, not whole blocks or cannot be read; a full disk; a file already there.
pub async fn format(request: FormatRequest) -> Result<HashTree, VerityError> {
    tokio::task::spawn_blocking(move || format_blocking(&request))
        .await
        .map_err(|error| VerityError::Stopped {
            detail: error.to_string(),
        })?
}

fn format_blocking(request: &FormatRequest) -> Result<HashTree, VerityError> {
    if request.tree.symlink_metadata().is_ok() {
        let path = request.tree.clone();
        return Err(VerityError::Exists { path });
    }
    let mut image = Image::open(&request.image, request.data_block, request.data_blocks)?;
    let unsalted = Parameters {
        algorithm: request.algorithm,
        data_block: request.data_block,
        hash_block: request.hash_block,
        data_blocks: image.data_blocks(),
        salt: Salt::none(),
    };
    // The salt goes before every block, so one that comes from the image needs a reading of its own.
    let (parameters, digest) = match &request.salt {
        Some(salt) => {
            let salt = salt.clone();
            (Parameters { salt, ..unsalted }, None)
        }
        None => {
            let digest = image.digest(&request.progress)?;
            (unsalted.with_derived_salt(&digest), Some(digest))
        }
    };
    let geometry = Geometry::new(&parameters, request.header);
    let wants_uuid = request.header == Header::Superblock && request.uuid.is_none();
    let mut whole = (wants_uuid && digest.is_none()).then(Hasher::new);
    let new = NewFile::create(&request.tree, geometry.file_bytes())?;
    let root = image.tree(
        &parameters,
        &geometry,
        whole.as_mut(),
        &request.progress,
        |block| new.write_at(block.bytes, block.offset_bytes),
    )?;
    let uuid = match request.header {
        Header::Absent => None,
        Header::Superblock => request.uuid.or_else(|| {
            let digest = digest.or_else(|| whole.map(Hasher::finish));
            digest.map(|digest| parameters.derived_uuid(&digest))
        }),
    };
    if let Some(uuid) = uuid {
        let parameters = parameters.clone();
        new.write_at(&Superblock { uuid, parameters }.to_bytes(), 0)?;
    }
    new.persist()?;
    let root = VerityRoot::of_digest(&root);
    Ok(HashTree {
        kernel_command_line: kernel_command_line(&root, &parameters, request.header),
        root,
        salt: parameters.salt,
        uuid,
        algorithm: request.algorithm,
        data_block_size: request.data_block,
        hash_block_size: request.hash_block,
        data_blocks: parameters.data_blocks,
        hash_blocks: geometry.hash_blocks(),
        image: request.image.clone(),
        tree: request.tree.clone(),
        tree_bytes: geometry.file_bytes(),
    })
}

/// systemd-veritysetup-generator(8); the options are those of veritytab(5), since systemd 254.
fn kernel_command_line(root: &VerityRoot, parameters: &Parameters, header: Header) -> String {
    let root = root.as_str();
    match header {
        Header::Superblock => format!("roothash={root}"),
        Header::Absent => {
            let Parameters {
                algorithm,
                data_block,
                hash_block,
                data_blocks,
                salt,
            } = parameters;
            format!(
                "roothash={root} systemd.verity_root_options=superblock=no,format=1,hash={algorithm},data-block-size={data_block},hash-block-size={hash_block},data-blocks={data_blocks},salt={salt}"
            )
        }
    }
}

/// A file that has no name until it is whole.
struct NewFile {
    path: PathBuf,
    parent: PathBuf,
    file: tempfile::NamedTempFile,
}

impl NewFile {
    fn create(path: &Path, length_bytes: u64) -> Result<Self, VerityError> {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(VerityError::io("make the folder", parent))?;
        let create = || -> io::Result<tempfile::NamedTempFile> {
            let file = tempfile::Builder::new().prefix(".new-").tempfile_in(parent)?;
            file.as_file().set_len(length_bytes)?;
            Ok(file)
        };
        Ok(Self {
            path: path.to_path_buf(),
            parent: parent.to_path_buf(),
            file: create().map_err(VerityError::io("make a file in", parent))?,
        })
    }

    fn write_at(&self, bytes: &[u8], offset_bytes: u64) -> Result<(), VerityError> {
        let written = self.file.as_file().write_all_at(bytes, offset_bytes);
        written.map_err(VerityError::io("write the hash tree", &self.path))
    }

    fn persist(self) -> Result<(), VerityError> {
        let Self { path, parent, file } = self;
        let failed = VerityError::io("write", &path);
        let whole = || -> io::Result<()> {
            file.as_file()
                .set_permissions(fs::Permissions::from_mode(0o644))?;
            file.as_file().sync_all()
        };
        whole().map_err(&failed)?;
        match file.persist_noclobber(&path) {
            Ok(_) => {}
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(VerityError::Exists { path });
            }
            Err(error) => return Err(failed(error.error)),
        }
        File::open(parent)
            .and_then(|parent| parent.sync_all())
            .map_err(failed)
    }
}

const _: () = assert!(SUPERBLOCK_BYTES <= BlockSize::MIN_BYTES as usize);
