//! Two signed releases in a repository, made with `drydock-images` as a release engineer does it.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::process::Command;

use super::Options;

/// The channel of both releases.
pub const CHANNEL: &str = "stable";
/// The board and architecture of both, and of the node.
pub const BOARD: &str = "generic";
pub const ARCH: &str = "amd64";

/// The partition images of one release.
#[derive(Debug, Clone)]
pub struct Images {
    pub kernel: PathBuf,
    pub root: PathBuf,
}

impl Images {
    pub fn of(options: &Options, name: &str) -> Self {
        let file = |kind: &str| options.images.join(format!("{name}.{kind}"));
        Self {
            kernel: file("kernel"),
            root: file(&options.file_system),
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
    pub version: String,
    pub image_bytes: u64,
    digest: String,
    stored_bytes: u64,
    build: Duration,
}

/// A repository, and what is in it.
#[derive(Debug)]
pub struct Releases {
    /// The folder to serve.
    pub repository: PathBuf,
    /// The first root of trust.
    pub root: PathBuf,
    pub all: Vec<Release>,
}

impl Releases {
    /// Builds, signs and publishes, in this order.
    pub async fn publish(folder: &Path, of: &[(&Images, &str)]) -> anyhow::Result<Self> {
        let (keys, repository) = (folder.join("keys"), folder.join("repository"));
        let made = images_tool(&[OsStr::new("keygen"), OsStr::new("--out"), keys.as_os_str()]).await?;
        let root = made["root"].as_str().context("keygen names no root")?.into();
        let mut all = Vec::new();
        for (images, version) in of {
            let out = folder.join(format!("release-{version}"));
            all.push(build(images, version, &out).await?);
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
            // The repository holds it now.
            std::fs::remove_dir_all(&out)?;
        }
        Ok(Self {
            repository,
            root,
            all,
        })
    }
}

async fn build(images: &Images, version: &str, out: &Path) -> anyhow::Result<Release> {
    let artifacts = images.all().map(|(name, path)| {
        let mut artifact = std::ffi::OsString::from(format!("{name}="));
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
        version: version.to_owned(),
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
    // target/PROFILE/deps/real_images-HASH
    let folder = here.ancestors().nth(2).context("this program has no folder")?;
    let path = folder.join(name);
    ensure!(
        path.is_file(),
        "{} is not there; run `cargo build --release --workspace --bins --locked` first",
        path.display()
    );
    Ok(path)
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "release {}:   {} bytes of images, {} stored, built in {:.1} s, {}",
            self.version,
            self.image_bytes,
            self.stored_bytes,
            self.build.as_secs_f64(),
            self.digest
        )
    }
}
