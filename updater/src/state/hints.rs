//! Files that only save time: what is in them is proven before it counts, and where one is lost, damaged or
//! cannot be written, the node does without.

use super::dir::{LockName, StateDir, StateError, StateLock};

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

    /// The content of `file`, if it is there, can be read and has `max_bytes` at most.
    #[must_use]
    pub fn load(&self, file: &str, max_bytes: u64) -> Option<Vec<u8>> {
        let content = self.dir.read(file, max_bytes).ok()??;
        (content.len() as u64 <= max_bytes).then_some(content)
    }

    /// # Errors
    /// I/O errors, a full partition among them: what was written of it is taken away again, so that there is
    /// room for what matters.
    pub fn save(&self, lock: &StateLock, file: &str, content: &[u8]) -> Result<(), StateError> {
        if lock.name() != LockName::Slot {
            return Err(StateError::WrongLock {
                path: self.dir.path().join(file),
                wanted: LockName::Slot,
                held: lock.name(),
            });
        }
        self.dir.replace(file, content).inspect_err(|_| {
            let _already_failing = self.dir.remove(&format!("{file}.new"));
        })
    }
}
