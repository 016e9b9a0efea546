//! SHA-256 digests, the names of everything immutable. Never another algorithm, never a shortened
//! name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// An image is also named span by span, so that it can be hashed on all cores; in bytes.
pub const SPAN_BYTES: u64 = 64 << 20;

/// A SHA-256 digest. Text form is `sha256:` and 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// A text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no digest: write sha256: and 64 lower-case hex digits")]
pub struct InvalidDigest {
    /// What was found, cut to 100 characters.
    pub found: String,
}

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// A digest from its 32 raw bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A digest from 64 lower-case hex digits, without the `sha256:` in front.
    ///
    /// # Errors
    /// Anything else than 64 lower-case hex digits.
    pub fn from_hex(text: &str) -> Result<Self, InvalidDigest> {
        let invalid = || InvalidDigest {
            found: text.chars().take(100).collect(),
        };
        if text.len() != 64 || text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(invalid());
        }
        let mut bytes = [0u8; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| invalid())?;
        Ok(Self(bytes))
    }

    /// 64 lower-case hex digits.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// `sha256-HEX`, for the names of Kubernetes objects, where a colon is not allowed.
    #[must_use]
    pub fn object_name(&self) -> String {
        format!("sha256-{}", self.hex())
    }

    /// The first 12 hex digits, for people only; never compared.
    #[must_use]
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        match text.strip_prefix("sha256:") {
            Some(hex) => Self::from_hex(hex),
            None => Err(InvalidDigest {
                found: text.chars().take(100).collect(),
            }),
        }
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A digest that is fed piece by piece.
#[derive(Clone, Default)]
pub struct Hasher {
    inner: sha2::Sha256,
    length_bytes: u64,
}

impl Hasher {
    /// A hasher that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.inner.update(bytes);
        self.length_bytes += bytes.len() as u64;
    }

    /// How many bytes were taken in so far.
    #[must_use]
    pub const fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// The digest of all that was taken in.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest(self.inner.finalize().into())
    }
}

/// Of an image, and of each of its spans.
pub(crate) type ImageDigests = (Digest, Vec<Digest>);

/// [`ImageDigests`] that are fed piece by piece.
#[derive(Default)]
pub(crate) struct ImageHasher {
    whole: Hasher,
    span: Hasher,
    spans: Vec<Digest>,
}

impl ImageHasher {
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        self.whole.update(bytes);
        while !bytes.is_empty() {
            let left = SPAN_BYTES - self.span.length_bytes();
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            let (here, behind) = bytes.split_at(here);
            self.span.update(here);
            if self.span.length_bytes() == SPAN_BYTES {
                self.spans.push(std::mem::take(&mut self.span).finish());
            }
            bytes = behind;
        }
    }

    /// How many bytes were taken in so far.
    pub(crate) const fn length_bytes(&self) -> u64 {
        self.whole.length_bytes()
    }

    /// The digests of all that was taken in.
    pub(crate) fn finish(mut self) -> ImageDigests {
        if self.span.length_bytes() > 0 {
            self.spans.push(self.span.finish());
        }
        (self.whole.finish(), self.spans)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn only_the_one_text_form_is_a_digest() {
        let digest = Digest::of(b"");
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse::<Digest>().unwrap(), digest);
        assert_eq!(digest.object_name(), text.replace(':', "-"));
        for bad in [
            "",
            "sha256:",
            "sha512:00",
            &text[..70],
            &text.to_uppercase(),
            &text[7..],
            &format!("{text}0"),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn piece_by_piece_is_the_same_as_at_once() {
        let mut hasher = Hasher::new();
        hasher.update(b"dry");
        hasher.update(b"dock");
        assert_eq!(hasher.length_bytes(), 7);
        assert_eq!(hasher.finish(), Digest::of(b"drydock"));
    }
}
