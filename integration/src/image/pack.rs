//! Which files go into which image, and how version 2 differs from version 1.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use super::ustar::{UstarWriter, first_entry};

/// Files longer than this are left out: one of them would be the whole image.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Files shorter than this say little about an upgrade, and are many.
const MIN_FILE_BYTES: u64 = 2 << 10;
/// The name of the first entry.
const OS_RELEASE: &str = "etc/os-release";
/// How far folders are followed.
const MAX_DEPTH: usize = 4;

/// Why no image came about.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Nothing to pack.
    #[error(
        "no program files to pack were found below {roots}; give two images of your own with --artifact-v1 and --artifact-v2"
    )]
    NoFiles {
        /// Where was looked.
        roots: String,
    },
    /// The image could not be written.
    #[error("the image {path} cannot be written: {source}; is there room? (see --help for where it goes)")]
    Write {
        /// The image.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Program files of this machine, in a fixed order.
#[derive(Debug, Clone)]
pub struct HostFiles {
    files: Vec<(PathBuf, u64)>,
}

impl HostFiles {
    /// Looks below the folders that every Linux has, and stops when `enough_bytes` are found.
    ///
    /// # Errors
    /// If nothing readable was found.
    pub fn find(enough_bytes: u64) -> Result<Self, ImageError> {
        let roots = ["/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64", "/bin", "/lib"];
        Self::below(&roots.map(Path::new), enough_bytes)
    }

    /// The same below other folders.
    ///
    /// # Errors
    /// If nothing readable was found.
    pub fn below(roots: &[&Path], enough_bytes: u64) -> Result<Self, ImageError> {
        let mut found = Self { files: Vec::new() };
        let mut bytes = 0;
        for root in roots {
            found.walk(root, MAX_DEPTH, enough_bytes, &mut bytes);
        }
        if found.files.is_empty() {
            let roots = roots
                .iter()
                .map(|root| root.display().to_string())
                .collect::<Vec<_>>()
                .join(", ");
            return Err(ImageError::NoFiles { roots });
        }
        Ok(found)
    }

    fn walk(&mut self, folder: &Path, depth: usize, enough_bytes: u64, bytes: &mut u64) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            if *bytes >= enough_bytes {
                return;
            }
            // Links are not followed: what they point to is packed where it lies.
            let Ok(meta) = fs::symlink_metadata(&path) else {
                continue;
            };
            if meta.is_dir() && depth > 0 {
                self.walk(&path, depth - 1, enough_bytes, bytes);
            } else if meta.is_file() && (MIN_FILE_BYTES..=MAX_FILE_BYTES).contains(&meta.len()) {
                *bytes += UstarWriter::<io::Sink>::taken(meta.len());
                self.files.push((path, meta.len()));
            }
        }
    }
}

/// What is added to an image that is built to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// Nothing.
    None,
    /// A file that makes the system come up but fail its checks.
    Unhealthy,
}

/// One image.
#[derive(Debug, Clone)]
pub struct PackSpec<'a> {
    /// `IMAGE_ID` of its os-release.
    pub id: &'a str,
    /// `IMAGE_VERSION` of its os-release.
    pub version: &'a str,
    /// 0 for the first generation of files; each later one changes some of them.
    pub generation: u32,
    /// Whether it is built to fail.
    pub marker: Marker,
    /// The image is not longer than this.
    pub max_bytes: u64,
}

/// What a file becomes in one generation.
enum Change {
    Same,
    Rebuilt,
    Gone,
    WithNewNeighbour,
}

fn change_of(index: usize, generation: u32) -> Change {
    // Each generation touches other files; the spread is even, so that the change is seen everywhere.
    match (index + generation as usize * 7) % 41 {
        _ if generation == 0 => Change::Same,
        3 | 17 => Change::Rebuilt,
        11 if index.is_multiple_of(3) => Change::Gone,
        29 => Change::WithNewNeighbour,
        _ => Change::Same,
    }
}

/// A program built again from a changed source: its version text and some addresses differ, and what
/// follows the change has moved.
fn rebuilt(mut content: Vec<u8>, generation: u32) -> Vec<u8> {
    let middle = content.len() / 2;
    for at in (0..middle).step_by(24 << 10) {
        content[at] = content[at].wrapping_add(1);
    }
    let note = format!("rebuilt in generation {generation}");
    content.splice(middle..middle, note.into_bytes());
    content
}

