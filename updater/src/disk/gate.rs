//! The one door through which every write of the updater goes: to a device and to the state
//! partition, flushes and renames included.
//!
//! A gate sees a write before and after it happens. The default one does nothing; [`CutGate`] ends
//! the writer at the k-th write, for crash sweeps; [`Recorder`] notes where was written, which is how
//! S1 is checked. A gate never writes itself.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What kind of write is about to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteKind {
    /// Bytes to a device or disk image; `offset` is from the start of the whole disk.
    DeviceWrite,
    /// What was written to the device becomes lasting.
    DeviceFlush,
    /// A new file's content; its name is not yet the one that readers open.
    FileWrite,
    /// A file's content becomes lasting.
    FileSync,
    /// A file takes the name that readers open.
    Rename,
    /// A file loses its name.
    Remove,
    /// Names in a folder become lasting.
    DirSync,
}

/// One write, as a [`WriteGate`] sees it.
#[derive(Debug, Clone, Copy)]
pub struct WriteEvent<'a> {
    pub kind: WriteKind,
    /// The disk as configured, or the file (for a rename: the new name).
    pub path: &'a Path,
    /// For a rename: the old name.
    pub from: Option<&'a Path>,
    /// Bytes from the start of the disk; 0 for files.
    pub offset: u64,
    /// Bytes written; 0 for flushes, renames and removals.
    pub len: u64,
}

/// Asked before every write and told after it. An error stops the writer there, and it is expected to
/// stay stopped: a killed process does not write again.
pub trait WriteGate: Send + Sync {
    /// # Errors
    /// Any error keeps the write from happening.
    fn before(&self, _event: &WriteEvent<'_>) -> io::Result<()> {
        Ok(())
    }

    /// # Errors
    /// The write has happened, but its writer must not go on.
    fn after(&self, _event: &WriteEvent<'_>) -> io::Result<()> {
        Ok(())
    }
}

/// Lets everything through: what runs on a node.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenGate;

impl WriteGate for OpenGate {}

/// Runs `write` between the two calls of the gate.
///
/// # Errors
/// Those of the gate and of `write`.
pub(crate) fn through<T>(
    gate: &dyn WriteGate,
    event: &WriteEvent<'_>,
    write: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    gate.before(event)?;
    let done = write()?;
    gate.after(event)?;
    Ok(done)
}

/// The error that [`CutGate`] gives: the writer counts as killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Killed {
    /// At which write, counted from 0.
    pub at: u64,
}

impl fmt::Display for Killed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the writer was killed at write {} (a crash sweep does this, a node never)",
            self.at
        )
    }
}

impl std::error::Error for Killed {}

/// True if this error, or the source of it, comes from a [`CutGate`].
#[must_use]
pub fn is_killed(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(at) = next {
        if at.is::<Killed>() {
            return true;
        }
        if let Some(io) = at.downcast_ref::<io::Error>()
            && io.get_ref().is_some_and(|inner| inner.is::<Killed>())
        {
            return true;
        }
        next = at.source();
    }
    false
}

/// On which side of its write the writer dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutSide {
    Before,
    After,
}

/// Kills the writer at the k-th write; every write after that fails too.
#[derive(Debug)]
pub struct CutGate {
    at: u64,
    side: CutSide,
    seen: AtomicU64,
    dead: AtomicBool,
}

impl CutGate {
    #[must_use]
    pub fn new(at: u64, side: CutSide) -> Self {
        Self {
            at,
            side,
            seen: AtomicU64::new(0),
            dead: AtomicBool::new(false),
        }
    }

    /// Has the cut come yet? A sweep ends at the first k for which it has not.
    #[must_use]
    pub fn fired(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    fn kill(&self) -> io::Error {
        self.dead.store(true, Ordering::SeqCst);
        io::Error::other(Killed { at: self.at })
    }
}

impl WriteGate for CutGate {
    fn before(&self, _event: &WriteEvent<'_>) -> io::Result<()> {
        if self.fired() {
            return Err(self.kill());
        }
        let nth = self.seen.fetch_add(1, Ordering::SeqCst);
        if nth >= self.at && self.side == CutSide::Before {
            Err(self.kill())
        } else {
            Ok(())
        }
    }

    fn after(&self, _event: &WriteEvent<'_>) -> io::Result<()> {
        if self.seen.load(Ordering::SeqCst) > self.at {
            Err(self.kill())
        } else {
            Ok(())
        }
    }
}

/// A [`WriteEvent`] that can be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedWrite {
    pub kind: WriteKind,
    pub path: PathBuf,
    pub offset: u64,
    pub len: u64,
}

/// Notes every write that happened, in order.
#[derive(Debug, Default)]
pub struct Recorder {
    writes: Mutex<Vec<RecordedWrite>>,
}

impl Recorder {
    /// What was written so far.
    #[must_use]
    pub fn writes(&self) -> Vec<RecordedWrite> {
        self.writes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }
}

impl WriteGate for Recorder {
    fn after(&self, event: &WriteEvent<'_>) -> io::Result<()> {
        self.writes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(RecordedWrite {
                kind: event.kind,
                path: event.path.to_owned(),
                offset: event.offset,
                len: event.len,
            });
        Ok(())
    }
}
