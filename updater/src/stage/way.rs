//! Which way an artifact gets into the target: by the delta that was made for just this pair of releases, or
//! chunk by chunk.

use std::sync::Arc;

use drydock_images::delta::Delta;
use drydock_images::{Artifact, Digest, Manifest, Repository};

use super::StageError;
use super::delta::DeltaSupplier;
use super::pages::Pages;
use super::running::Running;
use super::segments::Segments;
use super::write::blocking;
use crate::state::StateDir;

/// See the module.
pub(super) enum Way {
    Delta(Box<DeltaSupplier>),
    Chunks(Arc<Pages>),
}

/// What finding the ways took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asked {
    pub bytes: u64,
    pub requests: u64,
}

impl Asked {
    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.requests += 1;
    }
}

/// The way of each artifact of a release, for a node that has `running` to copy from. Lists of pages and of
/// segments are kept in `state`, or in memory.
///
/// # Errors
/// Indexes that cannot be fetched. A delta that cannot be had is only told of: chunks do without.
pub(super) async fn ways(
    repository: &Repository,
    manifest: &Manifest,
    running: Option<&Running>,
    state: Option<&StateDir>,
) -> Result<(Vec<(Artifact, Way)>, Asked), StageError> {
    let mut asked = Asked::default();
    let delta = match running {
        Some(running) => delta(repository, &manifest.digest(), running, &mut asked).await?,
        None => None,
    };
    let mut ways = Vec::new();
    for artifact in &manifest.artifacts {
        let supplier = match &delta {
            Some(delta) => delta_of(repository, artifact, delta, state, &mut asked).await?,
            None => None,
        };
        let way = match supplier {
            Some(supplier) => Way::Delta(Box::new(supplier)),
            None => {
                asked.add(artifact.index.size);
                Way::Chunks(pages(repository, artifact, state).await?)
            }
        };
        ways.push((artifact.clone(), way));
    }
    Ok((ways, asked))
}

/// What the artifact's index names.
///
/// # Errors
/// It cannot be fetched, or is not as signed.
pub(super) async fn pages(
    repository: &Repository,
    artifact: &Artifact,
    state: Option<&StateDir>,
) -> Result<Arc<Pages>, StageError> {
    let (index, state) = (repository.index(artifact).await?, state.cloned());
    blocking(move || Ok(Arc::new(Pages::of(&index, state.as_ref())))).await
}

/// The delta from what this node runs, with only those artifacts that it runs as the delta was made for.
async fn delta(
    repository: &Repository,
    wanted: &Digest,
    running: &Running,
    asked: &mut Asked,
) -> Result<Option<Delta>, StageError> {
    let looked = running.clone();
    let Some(record) = blocking(move || looked.record()).await? else {
        return Ok(None);
    };
    let Some(bytes) = repository.delta_bytes(&record.release, wanted) else {
        return Ok(None);
    };
    asked.add(bytes);
    match repository.delta(&record.release, wanted).await {
        Ok(delta) => Ok(delta.map(|mut delta| {
            delta.artifacts.retain(|described| {
                let held = record.artifacts.get(described.name.as_str());
                held.is_some_and(|held| {
                    (held.digest, held.size_bytes) == (described.base, described.base_size)
                })
            });
            delta
        })),
        Err(error) => {
            tracing::warn!(%error, "the delta for this pair of releases is not used");
            Ok(None)
        }
    }
}

async fn delta_of(
    repository: &Repository,
    artifact: &Artifact,
    delta: &Delta,
    state: Option<&StateDir>,
    asked: &mut Asked,
) -> Result<Option<DeltaSupplier>, StageError> {
    let Some(described) = delta.artifact(&artifact.name) else {
        return Ok(None);
    };
    asked.add(described.head.size);
    let head = match repository.delta_head(artifact, described).await {
        Ok(head) => head
            .check_packing()
            .map(|()| head)
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let head = match head {
        Ok(head) => head,
        Err(error) => {
            tracing::warn!(artifact = %artifact.name, error, "the delta for this artifact is not used");
            return Ok(None);
        }
    };
    let state = state.cloned();
    Ok(Some(DeltaSupplier {
        repository: repository.clone(),
        artifact: artifact.clone(),
        described: described.clone(),
        segments: blocking(move || Ok(Arc::new(Segments::of(&head, state.as_ref())))).await?,
    }))
}
