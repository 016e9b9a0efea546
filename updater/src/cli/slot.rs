//! `check`, `stage` and `adopt`: from repositories to slots and back. Nothing here arms anything.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use drydock_images::{ChannelName, Digest, Manifest, Repository, TrustError, Version};
use drydock_machine::GuardStatus;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::session::{CliError, Session, short};
use super::{Answer, Choice, Staging};
use crate::agent::{highest_floor, load_repository};
use crate::config::RepositorySettings;
use crate::stage::{
    Reuse, StageJob, StagePhase, StageProgress, Terms, admit, estimate, match_releases, stage as stage_slot,
};
use crate::state::{LockName, SlotRecord};

pub(super) async fn check(session: &Session, choice: &Choice) -> Result<Answer, CliError> {
    let (status, _) = session.stands().await?;
    let named = choice.repository.as_ref();
    let known = session
        .settings()
        .repositories
        .iter()
        .filter(|r| named.is_none_or(|name| *name == r.name));
    let (mut text, mut shown) = (String::new(), Vec::new());
    let mut chosen = None;
    for known in known {
        let repository = session.load(known).await?;
        let (versions, expires) = (repository.versions(), repository.expires());
        let releases = repository.release_digests().len();
        text += &format!(
            "repository {}: current until {expires}; root {}, timestamp {}; {releases} releases\n",
            known.name, versions.root, versions.timestamp
        );
        shown.push(json!({
            "name": known.name, "expires": expires, "versions": versions, "releases": releases,
        }));
        if choice.release.is_some() || choice.channel.is_some() {
            match session.choose(&repository, choice).await {
                Ok(digest) => chosen = Some((repository, digest)),
                Err(CliError::Trust(TrustError::NotListed { .. })) => {}
                Err(other) => return Err(other),
            }
        }
    }
    if shown.is_empty() {
        return Err(no_repository(session, named));
    }
    let mut would = Value::Null;
    match chosen {
        Some((repository, digest)) => {
            let (line, value) = session.would_stage(&repository, &digest, &status).await?;
            text += &line;
            would = value;
        }
        None if choice.release.is_some() || choice.channel.is_some() => {
            return Err(CliError::Refused(
                "no configured repository lists that release or channel".to_owned(),
            ));
        }
        None => text += "name a --release or a --channel to see what staging would do\n",
    }
    Ok(Answer {
        text,
        json: json!({ "repositories": shown, "stage": would }),
    })
}

pub(super) async fn stage(session: &Session, wanted: &Staging) -> Result<Answer, CliError> {
    let (status, _) = session.stands().await?;
    let running = session.running()?;
    let known = session.one_repository(wanted.choice.repository.as_ref())?;
    let node = session.view.node();
    let lock = node.state.try_lock(LockName::Slot)?;
    let repository = session.load(known).await?;
    let release = session.choose(&repository, &wanted.choice).await?;
    let bar = Arc::new(progress_bar());
    let last = Arc::new(Mutex::new(None));
    let (shown, heard) = (bar.clone(), last.clone());
    let job = StageJob {
        repository,
        release,
        terms: session.terms(&status),
        control: node.control.clone(),
        state: node.state.clone(),
        lock: Arc::new(lock),
        target: running.other(),
        running,
        reuse: if wanted.fetch_all {
            Reuse::Nothing
        } else {
            Reuse::Running
        },
        progress: Arc::new(move |progress| {
            show(&shown, progress);
            *heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
        }),
    };
    let record = stage_slot(job, session.env.outside.wall(), CancellationToken::new()).await?;
    bar.finish_and_clear();
    let release = record.release.to_string();
    let counted = last.lock().unwrap_or_else(PoisonError::into_inner).take();
    let [total, fetched, stood] = counted.map_or([0; 3], |last| [last.total, last.fetched, last.stood]);
    let not_written = match stood {
        0 => String::new(),
        stood => format!("; {} stood there already and were not written", HumanBytes(stood)),
    };
    Ok(Answer {
        text: format!(
            "slot {} holds release {} ({}), read back and verified; `arm --reboot` tries it\n\
             {} were fetched for its {}{not_written}\n",
            running.other(),
            record.version,
            short(&release),
            HumanBytes(fetched),
            HumanBytes(total),
        ),
        json: json!({
            "slot": running.other(), "release": release, "version": record.version,
            "totalBytes": total, "standingBytes": stood, "fetchedBytes": fetched,
        }),
    })
}

pub(super) async fn adopt(session: &Session) -> Result<Answer, CliError> {
    let running = session.running()?;
    let mut manifests: Vec<Manifest> = Vec::new();
    for known in &session.settings().repositories {
        let repository = session.load(known).await?;
        for digest in repository.release_digests() {
            manifests.push(repository.manifest(&digest).await?);
        }
    }
    let node = session.view.node();
    let lock = node.state.try_lock(LockName::Slot)?;
    let (control, now) = (node.control.clone(), session.env.outside.wall());
    let looked_at = manifests.len();
    let found = tokio::task::spawn_blocking(move || {
        match_releases(&control, running, &manifests, now, &CancellationToken::new())
    });
    let record = found.await??.ok_or_else(|| {
        CliError::Refused(format!(
            "slot {running} is none of the {looked_at} releases that the configured repositories list for these \
             partitions, so it stays unknown; publish its release, or `mark-good` it as it is"
        ))
    })?;
    let view = session.view.clone();
    let saved = record.clone();
    tokio::task::spawn_blocking(move || view.records().save(&lock, running, &saved)).await??;
    let (status, _) = session.stands().await?;
    session.mark_running_good(&status, Some(&record)).await?;
    let release = record.release.to_string();
    Ok(Answer {
        text: format!(
            "slot {running} is release {} ({}); the required checks passed and it is marked good\n",
            record.version,
            short(&release)
        ),
        json: json!({ "slot": running, "release": release, "version": record.version }),
    })
}

