//! The running slot as a source of content. Reads it past the page cache, ahead, and never writes. What it
//! gives is a hint until it was hashed.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::mpsc::{Sender, channel};
use std::thread::Scope;

use super::StageError;
use super::ahead::{Ahead, PIECE_BYTES, pieces};
use crate::disk::{AlignedBuf, DIRECT_ALIGN, DiskError, PartitionReader};

/// Small pieces are read with what follows them, in bytes, since the next piece is mostly that.
const AHEAD_BYTES: usize = 128 * 1024;
/// How many of the foreseen places are looked through for one that is wanted: those before it turned out to
/// be of no use.
const FORESEEN_LOOKS: usize = 64;

/// The first bytes of a partition, read in pieces.
pub(super) struct Seed {
    reader: PartitionReader,
    len_bytes: u64,
    /// What was read last, and from where.
    memory: AlignedBuf,
    at: u64,
    held: usize,
    foreseen: Option<Foreseen>,
}

/// What will be wanted, and is being read.
struct Foreseen {
    ahead: Ahead,
    to_reader: Sender<Result<Range<u64>, StageError>>,
    /// What the reader was told and did not give yet.
    told: VecDeque<Range<u64>>,
}

impl Foreseen {
    /// Goes on to the place with these bytes, if there is one soon; whether they are there.
    fn reaches(&mut self, offset: u64, len: usize) -> bool {
        if self.ahead.get(offset, len).is_some() {
            return true;
        }
        let end = offset + len as u64;
        let mut next = self.told.iter().take(FORESEEN_LOOKS);
        let found = next.position(|place| place.start <= offset && end <= place.end);
        for _ in 0..found.map_or(0, |passed| passed + 1) {
            self.told.pop_front();
            // What cannot be read ahead is tried again when it is wanted, and told of then.
            let _ = self.ahead.advance();
        }
        self.ahead.get(offset, len).is_some()
    }
}

impl Seed {
    /// `len_bytes` of the partition are worth reading.
    pub(super) fn new(reader: PartitionReader, len_bytes: u64) -> Self {
        let len_bytes = len_bytes.min(reader.partition().len_bytes);
        Self {
            reader,
            len_bytes,
            memory: AlignedBuf::new(AHEAD_BYTES),
            at: 0,
            held: 0,
            foreseen: None,
        }
    }

    /// Reads what is foreseen on a thread of that scope, until this is dropped.
    pub(super) fn read_ahead<'scope>(&mut self, scope: &'scope Scope<'scope, '_>) {
        let (to_reader, places) = channel();
        self.foreseen = Some(Foreseen {
            ahead: Ahead::start(scope, self.reader.clone(), places.into_iter()),
            to_reader,
            told: VecDeque::new(),
        });
    }

    /// These places will be wanted, in this order.
    pub(super) fn foresee(&mut self, places: Vec<Range<u64>>) {
        let len_bytes = self.len_bytes;
        if let Some(foreseen) = &mut self.foreseen {
            for place in places.into_iter().filter(|place| place.end <= len_bytes) {
                // The reader ends at the first error, which is told of when the place is wanted.
                if foreseen.to_reader.send(Ok(place.clone())).is_ok() {
                    foreseen.told.push_back(place);
                }
            }
        }
    }

    /// The same partition, of which nothing is worth reading.
    pub(super) fn empty(self) -> Self {
        Self {
            len_bytes: 0,
            held: 0,
            ..self
        }
    }

    /// `len` bytes at `offset`, or None where there are not so many.
    ///
    /// # Errors
    /// I/O errors.
    pub(super) fn read(&mut self, offset: u64, len: usize) -> Result<Option<&[u8]>, DiskError> {
        let inside = offset
            .checked_add(len as u64)
            .is_some_and(|end| end <= self.len_bytes);
        if !inside {
            return Ok(None);
        }
        let foreseen = self.foreseen.as_mut();
        if foreseen.is_some_and(|foreseen| foreseen.reaches(offset, len)) {
            let foreseen = self.foreseen.as_ref();
            return Ok(foreseen.and_then(|foreseen| foreseen.ahead.get(offset, len)));
        }
        let is_held = offset >= self.at && offset + len as u64 <= self.at + self.held as u64;
        if !is_held {
            self.load(offset, len)?;
        }
        // Both are inside of what is held, which is memory.
        let from = (offset - self.at) as usize;
        Ok(Some(&self.memory[from..from + len]))
    }

    fn load(&mut self, offset: u64, len: usize) -> Result<(), DiskError> {
        let at = offset - offset % DIRECT_ALIGN as u64;
        let lead = (offset - at) as usize;
        // A large piece is read alone: nothing is read twice for it.
        let wanted = if len < AHEAD_BYTES / 2 {
            AHEAD_BYTES
        } else {
            (lead + len).div_ceil(DIRECT_ALIGN) * DIRECT_ALIGN
        };
        if self.memory.len() < wanted {
            self.memory = AlignedBuf::new(wanted);
        }
        let left = self.len_bytes - at;
        let held = usize::try_from(left).unwrap_or(usize::MAX).min(wanted);
        self.held = 0;
        self.reader.read_past_cache(at, &mut self.memory[..held])?;
        (self.at, self.held) = (at, held);
        Ok(())
    }
}

/// A [`Seed`] from its start to its end.
pub(super) struct SeedStream {
    seed: Seed,
    at: u64,
}

impl SeedStream {
    pub(super) fn ahead<'scope>(mut seed: Seed, scope: &'scope Scope<'scope, '_>) -> Self {
        seed.read_ahead(scope);
        seed.foresee(pieces(0..seed.len_bytes).collect());
        Self { seed, at: 0 }
    }
}

impl Read for SeedStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // To the end of a piece, so that it is one that is foreseen.
        let left = (self.seed.len_bytes - self.at).min(PIECE_BYTES as u64 - self.at % PIECE_BYTES as u64);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let read = self.seed.read(self.at, len).map_err(io::Error::other)?;
        buf[..len].copy_from_slice(read.unwrap_or_default());
        self.at += len as u64;
        Ok(len)
    }
}
