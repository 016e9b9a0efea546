//! Making a release from partition images: read once, cut by content, packed on all cores, in memory
//! that does not grow with the image. The same images and the same level give the same bytes.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use crate::chunk::{ChunkContent, CutChunk, IndexBuilder, MAX_ARTIFACT_BYTES, chunk_reader, encode_frame};
use crate::digest::{Digest, Hasher};
use crate::error::ReleaseError;
use crate::layout;
use crate::manifest::{
    Artifact, Carries, IndexRef, MANIFEST_FORMAT, MAX_ARTIFACTS, Manifest, ManifestBody, VerityRoot,
};
use crate::names::{Arch, ArtifactName, Board, ReleaseName};
use crate::progress::Progress;
use crate::version::Version;

/// The zstd level that is used when none is asked for: about 60 MB/s on one core.
pub const DEFAULT_LEVEL: i32 = 9;

/// One image to put into a release.
#[derive(Debug, Clone)]
pub struct ArtifactSource {
    /// Its name in the release.
    pub name: ArtifactName,
    /// The file or block device to read, to its end.
    pub path: PathBuf,
    /// Its dm-verity root hash, if the system proves it by one.
    pub verity_root: Option<VerityRoot>,
}

/// What to make.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The OS.
    pub name: ReleaseName,
    /// Its version.
    pub version: Version,
    /// The kind of machine it is for.
    pub board: Board,
    /// The processor architecture it is for.
    pub arch: Arch,
    /// The oldest version to come from.
    pub min_from: Option<Version>,
    /// The version below which a node refuses releases once this one was good.
    pub floor: Option<Version>,
    /// What is inside.
    pub carries: Carries,
    /// The images, 1 to [`MAX_ARTIFACTS`].
    pub artifacts: Vec<ArtifactSource>,
    /// The folder to make; it must not be there yet.
    pub out: PathBuf,
    /// The zstd level, 1 to 19.
    pub level: i32,
    /// Told about every byte read.
    pub progress: Progress,
}

/// A release that was made.
#[derive(Debug, Clone)]
pub struct BuiltRelease {
    /// The release's name.
    pub digest: Digest,
    /// Its manifest.
    pub manifest: Manifest,
    /// Its folder.
    pub path: PathBuf,
    /// What making it came to.
    pub stats: BuildStats,
}

/// What making a release came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildStats {
    /// Bytes of all images.
    pub image_bytes: u64,
    /// Bytes of runs of zeros, of which nothing is stored.
    pub zero_bytes: u64,
    /// Chunks of all images.
    pub chunks: u64,
    /// Different chunks that are stored.
    pub stored_chunks: u64,
    /// Bytes of what is stored.
    pub stored_bytes: u64,
}

/// Makes a release in `request.out`, which appears whole or not at all.
///
/// # Errors
/// An image that cannot be read, a full disk, a value out of bounds, or a folder already there.
pub async fn build(request: BuildRequest) -> Result<BuiltRelease, ReleaseError> {
    tokio::task::spawn_blocking(move || build_blocking(&request))
        .await
        .map_err(|error| ReleaseError::Request(format!("the build was stopped: {error}")))?
}

