//! Cutting a stream of bytes where its content says so (FastCDC 2020), so that two images that share
//! content share chunks wherever it lies in them. Pure: it is fed bytes and hands out chunks, and the
//! same bytes give the same cuts however they were fed.

use std::io::{self, Read};

use fastcdc::v2020::{Normalization, cut, select_masks};

use super::{AVG_CHUNK_BYTES, MAX_CHUNK_BYTES, MIN_CHUNK_BYTES};

/// How much a reader is asked for at a time, in bytes.
const READ_BYTES: usize = 1024 * 1024;

/// One chunk as it was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutChunk {
    /// Where it begins, in bytes from the start of the stream.
    pub offset: u64,
    /// Its bytes, at most [`MAX_CHUNK_BYTES`] of them.
    pub data: Vec<u8>,
}

/// Cuts what it is fed. Holds no more than what was fed and not yet taken.
#[derive(Debug)]
pub struct Chunker {
    pending: Vec<u8>,
    start: usize,
    offset: u64,
    ended: bool,
    mask_s: u64,
    mask_l: u64,
}

impl Default for Chunker {
    fn default() -> Self {
        Self::new()
    }
}

impl Chunker {
    /// A chunker at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        // FastCDC normalisation level 1 with its unseeded gear table: part of the format.
        let (mask_s, mask_l) = select_masks(AVG_CHUNK_BYTES as usize, Normalization::Level1);
        Self {
            pending: Vec::new(),
            start: 0,
            offset: 0,
            ended: false,
            mask_s,
            mask_l,
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
        // A cut depends on the next MAX_CHUNK_BYTES alone, so with fewer it must wait.
        if left.is_empty() || (left.len() < MAX_CHUNK_BYTES as usize && !self.ended) {
            return None;
        }
        let (_, length) = cut(
            left,
            MIN_CHUNK_BYTES as usize,
            AVG_CHUNK_BYTES as usize,
            MAX_CHUNK_BYTES as usize,
            self.mask_s,
            self.mask_l,
            self.mask_s << 1,
            self.mask_l << 1,
        );
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
pub fn chunk_reader<R: Read>(reader: R) -> impl Iterator<Item = io::Result<CutChunk>> {
    ReaderChunks {
        reader,
        chunker: Chunker::new(),
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
        let lengths: Vec<usize> = chunk_reader(&noise(7, 600_000)[..])
            .map(|c| c.unwrap().data.len())
            .collect();
        assert_eq!(
            lengths,
            [114_610, 72_743, 138_813, 24_253, 64_130, 78_000, 48_903, 58_548]
        );
        let zeros: Vec<usize> = chunk_reader(&vec![0; 600_000][..])
            .map(|c| c.unwrap().data.len())
            .collect();
        assert_eq!(zeros, [262_144, 262_144, 75_712]);
    }

    #[test]
    fn a_shift_in_front_leaves_later_chunks_as_they_were() {
        let old = noise(1, 3_000_000);
        let new = [b"a few bytes more".as_slice(), &old].concat();
        let cuts = |bytes: &[u8]| chunk_reader(bytes).map(|c| c.unwrap().data).collect::<Vec<_>>();
        let (old, new) = (cuts(&old), cuts(&new));
        let shared = new.iter().filter(|chunk| old.contains(chunk)).count();
        assert!(shared + 3 >= new.len(), "{shared} of {} chunks shared", new.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn cuts_do_not_depend_on_how_the_bytes_came(
            seed: u64, length in 0usize..900_000, piece in 1usize..400_000,
        ) {
            let bytes = noise(seed, length);
            let whole: Vec<_> = chunk_reader(&bytes[..]).map(|c| c.unwrap()).collect();
            let pieces: Vec<_> = chunk_reader(Pieces(&bytes, piece)).map(|c| c.unwrap()).collect();
            prop_assert_eq!(&whole, &pieces);
            let mut offset = 0;
            for chunk in &whole {
                prop_assert_eq!(chunk.offset, offset);
                prop_assert!(chunk.data.len() <= MAX_CHUNK_BYTES as usize);
                offset += chunk.data.len() as u64;
            }
            prop_assert_eq!(offset, length as u64);
        }
    }
}
