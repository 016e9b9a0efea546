//! A folder in memory that can lose its power: content is lasting after `sync`, names are after
//! `sync_dir`, and what is not may be gone, torn, or there. For crash tests and the simulator; no node
//! uses it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Files, ReadAt};
use crate::disk::sim::mixed;

/// See the module.
#[derive(Debug, Default)]
pub struct SimFiles {
    inner: Mutex<SimFolder>,
}

type Names = BTreeMap<String, usize>;

#[derive(Debug, Default, Clone)]
struct SimFolder {
    /// Content as seen and, where it was flushed, as on the medium.
    files: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    seen: Names,
    durable: Names,
    /// Folders as they were after each change since the last flush of names.
    between: Vec<Names>,
}

impl SimFolder {
    fn change(&mut self, change: impl FnOnce(&mut Names)) {
        change(&mut self.seen);
        self.between.push(self.seen.clone());
    }

    /// What is left when the names are these, and of unflushed content what `kept` says.
    fn left(&self, names: &Names, mut kept: impl FnMut(&[u8]) -> Vec<u8>) -> SimFiles {
        let files = self.files.iter().map(|(seen, durable)| {
            let content = durable.clone().unwrap_or_else(|| kept(seen));
            (content.clone(), Some(content))
        });
        SimFiles {
            inner: Mutex::new(Self {
                files: files.collect(),
                seen: names.clone(),
                durable: names.clone(),
                between: Vec::new(),
            }),
        }
    }
}

impl SimFiles {
    /// A folder with these files, all of them lasting.
    #[must_use]
    pub fn with_content(content: BTreeMap<String, Vec<u8>>) -> Self {
        let mut folder = SimFolder::default();
        for (number, (name, content)) in content.into_iter().enumerate() {
            folder.files.push((content.clone(), Some(content)));
            folder.seen.insert(name, number);
        }
        folder.durable = folder.seen.clone();
        Self {
            inner: Mutex::new(folder),
        }
    }

    /// The files as a reader sees them.
    #[must_use]
    pub fn content(&self) -> BTreeMap<String, Vec<u8>> {
        let inner = self.lock();
        let content = |file: &usize| Some(inner.files.get(*file)?.0.clone());
        inner
            .seen
            .iter()
            .filter_map(|(name, file)| Some((name.clone(), content(file)?)))
            .collect()
    }

    /// Every folder that a power cut now may leave; of content that was not flushed nothing, half or all
    /// of each file. The first is the one that lost the most.
    #[must_use]
    pub fn after_power_cut(&self) -> Vec<SimFiles> {
        let now = self.lock().clone();
        let mut outcomes = Vec::new();
        for names in std::iter::once(&now.durable).chain(&now.between) {
            for part in 0..3 {
                outcomes.push(now.left(names, |seen| seen[..seen.len() * part / 2].to_vec()));
            }
        }
        outcomes
    }

    /// The folder after a power cut that lost everything that was not flushed.
    #[must_use]
    pub fn after_total_power_cut(&self) -> Self {
        let now = self.lock().clone();
        now.left(&now.durable, |_| Vec::new())
    }

    /// The folder after a power cut, the choice among what it may leave made by a seed: the names of one
    /// instant since they were flushed, and of each unflushed file a beginning of any length.
    #[must_use]
    pub fn after_seeded_power_cut(&self, seed: u64) -> Self {
        let now = self.lock().clone();
        let mut state = seed;
        let mut below = |bound: usize| {
            let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
            usize::try_from(mixed(&mut state) % bound).unwrap_or_default()
        };
        let names = match below(now.between.len() + 1) {
            0 => &now.durable,
            nth => &now.between[nth - 1],
        };
        now.left(names, |seen| seen[..below(seen.len() + 1)].to_vec())
    }

    fn lock(&self) -> MutexGuard<'_, SimFolder> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no file {name}"))
}

/// A file as it was when it was opened.
#[derive(Debug)]
struct SimContent(Vec<u8>);

impl ReadAt for SimContent {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).ok();
        let found = from.and_then(|from| self.0.get(from..)?.get(..buf.len()));
        buf.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl Files for SimFiles {
    fn read(&self, name: &str, max_bytes: u64) -> io::Result<Option<Vec<u8>>> {
        let most = usize::try_from(max_bytes.saturating_add(1)).unwrap_or(usize::MAX);
        let mut content = self.content().remove(name);
        if let Some(content) = &mut content {
            content.truncate(most);
        }
        Ok(content)
    }

    fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        // A file that is there is truncated and written: what it held before is in doubt, too.
        if let Some(file) = inner.seen.get(name).copied() {
            inner.files[file] = (content.to_vec(), None);
            return Ok(());
        }
        let file = inner.files.len();
        inner.files.push((content.to_vec(), None));
        inner.change(|names| {
            names.insert(name.to_owned(), file);
        });
        Ok(())
    }

    fn append(&self, name: &str, piece: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        let file = inner.seen.get(name).copied().ok_or_else(|| missing(name))?;
        inner.files[file].0.extend_from_slice(piece);
        inner.files[file].1 = None;
        Ok(())
    }

    fn open(&self, name: &str) -> io::Result<Option<(Box<dyn ReadAt>, u64)>> {
        let content = self.content().remove(name);
        Ok(content.map(|content| {
            let len_bytes = content.len() as u64;
            (Box::new(SimContent(content)) as Box<dyn ReadAt>, len_bytes)
        }))
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        let mut inner = self.lock();
        let file = inner.seen.get(name).copied().ok_or_else(|| missing(name))?;
        inner.files[file].1 = Some(inner.files[file].0.clone());
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.lock();
        let file = inner.seen.get(from).copied().ok_or_else(|| missing(from))?;
        inner.change(|names| {
            names.remove(from);
            names.insert(to.to_owned(), file);
        });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.lock().change(|names| {
            names.remove(name);
        });
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut inner = self.lock();
        inner.durable = inner.seen.clone();
        inner.between.clear();
        Ok(())
    }
}
