//! What staging a release would take, before anything is written: the same plan that staging makes, from
//! what the running slot holds. Reads only.

use std::sync::Arc;

use drydock_images::{Manifest, Repository};
use tokio_util::sync::CancellationToken;

use super::StageError;
use super::running::Running;
use super::supply::{Looks, Supplier};
use super::way::{Way, ways};
use super::write::blocking;
use crate::disk::{GptBootControl, SlotName};
use crate::state::StateDir;

/// Bytes of a release.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Of all artifacts.
    pub total: u64,
    /// To be fetched, all counted.
    pub fetch: u64,
    /// In so many requests.
    pub requests: u64,
}

/// Estimates for a node that runs `running`.
///
/// # Errors
/// What cannot be fetched, and I/O errors.
pub async fn estimate(
    repository: &Repository,
    manifest: &Manifest,
    control: &GptBootControl,
    state: &StateDir,
    running: SlotName,
) -> Result<Estimate, StageError> {
    let running = Running::new(control, state, running);
    let mut estimate = Estimate {
        total: manifest.total_bytes(),
        ..Estimate::default()
    };
    let (ways, asked) = ways(repository, manifest, Some(&running), None).await?;
    estimate.fetch += asked.bytes;
    estimate.requests += asked.requests;
    for (artifact, way) in ways {
        let pages = match way {
            Way::Chunks(pages) => pages,
            Way::Delta(supplier) => {
                let running = running.clone();
                let ranges = blocking(move || {
                    let nothing_stands = running.seed(&supplier.artifact.name)?.0.empty();
                    Ok(supplier.plan(nothing_stands)?.ranges)
                });
                let ranges = ranges.await?;
                estimate.requests += ranges.len() as u64;
                estimate.fetch += ranges.iter().map(|range| range.end - range.start).sum::<u64>();
                continue;
            }
        };
        let (running, name, cuts) = (running.clone(), artifact.name.clone(), pages.cuts());
        let (held, nothing_stands) = blocking(move || {
            let held = running.held(&name, cuts, None, &CancellationToken::new())?;
            Ok((held, running.seed(&name)?.0.empty()))
        })
        .await?;
        let supplier = Supplier {
            repository: repository.clone(),
            artifact,
            pages,
            held: Arc::new(held),
        };
        let (mut from, mut looks) = (0, Looks::at(nothing_stands));
        while from < supplier.pages.count() {
            let (batch, looked) = supplier.batch(from, looks).await?;
            looks = looked;
            from += batch.plans.len();
            estimate.requests += (batch.ranges.len() + usize::from(batch.page_bytes > 0)) as u64;
            estimate.fetch += batch.page_bytes;
            estimate.fetch += batch
                .ranges
                .iter()
                .map(|(_, range)| range.end - range.start)
                .sum::<u64>();
        }
    }
    Ok(estimate)
}
