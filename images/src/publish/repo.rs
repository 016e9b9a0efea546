//! The repository's folder: its lock, its newest metadata, and the one way to change them. Files are
//! written in the order targets, targets.json, snapshot.json, timestamp.json, each on the disk before
//! the next, so every state on the disk is one that a reader accepts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tough::schema::{Metafile, Role, Root, Signed, Snapshot, Targets, Timestamp as TimestampRole};

use super::Signing;
use super::draft::Draft;
use super::roles::{SignedFiles, next_roles, sign_all, sign_timestamp};
use crate::digest::Digest;
use crate::error::ReleaseError;
use crate::keys::KeyRing;
use crate::layout::{self, METADATA_DIR, TIMESTAMP_FILE};
use crate::progress::Progress;
use crate::release::{Durable, ReleaseDir, check_pack, read_bounded, write_whole};
use crate::trust::MetadataVersions;

/// The lock in the repository's folder; never removed.
const LOCK_FILE: &str = ".drydock.lock";
/// The most bytes of a metadata file that is read back.
const MAX_METADATA_BYTES: u64 = 8 * 1024 * 1024;
/// The most roots that are followed.
const MAX_ROOTS: u64 = 1024;

/// What is signed anew by a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signs {
    /// Targets, snapshot and timestamp.
    All,
    /// The timestamp alone.
    TimestampOnly,
}

/// What copying a release came to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Copied {
    pub new_packs: u64,
    pub new_bytes: u64,
    pub known_packs: u64,
}

/// The newest metadata of a repository, each verified by its root; None where there are none yet.
#[derive(Debug)]
pub(super) struct State {
    pub root: Signed<Root>,
    pub signed: Option<SignedState>,
}

/// The three files below the root.
#[derive(Debug)]
pub(super) struct SignedState {
    pub timestamp: Signed<TimestampRole>,
    pub snapshot: Signed<Snapshot>,
    pub targets: Signed<Targets>,
}

/// A repository's folder, locked for as long as this lives.
#[derive(Debug)]
pub(super) struct RepoDir {
    pub path: PathBuf,
    /// Given up when it is dropped, even while a child process that was just forked still has the file open.
    _lock: Flock<File>,
}

