//! A stored frame: exactly one zstd frame with its content size, which may refer back to the bytes of the
//! image before it. Its SHA-256 is compared before anything of it is decoded.

use zstd::zstd_safe::{self, CParameter};

use super::id::ChunkId;
use super::page::Frame;
use super::{MAX_FRAME_BYTES, MAX_FRAME_CONTENT_BYTES};
use crate::digest::Digest;

/// zstd's frame magic, little endian (RFC 8878, section 3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
/// How a zstd dictionary begins (RFC 8878, section 5): the bytes before a frame must not be taken for one.
const DICTIONARY_MAGIC: [u8; 4] = [0x37, 0xA4, 0x30, 0xEC];

/// Why stored bytes are not the frame asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The page says more than a frame may have.
    #[error(
        "the page says {stored} bytes for {content}; a frame has at most {MAX_FRAME_BYTES} for {MAX_FRAME_CONTENT_BYTES}"
    )]
    TooLarge {
        /// Stored bytes.
        stored: u32,
        /// Bytes of content.
        content: u32,
    },
    /// Another number of bytes than the page says.
    #[error("{found} bytes are stored, the page says {wanted}")]
    Length {
        /// How many bytes are stored.
        found: u64,
        /// What the page says.
        wanted: u32,
    },
    /// What is stored is something else.
    #[error("what is stored has digest {found}")]
    Digest {
        /// The digest of what is stored.
        found: Digest,
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
    #[error("the frame says it holds {found:?} bytes, the page says {wanted}")]
    ContentSize {
        /// What the frame says.
        found: Option<u64>,
        /// What the page says.
        wanted: u32,
    },
    /// A chunk in it is another than the page lists.
    #[error("what is inside is not chunk {wanted}")]
    Chunk {
        /// The chunk that the page lists.
        wanted: ChunkId,
    },
    /// zstd cannot decompress it.
    #[error("the frame cannot be decompressed: {0}")]
    Broken(String),
}

/// The bytes that a frame refers back to. Part of the format: where they begin like a dictionary, their
/// first byte is left out, because zstd would read them as one.
fn referable(before: &[u8]) -> &[u8] {
    if before.starts_with(&DICTIONARY_MAGIC) {
        &before[1..]
    } else {
        before
    }
}

/// How many positions the writer looks back through, as a power of two: about what a frame and the bytes before
/// it have. zstd would take four times as many, and clear them all for each frame.
const fn hash_log(bytes: usize) -> u32 {
    if bytes <= 256 * 1024 { 17 } else { 18 }
}

/// The levels that look through such a table.
const HASHING_LEVELS: std::ops::RangeInclusive<i32> = 5..=10;

/// Packs `content`, which stands in the image right after `before`. The same bytes, level and zstd version
/// give the same frame; which level was used does not matter to a reader.
///
/// # Errors
/// What zstd reports.
pub fn encode_frame<'a>(
    context: &mut zstd_safe::CCtx<'a>,
    content: &[u8],
    before: &'a [u8],
    level: i32,
) -> std::io::Result<Vec<u8>> {
    let mut stored = Vec::with_capacity(zstd_safe::compress_bound(content.len()));
    // Zero is zstd's own choice.
    let hash_log = if HASHING_LEVELS.contains(&level) {
        hash_log(content.len() + before.len())
    } else {
        0
    };
    let packed = context
        .set_parameter(CParameter::CompressionLevel(level))
        .and_then(|_| context.set_parameter(CParameter::HashLog(hash_log)))
        .and_then(|_| context.ref_prefix(referable(before)))
        .and_then(|_| context.compress2(&mut stored, content));
    packed.map_err(|code| std::io::Error::other(zstd_safe::get_error_name(code)))?;
    Ok(stored)
}

/// As [`encode_frame`], for content and bytes before it that are longer than those of a page's frames: zstd
/// chooses its tables.
///
/// # Errors
/// What zstd reports.
pub(crate) fn encode_large_frame(
    context: &mut zstd_safe::CCtx<'_>,
    content: &[u8],
    before: &[u8],
    level: i32,
) -> std::io::Result<Vec<u8>> {
    let mut stored = Vec::with_capacity(zstd_safe::compress_bound(content.len()));
    context
        .compress_using_dict(&mut stored, content, referable(before), level)
        .map_err(|code| std::io::Error::other(zstd_safe::get_error_name(code)))?;
    Ok(stored)
}

/// Unpacks frames.
pub struct Decoder {
    context: zstd_safe::DCtx<'static>,
    content: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder; one serves many frames.
    #[must_use]
    pub fn new() -> Self {
        Self {
            context: zstd_safe::DCtx::create(),
            content: Vec::new(),
        }
    }

