//! The demo's command line.

use std::path::PathBuf;

use clap::Parser;

/// A Kubernetes cluster that upgrades its own nodes, in one process on this machine.
///
/// Needs no root, no Docker, no kubectl and no network. It writes to a folder for temporary files, about
/// a gigabyte, and leaves nothing behind.
#[derive(Debug, Clone, Parser)]
#[command(name = "drydock-demo", version)]
pub struct DemoOptions {
    /// On a real Kubernetes with three real nodes: machines under QEMU that really reboot, an OS image from
    /// Debian's packages, five releases. Needs root on Debian, Go, and half an hour.
    #[arg(long, conflicts_with_all = ["nodes", "artifact_v1", "image_mib"])]
    pub real: bool,

    /// How many nodes the cluster has.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=50))]
    pub nodes: u8,

    /// Stay up at the end, with a kubeconfig for your own kubectl, until Ctrl-C.
    #[arg(long)]
    pub keep: bool,

    /// Print what changes as lines, instead of a table that is drawn in place. This is what happens
    /// anyway where standard output is no terminal.
    #[arg(long)]
    pub plain: bool,

    /// The root image of the first release: any file. By default program files of this machine are packed
    /// into one.
    #[arg(long, value_name = "FILE", requires = "artifact_v2")]
    pub artifact_v1: Option<PathBuf>,

    /// The root image of the second release.
    #[arg(long, value_name = "FILE", requires = "artifact_v1")]
    pub artifact_v2: Option<PathBuf>,

    /// How large the packed images are, in MiB.
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u16).range(2..=1024))]
    pub image_mib: u16,

    /// Where the temporary folder is made; $TMPDIR or /tmp if it is left out.
    #[arg(long, value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
}