/// Arming an upgrade needs current metadata that still list the release, in whichever repository.
pub(super) async fn must_be_listed(session: &Session, record: &SlotRecord) -> Result<(), CliError> {
    let mut last = None;
    for known in &session.settings().repositories {
        let listed = match session.load(known).await {
            Ok(repository) => {
                let now = session.env.outside.wall();
                repository
                    .stageable(&record.release, now)
                    .await
                    .map_err(CliError::from)
            }
            Err(error) => Err(error),
        };
        match listed {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| no_repository(session, None)))
}

fn no_repository(session: &Session, named: Option<&String>) -> CliError {
    let names: Vec<_> = session
        .settings()
        .repositories
        .iter()
        .map(|r| r.name.as_str())
        .collect();
    CliError::Refused(match named {
        Some(name) => format!(
            "no repository is called {name}; configured are: {}",
            names.join(", ")
        ),
        None => "no repository is configured; add one under `[[repositories]]`".to_owned(),
    })
}

impl Session {
    async fn load(&self, known: &RepositorySettings) -> Result<Repository, CliError> {
        let now = self.env.outside.wall();
        Ok(load_repository(self.settings(), known, now, &self.env.gate).await?)
    }

    fn one_repository(&self, named: Option<&String>) -> Result<&RepositorySettings, CliError> {
        match (named, self.settings().repositories.as_slice()) {
            (Some(name), _) => self
                .settings()
                .repository(name)
                .ok_or_else(|| no_repository(self, named)),
            (None, [only]) => Ok(only),
            (None, []) => Err(no_repository(self, None)),
            (None, _) => Err(CliError::Refused(
                "several repositories are configured; say --repository".to_owned(),
            )),
        }
    }

    fn running_record(&self) -> Option<SlotRecord> {
        self.view.record(self.running().ok()?)
    }

    async fn choose(&self, repository: &Repository, choice: &Choice) -> Result<Digest, CliError> {
        if let Some(release) = &choice.release {
            let digest: Digest = release
                .parse()
                .map_err(|error| CliError::Refused(format!("{error}")))?;
            repository.manifest(&digest).await?;
            return Ok(digest);
        }
        let name = choice.channel.as_ref().ok_or_else(|| {
            CliError::Refused("say which release: --release sha256:HEX or --channel NAME".to_owned())
        })?;
        let name: ChannelName = name
            .parse()
            .map_err(|error| CliError::Refused(format!("{error}")))?;
        let channel = repository.channel(&name).await?;
        let running: Option<Version> = self.running_record().map(|record| record.version);
        let next = match &running {
            Some(running) => channel.next_from(running),
            None => channel.latest(),
        };
        next.map(|release| release.digest).ok_or_else(|| {
            CliError::Refused(format!(
                "channel {name} has nothing above what runs; there is nothing to stage"
            ))
        })
    }

    fn terms(&self, status: &GuardStatus) -> Terms {
        let settings = self.settings();
        Terms {
            board: settings.board.clone(),
            arch: settings.arch.clone(),
            floor: highest_floor(settings.floor.as_ref(), status.floor.as_ref()),
            running_version: self.running_record().map(|record| record.version),
            allow_downgrade: settings.allow_downgrade,
            barred: status
                .failed
                .iter()
                .filter_map(|failed| failed.digest.parse().ok())
                .collect::<BTreeSet<_>>(),
        }
    }

    /// Whether it would be refused, and how many bytes it has.
    async fn would_stage(
        &self,
        repository: &Repository,
        digest: &Digest,
        status: &GuardStatus,
    ) -> Result<(String, Value), CliError> {
        let manifest = repository.stageable(digest, self.env.outside.wall()).await?;
        let target = self.running()?.other();
        let (view, terms, judged) = (self.view.clone(), self.terms(status), manifest.clone());
        let refused = tokio::task::spawn_blocking(move || {
            let (_, slots) = view.node().control.read()?;
            Ok::<_, crate::disk::DiskError>(admit(&judged, slots.get(target), &terms).err())
        });
        let refused = refused.await?.map_err(|error| CliError::Node(error.into()))?;
        let node = self.view.node();
        let running = self.running()?;
        let bytes = estimate(repository, &manifest, &node.control, &node.state, running).await?;
        let head = format!("release {} ({})", manifest.version, short(&digest.to_string()));
        let sizes = format!(
            "of its {} bytes {} have to be fetched (as they are stored), in {} requests",
            bytes.total, bytes.fetch, bytes.requests
        );
        let line = match &refused {
            Some(why) => format!("{head} would be refused: {why}\n"),
            None => format!("{head} would go into slot {target}; {sizes}\n"),
        };
        let value = json!({
            "release": digest, "version": manifest.version, "slot": target,
            "refused": refused.as_ref().map(ToString::to_string),
            "totalBytes": bytes.total, "fetchBytes": bytes.fetch, "requests": bytes.requests,
        });
        Ok((line, value))
    }
}

fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{msg:12} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn show(bar: &ProgressBar, progress: StageProgress) {
    let (word, at) = match progress.phase {
        StagePhase::Writing => ("writing", progress.done),
        StagePhase::ReadingBack => ("reading back", progress.read_back),
    };
    bar.set_length(progress.total);
    bar.set_message(word);
    bar.set_position(at);
}