    /// The content of one stored frame, which stands in the image right after `before`.
    ///
    /// # Errors
    /// Anything but exactly the frame that `frame` describes; see [`FrameError`].
    pub fn decode(&mut self, stored: &[u8], frame: &Frame, before: &[u8]) -> Result<&[u8], FrameError> {
        self.unpack(stored, &Described::of(frame)?, before)
    }

    /// As [`Decoder::decode`], into `room`, which has just as many bytes as the content. Faster where that is
    /// the memory right behind `before`.
    ///
    /// # Errors
    /// As [`Decoder::decode`].
    pub(super) fn decode_into(
        &mut self,
        room: &mut [u8],
        stored: &[u8],
        frame: &Frame,
        before: &[u8],
    ) -> Result<(), FrameError> {
        self.unpack_into(room, stored, &Described::of(frame)?, before)
    }

    /// The content of a stored frame on the ground of `before`.
    ///
    /// # Errors
    /// Anything but exactly the frame that is described; see [`FrameError`].
    pub(crate) fn unpack(
        &mut self,
        stored: &[u8],
        described: &Described,
        before: &[u8],
    ) -> Result<&[u8], FrameError> {
        let mut content = std::mem::take(&mut self.content);
        content.resize(described.content_bytes as usize, 0);
        self.unpack_into(&mut content, stored, described, before)?;
        self.content = content;
        Ok(&self.content)
    }

    fn unpack_into(
        &mut self,
        room: &mut [u8],
        stored: &[u8],
        described: &Described,
        before: &[u8],
    ) -> Result<(), FrameError> {
        check_stored(stored, described)?;
        // There is room for exactly what was said: a frame that holds more fails.
        let decoded = self
            .context
            .decompress_using_dict(room, stored, referable(before))
            .map_err(|code| FrameError::Broken(zstd_safe::get_error_name(code).to_owned()))?;
        if decoded == described.content_bytes as usize {
            Ok(())
        } else {
            Err(FrameError::ContentSize {
                found: Some(decoded as u64),
                wanted: described.content_bytes,
            })
        }
    }
}

/// What a page, or a delta, says of a stored frame. The caller has bounded it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Described {
    pub stored_bytes: u32,
    pub content_bytes: u32,
    pub digest: Digest,
}

impl Described {
    fn of(frame: &Frame) -> Result<Self, FrameError> {
        let (stored, content) = (frame.stored_bytes, frame.content_bytes);
        if stored > MAX_FRAME_BYTES || content > MAX_FRAME_CONTENT_BYTES {
            return Err(FrameError::TooLarge { stored, content });
        }
        Ok(Self {
            stored_bytes: stored,
            content_bytes: content,
            digest: frame.digest,
        })
    }
}

