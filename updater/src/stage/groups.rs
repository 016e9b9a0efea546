//! What of an artifact grows with its length, and is wanted in one order only: kept in groups, of which one is
//! in memory at a time. They wait in a file of the state partition; what is read of it is compared with what
//! was written.

use std::borrow::Cow;
use std::io;

use drydock_images::Digest;

use crate::state::{Scratch, StateDir, StateError};

/// See the module.
#[derive(Debug)]
pub(super) enum Groups {
    Memory(Vec<Vec<u8>>),
    File(Filed),
}

/// Groups in a file.
#[derive(Debug)]
pub(super) struct Filed {
    file: Scratch,
    /// Where each group ends in the file, and what it is.
    groups: Vec<(u64, Digest)>,
}

impl Groups {
    /// Keeps these groups; in memory only where there is no room for them in the state folder, or none to be
    /// used. Blocks.
    pub(super) fn keep<G: Iterator<Item = Vec<u8>>>(
        what: &str,
        groups: impl Fn() -> G,
        state: Option<&StateDir>,
    ) -> Self {
        let filed = state.and_then(|state| {
            let filed = Scratch::make(state).and_then(|file| Filed::write(groups(), file));
            filed
                .inspect_err(|error| tracing::warn!(%error, "{what} stays in memory"))
                .ok()
        });
        filed.map_or_else(|| Self::Memory(groups().collect()), Self::File)
    }

    /// The group with that number; none behind the last. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, or is not what was written.
    pub(super) fn get(&self, number: usize) -> Result<Option<Cow<'_, [u8]>>, StateError> {
        match self {
            Self::Memory(groups) => Ok(groups.get(number).map(|group| group.as_slice().into())),
            Self::File(filed) => Ok(filed.get(number)?.map(Cow::Owned)),
        }
    }
}

impl Filed {
    fn write(groups: impl Iterator<Item = Vec<u8>>, mut file: Scratch) -> Result<Self, StateError> {
        let (mut written, mut end) = (Vec::new(), 0);
        for group in groups {
            file.append(&group)?;
            end += group.len() as u64;
            written.push((end, Digest::of(&group)));
        }
        let groups = written;
        Ok(Self { file, groups })
    }

    fn get(&self, number: usize) -> Result<Option<Vec<u8>>, StateError> {
        let Some((end, digest)) = self.groups.get(number) else {
            return Ok(None);
        };
        let start = number.checked_sub(1).map_or(0, |before| self.groups[before].0);
        // It was in memory when it was written.
        let mut group = vec![0; (end - start) as usize];
        self.file.read_at(&mut group, start)?;
        if Digest::of(&group) != *digest {
            let differs = io::Error::other("it is not what was written");
            return Err(self.file.unreadable(differs));
        }
        Ok(Some(group))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::disk::gate::OpenGate;

    fn some() -> impl Iterator<Item = Vec<u8>> {
        [3, 0, 5000, 1].into_iter().map(|len| vec![len as u8; len])
    }

    fn state(path: &Path) -> StateDir {
        StateDir::open(path, Arc::new(OpenGate)).unwrap()
    }

    #[test]
    fn groups_come_back_from_the_file_as_they_were_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(folder.path());
        let mut groups = Groups::keep("it", some, Some(&state));
        for (number, group) in some().enumerate() {
            assert_eq!(groups.get(number).unwrap().unwrap(), group);
        }
        assert!(groups.get(4).unwrap().is_none());
        // It has no name, so nothing is left behind.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

        let Groups::File(filed) = &mut groups else {
            panic!("{groups:?}");
        };
        let mut damaged: Vec<u8> = some().flatten().collect();
        damaged.pop();
        damaged[3 + 70] ^= 1;
        filed.file = Scratch::make(&state).unwrap();
        filed.file.append(&damaged).unwrap();
        let is_read = [0, 1, 2, 3].map(|number| groups.get(number).is_ok());
        assert_eq!(is_read, [true, true, false, false]);
    }

    #[test]
    fn where_there_is_no_file_groups_are_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let [there, gone] = ["there", "gone"].map(|name| state(&folder.path().join(name)));
        std::fs::remove_dir(gone.path()).unwrap();
        for (state, in_file) in [(Some(&there), true), (Some(&gone), false), (None, false)] {
            let groups = Groups::keep("it", some, state);
            assert_eq!(matches!(groups, Groups::File(_)), in_file);
            for (number, group) in some().enumerate() {
                assert_eq!(groups.get(number).unwrap().unwrap(), group);
            }
            assert!(groups.get(4).unwrap().is_none());
        }
    }
}
