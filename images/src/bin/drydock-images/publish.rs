//! `publish`, `promote`, `delta`, `withdraw` and `advise`.

use anyhow::Context;
use drydock_images::delta::{BEST_LEVEL, Effort};
use drydock_images::publish::{self as library, MadeArtifact, PublishRequest};
use drydock_images::{MetadataVersions, ReleaseDir, Vulnerability};
use serde_json::json;
use zstd::zstd_safe;

use crate::args::{AdviseArgs, DeltaArgs, PromoteArgs, PublishArgs, WithdrawArgs};
use crate::show::{Show, bytes};

pub async fn publish(args: PublishArgs, show: &Show) -> anyhow::Result<()> {
    let signing = args.signing.signing();
    if args.timestamp_only {
        let versions = library::refresh_timestamp(&signing).await?;
        return show.result(
            &json!({ "versions": versions }),
            &in_repository("Refreshed", versions),
        );
    }
    let release = args.release.context("write --release DIR, or --timestamp-only")?;
    let total = ReleaseDir::open(&release)?.manifest().total_bytes();
    let (progress, bar) = show.bar(total, "checking");
    let (channel, stepping_stone) = (args.channel, args.stepping_stone);
    let request = PublishRequest {
        signing,
        release,
        channel: channel.clone(),
        stepping_stone,
        progress,
    };
    let published = library::publish(request).await;
    bar.finish_and_clear();
    let published = published?;
    let channel = channel.map_or_else(
        || "none; put it into one with promote".to_owned(),
        |name| name.to_string(),
    );
    let text = format!(
        "{}\nRelease {}\nChannel {channel}\nPacks   {} new ({}), {} known",
        in_repository("Published", published.versions),
        published.digest,
        published.new_packs,
        bytes(published.new_bytes),
        published.known_packs
    );
    show.result(&published, &text)
}

pub async fn promote(args: PromoteArgs, show: &Show) -> anyhow::Result<()> {
    let signing = args.signing.signing();
    let versions = library::promote(&signing, &args.channel, &args.digest, args.stepping_stone).await?;
    let text = format!(
        "{}\n{} is in channel {}",
        in_repository("Published", versions),
        args.digest,
        args.channel
    );
    show.result(
        &json!({ "digest": args.digest, "channel": args.channel, "versions": versions }),
        &text,
    )
}

pub async fn delta(args: DeltaArgs, show: &Show) -> anyhow::Result<()> {
    let job = library::delta(&args.signing.signing(), &args.from, &args.to).await?;
    let (progress, bar) = show.bar(job.total_bytes(), "comparing");
    let effort = Effort {
        level: if args.best { BEST_LEVEL } else { args.level },
        unpack: !args.keep_packed,
    };
    let made = job.make(effort, progress).await;
    bar.finish_and_clear();
    let made = made?;
    let mut text = in_repository("Published", made.versions);
    text += &format!("\nFrom    {}\nTo      {}", made.from, made.to);
    for artifact in &made.artifacts {
        let (name, delta, size) = (&artifact.name, bytes(artifact.delta_bytes), bytes(artifact.size));
        text += &match artifact.kept {
            true => format!("\n{name:8}{delta} for {size}{}", packed_again(artifact)),
            false => {
                format!("\n{name:8}no delta: {delta} would save too little")
            }
        };
        if artifact.packed_otherwise_bytes > artifact.size / 10 {
            let (packed, version) = (
                bytes(artifact.packed_otherwise_bytes),
                zstd_safe::version_string(),
            );
            text += &format!(
                "\n        {packed} of it are packed, but not as zstd {version} packs, so they were not unpacked: \
                 a delta between images made with zstd {version} is smaller"
            );
        }
    }
    show.result(&made, &text)
}

fn packed_again(artifact: &MadeArtifact) -> String {
    let Some(level) = artifact.pack_level else {
        return String::new();
    };
    let packed = bytes(artifact.packed_again_bytes);
    format!("; a node packs {packed} of it again, at level {level}")
}

pub async fn withdraw(args: WithdrawArgs, show: &Show) -> anyhow::Result<()> {
    let versions = library::withdraw(&args.signing.signing(), &args.digest, &args.reason).await?;
    let text = format!(
        "{}\n{} is withdrawn: no node stages or arms it after its next check. Nodes that run it go on running it.",
        in_repository("Published", versions),
        args.digest
    );
    show.result(
        &json!({ "digest": args.digest, "reason": args.reason, "versions": versions }),
        &text,
    )
}

pub async fn advise(args: AdviseArgs, show: &Show) -> anyhow::Result<()> {
    let fixes: Vec<Vulnerability> = args.fixes.into_iter().map(|fix| fix.0).collect();
    let versions = library::advise(&args.signing.signing(), &args.digest, &args.notes, &fixes).await?;
    let text = format!(
        "{}\n{} fixes {} vulnerabilities",
        in_repository("Published", versions),
        args.digest,
        fixes.len()
    );
    show.result(
        &json!({ "digest": args.digest, "vulnerabilities": fixes, "versions": versions }),
        &text,
    )
}

fn in_repository(done: &str, versions: MetadataVersions) -> String {
    let MetadataVersions {
        root,
        timestamp,
        snapshot,
        targets,
    } = versions;
    format!("{done}: timestamp {timestamp}, snapshot {snapshot}, targets {targets}, root {root}")
}
