//! What the installer of a node leaves behind: a disk with the first release in slot A, the record of
//! what that slot holds, and the updater's configuration. It runs once, before the first boot.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use drydock_images::ReleaseDir;
use drydock_updater::config::{LoadedConfig, load};
use drydock_updater::disk::gate::OpenGate;
use drydock_updater::disk::{Access, Device, GptBootControl, SlotName};
use drydock_updater::state::{LockName, SlotRecord, SlotRecords, StateDir};
use jiff::Timestamp;
use url::Url;

use super::disk::{FirstImages, make_disk};
use crate::cluster::{ARCH, BOARD};
use crate::firmware::LoaderKind;

/// What a node's owner says of a release with another kernel where the loader counts no tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherKernels {
    /// `disk.unguarded_kernel = true`.
    Accepted,
    /// Nothing, so it is not armed.
    Refused,
}

/// What a node is installed with.
#[derive(Debug, Clone)]
pub struct Install {
    /// The Node's name.
    pub name: String,
    /// Its folder: disk, state partition and configuration lie below it.
    pub folder: PathBuf,
    /// Makes the GUIDs of its disk.
    pub seed: u64,
    /// Its boot loader.
    pub loader: LoaderKind,
    /// What counts where that counts no tries.
    pub other_kernels: OtherKernels,
    /// The images in slot A.
    pub images: FirstImages,
    /// The release that these images are, as it was built.
    pub release: PathBuf,
    /// The repository that it trusts: name, URL, and the first root.
    pub repository: (String, Url, PathBuf),
    /// The kubeconfig of its agent.
    pub kubeconfig: PathBuf,
    /// How long a trial boot waits for the cluster's word.
    pub confirm_wait: String,
    /// By when the checks of a trial boot must have passed.
    pub health_deadline: String,
}

/// An installed node.
#[derive(Debug, Clone)]
pub struct Installed {
    /// Its disk image.
    pub disk: PathBuf,
    /// The updater's configuration, as it was read.
    pub config: Arc<LoadedConfig>,
}

/// Installs a node. Blocks.
///
/// # Errors
/// If its files cannot be written; mostly no room.
pub fn install(plan: &Install) -> anyhow::Result<Installed> {
    let folder = &plan.folder;
    for part in ["state", "run"] {
        std::fs::create_dir_all(folder.join(part))
            .with_context(|| format!("making the folder of {}", plan.name))?;
    }
    let disk = folder.join("disk.img");
    make_disk(&disk, plan.seed, &plan.images).with_context(|| {
        format!(
            "making the disk of {} ({}); is there room?",
            plan.name,
            disk.display()
        )
    })?;
    let path = folder.join("updater.toml");
    std::fs::write(&path, configuration(plan, &disk)).context("writing a node's configuration")?;
    let config = load(&[path], &plan.name).context("the configuration of a simulated node")?;
    if !config.unknown_fields.is_empty() {
        return Err(io::Error::other(format!("unknown fields {:?}", config.unknown_fields)).into());
    }
    record_slot_a(plan, &disk, &config)?;
    Ok(Installed {
        disk,
        config: Arc::new(config),
    })
}

fn record_slot_a(plan: &Install, disk: &Path, config: &LoadedConfig) -> anyhow::Result<()> {
    let settings = &config.settings;
    let gate = Arc::new(OpenGate);
    let device = Device::open(disk, Access::ReadWrite, gate.clone())?;
    let (a, b) = (settings.slot_a.clone(), settings.slot_b.clone());
    let (_, slots) = GptBootControl::new(device, settings.loader, a, b).read()?;
    let release = ReleaseDir::open(&plan.release)?;
    let record = SlotRecord::of(release.manifest(), slots.get(SlotName::A), Timestamp::now())?;
    let state = StateDir::open(&settings.state_dir, gate)?;
    let lock = state.lock(LockName::Slot)?;
    SlotRecords::new(&state).save(&lock, SlotName::A, &record)?;
    Ok(())
}

fn configuration(plan: &Install, disk: &Path) -> String {
    let Install {
        name,
        folder,
        repository: (repository, url, root),
        kubeconfig,
        ..
    } = plan;
    let (disk, folder) = (disk.display(), folder.display());
    let (root, kubeconfig) = (root.display(), kubeconfig.display());
    let (confirm_wait, health_deadline) = (&plan.confirm_wait, &plan.health_deadline);
    let loader = match plan.loader {
        LoaderKind::GptPrio => "gptprio",
        LoaderKind::Vboot => "vboot",
        LoaderKind::GptPriority => "gptpriority",
    };
    let accepts = match (plan.loader, plan.other_kernels) {
        (LoaderKind::GptPriority, OtherKernels::Accepted) => "unguarded_kernel = true\n",
        (LoaderKind::GptPriority, OtherKernels::Refused) | (LoaderKind::GptPrio | LoaderKind::Vboot, _) => "",
    };
    format!(
        r#"[node]
name = "{name}"
board = "{BOARD}"
arch = "{ARCH}"

[disk]
path = "{disk}"
loader = "{loader}"
{accepts}
[slots.A]
boot = "PARTLABEL=KERN-A"
[slots.A.artifacts]
kernel = "PARTLABEL=KERN-A"
root = "PARTLABEL=ROOT-A"

[slots.B]
boot = "PARTLABEL=KERN-B"
[slots.B.artifacts]
kernel = "PARTLABEL=KERN-B"
root = "PARTLABEL=ROOT-B"

[paths]
state = "{folder}/state"
run = "{folder}/run"

[[repositories]]
name = "{repository}"
url = "{url}"
root = "{root}"

[health]
confirm_wait = "{confirm_wait}"
deadline = "{health_deadline}"

[[health.checks]]
name = "kubelet"
command = ["systemctl", "is-active", "--quiet", "kubelet"]
timeout = "10s"

[kubernetes]
kubeconfig = "{kubeconfig}"
"#
    )
}
