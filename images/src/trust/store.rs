//! What a machine remembers of a repository: one file with the newest root, timestamp and snapshot it
//! accepted, and the latest time it knows of. The file is replaced whole (write, flush, rename, flush
//! the folder), so a power cut leaves the old one or the new one; one that cannot be read is an error,
//! never "nothing seen yet". Each of these writes passes the [`StoreWatch`].

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{StoreStep, StoreWatch, StoreWrite, TrustError};
use crate::canonical;
use crate::digest::Digest;

/// The format that is written, and the newest that is read.
const STORE_FORMAT: u64 = 1;
/// The file in the store's folder.
const STORE_FILE: &str = "trust.json";
/// Its content before it has its name; what a crash left of one is written over.
const NEW_FILE: &str = "trust.json.new";
/// Taken by whoever loads; never removed.
const LOCK_FILE: &str = ".lock";
/// Folders that tough works in; left over only by a crash.
const COPY_PREFIX: &str = "load-";
/// The longest trust store, in bytes: three bounded metadata files and some.
const MAX_STORE_BYTES: u64 = 16 * 1024 * 1024;

/// What is remembered. Each piece of metadata is the text of the signed file.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Remembered {
    pub root: Option<String>,
    pub timestamp: Option<String>,
    pub snapshot: Option<String>,
    pub latest_known_time: Option<Timestamp>,
    /// Members that a newer program wrote; kept as they are.
    others: Map<String, Value>,
}

/// The store, locked for as long as this lives.
#[derive(Debug)]
pub(super) struct TrustStore {
    dir: PathBuf,
    watch: Arc<dyn StoreWatch>,
    _lock: File,
}

