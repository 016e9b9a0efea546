//! Cutting a stream of bytes where its content says so (FastCDC 2020), so that two images that share
//! content share chunks wherever it lies in them. Pure: it is fed bytes and hands out chunks, and the
//! same bytes give the same cuts however they were fed.

use std::io::{self, Read};

use fastcdc::v2020::{Normalization, cut, select_masks};

use super::{AVG_CHUNK_BYTES, BLOCK_BYTES, MAX_CHUNK_BYTES};

/// How much a reader is asked for at a time, in bytes.
const READ_BYTES: usize = 1024 * 1024;

/// An image has about this many chunks at most: where it is longer, its chunks are.
const CHUNKS_AIMED_AT: u64 = 1 << 20;
/// How much of an image's front [`Cuts::for_image`] looks at, in bytes.
pub const FRONT_BYTES: usize = 2048;
/// The bit of [`Cuts::code`] that says blocks.
const IN_BLOCKS: u32 = 1 << 31;

/// Where an image is cut. Releases of images of the same kind and of about the same size are cut alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cuts {
    at: At,
    avg_bytes: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Wherever the content says so: what moves by any number of bytes is found again.
    Content,
    /// At every block. File systems that lay files out in blocks move whole ones, and change single ones.
    Blocks,
}

/// ext2 to ext4: the superblock's magic (Linux, Documentation/filesystems/ext4/super.rst).
const EXT4: (usize, [u8; 2]) = (1024 + 0x38, [0x53, 0xEF]);
/// EROFS: the superblock's magic (Linux, fs/erofs/erofs_fs.h).
const EROFS: (usize, [u8; 4]) = (1024, [0xE2, 0xE1, 0xF5, 0xE0]);

impl Cuts {
    /// How an image of that many bytes is cut that begins with `front`. ext4 and EROFS of up to 2^20 blocks of
    /// 4 KiB: in these. Others: by content, 8 KiB on average, a quarter of it at least and eight times it at
    /// most. Where that would be more than 2^20 chunks, twice as much, and so on to 64 KiB. Several blocks
    /// together would hardly be found again, since files move by single ones.
    #[must_use]
    pub fn for_image(size_bytes: u64, front: &[u8]) -> Self {
        let has = |place: usize, magic: &[u8]| front.get(place..place + magic.len()) == Some(magic);
        let has_blocks = has(EXT4.0, &EXT4.1) || has(EROFS.0, &EROFS.1);
        if has_blocks && size_bytes <= CHUNKS_AIMED_AT * u64::from(BLOCK_BYTES) {
            return Self {
                at: At::Blocks,
                avg_bytes: BLOCK_BYTES,
            };
        }
        let mut avg_bytes = AVG_CHUNK_BYTES;
        while size_bytes > CHUNKS_AIMED_AT * u64::from(avg_bytes) && avg_bytes * 8 < MAX_CHUNK_BYTES {
            avg_bytes *= 2;
        }
        Self {
            at: At::Content,
            avg_bytes,
        }
    }

    /// The rule with that code, if there is one.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        let (at, least) = match code & IN_BLOCKS {
            0 => (At::Content, AVG_CHUNK_BYTES),
            _ => (At::Blocks, BLOCK_BYTES),
        };
        let avg_bytes = code & !IN_BLOCKS;
        let known = (least..=MAX_CHUNK_BYTES / 8).contains(&avg_bytes) && avg_bytes.is_power_of_two();
        known.then_some(Self { at, avg_bytes })
    }

    /// As it stands in an index: the average in bytes, and bit 31 for blocks.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self.at {
            At::Content => self.avg_bytes,
            At::Blocks => self.avg_bytes | IN_BLOCKS,
        }
    }

    /// No chunk is longer.
    #[must_use]
    pub const fn max_bytes(self) -> usize {
        match self.at {
            At::Content => self.avg_bytes as usize * 8,
            At::Blocks => self.avg_bytes as usize,
        }
    }
}

/// One chunk as it was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutChunk {
    /// Where it begins, in bytes from the start of the stream.
    pub offset: u64,
    /// Its bytes, at most [`Cuts::max_bytes`] of them.
    pub data: Vec<u8>,
}

/// Where the next chunk ends.
#[derive(Debug)]
struct Cutter {
    cuts: Cuts,
    mask_s: u64,
    mask_l: u64,
}

