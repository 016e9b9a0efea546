//! What need not be fetched: chunks that already stand in the target, and chunks of the running slot.
//! Every byte taken from either is hashed again right before it counts. Reads the running slot only.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read};

use drydock_images::{ChunkContent, ChunkIndex, ChunkRef, Digest, chunk_reader};
use tokio_util::sync::CancellationToken;

use super::StageError;
use super::in_order::InOrder;
use super::write::Counter;
use crate::disk::{PartitionReader, SlotWriter};

/// After this many chunks in a row that are not right in the target, only each [`LOOK_AGAIN_EVERY`]th is
/// looked at until one is right again: hashing a slot full of another release is not free.
const MISSES_UNTIL_SPARSE: u32 = 32;
const LOOK_AGAIN_EVERY: u32 = 8;

/// Chunks that have to be fetched: by digest, with their length and every place they belong to.
pub(super) type Missing = BTreeMap<Digest, (u32, Vec<u64>)>;

/// Puts everything in place that this node already has.
pub(super) struct LocalCopy<'a> {
    pub writer: &'a SlotWriter,
    /// The artifact's name.
    pub artifact: &'a str,
    pub index: &'a ChunkIndex,
    /// The same artifact's partition of the running slot, and how many bytes of it are worth reading.
    pub running: &'a PartitionReader,
    pub running_bytes: u64,
    pub counter: &'a Counter,
    pub cancel: &'a CancellationToken,
}

impl LocalCopy<'_> {
    /// Returns what is missing. Blocks.
    ///
    /// # Errors
    /// I/O errors of the target, and a cancellation. A running slot that cannot be read only means that
    /// more is fetched.
    pub(super) fn run(&self) -> Result<Missing, StageError> {
        let mut wanted = Vec::new();
        let mut buffer = Vec::new();
        let mut misses = 0_u32;
        let mut zeros = InOrder::new(self.writer, self.artifact);
        for chunk in self.index.chunks() {
            self.check_cancel()?;
            let look = misses < MISSES_UNTIL_SPARSE || misses.is_multiple_of(LOOK_AGAIN_EVERY);
            if look && self.stands_in_target(&chunk, &mut buffer)? {
                misses = 0;
                self.counter.reused(u64::from(chunk.length));
                continue;
            }
            misses = misses.saturating_add(1);
            match chunk.content {
                ChunkContent::Zeros => {
                    buffer.clear();
                    buffer.resize(chunk.length as usize, 0);
                    zeros.put(chunk.offset, &buffer)?;
                    self.counter.reused(u64::from(chunk.length));
                }
                ChunkContent::Stored(digest) => wanted.push((digest, chunk)),
            }
        }
        zeros.finish()?;
        if wanted.is_empty() {
            return Ok(Missing::new());
        }
        let running = self.cut_running(&wanted)?;
        let mut missing = Missing::new();
        let mut copies = InOrder::new(self.writer, self.artifact);
        for (digest, chunk) in wanted {
            self.check_cancel()?;
            if self.read_running(&running, digest, &chunk, &mut buffer) {
                copies.put(chunk.offset, &buffer)?;
                self.counter.reused(u64::from(chunk.length));
            } else {
                missing
                    .entry(digest)
                    .or_insert_with(|| (chunk.length, Vec::new()))
                    .1
                    .push(chunk.offset);
            }
        }
        copies.finish()?;
        Ok(missing)
    }

    fn check_cancel(&self) -> Result<(), StageError> {
        if self.cancel.is_cancelled() {
            Err(StageError::Cancelled)
        } else {
            Ok(())
        }
    }

    fn stands_in_target(&self, chunk: &ChunkRef, buffer: &mut Vec<u8>) -> Result<bool, StageError> {
        buffer.resize(chunk.length as usize, 0);
        // What cannot be read is not right; it is written, and the read-back judges.
        if self
            .writer
            .reader(self.artifact)?
            .read_at(chunk.offset, buffer)
            .is_err()
        {
            return Ok(false);
        }
        Ok(match chunk.content {
            ChunkContent::Zeros => buffer.iter().all(|byte| *byte == 0),
            ChunkContent::Stored(digest) => Digest::of(buffer) == digest,
        })
    }

    /// Where the running slot has what is wanted: digest -> offset.
    fn cut_running(&self, wanted: &[(Digest, ChunkRef)]) -> Result<HashMap<Digest, u64>, StageError> {
        let wanted: HashSet<Digest> = wanted.iter().map(|(digest, _)| *digest).collect();
        let mut found = HashMap::new();
        let stream = PartitionStream {
            reader: self.running,
            at: 0,
            end: self.running_bytes,
        };
        for chunk in chunk_reader(stream) {
            self.check_cancel()?;
            let Ok(chunk) = chunk else { break };
            let digest = Digest::of(&chunk.data);
            if wanted.contains(&digest) {
                found.entry(digest).or_insert(chunk.offset);
            }
        }
        Ok(found)
    }

    /// Fills `buffer` with a chunk of the running slot; whether it is there and right.
    fn read_running(
        &self,
        running: &HashMap<Digest, u64>,
        digest: Digest,
        chunk: &ChunkRef,
        buffer: &mut Vec<u8>,
    ) -> bool {
        let Some(offset) = running.get(&digest) else {
            return false;
        };
        buffer.resize(chunk.length as usize, 0);
        self.running.read_at(*offset, buffer).is_ok() && Digest::of(buffer) == digest
    }
}

/// The first bytes of a partition as a stream.
struct PartitionStream<'a> {
    reader: &'a PartitionReader,
    at: u64,
    end: u64,
}

impl Read for PartitionStream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let len = left.min(buf.len());
        self.reader
            .read_at(self.at, &mut buf[..len])
            .map_err(io::Error::other)?;
        self.at += len as u64;
        Ok(len)
    }
}
