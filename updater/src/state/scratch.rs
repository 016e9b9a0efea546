//! A file of the state partition without a name: room for what is too large for memory. It is gone with who
//! made it, however that ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use nix::fcntl::OFlag;

use super::dir::{StateDir, StateError};

/// See the module. Nothing of it is lasting, so it passes no write gate.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    folder: PathBuf,
}

impl Scratch {
    /// An empty one.
    ///
    /// # Errors
    /// I/O errors; a file system that has no such files.
    pub fn make(dir: &StateDir) -> Result<Self, StateError> {
        let folder = dir.path().to_owned();
        let made = OpenOptions::new()
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(OFlag::O_TMPFILE.bits())
            .open(&folder);
        match made {
            Ok(file) => Ok(Self { file, folder }),
            Err(source) => Err(StateError::io("make a file without a name in", folder)(source)),
        }
    }

    /// It goes on with this piece.
    ///
    /// # Errors
    /// I/O errors, a full partition among them.
    pub fn append(&mut self, piece: &[u8]) -> Result<(), StateError> {
        let written = self.file.write_all(piece);
        written.map_err(StateError::io(
            "write a file without a name in",
            self.folder.clone(),
        ))
    }

    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// I/O errors; it ends before.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), StateError> {
        self.file
            .read_exact_at(buf, offset)
            .map_err(|source| self.unreadable(source))
    }

    /// What was read is not what was written.
    #[must_use]
    pub fn unreadable(&self, source: io::Error) -> StateError {
        StateError::io("read back a file without a name in", self.folder.clone())(source)
    }
}
