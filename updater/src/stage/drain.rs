//! From the bytes of an image in their order to a partition that was read back: written in aligned pieces,
//! flushed every so often, and what was flushed is read from the device and hashed while the next is
//! written. So the end of the writing is nearly the end of the proof. What stands there already is not
//! written, and what showed that was a reading from the device too: it is hashed as it was read.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use drydock_images::Digest;
use tokio_util::sync::CancellationToken;

use super::StageError;
use super::ahead::{Ahead, Lent, PIECE_BYTES, Place};
use super::write::Counter;
use crate::disk::{AlignedBuf, PartitionReader, SlotWriter};

/// Written at a time, in bytes.
const SEGMENT_BYTES: usize = 512 << 10;
/// Segments that are being filled, waiting or being written.
const SEGMENTS: usize = 3;
/// Flushed after so many bytes, ...
const FLUSH_BYTES: u64 = 64 << 20;
/// ... or when so many that stand there came behind those that were written; these are read once more, as they
/// cannot wait in memory.
const FLUSH_STANDING_BYTES: u64 = 8 << 20;

/// Whether bytes stand in the target already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// They have to be written.
    Fresh,
    /// They are what this staging read just there, past the cache: nothing else reads them back.
    Standing,
}

struct Segment {
    at: u64,
    len: usize,
    put: Put,
    memory: AlignedBuf,
}

/// Where the bytes of an artifact are put, one after another.
pub(super) struct Drain {
    to_writer: SyncSender<Segment>,
    spare: Receiver<AlignedBuf>,
    filling: Segment,
}

impl Drain {
    /// The image goes on with these bytes.
    ///
    /// # Errors
    /// Writing has stopped; its own error says why.
    pub(super) fn put(&mut self, mut bytes: &[u8], put: Put) -> Result<(), StageError> {
        while !bytes.is_empty() {
            let room = SEGMENT_BYTES - self.filling.len;
            let (front, behind) = bytes.split_at(bytes.len().min(room));
            let from = self.filling.len;
            self.filling.memory[from..from + front.len()].copy_from_slice(front);
            self.filling.len += front.len();
            if put == Put::Fresh {
                self.filling.put = Put::Fresh;
            }
            if self.filling.len == SEGMENT_BYTES {
                self.pass_on()?;
            }
            bytes = behind;
        }
        Ok(())
    }

    fn pass_on(&mut self) -> Result<(), StageError> {
        let stopped = || StageError::Stopped("the writing thread ended".to_owned());
        let next = Segment {
            at: self.filling.at + self.filling.len as u64,
            len: 0,
            put: Put::Standing,
            memory: self.spare.recv().map_err(|_| stopped())?,
        };
        let full = std::mem::replace(&mut self.filling, next);
        self.to_writer.send(full).map_err(|_| stopped())
    }
}

/// The partition of one artifact in the target slot.
pub(super) struct Target<'a> {
    pub writer: &'a SlotWriter,
    /// The artifact's name.
    pub artifact: &'a str,
    pub counter: &'a Counter,
    pub cancel: &'a CancellationToken,
}

