//! The bounded names of a release's parts. All of them are safe as file names, URL segments and
//! Kubernetes label values; none is ever a path.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is no name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{found:?} is no {what}: write 1 to {max_bytes} characters out of a-z 0-9 . _ - that begin and end with a letter or a digit"
)]
pub struct InvalidName {
    /// Which kind of name was wanted.
    pub what: &'static str,
    /// What was found, cut to 100 characters.
    pub found: String,
    /// The longest such name, in bytes.
    pub max_bytes: usize,
}

fn checked(what: &'static str, max_bytes: usize, text: &str) -> Result<String, InvalidName> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = |b: Option<u8>| b.is_some_and(plain);
    let whole = text.bytes().all(|b| plain(b) || b"._-".contains(&b));
    if whole && text.len() <= max_bytes && ends(text.bytes().next()) && ends(text.bytes().last()) {
        Ok(text.to_owned())
    } else {
        Err(InvalidName {
            what,
            found: text.chars().take(100).collect(),
            max_bytes,
        })
    }
}

macro_rules! bounded_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                checked($what, $max, text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

bounded_name!(
    /// The name of the OS that a release is a version of, at most 63 characters.
    ReleaseName, "release name", 63
);
bounded_name!(
    /// The kind of machine a release is for, at most 63 characters.
    Board, "board", 63
);
bounded_name!(
    /// The processor architecture a release is for (`amd64`, `arm64`), at most 32 characters.
    Arch, "architecture", 32
);
bounded_name!(
    /// The name of one partition image in a release (`rootfs`, `kernel`), at most 32 characters.
    ArtifactName, "artifact name", 32
);
bounded_name!(
    /// The name of a channel (`stable`), at most 63 characters.
    ChannelName, "channel name", 63
);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn no_name_is_a_path() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a\\b",
            "-a",
            "a-",
            "A",
            "a b",
            "a\0",
            &"a".repeat(33),
        ] {
            assert!(bad.parse::<ArtifactName>().is_err(), "{bad:?}");
        }
        for good in ["rootfs", "a", "x86_64", "root.img", &"a".repeat(32)] {
            assert_eq!(good.parse::<ArtifactName>().unwrap().as_str(), good);
        }
    }
}
