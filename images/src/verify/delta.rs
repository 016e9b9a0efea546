//! Every byte of a delta, as a node would fetch it.

use std::ops::Range;

use futures::{StreamExt, TryStreamExt, stream};

use super::{PARALLEL_RANGES, VerifiedDelta};
use crate::chunk::FrameError;
use crate::delta::{Delta, DeltaArtifact, DeltaHead, Source};
use crate::digest::Digest;
use crate::manifest::{Artifact, Manifest};
use crate::progress::Progress;
use crate::repository::{MAX_RANGE_BYTES, Repository};
use crate::trust::TrustError;

/// Fetches the heads and frames of a delta and compares them with what was signed.
pub(super) async fn verify(
    repository: &Repository,
    to: &Manifest,
    delta: &Delta,
    progress: &Progress,
) -> Result<VerifiedDelta, TrustError> {
    for described in &delta.artifacts {
        let name = &described.name;
        let artifact = to.artifact(name.as_str()).ok_or_else(|| TrustError::Malformed {
            what: format!(
                "the delta from {} to {} of repository {}",
                delta.from,
                delta.to,
                repository.name()
            ),
            detail: format!("it makes {name}, which the release does not have"),
        })?;
        let head = repository.delta_head(artifact, described).await?;
        verify_frames(repository, (artifact, described), &head).await?;
        progress.advance(described.stored_bytes());
    }
    let artifacts = delta.artifacts.iter();
    Ok(VerifiedDelta {
        from: delta.from,
        artifacts: artifacts.clone().map(|of| of.name.clone()).collect(),
        fetched_bytes: artifacts.map(DeltaArtifact::stored_bytes).sum(),
    })
}

async fn verify_frames(
    repository: &Repository,
    (artifact, described): (&Artifact, &DeltaArtifact),
    head: &DeltaHead,
) -> Result<(), TrustError> {
    let fetches = together(head).into_iter().map(|(range, frames)| async move {
        let stored = repository.delta_range(artifact, described, range).await?;
        Ok::<_, TrustError>((stored, frames))
    });
    let mut fetched = stream::iter(fetches).buffered(PARALLEL_RANGES);
    while let Some((stored, frames)) = fetched.try_next().await? {
        let mut left = &stored[..];
        for (stored_bytes, digest) in frames {
            let (bytes, behind) = left
                .split_at_checked(stored_bytes as usize)
                .unwrap_or((left, &[]));
            let found = Digest::of(bytes);
            if found != digest {
                let what = repository.delta_of(artifact);
                return Err(TrustError::frame(&what, &FrameError::Digest { found }));
            }
            left = behind;
        }
    }
    Ok(())
}

/// The stored bytes of frames, and their digests.
type Frames = Vec<(u32, Digest)>;

/// Neighbouring frames that are fetched together, with the range that they take.
fn together(head: &DeltaHead) -> Vec<(Range<u64>, Frames)> {
    let mut groups: Vec<(Range<u64>, Frames)> = Vec::new();
    let mut at = 0;
    for segment in head.segments() {
        let Source::Frame(frame) = segment.source else {
            continue;
        };
        let end = at + u64::from(frame.stored_bytes);
        let named = (frame.stored_bytes, frame.digest);
        match groups.last_mut() {
            Some((range, frames)) if end - range.start <= MAX_RANGE_BYTES => {
                range.end = end;
                frames.push(named);
            }
            _ => groups.push((at..end, vec![named])),
        }
        at = end;
    }
    groups
}
