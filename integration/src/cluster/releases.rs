//! The releases of a simulated cluster: built from images, signed and published with the code that a
//! release engineer uses, and entered into the catalog from the image files themselves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use drydock_images::build::{ArtifactSource, BuildRequest, BuildStats, build};
use drydock_images::delta::Effort;
use drydock_images::keys::{KeygenRequest, generate};
use drydock_images::publish::{
    Lifetimes, MadeDelta, PublishRequest, Published, Signing, delta, promote, publish,
};
use drydock_images::{Carries, Guard, Progress, ReleaseError, SharedState};
use jiff::Timestamp;

use crate::node::{Behaviour, BuiltImages, Catalog, hash_file};

/// The OS of the simulated releases.
pub const OS_NAME: &str = "harbor-os";
/// The board that simulated nodes are.
pub const BOARD: &str = "sim";
/// The processor architecture that simulated nodes have.
pub const ARCH: &str = "amd64";
/// The channel that releases are published to.
pub const CHANNEL: &str = "stable";
/// Fast rather than small: this is a demonstration.
const LEVEL: i32 = 3;
/// The folder of the signing keys.
const KEYS: &str = "keys";

/// The two images of a release, and what they do.
#[derive(Debug, Clone)]
pub struct ReleaseImages {
    /// The version.
    pub version: String,
    /// The kubelet's version, without a `v`.
    pub kubelet: String,
    /// What the system does.
    pub behaviour: Behaviour,
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The root's image.
    pub root: PathBuf,
}

/// A release that was built.
#[derive(Debug, Clone)]
pub struct Built {
    /// Its digest, `sha256:HEX`.
    pub digest: String,
    /// Its folder.
    pub path: PathBuf,
    /// What building it came to.
    pub stats: BuildStats,
}

/// The workshop: keys, built releases, and the repository that is served.
pub struct Workshop {
    folder: PathBuf,
    board: &'static str,
    root: PathBuf,
    catalog: Arc<Catalog>,
}

impl Workshop {
    /// Makes keys (one of one: this is a demonstration) in `folder`, for releases that run on `board`.
    ///
    /// # Errors
    /// A folder that does not work.
    pub async fn open(folder: &Path, board: &'static str, catalog: Arc<Catalog>) -> anyhow::Result<Self> {
        let keys = generate(KeygenRequest {
            out: folder.join(KEYS),
            keys: 1,
            threshold: 1,
            root_lifetime: Duration::from_secs(365 * 24 * 3600),
            now: Timestamp::now(),
        })
        .await
        .context("making the signing keys")?;
        Ok(Self {
            folder: folder.to_owned(),
            board,
            root: keys.root,
            catalog,
        })
    }

    /// The folder that is to be served.
    #[must_use]
    pub fn repository(&self) -> PathBuf {
        self.folder.join("repository")
    }

    /// The first root of trust, as every node's image ships it.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Builds a release and enters it into the catalog.
    ///
    /// # Errors
    /// Images that cannot be read, or a full disk.
    pub async fn build(&self, images: &ReleaseImages) -> anyhow::Result<Built> {
        self.build_after(images, &[]).await
    }

    /// The same for nodes that run one of these.
    ///
    /// # Errors
    /// As [`Workshop::build`].
    pub async fn build_after(&self, images: &ReleaseImages, before: &[&Built]) -> anyhow::Result<Built> {
        let source = |name: &str, path: &Path| -> anyhow::Result<ArtifactSource> {
            Ok(ArtifactSource {
                name: name.parse()?,
                path: path.to_owned(),
                verity_root: None,
            })
        };
        let kernel = hash(images.kernel.clone()).await?;
        let root = hash(images.root.clone()).await?;
        let request = BuildRequest {
            name: OS_NAME.parse()?,
            version: images.version.parse()?,
            board: self.board.parse()?,
            arch: ARCH.parse()?,
            min_from: None,
            floor: None,
            carries: Carries {
                guard: Some(Guard {
                    protocol: u32::try_from(drydock_api::PROTOCOL)?,
                }),
                kubelet: Some(images.kubelet.parse()?),
                kernel: Some(format!("sha256:{}", hex::encode(kernel.1)).parse()?),
                state: SharedState::default(),
            },
            artifacts: vec![source("kernel", &images.kernel)?, source("root", &images.root)?],
            out: self.folder.join("built").join(&images.version),
            after: before.iter().map(|built| built.path.clone()).collect(),
            level: LEVEL,
            progress: Progress::none(),
        };
        let built = build(request)
            .await
            .with_context(|| format!("building release {}", images.version))?;
        let digest = built.digest.to_string();
        self.catalog.add(BuiltImages {
            digest: digest.clone(),
            version: images.version.clone(),
            kubelet: images.kubelet.clone(),
            behaviour: images.behaviour,
            artifacts: BTreeMap::from([("kernel".to_owned(), kernel), ("root".to_owned(), root)]),
        });
        Ok(Built {
            digest,
            path: built.path,
            stats: built.stats,
        })
    }

    /// Signs a release and puts it into the channel.
    ///
    /// # Errors
    /// As the release tool's `publish`.
    pub async fn publish(&self, built: &Built) -> anyhow::Result<Published> {
        self.publish_to(built, Some(CHANNEL)).await
    }

    /// Signs a release, makes a delta for the nodes that run `from`, and only then puts it into the channel,
    /// so that no node begins without the delta. None where one would save too little.
    ///
    /// # Errors
    /// As the release tool's `publish`, `delta` and `promote`.
    pub async fn publish_with_delta(
        &self,
        from: &Built,
        built: &Built,
    ) -> anyhow::Result<(Published, Option<MadeDelta>)> {
        let published = self.publish_to(built, None).await?;
        let (signing, to) = (self.signing(), published.digest);
        let job = delta(&signing, &from.digest.parse()?, &to).await?;
        let made = match job.make(Effort::default(), Progress::none()).await {
            Ok(made) => Some(made),
            Err(ReleaseError::SavesTooLittle { .. }) => None,
            Err(error) => return Err(error).context("making the delta"),
        };
        promote(&signing, &CHANNEL.parse()?, &to, false)
            .await
            .with_context(|| format!("promoting {to}"))?;
        Ok((published, made))
    }

    async fn publish_to(&self, built: &Built, channel: Option<&str>) -> anyhow::Result<Published> {
        let request = PublishRequest {
            signing: self.signing(),
            release: built.path.clone(),
            channel: channel.map(str::parse).transpose()?,
            stepping_stone: false,
            progress: Progress::none(),
        };
        publish(request)
            .await
            .with_context(|| format!("publishing {}", built.digest))
    }

    fn signing(&self) -> Signing {
        Signing {
            repo: self.repository(),
            keys: self.folder.join(KEYS),
            lifetimes: Lifetimes::default(),
            now: Timestamp::now(),
        }
    }
}

async fn hash(path: PathBuf) -> anyhow::Result<(u64, [u8; 32])> {
    let shown = path.display().to_string();
    let hashed = tokio::task::spawn_blocking(move || hash_file(&path)).await?;
    hashed.with_context(|| format!("reading the image {shown}"))
}