impl RepoDir {
    /// Locks the folder; makes it if need be.
    pub async fn lock(path: &Path) -> Result<Self, ReleaseError> {
        let path = path.to_path_buf();
        blocking(move || {
            fs::create_dir_all(&path).map_err(ReleaseError::io("make the folder", &path))?;
            let lock_path = path.join(LOCK_FILE);
            let lock = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&lock_path);
            let lock = lock.map_err(ReleaseError::io("open", &lock_path))?;
            match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => Ok(Self { path, _lock: lock }),
                Err((_, Errno::EWOULDBLOCK)) => Err(ReleaseError::Busy { path: lock_path }),
                Err((_, errno)) => Err(ReleaseError::io("lock", &lock_path)(errno.into())),
            }
        })
        .await
    }

    /// Does blocking work with the repository, and gives it back.
    pub async fn blocking<T: Send + 'static>(
        self,
        work: impl FnOnce(&Self) -> Result<T, ReleaseError> + Send + 'static,
    ) -> Result<(Self, T), ReleaseError> {
        blocking(move || {
            let done = work(&self)?;
            Ok((self, done))
        })
        .await
    }

    /// Copies what of a release is not here, checks all of it as it then stands here, and flushes the disk.
    pub fn copy_release(&self, release: &ReleaseDir, progress: &Progress) -> Result<Copied, ReleaseError> {
        let mut copied = Copied::default();
        for artifact in &release.manifest().artifacts {
            let (bytes, index) = release.index(artifact)?;
            let path = self.path.join(layout::pack_path(&artifact.index.digest));
            // One that is here is whole, unless a crash or a failing disk left something else.
            let known = path.exists() && check_pack(&path, &index, artifact, &Progress::none()).is_ok();
            if known {
                copied.known_packs += 1;
                progress.advance(artifact.size);
            } else {
                self.copy_pack(&release.pack(artifact), &path, |copy| {
                    check_pack(copy, &index, artifact, progress)
                        .map_err(|error| in_release(error, copy, &release.pack(artifact)))
                })?;
                copied.new_packs += 1;
                copied.new_bytes += index.pack_bytes();
            }
            self.put_object(&layout::index_path(&artifact.index.digest), &bytes)?;
        }
        self.flush()?;
        Ok(copied)
    }

    /// One flush for all that was written, before any metadata lead to it.
    pub fn flush(&self) -> Result<(), ReleaseError> {
        let failed = ReleaseError::io("flush", &self.path);
        let dir = File::open(&self.path).map_err(&failed)?;
        nix::unistd::syncfs(&dir).map_err(|errno| failed(errno.into()))
    }

    /// A copy gets its name when it was found whole.
    fn copy_pack(
        &self,
        from: &Path,
        to: &Path,
        check: impl FnOnce(&Path) -> Result<(), ReleaseError>,
    ) -> Result<(), ReleaseError> {
        let parent = to.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(ReleaseError::io("make the folder", parent))?;
        let failed = ReleaseError::io("write", to);
        let new = tempfile::Builder::new()
            .prefix(".new-")
            .tempfile_in(parent)
            .map_err(&failed)?;
        fs::copy(from, new.path()).map_err(ReleaseError::io("copy", from))?;
        check(new.path())?;
        let mode = fs::Permissions::from_mode(0o644);
        new.as_file().set_permissions(mode).map_err(&failed)?;
        new.persist(to).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// Writes an immutable file unless just these bytes are there; a crash may have left others.
    fn put_object(&self, name: &str, bytes: &[u8]) -> Result<bool, ReleaseError> {
        let path = self.path.join(name);
        let same_length = fs::metadata(&path).is_ok_and(|known| known.len() == bytes.len() as u64);
        if same_length && read_bounded(&path, bytes.len() as u64)? == bytes {
            return Ok(false);
        }
        let new = !path.exists();
        write_whole(&path, bytes, Durable::Later)?;
        Ok(new)
    }

    fn metadata(&self, name: &str) -> PathBuf {
        self.path.join(METADATA_DIR).join(name)
    }

    /// Reads the newest metadata and verifies each by its root. A new repository takes over the roots
    /// that are in the folder of keys.
    pub fn state(&self, keys: &Path) -> Result<State, ReleaseError> {
        if !self.metadata("1.root.json").exists() && !self.metadata(TIMESTAMP_FILE).exists() {
            self.adopt_roots(keys)?;
        }
        let root = self.newest_root()?;
        let timestamp_path = self.metadata(TIMESTAMP_FILE);
        if !timestamp_path.exists() {
            return Ok(State { root, signed: None });
        }
        let timestamp: Signed<TimestampRole> = self.read_role(&root, &timestamp_path, None)?;
        let snapshot_meta = self.meta(&timestamp.signed.meta, "snapshot.json", &timestamp_path)?;
        let snapshot_path = self.metadata(&format!("{}.snapshot.json", snapshot_meta.version));
        let snapshot: Signed<Snapshot> = self.read_role(&root, &snapshot_path, Some(snapshot_meta))?;
        let targets_meta = self.meta(&snapshot.signed.meta, "targets.json", &snapshot_path)?;
        let targets_path = self.metadata(&format!("{}.targets.json", targets_meta.version));
        let targets: Signed<Targets> = self.read_role(&root, &targets_path, Some(targets_meta))?;
        Ok(State {
            root,
            signed: Some(SignedState {
                timestamp,
                snapshot,
                targets,
            }),
        })
    }

    fn adopt_roots(&self, keys: &Path) -> Result<(), ReleaseError> {
        for version in 1..=MAX_ROOTS {
            let from = keys.join(format!("{version}.root.json"));
            if !from.exists() {
                if version == 1 {
                    let detail = format!(
                        "it has no root yet, and {} is not there: make keys and a root with drydock-images keygen",
                        from.display()
                    );
                    return Err(self.broken(&self.path, detail));
                }
                return Ok(());
            }
            let bytes = read_bounded(&from, MAX_METADATA_BYTES)?;
            write_whole(
                &self.metadata(&format!("{version}.root.json")),
                &bytes,
                Durable::Now,
            )?;
        }
        Ok(())
    }

    fn newest_root(&self) -> Result<Signed<Root>, ReleaseError> {
        let mut newest: Option<Signed<Root>> = None;
        for version in 1..=MAX_ROOTS {
            let path = self.metadata(&format!("{version}.root.json"));
            if !path.exists() {
                break;
            }
            let root: Signed<Root> = parse(&read_bounded(&path, MAX_METADATA_BYTES)?)
                .map_err(|detail| self.broken(&path, detail))?;
            let vouched = newest.iter().all(|older| older.signed.verify_role(&root).is_ok())
                && root.signed.verify_role(&root).is_ok();
            if !vouched || root.signed.version.get() != version {
                return Err(self.broken(
                    &path,
                    "it is not signed by itself and the root before it".to_owned(),
                ));
            }
            newest = Some(root);
        }
        newest.ok_or_else(|| self.broken(&self.metadata("1.root.json"), "it is missing".to_owned()))
    }

    fn read_role<T: Role + Serialize + DeserializeOwned>(
        &self,
        root: &Signed<Root>,
        path: &Path,
        meta: Option<&Metafile>,
    ) -> Result<Signed<T>, ReleaseError> {
        let bytes = read_bounded(path, MAX_METADATA_BYTES)?;
        if let Some(hashes) = meta.and_then(|meta| meta.hashes.as_ref())
            && hashes.sha256[..] != Digest::of(&bytes).as_bytes()[..]
        {
            return Err(self.broken(path, "it is not what the file above it names".to_owned()));
        }
        let role: Signed<T> = parse(&bytes).map_err(|detail| self.broken(path, detail))?;
        // Never sign on top of what nobody vouches for.
        root.signed
            .verify_role(&role)
            .map_err(|error| self.broken(path, error.to_string()))?;
        Ok(role)
    }

    fn meta<'m>(
        &self,
        meta: &'m std::collections::HashMap<String, Metafile>,
        name: &str,
        path: &Path,
    ) -> Result<&'m Metafile, ReleaseError> {
        meta.get(name)
            .ok_or_else(|| self.broken(path, format!("it does not name {name}")))
    }

    pub fn broken(&self, path: &Path, detail: String) -> ReleaseError {
        ReleaseError::Repository {
            path: path.to_path_buf(),
            detail,
        }
    }

    /// Applies `edit` to what is listed, signs, and publishes.
    pub async fn change(
        self,
        signing: &Signing,
        signs: Signs,
        edit: impl FnOnce(&mut Draft<'_>) -> Result<(), ReleaseError>,
    ) -> Result<MetadataVersions, ReleaseError> {
        let keys_dir = signing.keys.clone();
        let read = move |repo: &Self| Ok((repo.state(&keys_dir)?, KeyRing::load(&keys_dir)?));
        let (repo, (state, keys)) = self.blocking(read).await?;
        let mut draft = Draft::new(&repo, state.signed.as_ref());
        edit(&mut draft)?;
        let (listed, new_files) = (draft.listed, draft.new_files);
        let roots = [&state.root.signed];
        let signed = match signs {
            Signs::All => {
                let next = next_roles(state.signed.as_ref(), listed, signing)?;
                sign_all(&keys, &roots, next).await?
            }
            Signs::TimestampOnly => {
                let Some(current) = state.signed.as_ref() else {
                    let detail = "it has no timestamp to refresh: publish a release first".to_owned();
                    return Err(repo.broken(&repo.path, detail));
                };
                sign_timestamp(&keys, &roots, current, signing).await?
            }
        };
        let versions = signed.versions(state.root.signed.version);
        repo.blocking(move |repo| repo.write_signed(new_files, &signed))
            .await?;
        Ok(versions)
    }

    /// Everything new first, then one rename.
    pub fn write_signed(
        &self,
        new_files: BTreeMap<String, Vec<u8>>,
        signed: &SignedFiles,
    ) -> Result<(), ReleaseError> {
        for (name, bytes) in new_files {
            let path = layout::target_path(&name, &Digest::of(&bytes), true);
            write_whole(&self.path.join(path), &bytes, Durable::Now)?;
        }
        for (name, bytes) in &signed.below {
            write_whole(&self.metadata(name), bytes, Durable::Now)?;
        }
        write_whole(&self.metadata(TIMESTAMP_FILE), &signed.timestamp, Durable::Now)
    }
}

/// An error about a copy is one about what was copied.
fn in_release(error: ReleaseError, copy: &Path, original: &Path) -> ReleaseError {
    match error {
        ReleaseError::Release { path, detail } if path == copy => ReleaseError::Release {
            path: original.to_path_buf(),
            detail,
        },
        other => other,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReleaseError> + Send + 'static,
) -> Result<T, ReleaseError> {
    let stopped = |error| ReleaseError::Request(format!("publishing was stopped: {error}"));
    tokio::task::spawn_blocking(work).await.map_err(stopped)?
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A child has the file open from its fork on until it runs its program.
    #[tokio::test]
    async fn a_lock_that_was_given_up_is_free_while_a_child_still_has_the_file_open() {
        let folder = tempfile::tempdir().unwrap();
        let repo = RepoDir::lock(folder.path()).await.unwrap();
        let of_the_child = repo._lock.try_clone().unwrap();
        let held = RepoDir::lock(folder.path()).await.unwrap_err();
        assert!(matches!(held, ReleaseError::Busy { .. }), "{held}");
        drop(repo);
        RepoDir::lock(folder.path()).await.unwrap();
        drop(of_the_child);
    }
}
