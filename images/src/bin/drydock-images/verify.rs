//! `verify`, and how a repository named on the command line is opened.

use std::path::Path;

use anyhow::{Context, bail};
use drydock_images::verify::{LocalImage, Verification, VerifiedRelease};
use drydock_images::{Digest, Repository, RepositoryConfig};
use jiff::Timestamp;
use url::Url;

use crate::args::VerifyArgs;
use crate::show::{Show, bytes};

pub async fn verify(args: VerifyArgs, show: &Show) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let root =
        std::fs::read(&args.root).with_context(|| format!("cannot read the root {}", args.root.display()))?;
    // Forgotten at the end, which is said in the help.
    let forgotten = tempfile::tempdir().context("cannot make a temporary folder")?;
    let datastore = args.datastore.as_deref().unwrap_or(forgotten.path());
    let mut cfg = config(&args.repo, root, datastore)?;
    if let Some(path) = &args.ca_file {
        cfg.ca_certificates_pem =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    let repository = Repository::load(&cfg, now).await?;
    let releases = wanted(&args, &repository).await?;
    let images: Vec<LocalImage> = args
        .image
        .iter()
        .map(|image| LocalImage {
            name: image.name.clone(),
            path: image.path.clone(),
        })
        .collect();
    let mut verified = Vec::new();
    for digest in releases {
        let verification = Verification::of(&repository, &digest, now).await?;
        let (progress, bar) = show.bar(verification.total_bytes(), "verifying");
        let result = verification.run(&images, &progress).await;
        bar.finish_and_clear();
        verified.push(result?);
    }
    show.result(&verified, &text(&verified))
}

async fn wanted(args: &VerifyArgs, repository: &Repository) -> anyhow::Result<Vec<Digest>> {
    if let Some(digest) = args.release {
        return Ok(vec![digest]);
    }
    if let Some(name) = &args.channel {
        let channel = repository.channel(name).await?;
        let latest = channel
            .latest()
            .with_context(|| format!("channel {name} has no release that is not withdrawn"))?;
        return Ok(vec![latest.digest]);
    }
    if !args.image.is_empty() {
        bail!("write --release or --channel to say which release the images should be");
    }
    let mut all = Vec::new();
    for digest in repository.release_digests() {
        if repository.withdrawn(&digest).await?.is_none() {
            all.push(digest);
        }
    }
    Ok(all)
}

fn text(verified: &[VerifiedRelease]) -> String {
    let mut text = String::new();
    for release in verified {
        let (metadata, version) = (release.metadata, &release.version);
        text += &format!(
            "Good    {} (version {version})\n        by root {}, timestamp {}, snapshot {}, targets {}; current until {}\n",
            release.release,
            metadata.root,
            metadata.timestamp,
            metadata.snapshot,
            metadata.targets,
            release.expires
        );
        for artifact in &release.artifacts {
            let image = artifact
                .image
                .as_ref()
                .map_or_else(String::new, |path| format!("; {} is the same", path.display()));
            text += &format!(
                "        {}: {} in {} chunks, {} fetched{image}\n",
                artifact.name,
                bytes(artifact.size),
                artifact.chunks,
                bytes(artifact.fetched_bytes)
            );
        }
        for delta in &release.deltas {
            let names: Vec<&str> = delta.artifacts.iter().map(|name| name.as_str()).collect();
            text += &format!(
                "        delta from {}: {}, {} fetched\n",
                delta.from,
                names.join(", "),
                bytes(delta.fetched_bytes)
            );
        }
    }
    if verified.is_empty() {
        text += "Good    the metadata are; no release is listed that was not withdrawn";
    }
    text
}

/// A repository's configuration from a URL or the path of a folder.
pub fn config(repo: &str, root: Vec<u8>, datastore: &Path) -> anyhow::Result<RepositoryConfig> {
    let url = match Url::parse(repo) {
        Ok(url) if url.has_host() || url.scheme() == "file" => url,
        Ok(_) | Err(_) => {
            let path = std::fs::canonicalize(repo)
                .with_context(|| format!("{repo} is neither a URL nor a folder that exists"))?;
            match Url::from_directory_path(&path) {
                Ok(url) => url,
                Err(()) => bail!("{} cannot be written as a URL", path.display()),
            }
        }
    };
    Ok(RepositoryConfig::new(repo, url, root, datastore.to_path_buf()))
}
