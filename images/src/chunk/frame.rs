//! A stored chunk: exactly one zstd frame with its content size and checksum. The reader gives out
//! no byte that does not have the digest asked for, and reads no byte past the bound.

use zstd::zstd_safe;

use super::{MAX_CHUNK_BYTES, MAX_FRAME_BYTES};
use crate::digest::Digest;

/// zstd's frame magic, little endian (RFC 8878, section 3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

/// Why a stored chunk is not the chunk asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// More bytes than any chunk needs.
    #[error("{length} bytes are stored, more than any chunk needs ({MAX_FRAME_BYTES})")]
    TooLong {
        /// How many bytes are stored.
        length: u64,
    },
    /// It does not begin as a zstd frame.
    #[error("what is stored is no zstd frame")]
    NoFrame,
    /// The frame stops before its end.
    #[error("the frame is cut off")]
    CutOff,
    /// Something follows the frame.
    #[error("{extra} bytes follow the frame")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// The frame does not say, or says another, content size.
    #[error("the frame says it holds {found:?} bytes, the index says {wanted}")]
    ContentSize {
        /// What the frame says.
        found: Option<u64>,
        /// What the index says.
        wanted: u32,
    },
    /// zstd cannot decompress it.
    #[error("the frame cannot be decompressed: {0}")]
    Broken(String),
    /// What came out is something else.
    #[error("what is inside has digest {found}")]
    Digest {
        /// The digest of what came out.
        found: Digest,
    },
}

/// Packs one chunk into a frame. The same bytes, level and zstd version give the same frame; which
/// level was used does not matter to a reader.
///
/// # Errors
/// What zstd reports.
pub fn encode_frame(compressor: &mut zstd::bulk::Compressor<'_>, data: &[u8]) -> std::io::Result<Vec<u8>> {
    compressor.set_parameter(zstd_safe::CParameter::ChecksumFlag(true))?;
    compressor.set_parameter(zstd_safe::CParameter::ContentSizeFlag(true))?;
    compressor.compress(data)
}

/// Unpacks one frame that must hold exactly `length` bytes with digest `digest`.
///
/// # Errors
/// Anything but exactly that one frame; see [`FrameError`].
pub fn decode_frame(stored: &[u8], length: u32, digest: &Digest) -> Result<Vec<u8>, FrameError> {
    if stored.len() as u64 > MAX_FRAME_BYTES {
        return Err(FrameError::TooLong {
            length: stored.len() as u64,
        });
    }
    // A skippable frame has another magic, and is refused here.
    if !stored.starts_with(&ZSTD_MAGIC) {
        return Err(FrameError::NoFrame);
    }
    let frame_length = zstd_safe::find_frame_compressed_size(stored).map_err(|_| FrameError::CutOff)?;
    if frame_length < stored.len() {
        return Err(FrameError::Trailing {
            extra: stored.len() - frame_length,
        });
    }
    let content = zstd_safe::get_frame_content_size(stored).map_err(|_| FrameError::NoFrame)?;
    if content != Some(u64::from(length)) || length > MAX_CHUNK_BYTES {
        return Err(FrameError::ContentSize {
            found: content,
            wanted: length,
        });
    }
    // The buffer has room for exactly what the index says: a frame that holds more fails.
    let data = zstd::bulk::decompress(stored, length as usize)
        .map_err(|error| FrameError::Broken(error.to_string()))?;
    let found = Digest::of(&data);
    if data.len() != length as usize || found != *digest {
        return Err(FrameError::Digest { found });
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::chunk::cut::tests::noise;

    fn packed(level: i32, data: &[u8]) -> Vec<u8> {
        encode_frame(&mut zstd::bulk::Compressor::new(level).unwrap(), data).unwrap()
    }

    #[test]
    fn any_level_gives_back_the_same_chunk() {
        for data in [vec![], vec![7; 100_000], noise(3, MAX_CHUNK_BYTES as usize)] {
            for level in [1, 9, 19] {
                let stored = packed(level, &data);
                assert!(stored.len() as u64 <= MAX_FRAME_BYTES);
                let length = u32::try_from(data.len()).unwrap();
                assert_eq!(decode_frame(&stored, length, &Digest::of(&data)).unwrap(), data);
            }
        }
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_refused() {
        let data = noise(5, 700).repeat(3);
        let stored = packed(3, &data);
        let digest = Digest::of(&data);
        for length in 0..stored.len() {
            assert!(
                decode_frame(&stored[..length], 2100, &digest).is_err(),
                "cut at {length}"
            );
            let mut flipped = stored.clone();
            flipped[length] ^= 0x40;
            if let Ok(out) = decode_frame(&flipped, 2100, &digest) {
                assert_eq!(out, data, "flipped at {length}");
            }
        }
    }

    #[test]
    fn nothing_may_follow_precede_or_replace_the_frame() {
        let data = noise(9, 1000);
        let digest = Digest::of(&data);
        let stored = packed(3, &data);
        let second = [stored.clone(), packed(3, b"more")].concat();
        assert_eq!(
            decode_frame(&second, 1000, &digest),
            Err(FrameError::Trailing {
                extra: second.len() - stored.len()
            })
        );
        let trailing = [stored.as_slice(), b"x"].concat();
        assert_eq!(
            decode_frame(&trailing, 1000, &digest),
            Err(FrameError::Trailing { extra: 1 })
        );
        let skippable = [&[0x50, 0x2A, 0x4D, 0x18, 1, 0, 0, 0, 0], stored.as_slice()].concat();
        assert_eq!(decode_frame(&skippable, 1000, &digest), Err(FrameError::NoFrame));
        let other = packed(3, &noise(10, 1000));
        assert!(matches!(
            decode_frame(&other, 1000, &digest),
            Err(FrameError::Digest { .. })
        ));
    }

    #[test]
    fn a_bomb_is_refused_by_what_it_says_and_by_what_it_does() {
        let bomb = packed(19, &vec![0; 64 << 20]);
        assert!(matches!(
            decode_frame(&bomb, 1000, &Digest::of(b"")),
            Err(FrameError::ContentSize { .. })
        ));
        // Without a content size (streamed), it is refused too.
        let silent = zstd::stream::encode_all(&vec![0; 64 << 20][..], 3).unwrap();
        assert!(matches!(
            decode_frame(&silent, 1000, &Digest::of(b"")),
            Err(FrameError::ContentSize { found: None, .. })
        ));
        let long = vec![0; usize::try_from(MAX_FRAME_BYTES).unwrap() + 1];
        assert!(matches!(
            decode_frame(&long, 1000, &Digest::of(b"")),
            Err(FrameError::TooLong { .. })
        ));
    }
}
