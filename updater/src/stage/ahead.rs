//! Reading a partition ahead of whoever hashes it. One thread reads past the page cache, in the order in
//! which it is told, into a few buffers that go round, so that the disk and the processor work at the same
//! time. Never writes; what it gives is proven by whoever takes it.

use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;

use super::StageError;
use crate::disk::{AlignedBuf, DIRECT_ALIGN, PartitionReader};

/// Read at a time, in bytes; a longer place is read in one all the same.
pub(super) const PIECE_BYTES: usize = 512 << 10;
/// Buffers that go round: one is read into while the other is used.
const BUFFERS: usize = 2;

/// Some bytes of a partition, and around them what it takes to read past the cache.
struct Piece {
    /// Where the memory begins in the partition.
    at: u64,
    /// The bytes that were asked for, in the memory.
    wanted: Range<usize>,
    memory: AlignedBuf,
}

/// See the module.
pub(super) struct Ahead {
    pieces: Receiver<Result<Piece, StageError>>,
    give_back: Sender<AlignedBuf>,
    current: Piece,
}

impl Ahead {
    /// Reads those places of the partition, from the first on, each with what it takes to begin where
    /// O_DIRECT can. Ends with the places, with the first error, or when this is dropped.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        reader: PartitionReader,
        places: impl Iterator<Item = Result<Range<u64>, StageError>> + Send + 'scope,
    ) -> Self {
        let (to_user, pieces) = channel();
        let (give_back, spare) = channel();
        for _ in 1..BUFFERS {
            // The receiver is right here.
            let _ = give_back.send(AlignedBuf::new(PIECE_BYTES));
        }
        scope.spawn(move || {
            for place in places {
                // Nobody gives back: nobody reads on.
                let Ok(memory) = spare.recv() else { return };
                let piece = place.and_then(|place| read(&reader, place, memory));
                let is_last = piece.is_err();
                if to_user.send(piece).is_err() || is_last {
                    return;
                }
            }
        });
        Self {
            pieces,
            give_back,
            current: Piece {
                at: 0,
                wanted: 0..0,
                memory: AlignedBuf::new(PIECE_BYTES),
            },
        }
    }

    /// Goes on to the next place; false behind the last one.
    ///
    /// # Errors
    /// Of the places, and of reading.
    pub(super) fn advance(&mut self) -> Result<bool, StageError> {
        // The thread may have ended.
        let used = std::mem::replace(&mut self.current.memory, AlignedBuf::new(0));
        let _ = self.give_back.send(used);
        self.current.wanted = 0..0;
        match self.pieces.recv() {
            Ok(piece) => {
                self.current = piece?;
                Ok(true)
            }
            Err(_) => Ok(false),
        }
    }

    /// What was read last.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.current.memory[self.current.wanted.clone()]
    }

    /// `len` bytes at `offset` of the partition, if they are among those that were read last.
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
    Ok(Piece { at, wanted, memory })
}

/// The pieces of these bytes, in order.
pub(super) fn pieces(of: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let step = PIECE_BYTES as u64;
    let end = of.end;
    (of.start..end)
        .step_by(PIECE_BYTES)
        .map(move |at| at..end.min(at + step))
}