fn build_blocking(request: &BuildRequest) -> Result<BuiltRelease, ReleaseError> {
    if !(1..=19).contains(&request.level) {
        return Err(ReleaseError::Request(format!(
            "level {} is not 1 to 19",
            request.level
        )));
    }
    if request.artifacts.is_empty() || request.artifacts.len() > MAX_ARTIFACTS {
        let count = request.artifacts.len();
        return Err(ReleaseError::Request(format!(
            "{count} artifacts, where 1 to {MAX_ARTIFACTS} are allowed"
        )));
    }
    if request.out.exists() {
        return Err(ReleaseError::Exists {
            path: request.out.clone(),
        });
    }
    let parent = match request.out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(ReleaseError::io("make the folder", parent))?;
    let staging = tempfile::Builder::new()
        .prefix(".drydock-build-")
        .tempdir_in(parent)
        .map_err(ReleaseError::io("make a folder in", parent))?;
    let packer = Packer::new(staging.path(), request.level)?;
    let mut stats = BuildStats::default();
    let mut artifacts = Vec::new();
    for source in &request.artifacts {
        artifacts.push(pack_artifact(source, &packer, &request.progress, &mut stats)?);
    }
    let manifest = Manifest::seal(ManifestBody {
        format: MANIFEST_FORMAT,
        name: request.name.clone(),
        version: request.version.clone(),
        board: request.board.clone(),
        arch: request.arch.clone(),
        artifacts,
        min_from: request.min_from.clone(),
        floor: request.floor.clone(),
        carries: request.carries.clone(),
    })?;
    write(&staging.path().join(layout::MANIFEST_FILE), manifest.bytes())?;
    let staged = staging.keep();
    set_readable(&staged)?;
    fs::rename(&staged, &request.out).map_err(ReleaseError::io("make the folder", &request.out))?;
    Ok(BuiltRelease {
        digest: manifest.digest(),
        manifest,
        path: request.out.clone(),
        stats,
    })
}

/// A temporary folder is for its owner alone; a release is for whoever publishes it.
fn set_readable(path: &Path) -> Result<(), ReleaseError> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(path, mode).map_err(ReleaseError::io("set the permissions of", path))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ReleaseError> {
    fs::write(path, bytes).map_err(ReleaseError::io("write", path))
}

/// What the workers share: where chunks go and which are there.
struct Packer<'a> {
    dir: &'a Path,
    level: i32,
    seen: Mutex<HashSet<Digest>>,
}

impl<'a> Packer<'a> {
    fn new(dir: &'a Path, level: i32) -> Result<Self, ReleaseError> {
        for first in 0..=255u8 {
            let path = dir.join(layout::CHUNKS_DIR).join(format!("{first:02x}"));
            fs::create_dir_all(&path).map_err(ReleaseError::io("make the folder", &path))?;
        }
        let indexes = dir.join(layout::INDEXES_DIR);
        fs::create_dir_all(&indexes).map_err(ReleaseError::io("make the folder", &indexes))?;
        Ok(Self {
            dir,
            level,
            seen: Mutex::new(HashSet::new()),
        })
    }

    /// Stores a chunk unless it is there, and says what it is and how many bytes were stored for it.
    fn pack(
        &self,
        compressor: &mut zstd::bulk::Compressor<'_>,
        data: &[u8],
    ) -> Result<(ChunkContent, Option<u64>), ReleaseError> {
        if is_zeros(data) {
            return Ok((ChunkContent::Zeros, None));
        }
        let digest = Digest::of(data);
        let new = self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(digest);
        if !new {
            return Ok((ChunkContent::Stored(digest), None));
        }
        let path = self.dir.join(layout::chunk_path(&digest));
        let frame = encode_frame(compressor, data).map_err(ReleaseError::io("compress", &path))?;
        write(&path, &frame)?;
        Ok((ChunkContent::Stored(digest), Some(frame.len() as u64)))
    }
}

/// Whether there are only zeros; a comparison with itself one byte on is one call of memcmp.
fn is_zeros(data: &[u8]) -> bool {
    data.first() == Some(&0) && data[1..] == data[..data.len() - 1]
}

/// One packed chunk: its place in the image, its length, what it is, and what was stored for it.
struct Packed {
    place: usize,
    length: u32,
    content: ChunkContent,
    stored_bytes: Option<u64>,
}