/// All that can be told without decoding.
fn check_stored(stored: &[u8], described: &Described) -> Result<(), FrameError> {
    if stored.len() as u64 != u64::from(described.stored_bytes) {
        return Err(FrameError::Length {
            found: stored.len() as u64,
            wanted: described.stored_bytes,
        });
    }
    let found = Digest::of(stored);
    if found != described.digest {
        return Err(FrameError::Digest { found });
    }
    // A skippable frame has another magic, and is refused here.
    if !stored.starts_with(&ZSTD_MAGIC) {
        return Err(FrameError::NoFrame);
    }
    let length = zstd_safe::find_frame_compressed_size(stored).map_err(|_| FrameError::CutOff)?;
    if length < stored.len() {
        return Err(FrameError::Trailing {
            extra: stored.len() - length,
        });
    }
    let content = zstd_safe::get_frame_content_size(stored).map_err(|_| FrameError::NoFrame)?;
    if content != Some(u64::from(described.content_bytes)) {
        return Err(FrameError::ContentSize {
            found: content,
            wanted: described.content_bytes,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::chunk::Part;
    use crate::chunk::cut::tests::noise;

    fn packed(level: i32, content: &[u8], before: &[u8]) -> Vec<u8> {
        encode_frame(&mut zstd_safe::CCtx::create(), content, before, level).unwrap()
    }

    /// What a page would say of these stored bytes.
    fn described(stored: &[u8], content_bytes: usize) -> Frame {
        Frame {
            part: Part::Front,
            first_chunk: 0,
            chunks: 1,
            stored_bytes: u32::try_from(stored.len()).unwrap(),
            content_bytes: u32::try_from(content_bytes).unwrap(),
            digest: Digest::of(stored),
        }
    }

    fn decode(stored: &[u8], content_bytes: usize, before: &[u8]) -> Result<Vec<u8>, FrameError> {
        let frame = described(stored, content_bytes);
        Decoder::new().decode(stored, &frame, before).map(<[u8]>::to_vec)
    }

    #[test]
    fn any_level_gives_back_the_same_content_and_what_went_before_helps() {
        let before = noise(8, 100_000);
        for content in [vec![7; 100_000], noise(3, MAX_FRAME_CONTENT_BYTES as usize)] {
            for level in [1, 9, 19] {
                let stored = packed(level, &content, &before);
                assert!(stored.len() as u64 <= u64::from(MAX_FRAME_BYTES));
                assert_eq!(decode(&stored, content.len(), &before).unwrap(), content);
            }
        }
        let moved = [&before[1234..60_000], b"a few bytes more".as_slice()].concat();
        let stored = packed(3, &moved, &before);
        assert!(stored.len() < 200, "{} bytes", stored.len());
        assert_eq!(decode(&stored, moved.len(), &before).unwrap(), moved);
        // On another ground it is other bytes, or none.
        assert_ne!(decode(&stored, moved.len(), &noise(9, 100_000)).ok(), Some(moved));
    }

    #[test]
    fn an_image_that_looks_like_a_dictionary_is_none() {
        let before = [DICTIONARY_MAGIC.as_slice(), &noise(4, 50_000)].concat();
        let content = [b"x".as_slice(), &before[10..40_000]].concat();
        let stored = packed(3, &content, &before);
        assert!(stored.len() < 200, "{} bytes", stored.len());
        assert_eq!(decode(&stored, content.len(), &before).unwrap(), content);
    }

    #[test]
    fn a_frame_that_is_not_the_described_one_is_not_decoded() {
        let content = noise(5, 700).repeat(3);
        let stored = packed(3, &content, b"");
        let frame = described(&stored, content.len());
        let mut decoder = Decoder::new();
        for at in 0..stored.len() {
            assert!(matches!(
                decoder.decode(&stored[..at], &frame, b""),
                Err(FrameError::Length { .. })
            ));
            let mut flipped = stored.clone();
            flipped[at] ^= 0x40;
            assert!(matches!(
                decoder.decode(&flipped, &frame, b""),
                Err(FrameError::Digest { .. })
            ));
        }
    }

    /// What follows was signed, by a signer who makes mistakes or was deceived.
    #[test]
    fn nothing_may_follow_precede_or_replace_the_frame() {
        let content = noise(9, 1000);
        let stored = packed(3, &content, b"");
        let second = [stored.clone(), packed(3, b"more", b"")].concat();
        let extra = second.len() - stored.len();
        assert_eq!(decode(&second, 1000, b""), Err(FrameError::Trailing { extra }));
        let trailing = [stored.as_slice(), b"x"].concat();
        assert_eq!(
            decode(&trailing, 1000, b""),
            Err(FrameError::Trailing { extra: 1 })
        );
        let skippable = [&[0x50, 0x2A, 0x4D, 0x18, 1, 0, 0, 0, 0], stored.as_slice()].concat();
        assert_eq!(decode(&skippable, 1000, b""), Err(FrameError::NoFrame));
        for at in 4..stored.len() {
            assert!(decode(&stored[..at], 1000, b"").is_err(), "cut at {at}");
        }
    }

    /// Whatever the page says, there are bounds; what it says is not taken for less.
    #[test]
    fn a_frame_beyond_the_bounds_is_refused_whatever_the_page_says() {
        let most = MAX_FRAME_CONTENT_BYTES as usize;
        let stored = packed(3, &vec![7; most], b"");
        assert_eq!(decode(&stored, most, b"").unwrap().len(), most);
        let more = decode(&stored, most + 1, b"");
        assert!(matches!(more, Err(FrameError::TooLarge { .. })), "{more:?}");
        let long = vec![0; MAX_FRAME_BYTES as usize + 1];
        assert!(matches!(
            decode(&long, 1000, b""),
            Err(FrameError::TooLarge { .. })
        ));
    }

    #[test]
    fn a_bomb_is_refused_by_what_it_says_and_by_what_it_does() {
        let bomb = packed(19, &vec![0; 64 << 20], b"");
        assert!(matches!(
            decode(&bomb, 1000, b""),
            Err(FrameError::ContentSize { .. })
        ));
        // Without a content size (streamed), it is refused too.
        let silent = zstd::stream::encode_all(&vec![0; 64 << 20][..], 3).unwrap();
        assert!(matches!(
            decode(&silent, 1000, b""),
            Err(FrameError::ContentSize { found: None, .. })
        ));
    }
}
