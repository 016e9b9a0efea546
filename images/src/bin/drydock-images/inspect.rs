//! `inspect`: a release, a repository, a manifest or a chunk index, told by what is there.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, bail};
use drydock_images::chunk::PageRef;
use drydock_images::chunk::{MAX_INDEX_BYTES, index::MAGIC};
use drydock_images::delta::DeltaArtifact;
use drydock_images::layout::{MANIFEST_FILE, METADATA_DIR};
use drydock_images::{ChunkIndex, Manifest, ReleaseDir, Repository};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::args::InspectArgs;
use crate::show::{Show, bytes};
use crate::verify::config;

pub async fn inspect(args: InspectArgs, show: &Show) -> anyhow::Result<()> {
    let path = Path::new(&args.what);
    if path.join(MANIFEST_FILE).is_file() {
        let release = ReleaseDir::open(path)?;
        return show.result(
            &manifest_value(release.manifest()),
            &manifest_text(release.manifest()),
        );
    }
    if path.is_dir() || args.what.contains("://") {
        return repository(&args, show).await;
    }
    if !path.is_file() {
        bail!("{} does not exist", args.what);
    }
    let length = path
        .metadata()
        .with_context(|| format!("cannot read {}", args.what))?
        .len();
    if length > MAX_INDEX_BYTES {
        bail!(
            "{} has {length} bytes, more than any manifest or chunk index",
            args.what
        );
    }
    let content = std::fs::read(path).with_context(|| format!("cannot read {}", args.what))?;
    if content.starts_with(&MAGIC) {
        let index = ChunkIndex::parse(&content)?;
        return show.result(&index_value(&index, args.pages), &index_text(&index, args.pages));
    }
    let manifest = Manifest::parse(&content)
        .with_context(|| format!("{} is no release, repository, manifest or chunk index", args.what))?;
    show.result(&manifest_value(&manifest), &manifest_text(&manifest))
}

fn manifest_value(manifest: &Manifest) -> Value {
    json!({ "digest": manifest.digest(), "manifest": **manifest })
}

fn manifest_text(manifest: &Manifest) -> String {
    let mut text = format!(
        "Release {}\n        {} {} for {}/{}\n",
        manifest.digest(),
        manifest.name,
        manifest.version,
        manifest.board,
        manifest.arch
    );
    for artifact in &manifest.artifacts {
        let _ = writeln!(
            text,
            "        {}: {}, {}",
            artifact.name,
            bytes(artifact.size),
            artifact.digest
        );
        if let Some(root) = &artifact.verity_root {
            let _ = writeln!(text, "          verity root {}", root.as_str());
        }
    }
    let carries = &manifest.carries;
    let guard = carries
        .guard
        .map_or("none: nodes will not stage it".to_owned(), |guard| {
            format!("yes, protocol {}", guard.protocol)
        });
    let _ = writeln!(text, "Guard   {guard}");
    for (what, value) in [
        ("Kubelet", carries.kubelet.as_ref().map(ToString::to_string)),
        ("Kernel ", carries.kernel.map(|digest| digest.to_string())),
        (
            "From   ",
            manifest
                .min_from
                .as_ref()
                .map(|version| format!("{version} or newer")),
        ),
        ("Floor  ", manifest.floor.as_ref().map(ToString::to_string)),
    ] {
        if let Some(value) = value {
            let _ = writeln!(text, "{what} {value}");
        }
    }
    for (piece, format) in carries.state.pieces() {
        let _ = writeln!(
            text,
            "State   {piece}: writes {}, reads from {}",
            format.writes, format.reads_from
        );
    }
    text
}

fn index_value(index: &ChunkIndex, every: bool) -> Value {
    let pages = every.then(|| {
        let page = |page: &PageRef| {
            json!({
                "offset": page.offset, "imageBytes": page.image_bytes, "chunks": page.chunks,
                "frontBytes": page.frames_bytes[0], "restBytes": page.frames_bytes[1], "digest": page.digest,
            })
        };
        index.pages().iter().map(page).collect::<Vec<_>>()
    });
    json!({
        "artifact": index.artifact(), "size": index.size(), "chunks": index.chunks(),
        "pages": index.pages().len(), "packBytes": index.pack_bytes(), "windowBytes": index.window_bytes(),
        "listed": pages,
    })
}

