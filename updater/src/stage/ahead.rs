//! Reading a partition ahead of whoever hashes it. A few threads read past the page cache, in the order in
//! which they are told, into buffers that go round, so that the disk and the processor work at the same time,
//! and the disk has more than one thing to do. Never writes; what it gives is proven by whoever takes it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

use drydock_images::{Digest, Hasher};
use tokio_util::sync::CancellationToken;

use super::StageError;
use crate::disk::{AlignedBuf, DIRECT_ALIGN, PartitionReader};

/// Read at a time, in bytes; a longer place is read in one all the same.
pub(super) const PIECE_BYTES: usize = 256 << 10;
/// Threads, each of which reads into one buffer while another one is used.
const READERS: usize = 2;

/// What comes next.
pub(super) enum Place {
    /// These bytes of a partition.
    On(Arc<PartitionReader>, Range<u64>),
    /// What somebody has read already: the first so many bytes of it.
    Read(Lent, usize),
}

/// Memory that goes back to where it came from, whatever becomes of who has it.
pub(super) struct Lent {
    memory: AlignedBuf,
    owner: Sender<AlignedBuf>,
}

impl Lent {
    pub(super) fn new(memory: AlignedBuf, owner: &Sender<AlignedBuf>) -> Self {
        Self {
            memory,
            owner: owner.clone(),
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, AlignedBuf::new(0));
        // The owner may have ended.
        let _ = self.owner.send(memory);
    }
}

enum Memory {
    Own(AlignedBuf),
    Lent(Lent),
}

/// Some bytes of a partition, and around them what it takes to read past the cache.
struct Piece {
    /// Where the memory begins in the partition.
    at: u64,
    /// The bytes that were asked for, in the memory.
    wanted: Range<usize>,
    memory: Memory,
}

impl Piece {
    const fn none(memory: AlignedBuf) -> Self {
        Self {
            at: 0,
            wanted: 0..0,
            memory: Memory::Own(memory),
        }
    }

    fn bytes(&self) -> &[u8] {
        let memory = match &self.memory {
            Memory::Own(memory) => memory,
            Memory::Lent(lent) => &lent.memory,
        };
        &memory[self.wanted.clone()]
    }
}

/// See the module.
pub(super) struct Ahead {
    pieces: Receiver<(u64, Result<Piece, StageError>)>,
    give_back: Sender<AlignedBuf>,
    /// What came before its turn.
    early: BTreeMap<u64, Result<Piece, StageError>>,
    /// The number of the next piece.
    next: u64,
    current: Piece,
}

/// What the readers take their work from, one after another.
struct Work<P> {
    places: P,
    spare: Receiver<AlignedBuf>,
    /// Was taken of it, and not needed.
    unused: Option<AlignedBuf>,
    /// The number of the next place.
    next: u64,
}

/// What a reader does next.
enum Task {
    Read(Arc<PartitionReader>, Range<u64>, AlignedBuf),
    PassOn(Result<Piece, StageError>),
}

impl<P: Iterator<Item = Result<Place, StageError>>> Work<P> {
    /// The next place, by its number, and memory for it; waits for both. None: there is no more to do.
    fn take(&mut self) -> Option<(u64, Task)> {
        // Nobody gives back: nobody reads on.
        let memory = self.unused.take().or_else(|| self.spare.recv().ok())?;
        let task = match self.places.next()? {
            Ok(Place::On(reader, place)) => Task::Read(reader, place, memory),
            Ok(Place::Read(lent, len)) => {
                self.unused = Some(memory);
                Task::PassOn(Ok(Piece {
                    at: 0,
                    wanted: 0..len,
                    memory: Memory::Lent(lent),
                }))
            }
            Err(error) => Task::PassOn(Err(error)),
        };
        self.next += 1;
        Some((self.next - 1, task))
    }
}

