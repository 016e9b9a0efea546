//! What a power cut takes from a simulated node: of disk and state partition what was not flushed, in
//! whole sectors and beginnings of files, and names that the folder's flush had not made lasting. Its
//! models are the updater's own of its crash tests; here they follow what the processes of one boot write
//! to the real files, and at the cut those become what is left. It never decides when that is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drydock_updater::disk::RawDisk as _;
use drydock_updater::disk::gate::{WriteEvent, WriteKind};
use drydock_updater::disk::sim::SimDisk;
use drydock_updater::state::Files as _;
use drydock_updater::state::sim::SimFiles;
use tokio_util::sync::CancellationToken;

/// What the nodes' disks say of themselves.
const SECTOR_BYTES: u64 = 512;
/// A write that has not ended after this never will: it failed.
const LONGEST_WRITE: Duration = Duration::from_secs(5);

/// What is lost of that which was not flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All of it.
    All,
    /// Each sector, name and file's end by itself, as this seed says.
    Seeded(u64),
}

/// The power of one boot of a node.
pub struct Power {
    disk: PathBuf,
    cut: CancellationToken,
    inner: Mutex<Inner>,
    turn: Condvar,
}

struct Inner {
    /// A write is under way; one at a time, so that the models see them in the order of the disk.
    busy: bool,
    lost: Option<Loss>,
    disk: SimDisk,
    folders: BTreeMap<PathBuf, SimFiles>,
}

fn gone() -> io::Error {
    io::Error::other("the power is gone")
}

