//! One measured process: its time, its memory, what it fetched and what it moved on the device; and the
//! node that is measured, with its configuration.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use drydock_integration::cluster::{FileServer, Sent};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::{Child, Command};

use super::disk::{LoopDisk, Slot, command};
use super::releases::{ARCH, BOARD, PAIRS, PLAIN, Release, program};

/// How often it is looked how much the device was given.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What one process took.
#[derive(Debug, Clone, Default)]
pub struct Run {
    pub wall: Duration,
    /// Until the device was given the last byte; the flush that follows is no part of it.
    pub until_written: Duration,
    /// User and system.
    pub cpu: Duration,
    /// Of memory that was resident.
    pub peak_bytes: u64,
    /// By the folder of the repository.
    pub sent: BTreeMap<String, Sent>,
    /// On the loop device.
    pub read_bytes: u64,
    pub written_bytes: u64,
}

impl Run {
    /// Everything that was fetched.
    pub fn fetched(&self) -> Sent {
        self.sent.values().fold(Sent::default(), |all, one| Sent {
            requests: all.requests + one.requests,
            bytes: all.bytes + one.bytes,
        })
    }

    /// This one and then the other.
    pub fn then(mut self, other: &Self) -> Self {
        if other.written_bytes > 0 {
            self.until_written = self.wall + other.until_written;
        }
        self.wall += other.wall;
        self.cpu += other.cpu;
        self.peak_bytes = self.peak_bytes.max(other.peak_bytes);
        self.read_bytes += other.read_bytes;
        self.written_bytes += other.written_bytes;
        self
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.2} s, written after {:.2} s, CPU {:.2} s, peak {:.1} MiB, device read {:.1} MiB, wrote {:.1} MiB",
            self.wall.as_secs_f64(),
            self.until_written.as_secs_f64(),
            self.cpu.as_secs_f64(),
            mib(self.peak_bytes),
            mib(self.read_bytes),
            mib(self.written_bytes),
        )?;
        let fetched = self.fetched();
        if fetched.requests > 0 {
            write!(
                f,
                "; fetched {} bytes in {} requests:",
                fetched.bytes, fetched.requests
            )?;
            for (folder, sent) in &self.sent {
                write!(f, " {folder} {} in {},", sent.bytes, sent.requests)?;
            }
        }
        Ok(())
    }
}

/// Bytes as MiB.
pub fn mib(bytes: u64) -> f64 {
    // Exact up to 8 PiB.
    bytes as f64 / f64::from(1 << 20)
}

/// The node.
pub struct Bench {
    pub disk: LoopDisk,
    server: FileServer,
    /// By the name of its repository.
    configs: BTreeMap<&'static str, PathBuf>,
    times: PathBuf,
    updater: PathBuf,
    state: PathBuf,
}

impl Bench {
    /// Slot A runs. The release server is `server`, its first root of trust the file `root`.
    pub fn new(folder: &Path, disk: LoopDisk, server: FileServer, root: &Path) -> anyhow::Result<Self> {
        let cmdline = folder.join("cmdline");
        std::fs::write(&cmdline, "drydock.slot=A\n")?;
        let config = |repository: &str| -> anyhow::Result<Value> {
            let url = server.url().join(&format!("{repository}/"))?;
            Ok(serde_json::json!({
                "node": { "name": "bench", "board": BOARD, "arch": ARCH },
                "disk": { "path": disk.node, "loader": "gptprio", "running": { "file": cmdline } },
                "slots": { "A": slot("A"), "B": slot("B") },
                "paths": { "state": folder.join("state"), "run": folder.join("run") },
                "repositories": [{ "name": repository, "url": url.as_str(), "root": root }],
                "health": { "checks": [{ "name": "true", "command": ["true"], "timeout": "10s" }] },
            }))
        };
        let mut configs = BTreeMap::new();
        for repository in [PLAIN, PAIRS] {
            let path = folder.join(format!("{repository}.toml"));
            std::fs::write(&path, toml::to_string(&config(repository)?)?)?;
            configs.insert(repository, path);
        }
        let state = folder.join("state");
        std::fs::create_dir_all(&state)?;
        std::fs::create_dir_all(folder.join("run"))?;
        Ok(Self {
            disk,
            server,
            configs,
            times: folder.join("times"),
            updater: program("drydock-updater")?,
            state,
        })
    }

    /// Measures one command of the updater.
    pub async fn updater(&self, repository: &str, arguments: &[&str]) -> anyhow::Result<Run> {
        self.measure(self.updater_words(repository, arguments)).await
    }

