//! A new root: other keys, another threshold, or only more time. It is signed by the threshold of the
//! root before it and by its own. Where the keys of other roles change, their files are signed by old
//! and new keys together and published before the root, so at no moment is a reader left without
//! files that its root accepts.

use std::path::PathBuf;

use tough::schema::{RoleType, Root};

use super::Signing;
use super::repo::RepoDir;
use super::roles::{next_roles, role_differs, sign_all};
use crate::error::ReleaseError;
use crate::keys::{KeyRing, new_root, to_json, whole_seconds};
use crate::layout::METADATA_DIR;
use crate::release::{Durable, write_whole};

/// What the next root is to say.
#[derive(Debug, Clone)]
pub struct RotateRequest {
    /// Where; `keys` is the folder of the keys that are trusted now.
    pub signing: Signing,
    /// The folder of the keys that shall be trusted, named `ROLE-N.pk8` as keygen does. None keeps
    /// the keys and gives the root more time.
    pub new_keys: Option<PathBuf>,
    /// How many of the new root and targets keys must sign; only with `new_keys`.
    pub threshold: u32,
}

/// A root that was rotated.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotated {
    /// The new root.
    pub root: PathBuf,
    /// Its version.
    pub version: u64,
    /// Roles whose keys changed.
    pub changed_roles: Vec<String>,
}

/// Makes and publishes the next root.
///
/// # Errors
/// Keys missing (of the old or the new root), a threshold that makes no sense, or as for publishing.
pub async fn rotate_root(request: RotateRequest) -> Result<Rotated, ReleaseError> {
    let signing = request.signing.clone();
    let repo = RepoDir::lock(&signing.repo).await?;
    let (old_dir, new_dir) = (signing.keys.clone(), request.new_keys.clone());
    let read = move |repo: &RepoDir| {
        let state = repo.state(&old_dir)?;
        let new = new_dir.as_deref().map(KeyRing::load).transpose()?;
        Ok((state, KeyRing::load(&old_dir)?, new))
    };
    let (repo, (state, mut keys, new_keys)) = repo.blocking(read).await?;
    let old = &state.root.signed;
    let version = old.version.saturating_add(1);
    let expires = whole_seconds(signing.now, signing.lifetimes.root)?;
    let root = match new_keys {
        None => Root {
            version,
            expires,
            ..old.clone()
        },
        Some(ring) => {
            let root = new_root(&ring, &roles_by_name(&ring, request.threshold)?, version, expires)?;
            keys.join(ring);
            root
        }
    };
    let signed_root = to_json(&keys.sign(root.clone(), &[old, &root]).await?)?;
    let below = [RoleType::Targets, RoleType::Snapshot, RoleType::Timestamp];
    let changed: Vec<_> = [RoleType::Root]
        .into_iter()
        .chain(below)
        .filter(|role| role_differs(old, &root, *role))
        .collect();
    let resign = below.iter().any(|role| changed.contains(role));
    let files = match state.signed.as_ref().filter(|_| resign) {
        None => None,
        Some(current) => {
            let targets = &current.targets.signed.targets;
            let listed = targets
                .iter()
                .map(|(name, target)| (name.raw().to_owned(), target.clone()))
                .collect();
            let next = next_roles(Some(current), listed, &signing)?;
            Some(sign_all(&keys, &[old, &root], next).await?)
        }
    };
    let name = format!("{version}.root.json");
    let path = repo.path.join(METADATA_DIR).join(&name);
    let (root_path, keys_copy) = (path.clone(), request.new_keys.unwrap_or(signing.keys).join(&name));
    repo.blocking(move |repo| {
        if let Some(files) = files {
            repo.write_signed(Default::default(), &files)?;
        }
        write_whole(&root_path, &signed_root, Durable::Now)?;
        // Beside the keys too, so that images can be built with the newest root.
        write_whole(&keys_copy, &signed_root, Durable::Now)
    })
    .await?;
    let changed_roles = changed.iter().map(ToString::to_string).collect();
    Ok(Rotated {
        root: path,
        version: version.get(),
        changed_roles,
    })
}

/// The keys of each role by the names of their files.
fn roles_by_name(ring: &KeyRing, threshold: u32) -> Result<Vec<(RoleType, u32, Vec<PathBuf>)>, ReleaseError> {
    let mut roles = Vec::new();
    for role in [
        RoleType::Root,
        RoleType::Targets,
        RoleType::Snapshot,
        RoleType::Timestamp,
    ] {
        let prefix = format!("{role}-");
        let named = |path: &&std::path::Path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
        };
        let paths: Vec<_> = ring.paths().filter(named).map(PathBuf::from).collect();
        let threshold = match role {
            RoleType::Root | RoleType::Targets => threshold,
            RoleType::Snapshot | RoleType::Timestamp | RoleType::DelegatedTargets => 1,
        };
        if threshold == 0 || paths.len() < threshold as usize {
            let text = format!(
                "the new root needs {threshold} keys for {role}, and {} files named {prefix}N.pk8 are in the folder of new keys: make them with drydock-images keygen",
                paths.len()
            );
            return Err(ReleaseError::Request(text));
        }
        roles.push((role, threshold, paths));
    }
    Ok(roles)
}
