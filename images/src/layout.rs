//! Where everything is: the names of signed targets and the paths below a repository's URL or a
//! release's folder. Pure text.

use crate::digest::Digest;
use crate::names::ChannelName;

/// Signed metadata, below the repository's URL.
pub const METADATA_DIR: &str = "metadata";
/// Signed targets, below the repository's URL.
pub const TARGETS_DIR: &str = "targets";
/// Frames and pages of artifacts, below the repository's URL and in a release's folder.
pub const PACKS_DIR: &str = "packs";
/// Chunk indexes, below the repository's URL and in a release's folder.
pub const INDEXES_DIR: &str = "indexes";
/// Pair deltas, below the repository's URL.
pub const DELTAS_DIR: &str = "deltas";
/// The manifest in a release's folder.
pub const MANIFEST_FILE: &str = "manifest.json";
/// The repository's newest timestamp.
pub const TIMESTAMP_FILE: &str = "timestamp.json";

/// What a signed target holds, told by its name. There is no slash in a target's name, because TUF
/// clients do not agree on where a consistent snapshot's hash goes in a name with one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetKind {
    /// The manifest of that release.
    Manifest(Digest),
    /// That channel.
    Channel(ChannelName),
    /// The advisory on that release.
    Advisory(Digest),
    /// The withdrawal of that release.
    Withdrawal(Digest),
    /// How to get from one release to another.
    Delta {
        /// The release that a node runs.
        from: Digest,
        /// The release that it gets.
        to: Digest,
    },
}

impl TargetKind {
    /// The target's name in the signed metadata.
    #[must_use]
    pub fn target_name(&self) -> String {
        match self {
            Self::Manifest(digest) => format!("manifest-{}.json", digest.hex()),
            Self::Channel(name) => format!("channel-{name}.json"),
            Self::Advisory(digest) => format!("advisory-{}.json", digest.hex()),
            Self::Withdrawal(digest) => format!("withdrawal-{}.json", digest.hex()),
            Self::Delta { from, to } => format!("delta-{}-{}.json", from.hex(), to.hex()),
        }
    }

    /// What the target of that name holds. None for names of others, which are left alone.
    #[must_use]
    pub fn from_target_name(name: &str) -> Option<Self> {
        let (kind, rest) = name.strip_suffix(".json")?.split_once('-')?;
        match kind {
            "manifest" => Some(Self::Manifest(Digest::from_hex(rest).ok()?)),
            "channel" => Some(Self::Channel(rest.parse().ok()?)),
            "advisory" => Some(Self::Advisory(Digest::from_hex(rest).ok()?)),
            "withdrawal" => Some(Self::Withdrawal(Digest::from_hex(rest).ok()?)),
            "delta" => {
                let (from, to) = rest.split_once('-')?;
                let [from, to] = [from, to].map(|hex| Digest::from_hex(hex).ok());
                Some(Self::Delta { from: from?, to: to? })
            }
            _ => None,
        }
    }
}

/// `packs/HEX`, HEX the digest of the index that tells what is where in it.
#[must_use]
pub fn pack_path(index: &Digest) -> String {
    format!("{PACKS_DIR}/{}", index.hex())
}

/// `indexes/HEX`.
#[must_use]
pub fn index_path(digest: &Digest) -> String {
    format!("{INDEXES_DIR}/{}", digest.hex())
}

/// `deltas/HEX`, HEX the digest of the head that the file begins with.
#[must_use]
pub fn delta_path(head: &Digest) -> String {
    format!("{DELTAS_DIR}/{}", head.hex())
}

/// `targets/HASH.NAME`, or `targets/NAME` where the root does not ask for consistent snapshots.
#[must_use]
pub fn target_path(name: &str, digest: &Digest, consistent_snapshot: bool) -> String {
    if consistent_snapshot {
        format!("{TARGETS_DIR}/{}.{name}", digest.hex())
    } else {
        format!("{TARGETS_DIR}/{name}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_target_name_tells_what_it_holds() {
        let digest = Digest::of(b"x");
        for kind in [
            TargetKind::Manifest(digest),
            TargetKind::Channel("stable-2.x".parse().unwrap()),
            TargetKind::Advisory(digest),
            TargetKind::Withdrawal(digest),
            TargetKind::Delta {
                from: digest,
                to: Digest::of(b"y"),
            },
        ] {
            assert_eq!(TargetKind::from_target_name(&kind.target_name()), Some(kind));
        }
        for other in [
            "",
            "manifest-.json",
            "manifest-XYZ.json",
            "channel-../x.json",
            "foo-bar.json",
            "x",
        ] {
            assert_eq!(TargetKind::from_target_name(other), None, "{other}");
        }
    }
}
