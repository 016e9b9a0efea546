//! What a release engineer claims of a root hash before a release is built, and the proof: the artifact that
//! carries the kernel's command line names the root, and the hash tree is the image's.

use serde::Serialize;

use super::VerityError;
use super::cmdline::{Named, names_root};
use super::tree_check::tree_fault;
use crate::build::ArtifactSource;
use crate::manifest::VerityRoot;
use crate::names::ArtifactName;
use crate::progress::Progress;

const CMDLINE_FLAG: &str = "--verity-cmdline";
const TREE_FLAG: &str = "--verity-tree";

/// One artifact stands for another's root hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The image that the root hash proves.
    pub image: ArtifactName,
    /// The artifact that names the root hash, or is the hash tree.
    pub by: ArtifactName,
}

/// All that is claimed of a release.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// Artifacts with the kernel's command line, which must name the root hash.
    pub cmdlines: Vec<Claim>,
    /// Artifacts that are the image's hash tree.
    pub trees: Vec<Claim>,
}

/// By what a claim was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Proof {
    /// Every `.cmdline` section of a UKI names the root hash.
    Uki,
    /// A text, such as a command line or a boot loader's entry, names it.
    Text,
    /// It is somewhere in the bytes of an artifact that is neither UKI nor text.
    Bytes,
    /// The hash tree was made anew from the image and is the same, and so is its root.
    HashTree,
}

/// A claim that was proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proven {
    /// The image that the root hash proves.
    pub image: ArtifactName,
    /// The root hash.
    pub root: VerityRoot,
    /// The artifact that stands for it.
    pub by: ArtifactName,
    /// By what.
    pub proof: Proof,
}

/// Proves every claim, command lines first: trees need a reading of the whole image. Tells `progress` of
/// every byte of an image or of an artifact that is searched whole.
///
/// # Errors
/// The first claim that does not hold, a name without an artifact, an image without a root hash, or a file
/// that cannot be read.
pub async fn prove(
    artifacts: Vec<ArtifactSource>,
    claims: Claims,
    progress: Progress,
) -> Result<Vec<Proven>, VerityError> {
    tokio::task::spawn_blocking(move || prove_blocking(&artifacts, &claims, &progress))
        .await
        .map_err(|error| VerityError::Stopped {
            detail: error.to_string(),
        })?
}

fn prove_blocking(
    artifacts: &[ArtifactSource],
    claims: &Claims,
    progress: &Progress,
) -> Result<Vec<Proven>, VerityError> {
    // All names before any reading, which may take minutes.
    let parties = |flag: &'static str, claims: &[Claim]| {
        claims
            .iter()
            .map(|claim| Parties::of(flag, claim, artifacts))
            .collect::<Result<Vec<_>, _>>()
    };
    let cmdlines = parties(CMDLINE_FLAG, &claims.cmdlines)?;
    let trees = parties(TREE_FLAG, &claims.trees)?;
    let mut proven = Vec::new();
    for parties in cmdlines {
        proven.push(parties.cmdline(progress)?);
    }
    for parties in trees {
        proven.push(parties.tree(progress)?);
    }
    Ok(proven)
}

/// The artifacts of one claim.
struct Parties<'a> {
    image: &'a ArtifactSource,
    root: &'a VerityRoot,
    by: &'a ArtifactSource,
}

impl<'a> Parties<'a> {
    fn of(flag: &'static str, claim: &Claim, artifacts: &'a [ArtifactSource]) -> Result<Self, VerityError> {
        let find = |name: &ArtifactName| {
            let found = artifacts.iter().find(|artifact| artifact.name == *name);
            found.ok_or_else(|| VerityError::NoArtifact {
                flag,
                name: name.clone(),
            })
        };
        let (image, by) = (find(&claim.image)?, find(&claim.by)?);
        let root = image.verity_root.as_ref().ok_or_else(|| VerityError::NoRoot {
            flag,
            image: image.name.clone(),
        })?;
        Ok(Self { image, root, by })
    }

    fn cmdline(&self, progress: &Progress) -> Result<Proven, VerityError> {
        match names_root(&self.by.path, self.root, progress)? {
            Named::Yes(proof) => Ok(self.proven(proof)),
            Named::No(found) => Err(VerityError::RootNotNamed {
                image: self.image.name.clone(),
                by: self.by.name.clone(),
                path: self.by.path.clone(),
                root: self.root.clone(),
                found,
            }),
        }
    }

    fn tree(&self, progress: &Progress) -> Result<Proven, VerityError> {
        match tree_fault(&self.image.path, &self.by.path, self.root, progress)? {
            None => Ok(self.proven(Proof::HashTree)),
            Some(found) => Err(VerityError::TreeDiffers {
                image: self.image.name.clone(),
                by: self.by.name.clone(),
                path: self.by.path.clone(),
                root: self.root.clone(),
                found,
            }),
        }
    }

    fn proven(&self, proof: Proof) -> Proven {
        Proven {
            image: self.image.name.clone(),
            root: self.root.clone(),
            by: self.by.name.clone(),
            proof,
        }
    }
}
