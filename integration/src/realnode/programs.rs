//! The programs that lie in a node's image or speak to it: kubelet and containerd from Go modules, and
//! Drydock's own as they are shipped, static and optimised.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::realcluster::build;
use crate::realcluster::programs::GoPrograms;
use crate::realcluster::say::say;

/// Statically linked, so that one binary runs in any image, whatever its C library.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const PACKAGES: [&str; 2] = ["drydock-updater", "drydock-coordinator"];

/// What was found or built.
#[derive(Debug, Clone)]
pub struct NodePrograms {
    /// kubelet.
    pub kubelet: PathBuf,
    /// The folder of containerd, its shim and ctr.
    pub containerd: PathBuf,
    /// drydock-updater.
    pub updater: PathBuf,
    /// drydock-coordinator.
    pub coordinator: PathBuf,
}

/// Finds or builds them (minutes, the first time). None: this machine has no Go; that was said on standard
/// error.
///
/// # Errors
/// When a build fails, and, with `CI=true`, instead of none.
pub fn find_programs() -> anyhow::Result<Option<NodePrograms>> {
    let version = build::version(&build::module())?;
    let kubelet = GoPrograms {
        name: "kubelet",
        takes: "two or three minutes on two idle cores",
        module: "control-plane",
        programs: &[("kubelet", "k8s.io/kubernetes/cmd/kubelet")],
        tags: "",
        linking: build::linking(&version),
    };
    let containerd = GoPrograms {
        name: "containerd",
        takes: "about a minute on two idle cores",
        module: "nodes/containerd",
        programs: &[
            ("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
            (
                "containerd-shim-runc-v2",
                "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            ),
            ("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
        ],
        tags: "no_btrfs no_zfs no_devmapper no_aufs",
        linking: "-s -w".to_owned(),
    };
    let (Some(kubelet), Some(containerd)) = (kubelet.find()?, containerd.find()?) else {
        return Ok(None);
    };
    let own = own_programs()?;
    Ok(Some(NodePrograms {
        kubelet: kubelet.join("kubelet"),
        containerd,
        updater: own.join("drydock-updater"),
        coordinator: own.join("drydock-coordinator"),
    }))
}

/// Drydock's own, by cargo, into a target folder of their own: another build may hold the usual one.
fn own_programs() -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the workspace's folder")?;
    let target = root.join("target").join("node");
    say(&format!(
        "building {} as they are shipped: release, static",
        PACKAGES.join(" and ")
    ));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--release", "--locked", "--target", TARGET])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(root)
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    for package in PACKAGES {
        command.args(["--package", package]);
    }
    let output = command.output().context("start cargo")?;
    anyhow::ensure!(
        output.status.success(),
        "building {} ended with {}:\n{}",
        PACKAGES.join(" and "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(target.join(TARGET).join("release"))
}