fn pack_artifact(
    source: &ArtifactSource,
    packer: &Packer<'_>,
    progress: &Progress,
    stats: &mut BuildStats,
) -> Result<Artifact, ReleaseError> {
    let file = File::open(&source.path).map_err(ReleaseError::io("open the image", &source.path))?;
    let workers = thread::available_parallelism().map_or(2, usize::from);
    let (digest, size, mut packed) = pack_stream(source, file, packer, progress, workers)?;
    packed.sort_unstable_by_key(|chunk| chunk.place);
    let mut index = IndexBuilder::new();
    for chunk in &packed {
        index.push(chunk.length, chunk.content)?;
        stats.chunks += 1;
        match (chunk.content, chunk.stored_bytes) {
            (ChunkContent::Zeros, _) => stats.zero_bytes += u64::from(chunk.length),
            (ChunkContent::Stored(_), None) => {}
            (ChunkContent::Stored(_), Some(bytes)) => {
                stats.stored_chunks += 1;
                stats.stored_bytes += bytes;
            }
        }
    }
    stats.image_bytes += size;
    let index = index.finish(&digest)?;
    let index_ref = IndexRef {
        digest: Digest::of(&index),
        size: index.len() as u64,
    };
    write(&packer.dir.join(layout::index_path(&index_ref.digest)), &index)?;
    Ok(Artifact {
        name: source.name.clone(),
        size,
        digest,
        index: index_ref,
        verity_root: source.verity_root.clone(),
    })
}

/// Reads and cuts on this thread, packs on `workers` others. At most a few chunks per worker wait.
fn pack_stream(
    source: &ArtifactSource,
    file: File,
    packer: &Packer<'_>,
    progress: &Progress,
    workers: usize,
) -> Result<(Digest, u64, Vec<Packed>), ReleaseError> {
    let (to_workers, from_reader) = mpsc::sync_channel::<(usize, CutChunk)>(4 * workers);
    let from_reader = Mutex::new(from_reader);
    let (to_reader, from_workers) = mpsc::channel::<Result<Packed, ReleaseError>>();
    let failed = AtomicBool::new(false);
    let mut hasher = Hasher::new();
    let read = thread::scope(|scope| {
        for _ in 0..workers {
            let to_reader = to_reader.clone();
            scope.spawn(|| work(packer, &from_reader, to_reader, &failed));
        }
        for (place, chunk) in chunk_reader(file).enumerate() {
            let chunk = chunk.map_err(ReleaseError::io("read the image", &source.path))?;
            hasher.update(&chunk.data);
            progress.advance(chunk.data.len() as u64);
            if hasher.length_bytes() > MAX_ARTIFACT_BYTES {
                let path = source.path.display();
                let text = format!("{path} has more than the {MAX_ARTIFACT_BYTES} bytes an image may have");
                return Err(ReleaseError::Request(text));
            }
            // A send fails only when no worker is left, and they leave only after this channel closed.
            if failed.load(Ordering::Relaxed) || to_workers.send((place, chunk)).is_err() {
                break;
            }
        }
        drop(to_workers);
        Ok(())
    });
    drop(to_reader);
    read?;
    let packed = from_workers.into_iter().collect::<Result<Vec<_>, _>>()?;
    let size = hasher.length_bytes();
    if size == 0 {
        return Err(ReleaseError::Request(format!(
            "the image {} is empty",
            source.path.display()
        )));
    }
    Ok((hasher.finish(), size, packed))
}

/// Packs until the reader is done. After a failure, anyone's, it only empties the channel, so that
/// the reader never waits for a worker that has stopped.
fn work(
    packer: &Packer<'_>,
    from_reader: &Mutex<mpsc::Receiver<(usize, CutChunk)>>,
    to_reader: mpsc::Sender<Result<Packed, ReleaseError>>,
    failed: &AtomicBool,
) {
    let mut compressor = zstd::bulk::Compressor::new(packer.level)
        .map_err(ReleaseError::io("set up the compression for", packer.dir));
    loop {
        let next = from_reader.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((place, chunk)) = next else { return };
        if failed.load(Ordering::Relaxed) {
            continue;
        }
        let packed = match &mut compressor {
            Ok(compressor) => packer.pack(compressor, &chunk.data),
            Err(error) => Err(ReleaseError::Request(error.to_string())),
        };
        let packed = packed.and_then(|(content, stored_bytes)| {
            let length = u32::try_from(chunk.data.len())
                .map_err(|_| ReleaseError::Request("a chunk is too long".to_owned()))?;
            Ok(Packed {
                place,
                length,
                content,
                stored_bytes,
            })
        });
        if packed.is_err() {
            failed.store(true, Ordering::Relaxed);
        }
        // The receiver lives until every worker has returned.
        let _ = to_reader.send(packed);
    }
}
