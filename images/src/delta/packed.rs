//! What is packed with zstd in an image: frames that can be unpacked, and at which level this program's zstd
//! packs them again byte for byte.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use memchr::memmem;
use zstd::zstd_safe;

use super::MAX_PACKED_BYTES;
use super::ground::frame;
use super::head::Packing;
use super::segment::pack_frame;
use crate::chunk::ChunkId;

/// zstd's frame magic, little endian (RFC 8878, section 3.1.1).
const MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
/// Of the byte behind it, the bit that says that a checksum follows the content (section 3.1.1.1.1): programs
/// write it that compress files, not those that write file systems.
const CHECKSUM_FLAG: u8 = 1 << 2;
/// An image is searched in pieces of so many bytes, with what the longest frame may need behind them.
const PIECE_BYTES: usize = 8 << 20;
const LONGEST_FRAME_BYTES: usize = MAX_PACKED_BYTES as usize;
/// Frames of less content are left as they are: they would cost more than they save.
const LEAST_CONTENT_BYTES: usize = 1024;
/// The level is found with so many frames, ...
const SAMPLES: usize = 16;
/// ... of which one in so many may come out otherwise.
const WRONG_IN: usize = 8;
/// Levels in the order in which they are tried: what programs use when they are told nothing, then the rest,
/// the fast ones first.
const LEVELS: [u16; 22] = [
    15, 3, 9, 19, 12, 6, 1, 2, 4, 5, 7, 8, 10, 11, 13, 14, 16, 17, 18, 20, 21, 22,
];

/// A zstd frame in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackedFrame {
    /// Where it begins.
    pub at: u64,
    /// Its bytes as it stands there.
    pub bytes: u32,
    /// Those of its content, no fewer.
    pub content: u32,
    /// The id of what stands there.
    pub id: ChunkId,
}

impl PackedFrame {
    pub fn end(&self) -> u64 {
        self.at + u64::from(self.bytes)
    }
}

/// The frames of an image of `size` bytes, in order, without overlaps: all that can be unpacked, say how long
/// their content is, and have no more of it than may be packed again.
pub(super) fn find(file: &File, size: u64) -> io::Result<Vec<PackedFrame>> {
    let magic = memmem::Finder::new(&MAGIC);
    let mut context = zstd_safe::DCtx::create();
    let mut content = vec![0; MAX_PACKED_BYTES as usize];
    let (mut frames, mut piece, mut at) = (Vec::new(), Vec::new(), 0);
    while at < size {
        // At most what a piece has.
        let len = (size - at).min((PIECE_BYTES + LONGEST_FRAME_BYTES) as u64) as usize;
        piece.resize(len, 0);
        file.read_exact_at(&mut piece, at)?;
        // What begins behind this is found with the next piece.
        let limit = if at + len as u64 == size { len } else { PIECE_BYTES };
        let mut next = 0;
        while next < limit {
            let Some(found) = magic.find(&piece[next..]).map(|found| next + found) else {
                next = limit;
                break;
            };
            next = found.min(limit);
            if found >= limit {
                break;
            }
            match whole(&piece[found..], &mut context, &mut content) {
                Some((bytes, content)) => {
                    frames.push(PackedFrame {
                        at: at + found as u64,
                        // Both are at most MAX_PACKED_BYTES.
                        bytes: bytes as u32,
                        content: content as u32,
                        id: ChunkId::of(&piece[found..found + bytes]),
                    });
                    next = found + bytes;
                }
                None => next = found + 1,
            }
        }
        at += next as u64;
    }
    Ok(frames)
}

/// The lengths of the frame that `bytes` begin with and of its content, if it is one that can be unpacked.
fn whole(bytes: &[u8], context: &mut zstd_safe::DCtx<'_>, room: &mut [u8]) -> Option<(usize, usize)> {
    let (length, content) = frame(bytes)?;
    let has_checksum = bytes[MAGIC.len()] & CHECKSUM_FLAG != 0;
    if content < LEAST_CONTENT_BYTES || length > content || has_checksum {
        return None;
    }
    let made = context.decompress(&mut room[..content], &bytes[..length]);
    (made == Ok(content)).then_some((length, content))
}

/// How these frames of an image are packed again, if nearly all of them come out as they were.
pub(super) fn packing(file: &File, frames: &[PackedFrame]) -> io::Result<Option<Packing>> {
    let step = frames.len().div_ceil(SAMPLES).max(1);
    let mut samples = Vec::new();
    for frame in frames.iter().step_by(step) {
        let packed = read(file, frame)?;
        samples.push((unpack(&packed, frame)?, packed));
    }
    let mut context = zstd_safe::CCtx::create();
    let may_be_wrong = samples.len() / WRONG_IN;
    let mut makes = |level: u16| {
        let mut wrong = samples.iter().filter(|(content, packed)| {
            let again = pack_frame(&mut context, content, i32::from(level));
            again.as_ref() != Ok(packed)
        });
        wrong.nth(may_be_wrong).is_none()
    };
    let level = LEVELS.into_iter().find(|level| makes(*level));
    Ok(level.filter(|_| !samples.is_empty()).map(|level| Packing {
        level,
        zstd_version: zstd_safe::version_number(),
    }))
}