impl Cutter {
    fn new(cuts: Cuts) -> Self {
        // FastCDC normalisation level 1 with its unseeded gear table: part of the format.
        let (mask_s, mask_l) = select_masks(cuts.avg_bytes as usize, Normalization::Level1);
        Self { cuts, mask_s, mask_l }
    }

    /// The length of the chunk that `left` begins with. It depends on no more than the longest chunk holds.
    fn length(&self, left: &[u8]) -> usize {
        let (avg_bytes, max_bytes) = (self.cuts.avg_bytes as usize, self.cuts.max_bytes());
        match self.cuts.at {
            At::Blocks => left.len().min(max_bytes),
            At::Content => {
                let (small, large) = (self.mask_s, self.mask_l);
                cut(
                    left,
                    avg_bytes / 4,
                    avg_bytes,
                    max_bytes,
                    small,
                    large,
                    small << 1,
                    large << 1,
                )
                .1
            }
        }
    }
}

/// Cuts what stands in memory.
pub fn chunk_slice(bytes: &[u8], cuts: Cuts) -> impl Iterator<Item = &[u8]> {
    let cutter = Cutter::new(cuts);
    let mut left = bytes;
    std::iter::from_fn(move || {
        let (chunk, rest) = left.split_at(cutter.length(left));
        left = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}

/// Cuts what it is fed. Holds no more than what was fed and not yet taken.
#[derive(Debug)]
pub struct Chunker {
    cutter: Cutter,
    pending: Vec<u8>,
    start: usize,
    offset: u64,
    ended: bool,
}

impl Chunker {
    /// A chunker at the start of a stream.
    #[must_use]
    pub fn new(cuts: Cuts) -> Self {
        Self {
            cutter: Cutter::new(cuts),
            pending: Vec::new(),
            start: 0,
            offset: 0,
            ended: false,
        }
    }

    /// Feeds the next bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.pending.drain(..self.start);
        self.start = 0;
        self.pending.extend_from_slice(bytes);
    }

    /// Says that the stream has ended; what is left comes out as the last chunks.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// The next chunk, or None until more is fed (or for good, after the end).
    pub fn next_chunk(&mut self) -> Option<CutChunk> {
        let left = &self.pending[self.start..];
        // A cut depends on what the longest chunk holds, so with less it must wait.
        if left.is_empty() || (left.len() < self.cutter.cuts.max_bytes() && !self.ended) {
            return None;
        }
        let length = self.cutter.length(left);
        let chunk = CutChunk {
            offset: self.offset,
            data: left[..length].to_vec(),
        };
        self.start += length;
        self.offset += length as u64;
        Some(chunk)
    }
}

/// Cuts all that `reader` has, chunk by chunk, in bounded memory.
pub fn chunk_reader<R: Read>(reader: R, cuts: Cuts) -> impl Iterator<Item = io::Result<CutChunk>> {
    ReaderChunks {
        reader,
        chunker: Chunker::new(cuts),
        buffer: vec![0; READ_BYTES],
        failed: false,
    }
}

struct ReaderChunks<R> {
    reader: R,
    chunker: Chunker,
    buffer: Vec<u8>,
    failed: bool,
}

impl<R: Read> Iterator for ReaderChunks<R> {
    type Item = io::Result<CutChunk>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.failed {
                return None;
            }
            if let Some(chunk) = self.chunker.next_chunk() {
                return Some(Ok(chunk));
            }
            if self.chunker.ended {
                return None;
            }
            match self.reader.read(&mut self.buffer) {
                Ok(0) => self.chunker.end(),
                Ok(read) => self.chunker.feed(&self.buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use proptest::prelude::*;

    /// Bytes that look random and are the same for the same seed.
    pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut out = Vec::with_capacity(length + 8);
        while out.len() < length {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            out.extend_from_slice(&state.to_le_bytes());
        }
        out.truncate(length);
        out
    }

    pub(crate) const CUTS: Cuts = Cuts {
        at: At::Content,
        avg_bytes: AVG_CHUNK_BYTES,
    };

    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let take = self.1.min(self.0.len()).min(buffer.len());
            buffer[..take].copy_from_slice(&self.0[..take]);
            self.0 = &self.0[take..];
            Ok(take)
        }
    }

    #[test]
    fn the_cuts_are_those_of_the_format() {
        // Pinned: another cut would orphan every chunk that nodes already hold.
        let lengths: Vec<usize> = chunk_reader(&noise(7, 100_000)[..], CUTS)
            .map(|c| c.unwrap().data.len())
            .collect();
        assert_eq!(
            lengths,
            [6291, 12_051, 18_706, 18_197, 2695, 9631, 11_082, 14_218, 7129]
        );
        let zeros: Vec<usize> = chunk_reader(&vec![0; 150_000][..], CUTS)
            .map(|c| c.unwrap().data.len())
            .collect();
        assert_eq!(zeros, [65_536, 65_536, 18_928]);
    }

    #[test]
    fn a_shift_in_front_leaves_later_chunks_as_they_were() {
        let old = noise(1, 3_000_000);
        let new = [b"a few bytes more".as_slice(), &old].concat();
        let cuts = |bytes: &[u8]| {
            chunk_reader(bytes, CUTS)
                .map(|c| c.unwrap().data)
                .collect::<Vec<_>>()
        };
        let (old, new) = (cuts(&old), cuts(&new));
        let shared = new.iter().filter(|chunk| old.contains(chunk)).count();
        assert!(shared + 3 >= new.len(), "{shared} of {} chunks shared", new.len());
    }

    #[test]
    fn longer_images_have_longer_chunks_not_more() {
        let mut ext4 = vec![0; FRONT_BYTES];
        ext4[1080..1082].copy_from_slice(&[0x53, 0xEF]);
        let mut erofs = vec![0; FRONT_BYTES];
        erofs[1024..1028].copy_from_slice(&[0xE2, 0xE1, 0xF5, 0xE0]);
        let table = [
            (1, 8, true),
            (4 << 30, 8, true),
            ((4 << 30) + 1, 8, false),
            (8 << 30, 8, false),
            (16 << 30, 16, false),
            (64 << 30, 64, false),
        ];
        for (size, by_content, in_blocks) in table {
            let by_content = by_content * 1024;
            assert_eq!(Cuts::for_image(size, &[]).code(), by_content, "{size}");
            let wanted = if in_blocks { 4096 | (1 << 31) } else { by_content };
            for front in [&ext4, &erofs] {
                assert_eq!(Cuts::for_image(size, front).code(), wanted, "{size}");
            }
        }
        for front in [&[][..], &ext4] {
            let longest = Cuts::for_image(u64::MAX, front);
            assert!(longest.max_bytes() <= MAX_CHUNK_BYTES as usize);
            assert_eq!(Cuts::from_code(longest.code()), Some(longest));
        }
        for none in [0, 1, 4096, 8193, MAX_CHUNK_BYTES, 2048 | (1 << 31), u32::MAX] {
            assert_eq!(Cuts::from_code(none), None, "{none}");
        }
    }

    #[test]
    fn blocks_are_cut_where_they_end_and_the_last_one_where_the_image_does() {
        let cuts = Cuts::from_code(4096 | (1 << 31)).unwrap();
        let lengths = |bytes: &[u8]| {
            chunk_reader(bytes, cuts)
                .map(|c| c.unwrap().data.len())
                .collect::<Vec<_>>()
        };
        assert_eq!(lengths(&noise(1, 9000)), [4096, 4096, 808]);
        assert_eq!(lengths(&noise(1, 8192)), [4096, 4096]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn cuts_do_not_depend_on_how_the_bytes_came(
            seed: u64, length in 0usize..900_000, piece in 1usize..400_000,
        ) {
            let bytes = noise(seed, length);
            let whole: Vec<_> = chunk_reader(&bytes[..], CUTS).map(|c| c.unwrap()).collect();
            let pieces: Vec<_> = chunk_reader(Pieces(&bytes, piece), CUTS).map(|c| c.unwrap()).collect();
            prop_assert_eq!(&whole, &pieces);
            let in_memory: Vec<_> = chunk_slice(&bytes, CUTS).collect();
            prop_assert_eq!(whole.iter().map(|chunk| &chunk.data[..]).collect::<Vec<_>>(), in_memory);
            let mut offset = 0;
            for chunk in &whole {
                prop_assert_eq!(chunk.offset, offset);
                prop_assert!(chunk.data.len() <= CUTS.max_bytes());
                offset += chunk.data.len() as u64;
            }
            prop_assert_eq!(offset, length as u64);
        }
    }
}
