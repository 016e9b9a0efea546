//! The slots as sources of content: the running one, and what stands in the target while it is not overwritten
//! yet. Reads past the page cache, ahead, and never writes. What it gives is a hint until it was hashed.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::Scope;

use super::StageError;
use super::ahead::{Ahead, Place, pieces};
use crate::disk::{AlignedBuf, DIRECT_ALIGN, DiskError, PartitionReader};

/// Small pieces are read with what follows them, in bytes, since the next piece is mostly that.
const AHEAD_BYTES: usize = 128 * 1024;
/// How many of the foreseen places are looked through for one that is wanted: those before it turned out to
/// be of no use.
const FORESEEN_LOOKS: usize = 64;

/// Which slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Running,
    Target,
}

/// The first bytes of a partition, read in pieces, when they are wanted.
pub(super) struct Seed {
    reader: Arc<PartitionReader>,
    len_bytes: u64,
    /// What was read last, and from where.
    memory: AlignedBuf,
    at: u64,
    held: usize,
}

impl Seed {
    /// `len_bytes` of the partition are worth reading.
    pub(super) fn new(reader: PartitionReader, len_bytes: u64) -> Self {
        let len_bytes = len_bytes.min(reader.partition().len_bytes);
        Self {
            reader: Arc::new(reader),
            len_bytes,
            memory: AlignedBuf::new(0),
            at: 0,
            held: 0,
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
        let end = offset.checked_add(len as u64);
        let Some(end) = end.filter(|end| *end <= self.len_bytes) else {
            return Ok(None);
        };
        let is_held = offset >= self.at && end <= self.at + self.held as u64;
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

/// Both slots, of which it may be foreseen what will be wanted.
pub(super) struct Seeds {
    running: Seed,
    target: Seed,
    foreseen: Option<Foreseen>,
}

/// What will be wanted, and is being read.
struct Foreseen {
    ahead: Ahead,
    to_reader: Sender<Result<Place, StageError>>,
    /// What the reader was told and did not give yet.
    told: VecDeque<(Side, Range<u64>)>,
    /// Where that is which it gave last.
    given: Side,
}

impl Foreseen {
    fn get(&self, side: Side, offset: u64, len: usize) -> Option<&[u8]> {
        (side == self.given)
            .then(|| self.ahead.get(offset, len))
            .flatten()
    }

    /// Goes on to the place with these bytes, if there is one soon; whether they are there.
    fn reaches(&mut self, side: Side, offset: u64, len: usize) -> bool {
        if self.get(side, offset, len).is_some() {
            return true;
        }
        let end = offset + len as u64;
        let mut next = self.told.iter().take(FORESEEN_LOOKS);
        let found = next.position(|(at, place)| *at == side && place.start <= offset && end <= place.end);
        let passed = found.map_or(0, |passed| passed + 1);
        for (at, _) in self.told.drain(..passed) {
            self.given = at;
            // What cannot be read ahead is tried again when it is wanted, and told of then.
            let _ = self.ahead.advance();
        }
        self.get(side, offset, len).is_some()
    }
}

impl Seeds {
    pub(super) fn new(running: Seed, target: Seed) -> Self {
        Self {
            running,
            target,
            foreseen: None,
        }
    }

    /// Reads what is foreseen on threads of that scope, until this is dropped.
    pub(super) fn read_ahead<'scope>(&mut self, scope: &'scope Scope<'scope, '_>) {
        let (to_reader, places) = channel();
        self.foreseen = Some(Foreseen {
            ahead: Ahead::through(scope, places.into_iter()),
            to_reader,
            told: VecDeque::new(),
            given: Side::Running,
        });
    }

    /// These places will be wanted, in this order.
    pub(super) fn foresee(&mut self, places: impl IntoIterator<Item = (Side, Range<u64>)>) {
        let Some(foreseen) = &mut self.foreseen else {
            return;
        };
        for (side, place) in places {
            let seed = match side {
                Side::Running => &self.running,
                Side::Target => &self.target,
            };
            if place.end > seed.len_bytes {
                continue;
            }
            // The reader ends at the first error, which is told of when the place is wanted.
            let told = Place::On(seed.reader.clone(), place.clone());
            if foreseen.to_reader.send(Ok(told)).is_ok() {
                foreseen.told.push_back((side, place));
            }
        }
    }

    /// `len` bytes of a slot at `offset`, or None where there are not so many.
    ///
    /// # Errors
    /// I/O errors.
    pub(super) fn read(&mut self, side: Side, offset: u64, len: usize) -> Result<Option<&[u8]>, DiskError> {
        let foreseen = self.foreseen.as_mut();
        if foreseen.is_some_and(|foreseen| foreseen.reaches(side, offset, len)) {
            let foreseen = self.foreseen.as_ref();
            return Ok(foreseen.and_then(|foreseen| foreseen.get(side, offset, len)));
        }
        match side {
            Side::Running => self.running.read(offset, len),
            Side::Target => self.target.read(offset, len),
        }
    }
}

/// A [`Seed`] from its start to its end.
pub(super) struct SeedStream {
    ahead: Ahead,
    /// Of what was read last.
    used: usize,
}

impl SeedStream {
    pub(super) fn ahead<'scope>(seed: &Seed, scope: &'scope Scope<'scope, '_>) -> Self {
        let reader = PartitionReader::clone(&seed.reader);
        Self {
            ahead: Ahead::start(scope, reader, pieces(0..seed.len_bytes)),
            used: 0,
        }
    }
}

impl Read for SeedStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.used == self.ahead.bytes().len() {
            self.used = 0;
            self.ahead.advance().map_err(io::Error::other)?;
        }
        let left = &self.ahead.bytes()[self.used..];
        let len = left.len().min(buf.len());
        buf[..len].copy_from_slice(&left[..len]);
        self.used += len;
        Ok(len)
    }
}
