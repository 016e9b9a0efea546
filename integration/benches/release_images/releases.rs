//! Signed releases in a repository, made with `drydock-images` as a release engineer does it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::process::Command;

use super::disk::command;

/// The channel of all releases.
pub const CHANNEL: &str = "stable";
/// Their board and architecture, and the node's.
pub const BOARD: &str = "generic";
pub const ARCH: &str = "amd64";

/// The partition images of one release.
#[derive(Debug, Clone)]
pub struct Images {
    pub kernel: PathBuf,
    pub root: PathBuf,
}

impl Images {
    pub fn of(folder: &Path, file_system: &str, release: &str) -> Self {
        let file = |kind: &str| folder.join(format!("{release}.{kind}"));
        Self {
            kernel: file("kernel"),
            root: file(file_system),
        }
    }

    /// Each with the name of its artifact.
    pub fn all(&self) -> [(&'static str, &Path); 2] {
        [("kernel", &self.kernel), ("root", &self.root)]
    }
}

/// A published release.
#[derive(Debug)]
pub struct Release {
    pub images: Images,
    pub name: &'static str,
    pub image_bytes: u64,
    pub digest: String,
    stored_bytes: u64,
    build: Duration,
}

/// The same releases twice: without deltas, and with one from the first to each other.
#[derive(Debug)]
pub struct Releases {
    /// The folder to serve, with a repository in each of [`PLAIN`] and [`PAIRS`].
    pub served: PathBuf,
    /// The first root of trust.
    pub root: PathBuf,
    pub all: Vec<Release>,
    pub deltas: Vec<Delta>,
}

/// The repository without deltas.
pub const PLAIN: &str = "plain";
/// The repository with a delta for each pair.
pub const PAIRS: &str = "pairs";

/// A delta that was made.
#[derive(Debug)]
pub struct Delta {
    pub to: &'static str,
    bytes: u64,
    time: Duration,
}

impl Releases {
    /// Builds, signs and publishes, in this order; `with_deltas`, or the second repository is as the first.
    pub async fn publish(
        folder: &Path,
        of: &[(&'static str, Images)],
        with_deltas: bool,
    ) -> anyhow::Result<Self> {
        let (keys, served) = (folder.join("keys"), folder.join("repository"));
        let [repository, pairs] = [PLAIN, PAIRS].map(|name| served.join(name));
        let made = images_tool(&[OsStr::new("keygen"), OsStr::new("--out"), keys.as_os_str()]).await?;
        let root = made["root"].as_str().context("keygen names no root")?.into();
        let (mut all, mut first) = (Vec::new(), None::<PathBuf>);
        for (place, (name, images)) in of.iter().enumerate() {
            let out = folder.join(format!("release-{name}"));
            let after = first.as_deref();
            all.push(build(images, name, &(place + 1).to_string(), after, &out).await?);
            let signing = [
                ("--repo", repository.as_os_str()),
                ("--keys", keys.as_os_str()),
                ("--release", out.as_os_str()),
                ("--channel", OsStr::new(CHANNEL)),
            ];
            let mut arguments = vec![OsStr::new("publish")];
            arguments.extend(
                signing
                    .iter()
                    .flat_map(|(name, value)| [OsStr::new(*name), *value]),
            );
            images_tool(&arguments).await?;
            // The repository holds it now; the first is what the others come after.
            match &first {
                Some(_) => std::fs::remove_dir_all(&out)?,
                None => first = Some(out),
            }
        }
        // Packs and indexes never change, so both can share them.
        let copied = [OsStr::new("--archive"), OsStr::new("--link")].map(OsString::from);
        let both = [&repository, &pairs].map(|path| path.clone().into_os_string());
        command("cp", copied.into_iter().chain(both)).await?;
        let deltas = match with_deltas {
            true => deltas(&pairs, &keys, &all).await?,
            false => Vec::new(),
        };
        Ok(Self {
            served,
            root,
            all,
            deltas,
        })
    }
}

async fn deltas(repository: &Path, keys: &Path, all: &[Release]) -> anyhow::Result<Vec<Delta>> {
    let Some((from, others)) = all.split_first() else {
        return Ok(Vec::new());
    };
    let mut made = Vec::new();
    for to in others {
        let arguments = [
            ("--repo", repository.as_os_str()),
            ("--keys", keys.as_os_str()),
            ("--from", OsStr::new(&from.digest)),
            ("--to", OsStr::new(&to.digest)),
        ];
        let arguments = arguments
            .iter()
            .flat_map(|(name, value)| [OsStr::new(*name), *value]);
        let arguments: Vec<&OsStr> = [OsStr::new("delta")].into_iter().chain(arguments).collect();
        let begun = Instant::now();
        let said = match images_tool(&arguments).await {
            // None is made for a pair for which it is not worth it.
            Err(error) if error.to_string().contains("SavesTooLittle") => continue,
            said => said?,
        };
        let time = begun.elapsed();
        let artifacts = said["artifacts"].as_array().context("delta names no artifacts")?;
        let kept = artifacts.iter().filter(|artifact| artifact["kept"] == true);
        made.push(Delta {
            to: to.name,
            bytes: kept.filter_map(|artifact| artifact["deltaBytes"].as_u64()).sum(),
            time,
        });
    }
    Ok(made)
}

async fn build(
    images: &Images,
    name: &'static str,
    version: &str,
    after: Option<&Path>,
    out: &Path,
) -> anyhow::Result<Release> {
    let artifacts = images.all().map(|(name, path)| {
        let mut artifact = OsString::from(format!("{name}="));
        artifact.push(path);
        artifact
    });
    let fields = [
        "--name",
        "harbor",
        "--version",
        version,
        "--board",
        BOARD,
        "--arch",
        ARCH,
    ];
    let mut arguments = vec![OsStr::new("build")];
    arguments.extend(fields.map(OsStr::new));
    for artifact in &artifacts {
        arguments.extend([OsStr::new("--artifact"), artifact]);
    }
    if let Some(after) = after {
        arguments.extend([OsStr::new("--after"), after.as_os_str()]);
    }
    arguments.extend([OsStr::new("--out"), out.as_os_str()]);
    let begun = Instant::now();
    let made = images_tool(&arguments).await?;
    let number = |name: &str| {
        made["stats"][name]
            .as_u64()
            .with_context(|| format!("build names no {name}"))
    };
    Ok(Release {
        images: images.clone(),
        name,
        image_bytes: number("imageBytes")?,
        stored_bytes: number("storedBytes")?,
        digest: made["digest"]
            .as_str()
            .context("build names no digest")?
            .to_owned(),
        build: begun.elapsed(),
    })
}

async fn images_tool(arguments: &[&OsStr]) -> anyhow::Result<Value> {
    let tool = program("drydock-images")?;
    let done = Command::new(&tool)
        .arg("--json")
        .args(arguments)
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("starting {}", tool.display()))?;
    ensure!(
        done.status.success(),
        "drydock-images {arguments:?} failed: {}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    serde_json::from_slice(&done.stdout).context("drydock-images printed no JSON")
}

/// A program of this workspace, built with the same profile.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe().context("finding the folder of the programs")?;
    // target/PROFILE/deps/release_images-HASH
    let folder = here.ancestors().nth(2).context("this program has no folder")?;
    let path = folder.join(name);
    ensure!(
        path.is_file(),
        "{} is not there; integration/benches/benchmarks.sh builds it",
        path.display()
    );
    Ok(path)
}

impl fmt::Display for Delta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { to, bytes, time } = self;
        write!(
            f,
            "delta to {to}: {bytes} bytes, made in {:.1} s",
            time.as_secs_f64()
        )
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:   {} bytes of images, {} stored, built in {:.1} s, {}",
            self.name,
            self.image_bytes,
            self.stored_bytes,
            self.build.as_secs_f64(),
            self.digest
        )
    }
}
