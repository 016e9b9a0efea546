//! The disk of a new node, as an installer leaves it: the first release in slot A with the record of what it
//! is, and a state partition with what belongs to this one node: its credential, the repository it trusts,
//! the containers it runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use url::Url;

use crate::cluster::REPOSITORY;
use crate::firmware::{Gpt, LoaderKind};
use crate::node::{FirstImages, Install, OtherKernels, install};
use crate::realcluster::QEMU_HOST;

/// A disk to make.
#[derive(Debug, Clone)]
pub struct DiskPlan {
    /// The node's name.
    pub name: String,
    /// Where its files go; made if need be.
    pub folder: PathBuf,
    /// Makes the GUIDs of its disk.
    pub seed: u64,
    /// What lies in slot A.
    pub images: FirstImages,
    /// The release that these images are, as it was built.
    pub release: PathBuf,
    /// Where releases are served, as a guest sees it.
    pub repository: Url,
    /// The first root of trust.
    pub root: PathBuf,
    /// The node's kubeconfig, as this machine would use it.
    pub kubeconfig: String,
    /// The cluster's certificate authority.
    pub ca_pem: String,
    /// The API server's port on this machine.
    pub api_port: u16,
    /// The containers that a node finds in its store, since there is no registry.
    pub containers: PathBuf,
}

/// Makes the disk. Blocks.
///
/// # Errors
/// If there is no room, or no mke2fs.
pub fn make(plan: &DiskPlan) -> anyhow::Result<PathBuf> {
    let installed = install(&Install {
        name: plan.name.clone(),
        folder: plan.folder.clone(),
        seed: plan.seed,
        loader: LoaderKind::Vboot,
        other_kernels: OtherKernels::Refused,
        images: plan.images.clone(),
        release: plan.release.clone(),
        repository: (REPOSITORY.to_owned(), plan.repository.clone(), plan.root.clone()),
        // The node's own configuration is in its image and on its state partition; this one is read here
        // alone, to write the record of slot A.
        kubeconfig: plan.folder.join("kubeconfig"),
        confirm_wait: "10min".to_owned(),
        health_deadline: "2min".to_owned(),
    })?;
    let tree = plan.folder.join("tree");
    fill(plan, &tree)?;
    write_state(&installed.disk, &tree).with_context(|| format!("the state partition of {}", plan.name))?;
    fs::remove_dir_all(&tree).context("removing what is on the state partition now")?;
    Ok(installed.disk)
}

fn fill(plan: &DiskPlan, tree: &Path) -> anyhow::Result<()> {
    let put = |path: &str, content: &str| -> anyhow::Result<()> {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap_or(tree))?;
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))
    };
    let here = format!("https://127.0.0.1:{}", plan.api_port);
    let there = format!("https://{QEMU_HOST}:{}", plan.api_port);
    put("lib/kubelet/kubeconfig", &plan.kubeconfig.replace(&here, &there))?;
    put("etc/kubernetes/ca.pem", &plan.ca_pem)?;
    put(
        "etc/kubernetes/api-server",
        &format!("{QEMU_HOST}:{}\n", plan.api_port),
    )?;
    put(
        "etc/drydock/root.json",
        &fs::read_to_string(&plan.root).context("the first root of trust")?,
    )?;
    put("etc/drydock/updater.toml", &configuration(plan))?;
    put("etc/drydock/updater.d/kubernetes.toml", AS_A_UNIT)?;
    let (from, to) = (plan.folder.join("state"), tree.join("lib/drydock"));
    fs::create_dir_all(&to)?;
    for entry in fs::read_dir(&from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    let images = tree.join("lib/images");
    fs::create_dir_all(&images)?;
    fs::copy(&plan.containers, images.join("containers.tar"))
        .with_context(|| format!("the containers {}", plan.containers.display()))?;
    Ok(())
}

/// How its agent reaches the cluster: as a unit of its image, by the kubelet's credential.
const AS_A_UNIT: &str = "[kubernetes]\nkubeconfig = \"/var/lib/kubelet/kubeconfig\"\n";

fn configuration(plan: &DiskPlan) -> String {
    let DiskPlan { name, repository, .. } = plan;
    format!(
        r#"[node]
name = "{name}"

[[repositories]]
name = "{REPOSITORY}"
url = "{repository}"
root = "/etc/drydock/root.json"
"#
    )
}

/// Makes a file system with these files in the partition STATE.
fn write_state(disk: &Path, tree: &Path) -> anyhow::Result<()> {
    let gpt = Gpt::read(disk, 512)?;
    let state = gpt.by_label("STATE").context("the disk has no STATE")?;
    let output = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-L", "STATE", "-d"])
        .arg(tree)
        .arg("-E")
        .arg(format!(
            "offset={},root_owner=0:0,lazy_itable_init=1",
            state.start_bytes
        ))
        .arg(disk)
        .arg(format!("{}k", state.len_bytes / 1024))
        .output()
        .context("start mke2fs; on Debian it is in e2fsprogs")?;
    anyhow::ensure!(
        output.status.success(),
        "mke2fs ended with {}:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
