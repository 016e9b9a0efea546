//! The folder of the state files: its locks, and the few file operations that the store is made of,
//! each behind the write gate.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::disk::gate::{WriteEvent, WriteGate, WriteKind, through};

/// What can go wrong with the state partition.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(
        "cannot {doing} {}: {source}; check that the state partition is mounted read-write and has room",
        path.display()
    )]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("{} is held by another process: {who}", path.display())]
    LockHeld { path: PathBuf, who: &'static str },

    #[error("{} is written under {wanted}, but {held} is held. This is a defect of Drydock; please report it", path.display())]
    WrongLock {
        path: PathBuf,
        wanted: LockName,
        held: LockName,
    },

    #[error("{} cannot be written: {source}. This is a defect of Drydock; please report it", path.display())]
    Unwritable {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },

    #[error("{} would have {bytes} bytes, more than the {max} that are read back", path.display())]
    TooLarge { path: PathBuf, bytes: u64, max: u64 },
}

impl StateError {
    pub(super) fn io(doing: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path, source }
    }
}

/// What a lock keeps others from writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockName {
    /// The journal. The guard holds it for as long as it lives.
    Journal,
    /// The target slot, the slot records, the trust store. Agent or command line, one at a time.
    Slot,
}

impl LockName {
    fn file(self) -> &'static str {
        match self {
            Self::Journal => "journal.lock",
            Self::Slot => "slot.lock",
        }
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file())
    }
}

/// Held until dropped; the kernel drops it with the process.
#[derive(Debug)]
pub struct StateLock {
    name: LockName,
    _flock: Flock<File>,
}

impl StateLock {
    #[must_use]
    pub fn name(&self) -> LockName {
        self.name
    }
}

/// A file that can be read at any place.
pub trait ReadAt: Send + Sync + fmt::Debug {
    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// I/O errors; the file ends before.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buf, offset)
    }
}

/// A file of the folder as it was when it was opened.
#[derive(Debug)]
pub struct FileReader {
    file: Box<dyn ReadAt>,
    len_bytes: u64,
}

impl FileReader {
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// I/O errors; the file ends before.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buf, offset)
    }
}

/// The file operations that the store is made of. A trait so that tests can take the power away between
/// any two of them.
pub trait Files: Send + Sync + fmt::Debug {
    /// The content, at most `max_bytes + 1` of it; `None` if there is no such file.
    ///
    /// # Errors
    /// I/O errors.
    fn read(&self, name: &str, max_bytes: u64) -> io::Result<Option<Vec<u8>>>;

    /// A file with this content, made or replaced; neither content nor name is lasting yet.
    ///
    /// # Errors
    /// I/O errors.
    fn write(&self, name: &str, content: &[u8]) -> io::Result<()>;

    /// The file goes on with this piece; neither content nor name is lasting yet.
    ///
    /// # Errors
    /// I/O errors; there is no such file.
    fn append(&self, name: &str, piece: &[u8]) -> io::Result<()>;

    /// The file as it is now, to be read in pieces, and its length in bytes; `None` if there is no such
    /// file.
    ///
    /// # Errors
    /// I/O errors.
    fn open(&self, name: &str) -> io::Result<Option<(Box<dyn ReadAt>, u64)>>;

    /// The content becomes lasting.
    ///
    /// # Errors
    /// I/O errors.
    fn sync(&self, name: &str) -> io::Result<()>;

    /// Replaces `to` in one step.
    ///
    /// # Errors
    /// I/O errors.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// No error if it is not there.
    ///
    /// # Errors
    /// I/O errors.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Names become lasting.
    ///
    /// # Errors
    /// I/O errors.
    fn sync_dir(&self) -> io::Result<()>;
}

/// A folder of the file system.
#[derive(Debug)]
struct RealFiles {
    folder: PathBuf,
}

impl Files for RealFiles {
    fn read(&self, name: &str, max_bytes: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.folder.join(name)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut content = Vec::new();
        file.take(max_bytes.saturating_add(1)).read_to_end(&mut content)?;
        Ok(Some(content))
    }

    fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.folder.join(name))?;
        file.write_all(content)
    }

    fn append(&self, name: &str, piece: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).open(self.folder.join(name))?;
        file.write_all(piece)
    }

    fn open(&self, name: &str) -> io::Result<Option<(Box<dyn ReadAt>, u64)>> {
        let file = match File::open(self.folder.join(name)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let len_bytes = file.metadata()?.len();
        Ok(Some((Box::new(file), len_bytes)))
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        File::open(self.folder.join(name))?.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.folder.join(from), self.folder.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.folder.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

/// A folder whose own name is lasting, too: a file in it is only as lasting as that.
fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    for above in folder
        .ancestors()
        .skip(1)
        .filter(|path| !path.as_os_str().is_empty())
    {
        File::open(above)?.sync_all()?;
    }
    Ok(())
}

/// The state folder. Cheap to clone.
#[derive(Clone)]
pub struct StateDir {
    folder: Arc<Path>,
    files: Arc<dyn Files>,
    gate: Arc<dyn WriteGate>,
}

impl fmt::Debug for StateDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateDir")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl StateDir {
    /// Opens the folder, and makes it (mode 0700) where it is missing.
    ///
    /// # Errors
    /// I/O errors.
    pub fn open(folder: &Path, gate: Arc<dyn WriteGate>) -> Result<Self, StateError> {
        if !folder.is_dir() {
            let event = WriteEvent {
                kind: WriteKind::DirSync,
                path: folder,
                from: None,
                offset: 0,
                len: 0,
            };
            through(&*gate, &event, || make_folder(folder))
                .map_err(StateError::io("make the state folder", folder.to_owned()))?;
        }
        let files = Arc::new(RealFiles {
            folder: folder.to_owned(),
        });
        Ok(Self {
            folder: folder.into(),
            files,
            gate,
        })
    }

    /// The same over other files, for crash tests; the folder itself then holds the locks alone.
    ///
    /// # Errors
    /// As [`StateDir::open`].
    pub fn with_files(
        folder: &Path,
        files: Arc<dyn Files>,
        gate: Arc<dyn WriteGate>,
    ) -> Result<Self, StateError> {
        Ok(Self {
            files,
            ..Self::open(folder, gate)?
        })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Waits for a lock.
    ///
    /// # Errors
    /// I/O errors.
    pub fn lock(&self, name: LockName) -> Result<StateLock, StateError> {
        self.flock(name, FlockArg::LockExclusive)
    }

    /// Takes a lock if no other process (and no other part of this one) holds it.
    ///
    /// # Errors
    /// [`StateError::LockHeld`], and I/O errors.
    pub fn try_lock(&self, name: LockName) -> Result<StateLock, StateError> {
        self.flock(name, FlockArg::LockExclusiveNonblock)
    }

    fn flock(&self, name: LockName, how: FlockArg) -> Result<StateLock, StateError> {
        let path = self.folder.join(name.file());
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path);
        let file = file.map_err(StateError::io("open", path.clone()))?;
        match Flock::lock(file, how) {
            Ok(flock) => Ok(StateLock { name, _flock: flock }),
            Err((_, Errno::EWOULDBLOCK)) => {
                let who = match name {
                    LockName::Journal => {
                        "the guard runs already; ask it over its socket (`drydock-updater status`)"
                    }
                    LockName::Slot => {
                        "another agent or `drydock-updater` command is at work; wait for it to end"
                    }
                };
                Err(StateError::LockHeld { path, who })
            }
            Err((_, errno)) => Err(StateError::io("lock", path)(errno.into())),
        }
    }

    pub(super) fn read(&self, name: &str, max_bytes: u64) -> Result<Option<Vec<u8>>, StateError> {
        self.files
            .read(name, max_bytes)
            .map_err(StateError::io("read", self.folder.join(name)))
    }

    pub(super) fn open_file(&self, name: &str) -> Result<Option<FileReader>, StateError> {
        let opened = self.files.open(name);
        let opened = opened.map_err(StateError::io("open", self.folder.join(name)))?;
        Ok(opened.map(|(file, len_bytes)| FileReader { file, len_bytes }))
    }

    /// Content, fsync, rename, fsync of the folder: after a cut at any point `name` is the old file or
    /// the new one.
    pub(super) fn replace(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        self.append_new(name, 0, content)?;
        self.keep_new(name)
    }

    /// What will be `name` goes on with this piece at `offset`, its beginning or its end.
    pub(super) fn append_new(&self, name: &str, offset: u64, piece: &[u8]) -> Result<(), StateError> {
        let new = format!("{name}.new");
        let place = (offset, piece.len() as u64);
        self.event(WriteKind::FileWrite, None, &new, place, |files| match offset {
            0 => files.write(&new, piece),
            _ => files.append(&new, piece),
        })
    }

    /// What was written to be `name` is it from now on; lasting when it returns.
    pub(super) fn keep_new(&self, name: &str) -> Result<(), StateError> {
        let new = format!("{name}.new");
        self.event(WriteKind::FileSync, None, &new, (0, 0), |files| files.sync(&new))?;
        self.rename(&new, name)
    }

    /// Lasting when it returns.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), StateError> {
        self.event(WriteKind::Rename, Some(from), to, (0, 0), |files| {
            files.rename(from, to)
        })?;
        self.event(WriteKind::DirSync, None, to, (0, 0), |files| files.sync_dir())
    }

    /// Lasting when it returns; no error if it is not there.
    pub(super) fn remove(&self, name: &str) -> Result<(), StateError> {
        self.event(WriteKind::Remove, None, name, (0, 0), |files| files.remove(name))?;
        self.event(WriteKind::DirSync, None, name, (0, 0), |files| files.sync_dir())
    }

    fn event(
        &self,
        kind: WriteKind,
        from: Option<&str>,
        name: &str,
        (offset, len): (u64, u64),
        write: impl FnOnce(&dyn Files) -> io::Result<()>,
    ) -> Result<(), StateError> {
        let path = self.folder.join(name);
        let from = from.map(|from| self.folder.join(from));
        let doing = match kind {
            WriteKind::FileWrite => "write",
            WriteKind::FileSync | WriteKind::DirSync | WriteKind::DeviceFlush => "flush",
            WriteKind::Rename => "rename a file to",
            WriteKind::Remove => "remove",
            WriteKind::DeviceWrite => "write to",
        };
        let event = WriteEvent {
            kind,
            path: &path,
            from: from.as_deref(),
            offset,
            len,
        };
        through(&*self.gate, &event, || write(&*self.files)).map_err(StateError::io(doing, path.clone()))
    }
}
