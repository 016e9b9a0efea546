//! One kind of state in one file: a line that says kind, format and checksum, then JSON.
//!
//! A file of a newer major format is set aside as if lost (an older release must not act on what it
//! cannot read); so is a damaged one. Both are reported, neither is ever taken for a valid one.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::dir::{LockName, StateDir, StateError, StateLock};

/// Bound on a state file, in bytes. A longer one is damaged.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
const MAGIC: &str = "drydock-state";

/// What a newer release wrote and this one does not know: kept and written back. Use it as a last field
/// with `#[serde(flatten)]`.
pub type UnknownFields = std::collections::BTreeMap<String, serde_json::Value>;

/// A type with a file of its own. Its JSON is an object; fields added later have defaults, and unknown
/// ones go to an [`UnknownFields`].
pub trait Record: Serialize + DeserializeOwned {
    /// Lower-case word in the file's first line; no spaces.
    const KIND: &'static str;
    /// The format that is written; raised only when older releases must not read it.
    const MAJOR: u32;
    /// Held by whoever writes it.
    const LOCK: LockName;
}

/// Why a file does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LostReason {
    /// Written by a newer release.
    Newer {
        major: u32,
    },
    Damaged {
        why: String,
    },
}

/// A file that is treated as if it were not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    pub file: String,
    pub reason: LostReason,
    /// Its new name, where it was set aside.
    pub kept_as: Option<String>,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            LostReason::Newer { major } => {
                write!(
                    f,
                    "{} has format {major}, which this release cannot read",
                    self.file
                )?;
            }
            LostReason::Damaged { why } => write!(f, "{} is damaged ({why})", self.file)?,
        }
        match &self.kept_as {
            Some(name) => write!(f, "; it counts as lost and is kept as {name}"),
            None => f.write_str("; it counts as lost"),
        }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded<T> {
    Absent,
    Present(T),
    /// To be reported, then treated as absent.
    Lost(Lost),
}

impl<T> Loaded<T> {
    /// The value, and what to report.
    #[must_use]
    pub fn split(self) -> (Option<T>, Option<Lost>) {
        match self {
            Self::Absent => (None, None),
            Self::Present(value) => (Some(value), None),
            Self::Lost(lost) => (None, Some(lost)),
        }
    }
}

/// One file of the state folder.
#[derive(Debug, Clone)]
pub struct Store<T> {
    dir: StateDir,
    file: String,
    record: PhantomData<fn() -> T>,
}

impl<T: Record> Store<T> {
    /// `file` is a plain file name.
    #[must_use]
    pub fn new(dir: &StateDir, file: &str) -> Self {
        Self {
            dir: dir.clone(),
            file: file.to_owned(),
            record: PhantomData,
        }
    }

    /// Reads without a lock and changes nothing: for status and for other processes.
    ///
    /// # Errors
    /// I/O errors; what is in the file is never one.
    pub fn peek(&self) -> Result<Loaded<T>, StateError> {
        let Some(content) = self.dir.read(&self.file, MAX_FILE_BYTES)? else {
            return Ok(Loaded::Absent);
        };
        Ok(match decode(&content) {
            Ok(value) => Loaded::Present(value),
            Err(reason) => Loaded::Lost(Lost {
                file: self.file.clone(),
                reason,
                kept_as: None,
            }),
        })
    }

    /// Reads, and sets aside what cannot be read.
    ///
    /// # Errors
    /// I/O errors, and [`StateError::WrongLock`].
    pub fn load(&self, lock: &StateLock) -> Result<Loaded<T>, StateError> {
        self.check(lock)?;
        match self.peek()? {
            Loaded::Lost(lost) => {
                let kept_as = match &lost.reason {
                    LostReason::Newer { major } => format!("{}.newer-{major}", self.file),
                    LostReason::Damaged { .. } => format!("{}.damaged", self.file),
                };
                self.dir.rename(&self.file, &kept_as)?;
                Ok(Loaded::Lost(Lost {
                    kept_as: Some(kept_as),
                    ..lost
                }))
            }
            found => Ok(found),
        }
    }

    /// Lasting when it returns; after a cut the file is the old one or the new one.
    ///
    /// # Errors
    /// I/O errors (a full partition among them: the old file then stands), and [`StateError::WrongLock`].
    pub fn save(&self, lock: &StateLock, value: &T) -> Result<(), StateError> {
        self.check(lock)?;
        let path = self.dir.path().join(&self.file);
        let content = encode(value).map_err(|source| StateError::Unwritable {
            path: path.clone(),
            source,
        })?;
        let bytes = content.len() as u64;
        if bytes > MAX_FILE_BYTES {
            return Err(StateError::TooLarge {
                path,
                bytes,
                max: MAX_FILE_BYTES,
            });
        }
        self.dir.replace(&self.file, &content)
    }

    /// Lasting when it returns.
    ///
    /// # Errors
    /// As [`Store::save`].
    pub fn remove(&self, lock: &StateLock) -> Result<(), StateError> {
        self.check(lock)?;
        self.dir.remove(&self.file)
    }

    fn check(&self, lock: &StateLock) -> Result<(), StateError> {
        if lock.name() == T::LOCK {
            return Ok(());
        }
        let path = self.dir.path().join(&self.file);
        Err(StateError::WrongLock {
            path,
            wanted: T::LOCK,
            held: lock.name(),
        })
    }
}

fn encode<T: Record>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut body = serde_json::to_vec_pretty(value)?;
    body.push(b'\n');
    let major = T::MAJOR.to_string();
    let head = format!(
        "{MAGIC} {} {major} {}\n",
        T::KIND,
        checksum(T::KIND, &major, &body)
    );
    let mut content = head.into_bytes();
    content.append(&mut body);
    Ok(content)
}

/// Over kind and format too: a flipped bit there must not read as a newer format.
fn checksum(kind: &str, major: &str, body: &[u8]) -> String {
    hex::encode(
        Sha256::new()
            .chain_update(format!("{kind} {major}\n"))
            .chain_update(body)
            .finalize(),
    )
}

fn decode<T: Record>(content: &[u8]) -> Result<T, LostReason> {
    let damaged = |why: &str| LostReason::Damaged { why: why.to_owned() };
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(damaged("it is too long"));
    }
    let end = content
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or_else(|| damaged("no first line"))?;
    let (head, body) = content.split_at(end);
    let body = body.get(1..).unwrap_or_default();
    let head = std::str::from_utf8(head).map_err(|_| damaged("the first line is no text"))?;
    let &[MAGIC, kind, major, sum] = head.split(' ').collect::<Vec<_>>().as_slice() else {
        return Err(damaged("the first line is not Drydock's"));
    };
    if checksum(kind, major, body) != sum {
        return Err(damaged("its checksum is wrong"));
    }
    if kind != T::KIND {
        return Err(LostReason::Damaged {
            why: format!("it holds {kind:?}, not {:?}", T::KIND),
        });
    }
    let major: u32 = major.parse().map_err(|_| damaged("its format is no number"))?;
    if major > T::MAJOR {
        return Err(LostReason::Newer { major });
    }
    serde_json::from_slice(body).map_err(|e| LostReason::Damaged { why: e.to_string() })
}