fn index_text(index: &ChunkIndex, every: bool) -> String {
    let mut text = format!(
        "Index   of {}\n        {} in {} chunks on {} pages, {} stored\n",
        index.artifact(),
        bytes(index.size()),
        index.chunks(),
        index.pages().len(),
        bytes(index.pack_bytes())
    );
    if every {
        text += "            at       of it  chunks    stored  page\n";
        for page in index.pages() {
            let _ = writeln!(
                text,
                "{:>14} {:>11} {:>7} {:>9}  {}",
                page.offset,
                page.image_bytes,
                page.chunks,
                page.frames_bytes[0] + page.frames_bytes[1],
                page.digest.hex()
            );
        }
    }
    text
}

async fn repository(args: &InspectArgs, show: &Show) -> anyhow::Result<()> {
    let (root, by) = match &args.root {
        Some(path) => (path.clone(), "the root that was given"),
        None => {
            let own = Path::new(&args.what).join(METADATA_DIR).join("1.root.json");
            (own, "its own first root, which proves nothing about who made it")
        }
    };
    let root = std::fs::read(&root)
        .with_context(|| format!("cannot read the root {}: write --root ROOT.json", root.display()))?;
    let forgotten = tempfile::tempdir().context("cannot make a temporary folder")?;
    let repository = Repository::load(&config(&args.what, root, forgotten.path())?, Timestamp::now()).await?;
    let (versions, expires) = (repository.versions(), repository.expires());
    let mut text = format!(
        "Signed  root {}, timestamp {}, snapshot {}, targets {}; current until {expires}\n        verified by {by}\n",
        versions.root, versions.timestamp, versions.snapshot, versions.targets
    );
    let mut releases = Vec::new();
    for digest in repository.release_digests() {
        let manifest = repository.manifest(&digest).await?;
        let (advisory, withdrawal) = (
            repository.advisory(&digest).await?,
            repository.withdrawn(&digest).await?,
        );
        let _ = write!(text, "Release {digest} {} {}", manifest.name, manifest.version);
        if let Some(advisory) = &advisory {
            let worst = advisory
                .worst()
                .map_or_else(String::new, |worst| format!(", worst {worst}"));
            let _ = write!(text, ", fixes {}{worst}", advisory.vulnerabilities.len());
        }
        if let Some(withdrawal) = &withdrawal {
            let _ = write!(text, ", WITHDRAWN: {}", withdrawal.reason);
        }
        text.push('\n');
        releases.push(json!({
            "digest": digest, "version": manifest.version, "advisory": advisory, "withdrawal": withdrawal,
        }));
    }
    let mut channels = Vec::new();
    for name in repository.channel_names() {
        let channel = repository.channel(&name).await?;
        let latest = channel.latest().map_or_else(
            || "nothing that is not withdrawn".to_owned(),
            |release| format!("{} ({})", release.version, release.digest.short()),
        );
        let _ = writeln!(
            text,
            "Channel {name}: {} releases, latest {latest}",
            channel.releases.len()
        );
        channels.push(channel);
    }
    let mut deltas = Vec::new();
    for (from, to) in repository.deltas() {
        let Some(delta) = repository.delta(&from, &to).await? else {
            continue;
        };
        let all: u64 = delta.artifacts.iter().map(DeltaArtifact::stored_bytes).sum();
        let _ = writeln!(text, "Delta   {} to {}: {}", from.short(), to.short(), bytes(all));
        deltas.push(delta);
    }
    let value = json!({
        "versions": versions, "expires": expires, "releases": releases, "channels": channels, "deltas": deltas,
    });
    show.result(&value, &text)
}