impl TrustStore {
    /// Opens the store in `dir`, makes the folder if need be, and waits for whoever else has it.
    pub fn open(dir: &Path, watch: Arc<dyn StoreWatch>) -> Result<Self, TrustError> {
        let failed = |error: io::Error| TrustError::Store {
            path: dir.to_path_buf(),
            detail: error.to_string(),
        };
        if !dir.is_dir() {
            let step = (StoreStep::FlushNames, None, dir, 0);
            watched(&*watch, step, || make_folder(dir)).map_err(failed)?;
        }
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join(LOCK_FILE))
            .map_err(failed)?;
        lock.lock().map_err(failed)?;
        for entry in fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_string_lossy().starts_with(COPY_PREFIX) {
                fs::remove_dir_all(entry.path()).map_err(failed)?;
            }
        }
        Ok(Self {
            dir: dir.to_path_buf(),
            watch,
            _lock: lock,
        })
    }

    fn path(&self) -> PathBuf {
        self.dir.join(STORE_FILE)
    }

    /// The error for contents that read well and still cannot be right.
    pub fn damaged(&self, detail: String) -> TrustError {
        TrustError::StoreDamaged {
            path: self.path(),
            detail,
        }
    }

    /// An empty folder for tough to work in, gone when dropped.
    pub fn copy_dir(&self) -> Result<tempfile::TempDir, TrustError> {
        tempfile::Builder::new()
            .prefix(COPY_PREFIX)
            .tempdir_in(&self.dir)
            .map_err(|error| TrustError::Store {
                path: self.dir.clone(),
                detail: error.to_string(),
            })
    }

    /// What is remembered; the default if nothing was ever written.
    pub fn read(&self) -> Result<Remembered, TrustError> {
        let path = self.path();
        let damaged = |detail: String| TrustError::StoreDamaged {
            path: path.clone(),
            detail,
        };
        let mut text = String::new();
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Remembered::default()),
            Err(error) => return Err(damaged(error.to_string())),
            Ok(file) => file
                .take(MAX_STORE_BYTES)
                .read_to_string(&mut text)
                .map_err(|error| damaged(error.to_string()))?,
        };
        let mut members: Map<String, Value> =
            serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        let format = members.get("format").and_then(Value::as_u64);
        match format {
            Some(STORE_FORMAT) => {}
            Some(newer) if newer > STORE_FORMAT => {
                self.set_aside(newer)?;
                return Ok(Remembered::default());
            }
            _ => return Err(damaged("it says no format".to_owned())),
        }
        let check = members.remove("check");
        if check != Some(Value::String(digest_of(&members, &path)?.to_string())) {
            return Err(damaged("its check does not match its contents".to_owned()));
        }
        let mut text_member = |name: &str| match members.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(damaged(format!("{name} is no text"))),
        };
        let (root, timestamp, snapshot) = (
            text_member("root")?,
            text_member("timestamp")?,
            text_member("snapshot")?,
        );
        let latest_known_time = match text_member("latestKnownTime")? {
            None => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|_| damaged("its time is no time".to_owned()))?,
            ),
        };
        members.remove("format");
        Ok(Remembered {
            root,
            timestamp,
            snapshot,
            latest_known_time,
            others: members,
        })
    }

    /// Replaces what is remembered, so that a cut at any point leaves the old or the new.
    pub fn write(&self, remembered: &Remembered) -> Result<(), TrustError> {
        let path = self.path();
        let failed = |error: io::Error| TrustError::Store {
            path: path.clone(),
            detail: error.to_string(),
        };
        let mut members = remembered.others.clone();
        members.insert("format".to_owned(), STORE_FORMAT.into());
        let time = remembered.latest_known_time.map(|time| time.to_string());
        for (name, text) in [
            ("root", &remembered.root),
            ("timestamp", &remembered.timestamp),
            ("snapshot", &remembered.snapshot),
            ("latestKnownTime", &time),
        ] {
            if let Some(text) = text {
                members.insert(name.to_owned(), Value::String(text.clone()));
            }
        }
        let check = digest_of(&members, &path)?;
        members.insert("check".to_owned(), Value::String(check.to_string()));
        let bytes = canonical::to_vec(&members).map_err(|error| failed(error.into()))?;
        let new = self.dir.join(NEW_FILE);
        let len = bytes.len() as u64;
        self.step((StoreStep::Write, None, &new, len), || write_new(&new, &bytes))
            .and_then(|()| self.step((StoreStep::Flush, None, &new, 0), || File::open(&new)?.sync_all()))
            .and_then(|()| self.rename(&new, &path))
            .map_err(failed)
    }

    /// Lasting when it returns.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step((StoreStep::Rename, Some(from), to, 0), || fs::rename(from, to))?;
        self.step((StoreStep::FlushNames, None, to, 0), || {
            File::open(&self.dir)?.sync_all()
        })
    }

    fn step(&self, step: Step<'_>, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        watched(&*self.watch, step, act)
    }

    /// A newer program's store counts as lost, and is kept for it.
    fn set_aside(&self, format: u64) -> Result<(), TrustError> {
        let (from, to) = (
            self.path(),
            self.dir.join(format!("{STORE_FILE}.format-{format}")),
        );
        tracing::warn!(path = %from.display(), format, "the trust store is of a newer Drydock; set aside, starting from the shipped root");
        self.rename(&from, &to).map_err(|error| TrustError::Store {
            path: from.clone(),
            detail: error.to_string(),
        })
    }
}

/// What is done, the old name of a rename, the file, its bytes.
type Step<'a> = (StoreStep, Option<&'a Path>, &'a Path, u64);

fn watched(
    watch: &dyn StoreWatch,
    (step, from, path, len): Step<'_>,
    act: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let write = StoreWrite {
        step,
        path,
        from,
        len,
    };
    watch.before(&write)?;
    act()?;
    watch.after(&write)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)?.write_all(bytes)
}