impl Target<'_> {
    /// Writes what `fill` puts, from the first byte on, and returns the digest of what was then read back.
    /// Blocks.
    ///
    /// # Errors
    /// Of writing, flushing or reading back; else those of `fill`; a cancellation.
    pub(super) fn write(
        &self,
        fill: impl FnOnce(&mut Drain) -> Result<(), StageError>,
    ) -> Result<Digest, StageError> {
        let (to_writer, segments) = sync_channel(SEGMENTS);
        let (give_back, spare) = channel();
        for _ in 1..SEGMENTS {
            // The receiver is right here.
            let _ = give_back.send(AlignedBuf::new(SEGMENT_BYTES));
        }
        let (to_reader, wrote) = channel();
        let mut drain = Drain {
            to_writer,
            spare,
            filling: Segment {
                at: 0,
                len: 0,
                put: Put::Standing,
                memory: AlignedBuf::new(SEGMENT_BYTES),
            },
        };
        thread::scope(|scope| {
            let writing = scope.spawn(move || self.write_segments(&segments, &give_back, &to_reader));
            let reading = scope.spawn(move || self.read_behind(wrote));
            let filled = fill(&mut drain).and_then(|()| drain.pass_on_last());
            drop(drain);
            let stopped = |what: &str| StageError::Stopped(format!("the {what} thread panicked"));
            let written = writing.join().unwrap_or_else(|_| Err(stopped("writing")));
            let read = reading.join().unwrap_or_else(|_| Err(stopped("reading")));
            // Whoever failed first made the others stop: the disk, then what was to be written.
            written?;
            let digest = read?;
            filled.map(|()| digest)
        })
    }

    fn write_segments(
        &self,
        segments: &Receiver<Segment>,
        give_back: &Sender<AlignedBuf>,
        to_reader: &Sender<Wrote>,
    ) -> Result<(), StageError> {
        for segment in segments {
            if self.cancel.is_cancelled() {
                return Err(StageError::Cancelled);
            }
            let wrote = match segment.put {
                Put::Standing => {
                    self.counter.stood(segment.len as u64);
                    Wrote::Stands {
                        at: segment.at,
                        len: segment.len,
                        memory: Lent::new(segment.memory, give_back),
                    }
                }
                Put::Fresh => {
                    let bytes = &segment.memory[..segment.len];
                    self.writer.write_at(self.artifact, segment.at, bytes)?;
                    let end = segment.at + segment.len as u64;
                    // Nobody takes it back after the last one.
                    let _ = give_back.send(segment.memory);
                    Wrote::Until(end)
                }
            };
            if to_reader.send(wrote).is_err() {
                // The reader has stopped, and says why when it is joined.
                return Ok(());
            }
        }
        let _ = to_reader.send(Wrote::All);
        Ok(())
    }

    /// Hashes from the device whatever is known to be there.
    fn read_behind(&self, wrote: Receiver<Wrote>) -> Result<Digest, StageError> {
        let flushed = Flushed {
            writer: self.writer,
            reader: Arc::new(self.writer.reader(self.artifact)?.clone()),
            wrote,
            given: 0,
            flushed: 0,
            end: 0,
            fresh_end: 0,
            is_last: false,
        };
        thread::scope(|scope| {
            Ahead::through(scope, flushed).hash(self.cancel, |bytes| self.counter.read_back(bytes))
        })
    }
}

/// What the writing thread tells.
enum Wrote {
    /// The device was given everything before this.
    Until(u64),
    /// So many bytes were read there.
    Stands { at: u64, len: usize, memory: Lent },
    /// Nothing more comes.
    All,
}

/// The pieces of the target that are on the medium, as they get there. A flush covers what was written
/// before it began, so it is made here, and the writing goes on beside it.
struct Flushed<'a> {
    writer: &'a SlotWriter,
    reader: Arc<PartitionReader>,
    wrote: Receiver<Wrote>,
    /// So far was handed out, ...
    given: u64,
    /// ... this may be, ...
    flushed: u64,
    /// ... and this was written, or stood there; ...
    end: u64,
    /// ... behind this all of it stood there.
    fresh_end: u64,
    is_last: bool,
}

impl Flushed<'_> {
    /// Goes on by what the writing thread tells; what was read already is handed out if nothing in front of it
    /// waits for a flush.
    fn go_on(&mut self, wrote: Wrote) -> Result<Option<Place>, StageError> {
        match wrote {
            Wrote::Until(end) => (self.end, self.fresh_end) = (end, end),
            Wrote::Stands { at, len, memory } => {
                self.end = at + len as u64;
                if self.given == at {
                    (self.given, self.flushed) = (self.end, self.end);
                    return Ok(Some(Place::Read(memory, len)));
                }
            }
            Wrote::All => self.is_last = true,
        }
        let has_fresh = self.fresh_end > self.flushed;
        let is_due = self.end - self.flushed >= FLUSH_BYTES
            || self.end - self.fresh_end >= FLUSH_STANDING_BYTES
            || self.is_last;
        if has_fresh && is_due {
            self.writer.flush()?;
            self.flushed = self.end;
        }
        Ok(None)
    }
}

impl Iterator for Flushed<'_> {
    type Item = Result<Place, StageError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.given == self.flushed {
            if self.is_last {
                return None;
            }
            // Without its last word the writing has failed, and there is nothing to prove.
            let wrote = self.wrote.recv().ok()?;
            match self.go_on(wrote).transpose() {
                None => {}
                handed_out => return handed_out,
            }
        }
        let end = self.flushed.min(self.given + PIECE_BYTES as u64);
        let place = self.given..end;
        self.given = end;
        Some(Ok(Place::On(self.reader.clone(), place)))
    }
}

impl Drain {
    fn pass_on_last(&mut self) -> Result<(), StageError> {
        if self.filling.len == 0 {
            return Ok(());
        }
        let last = Segment {
            memory: std::mem::replace(&mut self.filling.memory, AlignedBuf::new(0)),
            ..self.filling
        };
        let stopped = |_| StageError::Stopped("the writing thread ended".to_owned());
        self.to_writer.send(last).map_err(stopped)
    }
}
