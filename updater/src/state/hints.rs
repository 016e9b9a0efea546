//! Files that only save time: what is in them is proven before it counts, and where one is lost, damaged or
//! cannot be written, the node does without. They may be large, so they are read and written in pieces.

use super::dir::{FileReader, LockName, StateDir, StateError, StateLock};

/// See the module. Written under [`LockName::Slot`].
#[derive(Debug, Clone)]
pub struct Hints {
    dir: StateDir,
}

impl Hints {
    #[must_use]
    pub fn new(dir: &StateDir) -> Self {
        Self { dir: dir.clone() }
    }

    /// `file` as it is now, if it is there and can be read.
    #[must_use]
    pub fn open(&self, file: &str) -> Option<FileReader> {
        self.dir.open_file(file).ok()?
    }

    /// Begins to write `file`, which stays what it is until [`HintWriter::keep`].
    ///
    /// # Errors
    /// [`StateError::WrongLock`].
    pub fn begin<'a>(&'a self, lock: &'a StateLock, file: String) -> Result<HintWriter<'a>, StateError> {
        if lock.name() != LockName::Slot {
            return Err(StateError::WrongLock {
                path: self.dir.path().join(&file),
                wanted: LockName::Slot,
                held: lock.name(),
            });
        }
        Ok(HintWriter {
            dir: &self.dir,
            _lock: lock,
            file,
            bytes: 0,
            is_begun: false,
        })
    }
}

/// A file that is being written. Dropped before it is kept, it is taken away again, so that there is room
/// for what matters.
#[derive(Debug)]
pub struct HintWriter<'a> {
    dir: &'a StateDir,
    _lock: &'a StateLock,
    file: String,
    bytes: u64,
    /// There is something that is not kept.
    is_begun: bool,
}

impl HintWriter<'_> {
    /// The file goes on with this.
    ///
    /// # Errors
    /// I/O errors, a full partition among them.
    pub fn append(&mut self, piece: &[u8]) -> Result<(), StateError> {
        self.is_begun = true;
        self.dir.append_new(&self.file, self.bytes, piece)?;
        self.bytes += piece.len() as u64;
        Ok(())
    }

    /// From now on this is the file.
    ///
    /// # Errors
    /// I/O errors.
    pub fn keep(mut self) -> Result<(), StateError> {
        self.dir.keep_new(&self.file)?;
        self.is_begun = false;
        Ok(())
    }
}

impl Drop for HintWriter<'_> {
    fn drop(&mut self) {
        if self.is_begun {
            // What is left there is overwritten the next time.
            let _ = self.dir.remove(&format!("{}.new", self.file));
        }
    }
}
