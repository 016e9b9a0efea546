//! What all cases of a sweep have in common: two small releases.

use std::path::Path;

use anyhow::Context as _;

use crate::cluster::ReleaseImages;
use crate::node::Behaviour;

/// What all cases of a sweep have in common.
#[derive(Debug, Clone)]
pub struct Scenery {
    pub(super) first: ReleaseImages,
    pub(super) second: ReleaseImages,
    pub(super) room: (u64, u64),
}

impl Scenery {
    /// Small images below `folder`; the second release boots and is healthy, or boots and is not.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn prepare(folder: &Path, second: Behaviour) -> anyhow::Result<Self> {
        let image = |name: &str, bytes: usize, seed: u64, changed: bool| -> anyhow::Result<_> {
            let mut state = seed;
            let mut content: Vec<u8> = std::iter::repeat_with(|| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .take(bytes)
            .collect();
            if changed {
                let middle = bytes / 2;
                content[middle..middle + 4096].fill(7);
            }
            let path = folder.join(name);
            std::fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
            Ok(path)
        };
        let release = |version: &str, behaviour, changed| -> anyhow::Result<ReleaseImages> {
            Ok(ReleaseImages {
                version: version.to_owned(),
                kubelet: "1.34.1".to_owned(),
                behaviour,
                kernel: image(&format!("kernel-{version}"), 64 << 10, 1, changed)?,
                root: image(&format!("root-{version}"), 512 << 10, 2, changed)?,
            })
        };
        Ok(Self {
            first: release("1.0.0", Behaviour::Healthy, false)?,
            second: release("2.0.0", second, true)?,
            room: (64 << 10, 512 << 10),
        })
    }

    pub(super) fn good(&self) -> bool {
        self.second.behaviour == Behaviour::Healthy
    }
}
