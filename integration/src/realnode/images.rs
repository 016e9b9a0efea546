//! The images of the five releases, made from Debian's packages by `integration/nodes/build.sh`.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;

use super::programs::NodePrograms;

/// How many releases are made.
pub const IMAGES: usize = 5;
/// What making them takes besides root, each with Debian's package of it.
const TOOLS: [(&str, &str); 5] = [
    ("mmdebstrap", "mmdebstrap"),
    ("mksquashfs", "squashfs-tools"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mke2fs", "e2fsprogs"),
    ("apt-get", "apt: this must be a Debian"),
];

/// The images of five releases of one OS.
#[derive(Debug, Clone)]
pub struct NodeImages {
    /// Roots, by release from 1 on.
    pub roots: [PathBuf; IMAGES],
    /// The kernel of all but the fourth.
    pub kernel: PathBuf,
    /// The fourth's: it hangs before userspace.
    pub hanging_kernel: PathBuf,
    /// Containers that a node finds in its store.
    pub containers: PathBuf,
}

impl NodeImages {
    /// What this machine lacks to make images and run machines from them; none if nothing.
    #[must_use]
    pub fn lacking() -> Option<String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Where Debian has mke2fs, and no user's shell looks.
        let folders: Vec<PathBuf> = std::env::split_paths(&path).chain(["/usr/sbin".into()]).collect();
        let missing: Vec<String> = TOOLS
            .iter()
            .filter(|(tool, _)| !folders.iter().any(|folder| folder.join(tool).is_file()))
            .map(|(tool, package)| format!("there is no {tool} (Debian's package {package})"))
            .collect();
        if !missing.is_empty() {
            return Some(missing.join("; "));
        }
        (!nix::unistd::geteuid().is_root()).then(|| "making an image from packages needs root".to_owned())
    }

    /// Those that `integration/nodes/build.sh` left in the folder that `DRYDOCK_NODE_IMAGES` names; none, if
    /// it names none.
    #[must_use]
    pub fn made_before() -> Option<NodeImages> {
        let folder = std::env::var_os("DRYDOCK_NODE_IMAGES").filter(|folder| !folder.is_empty())?;
        Some(NodeImages::of(Path::new(&folder)))
    }

    fn of(out: &Path) -> NodeImages {
        NodeImages {
            roots: std::array::from_fn(|index| out.join(format!("root-{}.img", index + 1))),
            kernel: out.join("kernel.img"),
            hanging_kernel: out.join("kernel-hangs.img"),
            containers: out.join("containers.tar"),
        }
    }

    /// Makes them in `folder`; `say` is told how far it is. Blocks, for minutes the first time.
    ///
    /// # Errors
    /// If packages cannot be had, or there is no room: with what the script said.
    pub fn make(
        programs: &NodePrograms,
        folder: &Path,
        say: &mut dyn FnMut(&str),
    ) -> anyhow::Result<NodeImages> {
        let in_one = folder.join("programs");
        let out = folder.join("images");
        for made in [&in_one, &out] {
            std::fs::create_dir_all(made).with_context(|| format!("make {}", made.display()))?;
        }
        let parts = [
            ("kubelet", &programs.kubelet),
            ("containerd", &programs.containerd.join("containerd")),
            (
                "containerd-shim-runc-v2",
                &programs.containerd.join("containerd-shim-runc-v2"),
            ),
            ("ctr", &programs.containerd.join("ctr")),
        ];
        for (name, program) in parts {
            std::fs::copy(program, in_one.join(name))
                .with_context(|| format!("copy {}", program.display()))?;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("nodes/build.sh");
        let mut child = Command::new("bash")
            .arg(&script)
            .arg("--programs")
            .arg(&in_one)
            .arg("--updater")
            .arg(&programs.updater)
            .arg("--out")
            .arg(&out)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start bash")?;
        let mut said = Vec::new();
        if let Some(stderr) = child.stderr.take() {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                say(&line);
                said.push(line);
            }
        }
        let status = child.wait().context("wait for the script that makes images")?;
        let last = said.len().saturating_sub(20);
        anyhow::ensure!(
            status.success(),
            "{} ended with {status}:\n{}",
            script.display(),
            said[last..].join("\n")
        );
        Ok(NodeImages::of(&out))
    }
}
