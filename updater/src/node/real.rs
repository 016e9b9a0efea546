//! The real node: Linux, with systemd where there is one.

use std::io::{self, Read};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::{MAX_CMDLINE_BYTES, Outside};
use crate::config::HealthCheck;

/// How much of a failed check's words is kept, in bytes.
const MAX_CHECK_WORDS: u64 = 400;

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealNode;

#[async_trait]
impl Outside for RealNode {
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    fn since_boot(&self) -> Duration {
        // CLOCK_BOOTTIME exists since Linux 2.6.39; a kernel without it gets a clock that never moves on,
        // by which every deadline counts as not over: so the uptime is taken there.
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or_else(|_| uptime(), Duration::from)
    }

    fn boot_id(&self) -> io::Result<String> {
        read_bounded(Path::new("/proc/sys/kernel/random/boot_id"), 64).map(|id| id.trim().to_owned())
    }

    fn cmdline(&self) -> io::Result<String> {
        read_bounded(Path::new("/proc/cmdline"), MAX_CMDLINE_BYTES)
    }

    fn image_version(&self) -> Option<String> {
        let text = ["/etc/os-release", "/usr/lib/os-release"]
            .iter()
            .find_map(|path| read_bounded(Path::new(path), 64 * 1024).ok())?;
        let value = |line: &str| Some(line.strip_prefix("IMAGE_VERSION=")?.trim_matches('"').to_owned());
        text.lines().find_map(value)
    }

    async fn flush(&self) -> Result<(), String> {
        let flushed = tokio::task::spawn_blocking(nix::unistd::sync).await;
        flushed.map_err(|error| error.to_string())
    }

    async fn reboot(&self) -> Result<(), String> {
        if !Path::new("/run/systemd/system").exists() {
            return match nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_AUTOBOOT) {
                Ok(never) => match never {},
                Err(errno) => Err(format!("reboot(2): {errno}")),
            };
        }
        let called = Command::new("systemctl")
            .args(["--no-wall", "--no-block", "reboot"])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .status()
            .await;
        match called {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("`systemctl reboot` ended with {status}")),
            Err(error) => Err(format!("`systemctl reboot` could not be started: {error}")),
        }
    }

    async fn run_check(&self, check: &HealthCheck) -> Result<(), String> {
        let (program, arguments) = check.command.split_first().ok_or("it has no command")?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{program} could not be started: {error}"))?;
        let words = child.stderr.take();
        let run = async {
            let mut said = Vec::new();
            if let Some(mut words) = words {
                let mut first = (&mut words).take(MAX_CHECK_WORDS);
                first
                    .read_to_end(&mut said)
                    .await
                    .map_err(|error| error.to_string())?;
                // The rest is taken and dropped, so that the check does not block on a full pipe.
                let rest = tokio::io::copy(&mut words, &mut tokio::io::sink()).await;
                rest.map_err(|error| error.to_string())?;
            }
            let status = child.wait().await.map_err(|error| error.to_string())?;
            if status.success() {
                return Ok(());
            }
            let said = String::from_utf8_lossy(&said).trim().to_owned();
            let colon = if said.is_empty() { "" } else { ": " };
            Err(format!("ended with {status}{colon}{said}"))
        };
        match tokio::time::timeout(check.timeout, run).await {
            Ok(done) => done,
            Err(_) => Err(format!("did not end within {:?}", check.timeout)),
        }
    }

    fn notify(&self, status: &str) {
        // Without a service manager there is nobody to tell.
        let _nobody_listens = sd_notify::notify(&[
            sd_notify::NotifyState::Ready,
            sd_notify::NotifyState::Status(status),
        ]);
    }
}

fn uptime() -> Duration {
    let text = read_bounded(Path::new("/proc/uptime"), 128).unwrap_or_default();
    let secs = text.split(' ').next().and_then(|secs| secs.parse::<f64>().ok());
    secs.and_then(|secs| Duration::try_from_secs_f64(secs).ok())
        .unwrap_or(Duration::MAX)
}

/// A small text file, at most `max_bytes` of it.
pub(super) fn read_bounded(path: &Path, max_bytes: u64) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(max_bytes)
        .read_to_string(&mut text)?;
    Ok(text)
}
