//! Which release a policy means, and which one a node takes next on the way there. Never asks whether the
//! node may go now.

use drydock_api::{NodeUpgradeStatus, UpgradePolicySpec};
use jiff::Timestamp;

use crate::{
    reason::{Note, Reason},
    version::Version,
    windows::{Kind, add},
    world::{ChannelRelease, ReleaseView, RepositoryView, World},
};

/// The kubelet may be this many minor versions older than the API server (Kubernetes' version skew policy).
const KUBELET_BEHIND: u64 = 3;

/// What a policy's release choice means now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Goal {
    /// The release where nodes are to end.
    pub digest: String,
    /// Its version.
    pub version: Version,
    /// When a newer one will be old enough.
    pub next: Option<Timestamp>,
}

/// The goal of a policy.
///
/// Of a channel: the newest release that is neither withdrawn nor halted and is old enough.
pub(crate) fn goal(world: &World, spec: &UpgradePolicySpec) -> Result<Goal, Note> {
    let repository = usable(world, &spec.repository)?;
    let choice = &spec.release;
    let (digest, next) = if let Some(channel) = &choice.channel {
        let list = repository.channels.get(channel).ok_or_else(|| {
            Note::new(
                Reason::NoRelease,
                format!("repository {} has no channel {channel}", spec.repository),
            )
        })?;
        newest(world, spec, repository, list)?
    } else if let Some(digest) = &choice.digest {
        (digest.clone(), None)
    } else {
        let version = Version::from(choice.version.as_deref().unwrap_or_default());
        let found = repository
            .releases
            .iter()
            .find(|(_, release)| release.version == version)
            .map(|(digest, _)| digest.clone());
        let found = found.ok_or_else(|| {
            Note::new(
                Reason::NoRelease,
                format!("repository {} lists no version {version}", spec.repository),
            )
        })?;
        (found, None)
    };
    let release = repository.releases.get(&digest).ok_or_else(|| {
        Note::new(
            Reason::NoRelease,
            format!("repository {} does not list {digest}", spec.repository),
        )
    })?;
    if choice.channel.is_none() {
        let published = published(repository, &digest);
        if let (Some(min), Some(at)) = (choice.min_age, published)
            && add(at, min.duration()) > world.now
        {
            return Err(Note::new(
                Reason::TooYoung,
                format!("{} is old enough at {}", release.version, add(at, min.duration())),
            ));
        }
    }
    Ok(Goal {
        digest,
        version: release.version.clone(),
        next,
    })
}

/// The repository, if it was read and has not expired.
pub(crate) fn usable<'a>(world: &'a World, name: &str) -> Result<&'a RepositoryView, Note> {
    let repository = world
        .repositories
        .get(name)
        .ok_or_else(|| Note::new(Reason::RepositoryUnknown, name))?;
    if !repository.loaded {
        let error = repository.error.as_deref().unwrap_or("is being read");
        return Err(Note::new(Reason::RepositoryNotRead, format!("{name} {error}")));
    }
    match repository.expires {
        Some(expires) if expires <= world.now => Err(Note::new(
            Reason::MetadataExpired,
            format!("{name} expired at {expires}"),
        )),
        _ => Ok(repository),
    }
}

fn newest(
    world: &World,
    spec: &UpgradePolicySpec,
    repository: &RepositoryView,
    list: &[ChannelRelease],
) -> Result<(String, Option<Timestamp>), Note> {
    let min_age = spec.release.min_age.map(drydock_api::SpanText::duration);
    let mut next = None;
    let mut halted = None;
    for release in list.iter().rev() {
        if release.withdrawn || !repository.releases.contains_key(&release.digest) {
            continue;
        }
        if world.halts.contains_key(&release.digest) {
            halted = halted.or(Some(&release.digest));
            continue;
        }
        if let (Some(min), Some(at)) = (min_age, release.published_at)
            && add(at, min) > world.now
        {
            next = Some(add(at, min));
            continue;
        }
        return Ok((release.digest.clone(), next));
    }
    Err(match (next, halted) {
        (Some(at), _) => Note::new(Reason::TooYoung, format!("the first is old enough at {at}")),
        (None, Some(digest)) => Note::new(Reason::Halted, digest.as_str()),
        (None, None) => Note::new(Reason::NoRelease, "the channel has no release to take"),
    })
}

