//! The list of signed targets while it is edited: what was listed, and what is new. Nothing is written
//! here.

use std::collections::BTreeMap;

use tough::schema::{Hashes, Target};

use super::repo::{RepoDir, SignedState};
use super::roles::hash;
use crate::channel::Document;
use crate::digest::Digest;
use crate::error::ReleaseError;
use crate::layout::{self, TargetKind};
use crate::release::read_bounded;

/// What is listed while it is edited.
pub(super) struct Draft<'a> {
    repo: &'a RepoDir,
    pub listed: BTreeMap<String, Target>,
    pub new_files: BTreeMap<String, Vec<u8>>,
}

impl<'a> Draft<'a> {
    pub fn new(repo: &'a RepoDir, signed: Option<&SignedState>) -> Self {
        let listed = signed.iter().flat_map(|state| &state.targets.signed.targets);
        let listed = listed
            .map(|(name, target)| (name.raw().to_owned(), target.clone()))
            .collect();
        Self {
            repo,
            listed,
            new_files: BTreeMap::new(),
        }
    }

    /// What the listed targets are.
    pub fn kinds(&self) -> Vec<TargetKind> {
        self.listed
            .keys()
            .filter_map(|name| TargetKind::from_target_name(name))
            .collect()
    }

    /// The bytes of a listed target, compared with what was signed.
    pub fn get(&self, kind: &TargetKind, max_bytes: u64) -> Result<Option<Vec<u8>>, ReleaseError> {
        let name = kind.target_name();
        if let Some(bytes) = self.new_files.get(&name) {
            return Ok(Some(bytes.clone()));
        }
        let Some(target) = self.listed.get(&name) else {
            return Ok(None);
        };
        let digest = hex::encode(&target.hashes.sha256[..]);
        let path = self
            .repo
            .path
            .join(format!("{}/{digest}.{name}", layout::TARGETS_DIR));
        let bytes = read_bounded(&path, max_bytes)?;
        if Digest::of(&bytes).hex() == digest {
            Ok(Some(bytes))
        } else {
            Err(self.repo.broken(&path, "it is not what was signed".to_owned()))
        }
    }

    /// A listed document.
    pub fn document<T: Document>(&self, kind: &TargetKind) -> Result<Option<T>, ReleaseError> {
        match self.get(kind, T::MAX_BYTES)? {
            Some(bytes) => Ok(Some(T::parse(&bytes)?)),
            None => Ok(None),
        }
    }

    /// Lists these bytes under that name from now on.
    pub fn put(&mut self, kind: &TargetKind, bytes: Vec<u8>) {
        let name = kind.target_name();
        let hashes = Hashes {
            sha256: hash(&bytes),
            _extra: Default::default(),
        };
        let length = bytes.len() as u64;
        let target = Target {
            length,
            hashes,
            custom: Default::default(),
            _extra: Default::default(),
        };
        self.listed.insert(name.clone(), target);
        self.new_files.insert(name, bytes);
    }

    pub fn not_listed(&self, what: String) -> ReleaseError {
        ReleaseError::NotListed {
            what,
            path: self.repo.path.clone(),
        }
    }
}
