//! The status of an ImageRepository: what was read, or why it could not be.

use drydock_api::{ChannelStatus, ImageRepository, ImageRepositoryStatus};
use drydock_plan::RepositoryView;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{LoadError, Loaded};

/// What the CRD allows.
const MAX_CHANNELS: usize = 32;
/// What the CRD allows.
const MAX_ERROR_CHARS: usize = 1024;

/// The status after a load. Versions never fall: what was seen once is kept through errors.
#[must_use]
pub fn status_of(
    repository: &ImageRepository,
    result: &Result<Loaded, LoadError>,
    now: Timestamp,
) -> ImageRepositoryStatus {
    let mut status = repository.status.clone().unwrap_or_default();
    status.observed_generation = repository.metadata.generation;
    let (ready, reason, message) = match result {
        Ok(loaded) => {
            let versions = loaded.versions;
            raise(&mut status.root_version, versions.root);
            raise(&mut status.timestamp_version, versions.timestamp);
            raise(&mut status.snapshot_version, versions.snapshot);
            raise(&mut status.targets_version, versions.targets);
            status.expires = loaded.view.expires;
            status.channels = channels(&loaded.view);
            status.last_error = None;
            ("True", "Read", "its metadata was read and verified".to_owned())
        }
        Err(error) => {
            let text: String = error.to_string().chars().take(MAX_ERROR_CHARS).collect();
            status.last_error = Some(text.clone());
            ("False", error.code(), text)
        }
    };
    let before = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Ready");
    let since = before
        .filter(|condition| condition.status == ready)
        .map_or(Time(now), |condition| condition.last_transition_time.clone());
    status.conditions = vec![Condition {
        type_: "Ready".to_owned(),
        status: ready.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: repository.metadata.generation,
        last_transition_time: since,
    }];
    status
}

fn raise(kept: &mut Option<i64>, seen: u64) {
    let seen = i64::try_from(seen).unwrap_or(i64::MAX);
    *kept = Some(kept.unwrap_or(0).max(seen));
}

fn channels(view: &RepositoryView) -> Vec<ChannelStatus> {
    let newest = view.channels.iter().filter_map(|(name, releases)| {
        let newest = releases.iter().rev().find(|release| !release.withdrawn)?;
        let version = view.releases.get(&newest.digest)?.version.to_string();
        Some(ChannelStatus {
            name: name.clone(),
            digest: newest.digest.clone(),
            version,
            releases: i64::try_from(releases.len()).unwrap_or(i64::MAX),
        })
    });
    newest.take(MAX_CHANNELS).collect()
}
