//! `build`.

use std::io::{Seek, SeekFrom};

use anyhow::{Context, bail};
use drydock_images::build::{self as library, ArtifactSource, BuildRequest};
use drydock_images::{Carries, Guard, SharedState};
use serde_json::json;

use crate::args::BuildArgs;
use crate::show::{Show, bytes};
use crate::verity::{prove, proven_text};

pub async fn build(args: BuildArgs, show: &Show) -> anyhow::Result<()> {
    let artifacts = sources(&args)?;
    let mut total = 0;
    for source in &artifacts {
        // Seeking tells the length of a block device too.
        let mut file = std::fs::File::open(&source.path)
            .with_context(|| format!("cannot open the image {}", source.path.display()))?;
        total += file.seek(SeekFrom::End(0)).unwrap_or(0);
    }
    let proven = prove(&args.roots, &artifacts, show).await?;
    let (progress, bar) = show.bar(total, "packing");
    let request = BuildRequest {
        carries: carries(&args)?,
        artifacts,
        name: args.name,
        version: args.version,
        board: args.board,
        arch: args.arch,
        min_from: args.min_from,
        floor: args.floor,
        out: args.out,
        after: args.after.clone(),
        level: args.level,
        progress,
    };
    let built = library::build(request).await;
    bar.finish_and_clear();
    let built = built?;
    let stats = built.stats;
    let mut text = format!(
        "Release {}\nFolder  {}\nImages  {} ({} of it zeros, not stored)\nStored  {} in {} frames ({} chunks, {} pages)",
        built.digest,
        built.path.display(),
        bytes(stats.image_bytes),
        bytes(stats.zero_bytes),
        bytes(stats.stored_bytes),
        stats.frames,
        stats.chunks,
        stats.pages,
    );
    text += &proven_text(&proven);
    let value = json!({
        "digest": built.digest, "path": built.path, "manifest": *built.manifest, "stats": stats,
        "verity": proven,
    });
    show.result(&value, &text)
}

fn sources(args: &BuildArgs) -> anyhow::Result<Vec<ArtifactSource>> {
    if let Some(unknown) = args
        .roots
        .verity_root
        .iter()
        .find(|root| args.artifact.iter().all(|artifact| artifact.name != root.name))
    {
        bail!("--verity-root names {}, which is no --artifact", unknown.name);
    }
    let source = |named: &crate::args::NamedPath| ArtifactSource {
        name: named.name.clone(),
        path: named.path.clone(),
        verity_root: args
            .roots
            .verity_root
            .iter()
            .find(|root| root.name == named.name)
            .map(|root| root.root.clone()),
    };
    Ok(args.artifact.iter().map(source).collect())
}

fn carries(args: &BuildArgs) -> anyhow::Result<Carries> {
    let mut state = SharedState::default();
    for change in &args.state {
        let piece = match change.piece.as_str() {
            "journal" => &mut state.journal,
            "slotRecords" => &mut state.slot_records,
            "trustStore" => &mut state.trust_store,
            "config" => &mut state.config,
            other => bail!("--state {other}: write journal, slotRecords, trustStore or config"),
        };
        *piece = change.format;
    }
    let guard = (args.guard || !args.no_guard).then_some(Guard {
        protocol: args.guard_protocol,
    });
    Ok(Carries {
        guard,
        kubelet: args.kubelet.clone(),
        kernel: args.kernel_digest,
        state,
    })
}
