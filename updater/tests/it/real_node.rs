//! A node as its owner meets it: the real `drydock-updater`, as processes, on a disk image in a folder.
//! Only which slot runs comes from a file in place of the kernel's command line.
//!
//! A test must never reboot the machine it runs on: the program cannot (its capability is taken away), and
//! the `systemctl` that it finds is a script that notes down what it was asked.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use drydock_images::Digest;
use drydock_updater::disk::BootBits;
use drydock_updater::disk::layout::DiskLayout;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::shipyard::{Draft, Shipyard};

const MIB: u64 = 1 << 20;
/// Bytes of one copy of the partition table, with room.
const TABLE_BYTES: u64 = 34 * 512;

/// See the module.
pub struct RealNode {
    folder: tempfile::TempDir,
    /// By version.
    pub releases: BTreeMap<String, String>,
}

/// What a command printed, with its exit code.
#[derive(Debug, Clone)]
pub struct Said {
    pub code: i32,
    pub text: String,
}

/// SHA-256 of the disk (whole, or slot B apart), and of each state file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    pub disk: Digest,
    pub state: BTreeMap<String, Digest>,
}

impl RealNode {
    /// As the installer leaves it: slot A holds release 1.1, which nobody marked good; 1.2 is published.
    pub fn installed() -> Self {
        Self::installed_with(&[Draft::of("1.1"), Draft::of("1.2")])
    }

    /// The same with the first of these releases in slot A.
    pub fn installed_with(drafts: &[Draft]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let yard = Shipyard::open(folder.path());
        let releases = drafts
            .iter()
            .map(|draft| (draft.version.to_owned(), yard.release(draft)));
        let node = Self {
            releases: releases.collect(),
            folder,
        };
        let mut layout = DiskLayout::cos_like(7, MIB, MIB, MIB);
        layout.partitions[1].bits = BootBits {
            priority: 1,
            tries: 15,
            successful: false,
        };
        node.make_disk(&layout);
        for (label, (_, content)) in ["KERN-A", "ROOT-A"].into_iter().zip(drafts[0].images()) {
            node.write(label, 0, &content);
        }
        node.set_up();
        node
    }

    fn set_up(&self) {
        let bin = self.path("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> {}\n",
            self.path("systemctl.log").display()
        );
        std::fs::write(bin.join("systemctl"), script).unwrap();
        std::fs::set_permissions(bin.join("systemctl"), std::fs::Permissions::from_mode(0o755)).unwrap();
        self.runs("quiet drydock.slot=A ro");
        self.configure(|text| text);
    }