/// Packs `files` into the image `out`. The same files and spec make the same bytes.
///
/// # Errors
/// If the image cannot be written. Files that cannot be read are left out.
pub fn pack(files: &HostFiles, spec: &PackSpec<'_>, out: &Path) -> Result<u64, ImageError> {
    let write = || -> io::Result<u64> {
        let file = BufWriter::with_capacity(1 << 20, File::create_new(out)?);
        let mut archive = UstarWriter::new(file);
        archive.file(OS_RELEASE, false, os_release(spec).as_bytes())?;
        match spec.marker {
            Marker::None => {}
            Marker::Unhealthy => {
                archive.file("etc/broken-on-purpose", false, b"this system fails its checks\n")?;
            }
        }
        pack_files(files, spec, &mut archive)?;
        let bytes = archive.written_bytes() + 1024;
        archive
            .finish()?
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?
            .flush()?;
        Ok(bytes)
    };
    write().map_err(|source| ImageError::Write {
        path: out.to_owned(),
        source,
    })
}

fn pack_files(
    files: &HostFiles,
    spec: &PackSpec<'_>,
    archive: &mut UstarWriter<BufWriter<File>>,
) -> io::Result<()> {
    for (index, (path, len)) in files.files.iter().enumerate() {
        let room = spec.max_bytes.saturating_sub(archive.written_bytes() + 1024);
        // Twice: a new neighbour may come with it.
        if UstarWriter::<io::Sink>::taken(*len + 4096) * 2 > room {
            continue;
        }
        let Ok(content) = fs::read(path) else { continue };
        let name = path.strip_prefix("/").unwrap_or(path).to_string_lossy();
        match change_of(index, spec.generation) {
            Change::Gone => {}
            Change::Same => {
                archive.file(&name, true, &content)?;
            }
            Change::Rebuilt => {
                archive.file(&name, true, &rebuilt(content, spec.generation))?;
            }
            Change::WithNewNeighbour => {
                let added: Vec<u8> = content.iter().take(64 << 10).map(|byte| byte ^ 0x5a).collect();
                archive.file(&name, true, &content)?;
                archive.file(&format!("{name}-{}", spec.generation), true, &added)?;
            }
        }
    }
    Ok(())
}

fn os_release(spec: &PackSpec<'_>) -> String {
    let PackSpec { id, version, .. } = spec;
    format!(
        "NAME=\"{id}\"\nID={id}\nPRETTY_NAME=\"{id} {version}\"\nIMAGE_ID={id}\nIMAGE_VERSION={version}\n"
    )
}

/// `IMAGE_VERSION` of an image made here; none for any other.
#[must_use]
pub fn os_release_of(image_start: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(first_entry(image_start, OS_RELEASE)?).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("IMAGE_VERSION="))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn packed(generation: u32, marker: Marker, max_bytes: u64) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        for nth in 0..80_u8 {
            let content: Vec<u8> = (0..4000 + u16::from(nth))
                .map(|at| (at % 251) as u8 ^ nth)
                .collect();
            fs::write(folder.path().join(format!("program-{nth:02}")), content).unwrap();
        }
        let files = HostFiles::below(&[folder.path()], 1 << 20).unwrap();
        let out = folder.path().join("image");
        let spec = PackSpec {
            id: "demo-os",
            version: "1.2.3",
            generation,
            marker,
            max_bytes,
        };
        let len = pack(&files, &spec, &out).unwrap();
        // The folder's own name is no part of what is compared.
        let mut bytes = fs::read(out).unwrap();
        assert_eq!(bytes.len() as u64, len);
        for header in bytes
            .chunks_mut(512)
            .filter(|block| block.get(257..262) == Some(b"ustar"))
        {
            header[..100].fill(0);
            header[148..156].fill(0);
        }
        bytes
    }

    #[test]
    fn the_same_files_make_the_same_image_and_each_generation_another() {
        let image = packed(0, Marker::None, 1 << 20);
        assert!(image == packed(0, Marker::None, 1 << 20));
        let next = packed(1, Marker::None, 1 << 20);
        assert!(image != next);
        assert!(next != packed(2, Marker::None, 1 << 20));
        assert!(next != packed(1, Marker::Unhealthy, 1 << 20));
    }

    #[test]
    fn an_image_says_its_version_in_its_first_entry() {
        let mut archive = UstarWriter::new(Vec::new());
        let spec = PackSpec {
            id: "x",
            version: "4.5",
            generation: 0,
            marker: Marker::None,
            max_bytes: 0,
        };
        archive
            .file(OS_RELEASE, false, os_release(&spec).as_bytes())
            .unwrap();
        let image = archive.finish().unwrap();
        assert_eq!(os_release_of(&image).as_deref(), Some("4.5"));
        assert_eq!(os_release_of(&image[512..]), None);
        assert_eq!(os_release_of(&image[..520]), None);
    }

    #[test]
    fn an_image_keeps_its_bound() {
        for max_bytes in [4096, 40_000, 100_000] {
            assert!(packed(1, Marker::Unhealthy, max_bytes).len() as u64 <= max_bytes);
        }
    }
}