fn published(repository: &RepositoryView, digest: &str) -> Option<Timestamp> {
    repository
        .channels
        .values()
        .flatten()
        .filter(|release| release.digest == digest)
        .filter_map(|release| release.published_at)
        .min()
}

/// Whether any channel marks the release withdrawn.
pub(crate) fn withdrawn(repository: &RepositoryView, digest: &str) -> bool {
    repository
        .channels
        .values()
        .flatten()
        .any(|release| release.digest == digest && release.withdrawn)
}

/// The release that a node takes next on its way to `goal`; equal to what it runs when it is there.
///
/// Every check that concerns this node and release, and no moment, is made here.
pub(crate) fn next_hop(
    world: &World,
    spec: &UpgradePolicySpec,
    goal: &Goal,
    status: &NodeUpgradeStatus,
) -> Result<String, Note> {
    let repository = usable(world, &spec.repository)?;
    let running = status.running.as_deref().unwrap_or("unknown");
    if running == goal.digest {
        return Ok(goal.digest.clone());
    }
    let from = repository
        .releases
        .get(running)
        .map(|release| release.version.clone())
        .or_else(|| status.running_version.as_deref().map(Version::from));
    if let Some(from) = &from
        && goal.version < *from
    {
        return lower(world, spec, goal, running, from, repository);
    }
    let hop = match &spec.release.channel {
        Some(channel) => step(repository, channel, goal, from.as_ref())?,
        None => goal.digest.clone(),
    };
    if running == hop {
        return Ok(hop);
    }
    check(world, spec, repository, &hop, running, from.as_ref())?;
    Ok(hop)
}

/// A goal below what runs: only for who says so, and never away from a halt unless a release is pinned.
fn lower(
    world: &World,
    spec: &UpgradePolicySpec,
    goal: &Goal,
    running: &str,
    from: &Version,
    repository: &RepositoryView,
) -> Result<String, Note> {
    let halted = world.halts.contains_key(running);
    if halted && spec.release.channel.is_some() {
        return Err(Note::new(Reason::RunsHalted, from.as_str()));
    }
    if !spec.allow_downgrade {
        let reason = if halted {
            Reason::RunsHalted
        } else {
            Reason::Downgrade
        };
        return Err(Note::new(reason, format!("{from} to {}", goal.version)));
    }
    check(world, spec, repository, &goal.digest, running, Some(from))?;
    Ok(goal.digest.clone())
}

/// The next release of a channel on the way to the goal: the first stepping stone between, or the highest
/// one that may be reached from here.
fn step(
    repository: &RepositoryView,
    channel: &str,
    goal: &Goal,
    from: Option<&Version>,
) -> Result<String, Note> {
    let list = repository.channels.get(channel).map_or(&[][..], Vec::as_slice);
    let end = list.iter().position(|release| release.digest == goal.digest);
    let list = &list[..end.map_or(0, |end| end + 1)];
    let Some(from) = from else {
        let stones = list
            .iter()
            .any(|release| release.stepping_stone && release.digest != goal.digest);
        let bound = repository
            .releases
            .get(&goal.digest)
            .is_some_and(|release| release.min_from.is_some());
        return if stones || bound {
            Err(Reason::VersionUnknown.into())
        } else {
            Ok(goal.digest.clone())
        };
    };
    let ahead: Vec<(&ChannelRelease, &ReleaseView)> = list
        .iter()
        .filter(|release| !release.withdrawn)
        .filter_map(|release| Some((release, repository.releases.get(&release.digest)?)))
        .filter(|(_, view)| view.version > *from)
        .collect();
    let stone = ahead.iter().position(|(release, _)| release.stepping_stone);
    let reach = &ahead[..stone.map_or(ahead.len(), |stone| stone + 1)];
    reach
        .iter()
        .rev()
        .find(|(_, view)| view.min_from.as_ref().is_none_or(|min| min <= from))
        .map(|(release, _)| release.digest.clone())
        .ok_or_else(|| {
            Note::new(
                Reason::NoPath,
                format!("nothing of channel {channel} may be reached from {from}"),
            )
        })
}