    /// Another node that is the same in everything.
    pub fn copy(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for part in ["disk.img", "repo", "keys", "state"] {
            let (from, to) = (self.path(part), folder.path().join(part));
            if from.exists() {
                assert!(
                    Command::new("cp")
                        .arg("-r")
                        .args([from, to])
                        .status()
                        .unwrap()
                        .success()
                );
            }
        }
        let node = Self {
            releases: self.releases.clone(),
            folder,
        };
        node.set_up();
        node
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn yard(&self) -> Shipyard {
        Shipyard::at(self.folder.path())
    }

    pub fn release(&self, version: &str) -> &str {
        &self.releases[version]
    }

    /// Writes the configuration, changed.
    pub fn configure(&self, change: impl FnOnce(String) -> String) {
        let text = change(configuration(self.folder.path()));
        std::fs::write(self.path("updater.toml"), text).unwrap();
    }

    /// The kernel's command line of this boot.
    pub fn runs(&self, cmdline: &str) {
        std::fs::write(self.path("cmdline"), cmdline).unwrap();
    }

    pub fn make_disk(&self, layout: &DiskLayout) {
        let path = self.path("disk.img");
        if path.exists() {
            std::fs::remove_file(&path).unwrap();
        }
        layout.create(&path).unwrap();
    }

    fn disk(&self) -> std::fs::File {
        let mut options = std::fs::OpenOptions::new();
        options
            .read(true)
            .write(true)
            .open(self.path("disk.img"))
            .unwrap()
    }

    /// First byte of a partition. The layout is the tests' own, one MiB each from the first on.
    fn start_of(label: &str) -> u64 {
        let labels = ["STATE", "KERN-A", "ROOT-A", "KERN-B", "ROOT-B"];
        (1 + labels.iter().position(|known| *known == label).unwrap() as u64) * MIB
    }

    pub fn write(&self, label: &str, at: u64, content: &[u8]) {
        self.disk()
            .write_all_at(content, Self::start_of(label) + at)
            .unwrap();
    }

    /// Breaks one copy of the partition table, as a stray write over its header does.
    pub fn break_table(&self, copy: TableCopy) {
        let disk = self.disk();
        let len = disk.metadata().unwrap().len();
        let header = match copy {
            TableCopy::Primary => 512,
            TableCopy::Backup => len - 512,
        };
        disk.write_all_at(&[0xff; 64], header).unwrap();
    }

    pub fn fingerprint(&self, of: Part) -> Fingerprint {
        let mut image = std::fs::read(self.path("disk.img")).unwrap_or_default();
        if of == Part::AllButSlotB {
            let range = Self::start_of("KERN-B") as usize..Self::start_of("ROOT-B") as usize + MIB as usize;
            image[range].fill(0);
        }
        let mut state = BTreeMap::new();
        collect(&self.path("state"), "", &mut state);
        Fingerprint {
            disk: Digest::of(&image),
            state,
        }
    }

    /// The bytes of both copies of the partition table.
    pub fn table(&self) -> Vec<u8> {
        let image = std::fs::read(self.path("disk.img")).unwrap();
        let end = image.len() - TABLE_BYTES as usize;
        [&image[..TABLE_BYTES as usize], &image[end..]].concat()
    }

    fn command(&self, words: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_drydock-updater");
        let mut command = if nix::unistd::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--bounding-set=-sys_boot", "--inh-caps=-sys_boot", program]);
            command
        } else {
            Command::new(program)
        };
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .arg("--config")
            .arg(self.path("updater.toml"))
            .args(words)
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env_remove("NOTIFY_SOCKET")
            .env("RUST_LOG", "info")
            .env_remove("NO_COLOR")
            .stdin(Stdio::null());
        command
    }

    /// Runs one command to its end.
    pub fn run(&self, words: &[&str]) -> Said {
        let output = self.command(words).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        Said {
            code: output.status.code().unwrap_or(-1),
            text: self.plain(&String::from_utf8(text).unwrap()),
        }
    }

    /// Runs one command that must be done.
    pub fn does(&self, words: &[&str]) -> String {
        let said = self.run(words);
        assert_eq!(said.code, 0, "{words:?}: {}", said.text);
        said.text
    }

    /// Starts `guard` or `agent` and waits until it tells the service manager that it is ready.
    pub fn start(&self, service: &str) -> Service {
        let socket = self.path(&format!("{service}.notify"));
        // What is left of one that was started before.
        let _absent = std::fs::remove_file(&socket);
        let heard = UnixDatagram::bind(&socket).unwrap();
        heard.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let log = self.path(&format!("{service}.log"));
        let child = self
            .command(&[service])
            .env("NOTIFY_SOCKET", &socket)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut service = Service {
            child,
            log,
            told: String::new(),
        };
        let mut buffer = [0; 4096];
        match heard.recv(&mut buffer) {
            Ok(got) => service.told = String::from_utf8_lossy(&buffer[..got]).into_owned(),
            Err(error) => panic!("{error}: {}", service.log()),
        }
        assert!(
            service.told.lines().any(|line| line == "READY=1"),
            "{}",
            service.told
        );
        service
    }

