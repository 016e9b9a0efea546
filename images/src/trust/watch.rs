//! Who is told of each write of the trust store, and may stop the writer there: what a node's crash
//! tests hang on. It never writes itself.

use std::fmt;
use std::io;
use std::path::Path;

/// What is done to the file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreStep {
    /// A new file gets its content; nobody reads it under this name.
    Write,
    /// A file's content becomes lasting.
    Flush,
    /// A file takes the name that readers open.
    Rename,
    /// The folder that holds this file, or this new folder itself, becomes lasting with its names.
    FlushNames,
}

/// One write of the trust store.
#[derive(Debug, Clone, Copy)]
pub struct StoreWrite<'a> {
    /// What is done.
    pub step: StoreStep,
    /// The file (for a rename: the new name), or the folder that was made.
    pub path: &'a Path,
    /// For a rename: the old name.
    pub from: Option<&'a Path>,
    /// Bytes of content; 0 for the others.
    pub len: u64,
}

/// Asked before each write and told after it. An error stops the writer there.
pub trait StoreWatch: Send + Sync + fmt::Debug {
    /// The write is about to happen.
    ///
    /// # Errors
    /// Any error keeps it from happening.
    fn before(&self, write: &StoreWrite<'_>) -> io::Result<()>;

    /// The write has happened.
    ///
    /// # Errors
    /// Its writer must not go on.
    fn after(&self, write: &StoreWrite<'_>) -> io::Result<()>;
}

/// Lets everything through: what is used where nothing else is said.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl StoreWatch for Unwatched {
    fn before(&self, _: &StoreWrite<'_>) -> io::Result<()> {
        Ok(())
    }

    fn after(&self, _: &StoreWrite<'_>) -> io::Result<()> {
        Ok(())
    }
}