impl Power {
    /// The power of a boot that begins with this disk and this state partition: all there is on them is
    /// lasting.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn on(disk: &Path, state: &Path) -> io::Result<Self> {
        let mut folders = BTreeMap::new();
        take_in(state, &mut folders)?;
        Ok(Self {
            disk: disk.to_owned(),
            cut: CancellationToken::new(),
            inner: Mutex::new(Inner {
                busy: false,
                lost: None,
                disk: SimDisk::new(std::fs::read(disk)?, SECTOR_BYTES),
                folders,
            }),
            turn: Condvar::new(),
        })
    }

    /// Ends when the power is gone.
    #[must_use]
    pub fn gone(&self) -> CancellationToken {
        self.cut.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for this write's turn.
    ///
    /// # Errors
    /// There is no power any more.
    pub(super) fn begin(&self) -> io::Result<()> {
        let waited = self.turn.wait_timeout_while(self.lock(), LONGEST_WRITE, |inner| {
            inner.busy && inner.lost.is_none()
        });
        let (mut inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if inner.lost.is_some() {
            return Err(gone());
        }
        inner.busy = true;
        Ok(())
    }

    /// The write whose turn it is has happened.
    ///
    /// # Errors
    /// If what was written cannot be read.
    pub(super) fn wrote(&self, event: &WriteEvent<'_>) -> io::Result<()> {
        let mut inner = self.lock();
        match event.kind {
            WriteKind::DeviceWrite if event.path == self.disk => {
                let mut bytes = vec![0; usize::try_from(event.len).map_err(io::Error::other)?];
                File::open(&self.disk)?.read_exact_at(&mut bytes, event.offset)?;
                inner.disk.write_at(event.offset, &bytes)
            }
            WriteKind::DeviceFlush if event.path == self.disk => inner.disk.flush(),
            WriteKind::DeviceWrite | WriteKind::DeviceFlush => Ok(()),
            WriteKind::FileWrite
            | WriteKind::FileSync
            | WriteKind::Rename
            | WriteKind::Remove
            | WriteKind::DirSync => inner.follow(event),
        }
    }

    /// The turn is over.
    pub(super) fn end(&self) {
        self.lock().busy = false;
        self.turn.notify_all();
    }

    /// Takes the power away: no write begins any more.
    pub(super) fn take_away(&self, loss: Loss) {
        self.lock().lost.get_or_insert(loss);
        self.turn.notify_all();
        self.cut.cancel();
    }

    /// After a cut, once no process runs any more: makes disk and state partition what is left of them.
    /// Blocks.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn settle(&self) -> io::Result<()> {
        let waited = self
            .turn
            .wait_timeout_while(self.lock(), LONGEST_WRITE, |inner| inner.busy);
        let (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let Some(loss) = inner.lost else { return Ok(()) };
        let in_doubt = inner.disk.unflushed_sectors();
        tracing::info!(disk = %self.disk.display(), ?loss, in_doubt, "a power cut");
        let disk = match loss {
            Loss::All => inner.disk.after_power_cut(|_| false),
            Loss::Seeded(seed) => inner.disk.after_seeded_power_cut(seed),
        };
        let file = File::options().write(true).open(&self.disk)?;
        file.write_all_at(&disk.content()?, 0)?;
        for (folder, files) in &inner.folders {
            let files = match loss {
                Loss::All => files.after_total_power_cut(),
                Loss::Seeded(seed) => files.after_seeded_power_cut(seed),
            };
            let left = files.content();
            for name in read_folder(folder)?.into_keys() {
                if !left.contains_key(&name) {
                    std::fs::remove_file(folder.join(name))?;
                }
            }
            for (name, content) in left {
                std::fs::write(folder.join(name), content)?;
            }
        }
        Ok(())
    }
}

impl Inner {
    fn follow(&mut self, event: &WriteEvent<'_>) -> io::Result<()> {
        let name = |path: &Path| {
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        if event.kind == WriteKind::DirSync && event.path.is_dir() {
            // It was made, and is as lasting as those above it.
            let made = read_folder(event.path)?;
            let files = SimFiles::with_content(made);
            self.folders.entry(event.path.to_owned()).or_insert(files);
            return Ok(());
        }
        let folder = event.path.parent().unwrap_or(Path::new(""));
        let Some(files) = self.folders.get(folder) else {
            return Err(io::Error::other(format!(
                "{} is written, and nobody said that its folder was made",
                event.path.display()
            )));
        };
        let file = name(event.path);
        match event.kind {
            WriteKind::FileWrite => files.write(&file, &std::fs::read(event.path)?),
            WriteKind::FileSync => files.sync(&file),
            WriteKind::Rename => files.rename(&name(event.from.unwrap_or(event.path)), &file),
            WriteKind::Remove => files.remove(&file),
            WriteKind::DirSync => files.sync_dir(),
            WriteKind::DeviceWrite | WriteKind::DeviceFlush => Ok(()),
        }
    }
}

/// Locks are no content: they end with their process.
fn is_lock(name: &str) -> bool {
    name.ends_with(".lock")
}

fn read_folder(folder: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut content = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_file() && !is_lock(&name) {
            content.insert(name, std::fs::read(entry.path())?);
        }
    }
    Ok(content)
}

/// This folder and those in it; the trust store's working copies come and go and mean nothing.
fn take_in(folder: &Path, folders: &mut BTreeMap<PathBuf, SimFiles>) -> io::Result<()> {
    folders.insert(folder.to_owned(), SimFiles::with_content(read_folder(folder)?));
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let scratch = entry.file_name().to_string_lossy().starts_with("load-");
        if entry.file_type()?.is_dir() && !scratch {
            take_in(&entry.path(), folders)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    struct Bench {
        _folder: tempfile::TempDir,
        disk: PathBuf,
        state: PathBuf,
        power: Power,
    }

    fn bench() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let (disk, state) = (folder.path().join("disk.img"), folder.path().join("state"));
        std::fs::write(&disk, vec![1; 4096]).unwrap();
        std::fs::create_dir(&state).unwrap();
        std::fs::write(state.join("journal"), b"old").unwrap();
        let power = Power::on(&disk, &state).unwrap();
        Bench {
            _folder: folder,
            disk,
            state,
            power,
        }
    }

    impl Bench {
        fn does(&self, kind: WriteKind, path: &Path, from: Option<&Path>, range: (u64, u64)) {
            let (offset, len) = range;
            let event = WriteEvent {
                kind,
                path,
                from,
                offset,
                len,
            };
            self.power.begin().unwrap();
            self.power.wrote(&event).unwrap();
            self.power.end();
        }

        fn writes_disk(&self, offset: u64, byte: u8) {
            let file = File::options().write(true).open(&self.disk).unwrap();
            file.write_all_at(&[byte; 1024], offset).unwrap();
            self.does(WriteKind::DeviceWrite, &self.disk, None, (offset, 1024));
        }

        fn renames_journal(&self) {
            let (new, name) = (self.state.join("journal.new"), self.state.join("journal"));
            std::fs::write(&new, b"newer").unwrap();
            self.does(WriteKind::FileWrite, &new, None, (0, 5));
            self.does(WriteKind::FileSync, &new, None, (0, 0));
            std::fs::rename(&new, &name).unwrap();
            self.does(WriteKind::Rename, &name, Some(&new), (0, 0));
        }

        fn journal(&self) -> Vec<u8> {
            std::fs::read(self.state.join("journal")).unwrap()
        }
    }

    #[test]
    fn a_cut_loses_what_was_not_flushed_and_keeps_what_was() {
        let bench = bench();
        bench.writes_disk(0, 2);
        bench.does(WriteKind::DeviceFlush, &bench.disk, None, (0, 0));
        bench.writes_disk(1024, 3);
        bench.renames_journal();
        bench.power.take_away(Loss::All);
        assert!(bench.power.begin().is_err(), "nothing is written without power");
        bench.power.settle().unwrap();
        let disk = std::fs::read(&bench.disk).unwrap();
        assert_eq!(disk[..1024], [2; 1024]);
        assert_eq!(disk[1024..], [1; 3072]);
        assert_eq!(bench.journal(), b"old");
        assert!(!bench.state.join("journal.new").exists());
    }

    #[test]
    fn names_are_lasting_once_the_folder_was_flushed() {
        let bench = bench();
        bench.renames_journal();
        let name = bench.state.join("journal");
        bench.does(WriteKind::DirSync, &name, None, (0, 0));
        bench.power.take_away(Loss::All);
        bench.power.settle().unwrap();
        assert_eq!(bench.journal(), b"newer");
    }

    #[test]
    fn a_seeded_cut_tears_a_write_between_sectors() {
        let torn = (0..32).any(|seed| {
            let bench = bench();
            bench.writes_disk(0, 9);
            bench.power.take_away(Loss::Seeded(seed));
            bench.power.settle().unwrap();
            let disk = std::fs::read(&bench.disk).unwrap();
            disk[0] != disk[512]
        });
        assert!(torn);
    }

    #[test]
    fn without_a_cut_everything_stays() {
        let bench = bench();
        bench.writes_disk(0, 5);
        bench.renames_journal();
        bench.power.settle().unwrap();
        assert_eq!(std::fs::read(&bench.disk).unwrap()[0], 5);
        assert_eq!(bench.journal(), b"newer");
    }
}