    /// What a command prints with `--json`.
    pub fn json(&self, words: &[&str]) -> serde_json::Value {
        let output = self.command(&[&["--json"], words].concat()).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// One line to the guard's socket, and its answer.
    pub fn ask(&self, request: &str) -> String {
        self.try_to_ask(request).unwrap()
    }

    /// The same of a guard that may end over it.
    pub fn try_to_ask(&self, request: &str) -> io::Result<String> {
        let mut stream = UnixStream::connect(self.path("run/guard.sock"))?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(self.plain(&line))
    }

    /// With what differs from run to run replaced by what it is.
    pub fn plain(&self, text: &str) -> String {
        let mut text = text.replace(self.folder.path().to_str().unwrap(), "DIR");
        for (version, digest) in &self.releases {
            text = text
                .replace(digest, &format!("<{version}>"))
                .replace(digest.trim_start_matches("sha256:"), &format!("<{version}>"))
                .replace(&format!("{}…", &digest[..19]), &format!("<{version}>"));
        }
        let word = |word: &str| {
            let bare = word.trim_end_matches([' ', '\n', ',', ';', ':', '.', ')']);
            let end = &word[bare.len()..];
            let digests = |c: char| c.is_ascii_hexdigit();
            let tail = bare.trim_end_matches(digests);
            match () {
                () if bare.contains("/load-") => {
                    format!("{}/load-…{end}", bare.split("/load-").next().unwrap())
                }
                () if bare.starts_with("root-") && bare.len() > 30 => format!("root-UUID{end}"),
                () if bare.parse::<jiff::Timestamp>().is_ok() => format!("TIME{end}"),
                () if bare.len() - tail.len() >= 64 => format!("{tail}HEX{end}"),
                () => word.to_owned(),
            }
        };
        text.split_inclusive([' ', '\n', ',']).map(word).collect()
    }
}

/// What a fingerprint covers of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    All,
    AllButSlotB,
}

/// One of the two copies of the partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableCopy {
    Primary,
    Backup,
}

/// A process that is killed when this is dropped.
pub struct Service {
    child: Child,
    log: PathBuf,
    /// What it told the service manager.
    pub told: String,
}

impl Service {
    pub fn log(&self) -> String {
        let mut text = String::new();
        std::fs::File::open(&self.log)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }

    /// Waits until its log says this.
    pub fn until_it_says(&self, words: &str) {
        for _ in 0..3_000 {
            if self.log().contains(words) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it never said {words:?}: {}", self.log());
    }

    /// SIGTERM, and how long it took to end.
    pub fn stop(mut self) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        let ended = self.child.wait().unwrap();
        (ended, begun.elapsed())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Every file below, by its name there. Of a trust store the latest time known is left out: it goes forward
/// with each load.
fn collect(folder: &Path, prefix: &str, into: &mut BTreeMap<String, Digest>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            collect(&entry.path(), &format!("{name}/"), into);
            continue;
        }
        let mut content = std::fs::read(entry.path()).unwrap();
        // A hint, made when a slot is first read as a source; what is in it is proven before it counts.
        if name.ends_with(".held") {
            continue;
        }
        if name.ends_with("trust.json") {
            let mut store: serde_json::Value = serde_json::from_slice(&content).unwrap();
            let members = store.as_object_mut().unwrap();
            members.remove("latestKnownTime");
            members.remove("check");
            // Signed files are kept as text; what they say counts, not the order in which it is said.
            for text in members.values_mut() {
                let signed = text.as_str().and_then(|text| serde_json::from_str(text).ok());
                *text = signed.unwrap_or_else(|| text.clone());
            }
            content = serde_json::to_vec(&store).unwrap();
        }
        into.insert(name, Digest::of(&content));
    }
}

fn configuration(folder: &Path) -> String {
    let dir = folder.display();
    format!(
        r#"[node]
name = "node-1"
board = "generic"
arch = "amd64"

[disk]
path = "{dir}/disk.img"
loader = "gptprio"
running = {{ file = "{dir}/cmdline" }}

[slots.A]
boot = "PARTLABEL=KERN-A"
artifacts = {{ kernel = "PARTLABEL=KERN-A", root = "PARTLABEL=ROOT-A" }}

[slots.B]
boot = "PARTLABEL=KERN-B"
artifacts = {{ kernel = "PARTLABEL=KERN-B", root = "PARTLABEL=ROOT-B" }}

[paths]
state = "{dir}/state"
run = "{dir}/run"

[[repositories]]
name = "stable"
url = "file://{dir}/repo/"
root = "{dir}/keys/1.root.json"

[health]
confirm_wait = "60s"
deadline = "2s"

[[health.checks]]
name = "kubelet"
command = ["true"]
"#
    )
}