/// A folder whose own name is lasting, and those of the folders made for it: a file in it is only as
/// lasting as they.
fn make_folder(dir: &Path) -> io::Result<()> {
    let missing = dir.ancestors().take_while(|folder| !folder.is_dir());
    let parents: Vec<_> = missing.filter_map(Path::parent).collect();
    fs::create_dir_all(dir)?;
    for parent in parents {
        // The parent of a relative path is the empty one.
        let parent = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

fn digest_of(members: &Map<String, Value>, path: &Path) -> Result<Digest, TrustError> {
    let bytes = canonical::to_vec(members).map_err(|error| TrustError::StoreDamaged {
        path: path.to_path_buf(),
        detail: error.to_string(),
    })?;
    Ok(Digest::of(&bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::super::Unwatched;
    use super::*;

    fn example() -> Remembered {
        Remembered {
            root: Some("{\"r\":1}".to_owned()),
            timestamp: Some("{\"t\":1}".to_owned()),
            snapshot: None,
            latest_known_time: Some("2026-01-02T03:04:05Z".parse().unwrap()),
            others: Map::from_iter([("later".to_owned(), Value::from(7))]),
        }
    }

    #[test]
    fn what_was_written_is_read_and_members_of_others_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = TrustStore::open(dir.path(), Arc::new(Unwatched)).unwrap();
        assert_eq!(store.read().unwrap(), Remembered::default());
        store.write(&example()).unwrap();
        assert_eq!(store.read().unwrap(), example());
    }

    /// Notes each write, and stops the one with this number, from 1.
    #[derive(Debug, Default)]
    struct Notes {
        seen: std::sync::Mutex<Vec<(StoreStep, String)>>,
        stop_at: usize,
    }

    impl StoreWatch for Notes {
        fn before(&self, write: &StoreWrite<'_>) -> io::Result<()> {
            let mut seen = self.seen.lock().unwrap();
            let name = write.path.file_name().unwrap().to_string_lossy().into_owned();
            seen.push((write.step, name));
            if seen.len() == self.stop_at {
                Err(io::Error::other("stopped"))
            } else {
                Ok(())
            }
        }

        fn after(&self, _: &StoreWrite<'_>) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_write_is_seen_before_it_happens_and_stopped_anywhere_the_old_store_stands() {
        let all = [
            (StoreStep::FlushNames, "store"),
            (StoreStep::Write, "trust.json.new"),
            (StoreStep::Flush, "trust.json.new"),
            (StoreStep::Rename, "trust.json"),
            (StoreStep::FlushNames, "trust.json"),
        ];
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("store");
        let notes = Arc::new(Notes::default());
        let store = TrustStore::open(&dir, notes.clone()).unwrap();
        store.write(&example()).unwrap();
        let seen = notes.seen.lock().unwrap().clone();
        assert_eq!(seen, all.map(|(step, name)| (step, name.to_owned())));
        drop(store);
        for stop_at in 1..=4 {
            let seen = std::sync::Mutex::default();
            let store = TrustStore::open(&dir, Arc::new(Notes { seen, stop_at })).unwrap();
            let newer = Remembered::default();
            assert_eq!(store.write(&newer).unwrap_err().code(), "TrustStoreUnusable");
            // Only the flush of names comes after the new name.
            let expected = if stop_at == 4 { newer } else { example() };
            assert_eq!(store.read().unwrap(), expected, "stopped at {stop_at}");
        }
    }

    #[test]
    fn cut_at_any_length_or_changed_anywhere_it_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = TrustStore::open(dir.path(), Arc::new(Unwatched)).unwrap();
        store.write(&example()).unwrap();
        let path = dir.path().join(STORE_FILE);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let error = store.read().unwrap_err();
            assert_eq!(error.code(), "TrustStoreDamaged", "cut at {length}");
            assert!(error.to_string().contains(path.to_str().unwrap()));
        }
        for position in 0..whole.len() {
            let mut changed = whole.clone();
            changed[position] ^= 1;
            fs::write(&path, &changed).unwrap();
            // One flip can make another number of the format, which is then set aside as newer.
            if let Ok(read) = store.read() {
                assert_eq!(read, Remembered::default(), "changed at {position}");
                assert!(
                    dir.path().read_dir().unwrap().count() > 2,
                    "changed at {position}"
                );
            }
        }
    }

    #[test]
    fn a_newer_format_is_set_aside_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let store = TrustStore::open(dir.path(), Arc::new(Unwatched)).unwrap();
        let path = dir.path().join(STORE_FILE);
        fs::write(&path, r#"{"format":2,"check":"other"}"#).unwrap();
        assert_eq!(store.read().unwrap(), Remembered::default());
        assert!(dir.path().join("trust.json.format-2").exists());
        assert!(!path.exists());
    }
}