/// The bytes of a frame as they stand in its image.
pub(super) fn read(file: &File, frame: &PackedFrame) -> io::Result<Vec<u8>> {
    let mut packed = vec![0; frame.bytes as usize];
    file.read_exact_at(&mut packed, frame.at)?;
    Ok(packed)
}

/// The content of a frame.
pub(super) fn unpack(packed: &[u8], frame: &PackedFrame) -> io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(frame.content as usize);
    zstd_safe::DCtx::create()
        .decompress(&mut content, packed)
        .map_err(|code| io::Error::other(zstd_safe::get_error_name(code)))?;
    Ok(content)
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::chunk::cut::tests::noise;

    fn image(parts: &[&[u8]]) -> (File, u64) {
        let (file, bytes) = (tempfile::tempfile().unwrap(), parts.concat());
        file.write_all_at(&bytes, 0).unwrap();
        (file, bytes.len() as u64)
    }

    /// Content that can be packed.
    pub(in crate::delta) fn text(seed: u64, bytes: usize) -> Vec<u8> {
        let letters = noise(seed, bytes);
        letters.iter().map(|byte| b'a' + byte % 7).collect()
    }

    pub(in crate::delta) fn packed(content: &[u8], level: i32) -> Vec<u8> {
        pack_frame(&mut zstd_safe::CCtx::create(), content, level).unwrap()
    }

    #[test]
    fn frames_are_found_wherever_they_stand_and_nothing_else_is() {
        let frames = [1, 2, 3, 4].map(|seed| packed(&text(seed, 100_000 + seed as usize), 9));
        let cut = &frames[0][..frames[0].len() - 1];
        let mut with_checksum = zstd_safe::CCtx::create();
        let mut checked = Vec::with_capacity(10_000);
        with_checksum
            .set_parameter(zstd_safe::CParameter::ChecksumFlag(true))
            .and_then(|_| with_checksum.compress2(&mut checked, &text(5, 5000)))
            .unwrap();
        let small = packed(&text(7, 500), 9);
        let bomb = packed(&vec![0; 2 << 20], 9);
        // The second lies across the end of a piece, the third right behind it.
        let lead = noise(1, PIECE_BYTES - frames[0].len() - 1000);
        let behind = [cut, &checked, &small, &bomb, &MAGIC].concat();
        let (file, size) = image(&[
            &frames[0], &lead, &frames[1], &frames[2], &behind, &frames[3], &MAGIC,
        ]);
        let found = find(&file, size).unwrap();
        let first = frames[0].len() as u64;
        let second = PIECE_BYTES as u64 - 1000;
        let third = second + frames[1].len() as u64;
        let last = size - 4 - frames[3].len() as u64;
        let at: Vec<_> = found.iter().map(|frame| (frame.at, frame.content)).collect();
        assert_eq!(
            at,
            [(0, 100_001), (second, 100_002), (third, 100_003), (last, 100_004)]
        );
        assert_eq!(found[0].end(), first);
        assert_eq!(read(&file, &found[1]).unwrap(), frames[1]);
        assert_eq!(unpack(&frames[1], &found[1]).unwrap(), text(2, 100_002));
        assert_eq!(find(&image(&[]).0, 0).unwrap(), []);
    }

    #[test]
    fn the_level_is_found_at_which_nearly_all_come_out_as_they_were() {
        let found = |frames: &[Vec<u8>]| {
            let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
            let (file, size) = image(&frames);
            let packing = packing(&file, &find(&file, size).unwrap()).unwrap();
            packing.map(|packing| packing.level)
        };
        let at = |level: i32, count: u64| -> Vec<Vec<u8>> {
            (0..count)
                .map(|seed| packed(&text(seed, 20_000), level))
                .collect()
        };
        for level in [1, 9, 15, 19] {
            assert_eq!(found(&at(level, 20)), u16::try_from(level).ok());
        }
        assert_eq!(found(&at(3, 1)), Some(3));
        assert_eq!(found(&[]), None);
        // Of fifteen one may be another, of seven none.
        assert_eq!(found(&[at(9, 14), at(1, 1)].concat()), Some(9));
        assert_eq!(found(&[at(9, 6), at(1, 1)].concat()), None);
        assert_eq!(found(&[at(9, 8), at(1, 8)].concat()), None);
    }
}
