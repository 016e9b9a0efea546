//! The images of the demo's three releases: packed from this machine's program files, or anyone's own.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cluster::ReleaseImages;
use crate::image::{HostFiles, Marker, PackSpec, pack};
use crate::node::Behaviour;

/// The versions of the three releases.
pub const VERSIONS: [&str; 3] = ["1.0.0", "2.0.0", "2.1.0"];
/// The kubelets in them.
const KUBELETS: [&str; 3] = ["1.34.1", "1.34.2", "1.34.2"];
/// How large a packed kernel is at most.
const KERNEL_BYTES: u64 = 4 << 20;

/// The images of the three releases.
#[derive(Debug, Clone)]
pub struct StoryImages {
    releases: [ReleaseImages; 3],
    room: (u64, u64),
}

impl StoryImages {
    /// Packs program files of this machine into images below `folder`. Blocks.
    ///
    /// # Errors
    /// If there are no files, or no room.
    pub fn from_host(folder: &Path, root_bytes: u64) -> anyhow::Result<Self> {
        let files = HostFiles::find(root_bytes * 2)?;
        let root = |index: usize, generation, marker| {
            let spec = PackSpec {
                id: "harbor-os",
                version: VERSIONS[index],
                generation,
                marker,
                max_bytes: root_bytes,
            };
            let out = folder.join(format!("root-{}.img", VERSIONS[index]));
            pack(&files, &spec, &out).map(|_| out)
        };
        let roots = [
            root(0, 0, Marker::None)?,
            root(1, 1, Marker::None)?,
            root(2, 1, Marker::Unhealthy)?,
        ];
        Self::with_kernels(folder, roots, &files)
    }

    /// Takes two images as they are; the third is the second with a mark at its end. Blocks.
    ///
    /// # Errors
    /// If they cannot be read, or there is no room.
    pub fn from_files(folder: &Path, v1: &Path, v2: &Path) -> anyhow::Result<Self> {
        let mut roots = Vec::new();
        for (from, version) in [(v1, VERSIONS[0]), (v2, VERSIONS[1]), (v2, VERSIONS[2])] {
            let out = folder.join(format!("root-{version}.img"));
            std::fs::copy(from, &out).with_context(|| format!("copying the image {}", from.display()))?;
            if version == VERSIONS[2] {
                let mut content = std::fs::read(&out)?;
                content.extend_from_slice(b"broken on purpose\n");
                std::fs::write(&out, content)?;
            }
            roots.push(out);
        }
        let roots: [PathBuf; 3] = roots
            .try_into()
            .map_err(|_| anyhow::anyhow!("three images were made"))?;
        Self::with_kernels(folder, roots, &HostFiles::find(KERNEL_BYTES * 2)?)
    }

    /// The three releases: the first, a better one, and one that is not healthy.
    #[must_use]
    pub fn releases(&self) -> &[ReleaseImages; 3] {
        &self.releases
    }

    /// The longest kernel and root among them.
    #[must_use]
    pub fn room(&self) -> (u64, u64) {
        self.room
    }

    fn with_kernels(folder: &Path, roots: [PathBuf; 3], files: &HostFiles) -> anyhow::Result<Self> {
        let mut root_bytes = 0;
        let mut releases = Vec::new();
        for (index, root) in roots.into_iter().enumerate() {
            root_bytes = root_bytes.max(std::fs::metadata(&root)?.len());
            let kernel = folder.join(format!("kernel-{}.img", VERSIONS[index]));
            let spec = PackSpec {
                id: "harbor-kernel",
                version: VERSIONS[index],
                generation: u32::from(index > 0),
                marker: Marker::None,
                max_bytes: KERNEL_BYTES,
            };
            pack(files, &spec, &kernel)?;
            releases.push(ReleaseImages {
                version: VERSIONS[index].to_owned(),
                kubelet: KUBELETS[index].to_owned(),
                behaviour: if index == 2 {
                    Behaviour::UnhealthyCheck
                } else {
                    Behaviour::Healthy
                },
                kernel,
                root,
            });
        }
        let releases: [ReleaseImages; 3] = releases
            .try_into()
            .map_err(|_| anyhow::anyhow!("three releases were made"))?;
        Ok(Self {
            releases,
            room: (KERNEL_BYTES, root_bytes),
        })
    }
}