fn check(
    world: &World,
    spec: &UpgradePolicySpec,
    repository: &RepositoryView,
    digest: &str,
    running: &str,
    from: Option<&Version>,
) -> Result<(), Note> {
    let Some(release) = repository.releases.get(digest) else {
        return Err(Note::new(Reason::NoRelease, digest));
    };
    let version = &release.version;
    if withdrawn(repository, digest) {
        return Err(Note::new(Reason::Withdrawn, version.as_str()));
    }
    if world.halts.contains_key(digest) {
        return Err(Note::new(Reason::Halted, version.as_str()));
    }
    if !release.guard {
        return Err(Note::new(Reason::NoGuard, version.as_str()));
    }
    if let Some(min) = &release.min_from {
        match from {
            None => {
                return Err(Note::new(
                    Reason::VersionUnknown,
                    format!("{version} asks for {min}"),
                ));
            }
            Some(from) if from < min => {
                return Err(Note::new(
                    Reason::NoPath,
                    format!("{version} asks for {min}, it runs {from}"),
                ));
            }
            Some(_) => {}
        }
    }
    let old = repository.releases.get(running);
    if let Some(floor) = old.and_then(|old| old.floor.as_ref())
        && version < floor
    {
        return Err(Note::new(
            Reason::BelowFloor,
            format!("{version} is below {floor}"),
        ));
    }
    if !spec.allow_version_skew {
        skew(world, release)?;
    }
    if !spec.allow_state_loss
        && let Some(old) = old
    {
        for (piece, new) in &release.state {
            if let Some(before) = old.state.get(piece)
                && !(before.reads_from..=before.writes).contains(&new.writes)
            {
                return Err(Note::new(
                    Reason::WayBackUnreadable,
                    format!(
                        "{version} writes {piece} in format {}, {} reads {} to {}",
                        new.writes, old.version, before.reads_from, before.writes
                    ),
                ));
            }
        }
    }
    Ok(())
}

fn skew(world: &World, release: &ReleaseView) -> Result<(), Note> {
    let Some(kubelet) = &release.kubelet else {
        return Ok(());
    };
    let Some(server) = &world.api.server_version else {
        return Err(Reason::ServerVersionUnknown.into());
    };
    let (kubelet_minor, server_minor) = (
        Version::from(kubelet.as_str()).major_minor(),
        Version::from(server.as_str()).major_minor(),
    );
    let allowed = kubelet_minor.0 == server_minor.0
        && kubelet_minor.1 <= server_minor.1
        && kubelet_minor.1 + KUBELET_BEHIND >= server_minor.1;
    if allowed {
        Ok(())
    } else {
        Err(Note::new(
            Reason::VersionSkew,
            format!("kubelet {kubelet}, API server {server}"),
        ))
    }
}

/// What freezes ask about an upgrade.
pub(crate) fn kind(world: &World, repository: &str, digest: &str, status: &NodeUpgradeStatus) -> Kind {
    let repository = world.repositories.get(repository);
    let release = repository.and_then(|repository| repository.releases.get(digest));
    let from = repository
        .and_then(|repository| repository.releases.get(status.running.as_deref()?))
        .map(|release| release.version.clone())
        .or_else(|| status.running_version.as_deref().map(Version::from));
    Kind {
        minor: match (release, from) {
            (Some(release), Some(from)) => release.version.major_minor() != from.major_minor(),
            _ => true,
        },
        security: release.is_some_and(|release| release.security),
    }
}
