//! Making a release from partition images: read once, cut by content, packed on all cores, in memory
//! that does not grow with the image. The same images and the same level give the same bytes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::error::ReleaseError;
use crate::layout;
use crate::manifest::{Carries, MANIFEST_FORMAT, MAX_ARTIFACTS, Manifest, ManifestBody, VerityRoot};
use crate::names::{Arch, ArtifactName, Board, ReleaseName};
use crate::progress::Progress;
use crate::release::{Known, ReleaseDir};
use crate::version::Version;

mod pack;

use pack::Packing;

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
    /// Folders of releases that nodes come from: what is new since then is stored together, so that those
    /// nodes fetch little else. Nodes that come from elsewhere get the same.
    pub after: Vec<PathBuf>,
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
    /// Pages of all images.
    pub pages: u64,
    /// Frames that are stored.
    pub frames: u64,
    /// Bytes of the packs: frames and pages.
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
    for name in [layout::INDEXES_DIR, layout::PACKS_DIR] {
        let path = staging.path().join(name);
        fs::create_dir(&path).map_err(ReleaseError::io("make the folder", &path))?;
    }
    let mut stats = BuildStats::default();
    let mut artifacts = Vec::new();
    let before = request.after.iter().map(|path| ReleaseDir::open(path));
    let before = before.collect::<Result<Vec<_>, _>>()?;
    for source in &request.artifacts {
        let mut known = Known::default();
        for release in &before {
            known.add(release, &source.name)?;
        }
        let packing = Packing {
            dir: staging.path(),
            level: request.level,
            known: &known,
            progress: &request.progress,
        };
        artifacts.push(packing.artifact(source, &mut stats)?);
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