impl Ahead {
    /// Reads those places of one partition; see [`Ahead::through`].
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        reader: PartitionReader,
        places: impl Iterator<Item = Range<u64>> + Send + 'scope,
    ) -> Self {
        let reader = Arc::new(reader);
        Self::through(
            scope,
            places.map(move |place| Ok(Place::On(reader.clone(), place))),
        )
    }

    /// Reads those places, from the first on, each with what it takes to begin where O_DIRECT can. Three of
    /// them are in memory at most, one of which is used, and what was read before. Ends with the places, with
    /// the first error, or when this is dropped.
    pub(super) fn through<'scope>(
        scope: &'scope Scope<'scope, '_>,
        places: impl Iterator<Item = Result<Place, StageError>> + Send + 'scope,
    ) -> Self {
        let (to_user, pieces) = channel();
        let (give_back, spare) = channel();
        for _ in 0..READERS {
            // The receiver is right here.
            let _ = give_back.send(AlignedBuf::new(0));
        }
        let work = Arc::new(Mutex::new(Work {
            places,
            spare,
            unused: None,
            next: 0,
        }));
        for _ in 0..READERS {
            let (work, to_user) = (work.clone(), to_user.clone());
            scope.spawn(move || {
                loop {
                    let taken = work.lock().unwrap_or_else(PoisonError::into_inner).take();
                    let Some((number, task)) = taken else {
                        return;
                    };
                    let piece = match task {
                        Task::Read(reader, place, memory) => read(&reader, place, memory),
                        Task::PassOn(piece) => piece,
                    };
                    let is_last = piece.is_err();
                    if to_user.send((number, piece)).is_err() || is_last {
                        return;
                    }
                }
            });
        }
        Self {
            pieces,
            give_back,
            early: BTreeMap::new(),
            next: 0,
            current: Piece::none(AlignedBuf::new(0)),
        }
    }

    /// Goes on to the next place; false behind the last one.
    ///
    /// # Errors
    /// Of the places, and of reading.
    pub(super) fn advance(&mut self) -> Result<bool, StageError> {
        // The readers may have ended; what was lent goes back by itself.
        let used = std::mem::replace(&mut self.current, Piece::none(AlignedBuf::new(0)));
        if let Memory::Own(used) = used.memory {
            let _ = self.give_back.send(used);
        }
        let piece = loop {
            if let Some(piece) = self.early.remove(&self.next) {
                break piece;
            }
            match self.pieces.recv() {
                Ok((number, piece)) => self.early.insert(number, piece),
                Err(_) => return Ok(false),
            };
        };
        self.next += 1;
        self.current = piece?;
        Ok(true)
    }

    /// Goes through all places and returns the digest of what is there. `advance` is told of every piece.
    ///
    /// # Errors
    /// Of the places, and of reading; [`StageError::Cancelled`].
    pub(super) fn hash(
        mut self,
        cancel: &CancellationToken,
        advance: impl Fn(u64),
    ) -> Result<Digest, StageError> {
        let mut hasher = Hasher::new();
        while self.advance()? {
            if cancel.is_cancelled() {
                return Err(StageError::Cancelled);
            }
            hasher.update(self.bytes());
            advance(self.bytes().len() as u64);
        }
        Ok(hasher.finish())
    }

    /// What was read last.
    pub(super) fn bytes(&self) -> &[u8] {
        self.current.bytes()
    }

    /// `len` bytes at `offset` of the partition that was read last, if they are among those that were.
    pub(super) fn get(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = self.current.at + self.current.wanted.start as u64;
        let from = usize::try_from(offset.checked_sub(start)?).ok()?;
        self.bytes().get(from..from.checked_add(len)?)
    }
}

fn read(reader: &PartitionReader, place: Range<u64>, mut memory: AlignedBuf) -> Result<Piece, StageError> {
    let at = place.start - place.start % DIRECT_ALIGN as u64;
    let whole = place.end.next_multiple_of(DIRECT_ALIGN as u64);
    // A place is what fits memory.
    let len = (whole.min(reader.partition().len_bytes).max(place.end) - at) as usize;
    if memory.len() < len {
        memory = AlignedBuf::new(len);
    }
    reader.read_past_cache(at, &mut memory[..len])?;
    let lead = (place.start - at) as usize;
    let wanted = lead..lead + (place.end - place.start) as usize;
    Ok(Piece {
        at,
        wanted,
        memory: Memory::Own(memory),
    })
}

/// The pieces of these bytes, in order.
pub(super) fn pieces(of: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    pieces_of(of, PIECE_BYTES)
}

/// The same, each of so many bytes but for the last.
pub(super) fn pieces_of(of: Range<u64>, bytes: usize) -> impl Iterator<Item = Range<u64>> {
    let end = of.end;
    (of.start..end)
        .step_by(bytes)
        .map(move |at| at..end.min(at + bytes as u64))
}
