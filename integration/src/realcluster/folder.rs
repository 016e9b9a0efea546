//! The folder of one control plane: data, keys, logs. It is removed at the end; that of a harness that was
//! killed is removed by the next one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

const PREFIX: &str = "drydock-control-plane-";
/// Locked as long as its harness lives.
const LOCK: &str = "lock";

/// A folder that is removed when this is dropped.
pub struct Folder {
    folder: tempfile::TempDir,
    _lock: File,
}

impl Folder {
    /// Make one where temporary files go, and remove those that nobody uses any more.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> anyhow::Result<Folder> {
        let base = std::env::temp_dir();
        remove_abandoned(&base);
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(&base)
            .with_context(|| format!("a folder in {}", base.display()))?;
        // Locked before it has the name that others look for.
        let (unnamed, named) = (folder.path().join("lock.new"), folder.path().join(LOCK));
        let lock = File::create(&unnamed).context("the folder's lock")?;
        lock.try_lock().context("lock the new folder")?;
        fs::rename(unnamed, named).context("the folder's lock")?;
        for name in ["etcd", "certificates", "logs"] {
            fs::create_dir(folder.path().join(name)).with_context(|| format!("the folder {name}"))?;
        }
        Ok(Folder { folder, _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The log of this process.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.path().join("logs").join(format!("{name}.log"))
    }

    /// Write a file that only this user may read, and say where it is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.path().join("certificates").join(name);
        // The folder above is for this user alone: mkdtemp makes it so.
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Remove it, and say if that fails.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub fn remove(self) -> anyhow::Result<()> {
        let path = self.path().to_owned();
        self.folder
            .close()
            .with_context(|| format!("remove {}: do it by hand", path.display()))
    }
}

/// Remove the folders of harnesses that were killed: their locks are free. What cannot be removed stays;
/// it is somebody else's.
fn remove_abandoned(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for folder in entries.flatten().map(|entry| entry.path()) {
        let is_ours = folder
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        let Some(lock) = is_ours
            .then(|| File::open(folder.join(LOCK)))
            .and_then(Result::ok)
        else {
            continue;
        };
        if lock.try_lock().is_ok() {
            let _ = fs::remove_dir_all(&folder);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn an_abandoned_folder_is_removed_and_one_in_use_is_not() {
        let base = tempfile::tempdir().unwrap();
        let folder = |name: &str| base.path().join(name);
        for name in [
            "drydock-control-plane-dead",
            "drydock-control-plane-live",
            "other",
        ] {
            fs::create_dir(folder(name)).unwrap();
            fs::write(folder(name).join(LOCK), "").unwrap();
        }
        let held = File::open(folder("drydock-control-plane-live").join(LOCK)).unwrap();
        held.try_lock().unwrap();
        remove_abandoned(base.path());
        assert!(!folder("drydock-control-plane-dead").exists());
        assert!(folder("drydock-control-plane-live").exists() && folder("other").exists());
    }
}