    fn updater_words(&self, repository: &str, arguments: &[&str]) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec![self.updater.clone().into(), "--config".into()];
        words.extend(self.configs.get(repository).map(|path| path.clone().into()));
        words.extend(arguments.iter().map(OsString::from));
        words
    }

    /// What `check` says that staging would do.
    pub async fn estimate(&self, repository: &str, release: &Release) -> anyhow::Result<String> {
        let mut words = self
            .updater_words(repository, &["--json", "check", "--release", &release.digest])
            .into_iter();
        let program = words.next().unwrap_or_default();
        let said: Value = serde_json::from_str(&command(&program.to_string_lossy(), words).await?)?;
        let stage = &said["stage"];
        Ok(format!(
            "{} out of {repository}: of {} bytes {} have to be fetched, in {} requests",
            release.name, stage["totalBytes"], stage["fetchBytes"], stage["requests"]
        ))
    }

    /// Runs a command to its end under GNU time, which asks the kernel (wait4) what its one child took.
    pub async fn measure(&self, words: Vec<OsString>) -> anyhow::Result<Run> {
        let sent_before = self.server.sent();
        let (read_before, written_before) = self.disk.moved_bytes()?;
        let begun = Instant::now();
        let child = Command::new("time")
            .args(["--format", "%U %S %M", "--output"])
            .arg(&self.times)
            .arg("--")
            .args(&words)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .process_group(0)
            .spawn()
            .context("starting GNU time (Debian's package time)")?;
        let mut group = Group::of(&child);
        let mut until_written = Duration::ZERO;
        let done = {
            let ended = child.wait_with_output();
            tokio::pin!(ended);
            let mut written = written_before;
            loop {
                tokio::select! {
                    done = &mut ended => break done?,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
                let now = self.disk.moved_bytes()?.1;
                if now > written {
                    (written, until_written) = (now, begun.elapsed());
                }
            }
        };
        group.ended();
        let wall = begun.elapsed();
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "{words:?} failed: {said}");
        let (read, written) = self.disk.moved_bytes()?;
        let (cpu, peak_bytes) = times(&std::fs::read_to_string(&self.times)?)?;
        Ok(Run {
            wall,
            until_written,
            cpu,
            peak_bytes,
            sent: difference(&sent_before, self.server.sent()),
            read_bytes: read - read_before,
            written_bytes: written - written_before,
        })
    }

    /// Takes away the record of slot B, which says what was staged there.
    pub fn forget_record(&self) -> anyhow::Result<()> {
        match std::fs::remove_file(self.state.join("slot-b.json")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.context("removing the record of slot B"),
        }
    }

    /// Compares a slot with the images of a release by sha256sum, read from the device.
    pub async fn ensure_holds(&self, slot: Slot, release: &Release) -> anyhow::Result<String> {
        self.disk.forget().await?;
        let mut text = String::new();
        for (artifact, image) in release.images.all() {
            let partition = self.disk.partition(slot, artifact)?;
            let bytes = image.metadata()?.len();
            let source = sha256sum(image, bytes).await?;
            let found = sha256sum(partition, bytes).await?;
            ensure!(
                source == found,
                "slot {slot:?}: the first {bytes} bytes of {} are {found}, {} is {source}",
                partition.display(),
                image.display()
            );
            let name = image.file_name().unwrap_or_default().to_string_lossy();
            text += &format!("sha256sum of {name} ({bytes} bytes):\n  image      {source}\n");
            text += &format!("  partition  {found}  ({artifact}, slot {slot:?})\n");
        }
        Ok(text)
    }
}

pub async fn sha256sum(path: &Path, bytes: u64) -> anyhow::Result<String> {
    let script = "head --bytes=\"$1\" -- \"$2\" | sha256sum";
    let words = ["-c", script, "sh", &bytes.to_string()].map(OsString::from);
    let said = command("sh", words.into_iter().chain([path.into()])).await?;
    Ok(said.split_whitespace().next().unwrap_or_default().to_owned())
}

fn times(text: &str) -> anyhow::Result<(Duration, u64)> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [user, system, peak] = words.as_slice() else {
        anyhow::bail!("GNU time wrote {text:?}");
    };
    let cpu: f64 = user.parse::<f64>()? + system.parse::<f64>()?;
    Ok((Duration::from_secs_f64(cpu), peak.parse::<u64>()? * 1024))
}

fn difference(before: &BTreeMap<String, Sent>, after: BTreeMap<String, Sent>) -> BTreeMap<String, Sent> {
    let since = after.into_iter().map(|(folder, now)| {
        let then = before.get(&folder).copied().unwrap_or_default();
        let sent = Sent {
            requests: now.requests - then.requests,
            bytes: now.bytes - then.bytes,
        };
        (folder, sent)
    });
    since.filter(|(_, sent)| sent.requests > 0).collect()
}

fn slot(slot: &str) -> Value {
    let (kernel, root) = (format!("PARTLABEL=KERN-{slot}"), format!("PARTLABEL=ROOT-{slot}"));
    serde_json::json!({ "boot": kernel, "artifacts": { "kernel": kernel, "root": root } })
}

/// A process and its children; killed if this is dropped before they ended.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.map(Pid::from_raw))
    }

    fn ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // They may have ended by themselves meanwhile.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}
