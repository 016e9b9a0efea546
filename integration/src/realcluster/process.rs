//! Processes that never outlive who started them: each is the leader of a process group of its own, is
//! ended with its whole group when its handle is dropped, and is killed by the kernel when this process
//! dies without a word. It knows nothing of Kubernetes.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::sys::{prctl, signal};
use nix::unistd::Pid;

/// Between two looks at a process that is to end.
const LOOK: Duration = Duration::from_millis(20);
/// What a dropped handle gives its process between SIGTERM and SIGKILL.
const LAST_GRACE: Duration = Duration::from_secs(2);
/// How much of a log's end is read for its tail.
const TAIL_BYTES: u64 = 16 * 1024;

/// Starts processes, on a thread of its own.
///
/// The kernel sends the signal of `PR_SET_PDEATHSIG` when the *thread* that forked ends, and threads of a
/// runtime end when they have been idle. So one thread forks, and lives as long as this.
pub struct Keeper {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

struct Order {
    command: Command,
    answer: mpsc::SyncSender<std::io::Result<Child>>,
}

impl Keeper {
    /// Start its thread.
    ///
    /// # Errors
    /// When the machine gives no thread.
    pub fn new() -> anyhow::Result<Keeper> {
        let (orders, received) = mpsc::channel::<Order>();
        let thread = std::thread::Builder::new()
            .name("keeper".to_owned())
            .spawn(move || {
                for mut order in received {
                    // Who asked and went away has no use for the child: it is ended as it came.
                    if let Err(mpsc::SendError(Ok(mut child))) = order.answer.send(order.command.spawn()) {
                        let _ = child.kill();
                        let _ = child.wait();
                    }
                }
            })
            .context("start the thread that starts processes")?;
        Ok(Keeper {
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    /// Start this command; what it writes is appended to `log`. It reads nothing.
    ///
    /// # Errors
    /// When the log cannot be opened or the program not be started.
    pub fn start(&self, name: &str, mut command: Command, log: &Path) -> anyhow::Result<Process> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {} for what {name} writes", log.display()))?;
        let other = file.try_clone().context("the same log once more")?;
        command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(other)
            .process_group(0);
        die_with_parent(&mut command);
        let program = command.get_program().to_string_lossy().into_owned();
        let (answer, answered) = mpsc::sync_channel(1);
        let orders = self
            .orders
            .as_ref()
            .context("the thread that starts processes has ended")?;
        orders
            .send(Order { command, answer })
            .ok()
            .context("the thread that starts processes has ended")?;
        let child = answered
            .recv()
            .context("the thread that starts processes gave no answer")?
            .with_context(|| format!("start {name} ({program})"))?;
        Ok(Process {
            name: name.to_owned(),
            log: log.to_owned(),
            child,
            ended: None,
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Have the kernel kill the child when the thread that forks it ends.
fn die_with_parent(command: &mut Command) {
    let parent = Pid::this();
    let in_child = move || {
        prctl::set_pdeathsig(signal::Signal::SIGKILL)?;
        // The parent may have died before the line above: then nobody will send anything.
        if nix::unistd::getppid() == parent {
            Ok(())
        } else {
            Err(std::io::Error::from_raw_os_error(nix::libc::ESRCH))
        }
    };
    // SAFETY: between fork and exec only prctl and getppid are called, which are plain system calls: no
    // allocation, no lock.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(in_child);
    }
}

/// What a process holds in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Now: `VmRSS`.
    pub resident_bytes: u64,
    /// At most so far: `VmHWM`.
    pub peak_bytes: u64,
}

/// A running process, or one that ended. Dropped, it is ended.
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    /// What it was called when it was started.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process ID, which is its group's ID, too.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if self.ended.is_some() {
            return Ok(self.ended);
        }
        let id = Pid::from_raw(i32::try_from(self.id()).context("a process ID is a small number")?);
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let asked = || format!("ask for the end of {}", self.name);
        if waitid(Id::Pid(id), look).with_context(asked)? != WaitStatus::StillAlive {
            // Whatever it started and left behind goes with it, while its ID cannot be another's yet.
            self.signal_group(signal::Signal::SIGKILL);
            self.ended = Some(self.child.wait().with_context(asked)?);
        }
        Ok(self.ended)
    }

    /// What it holds in memory; none when it has ended.
    #[must_use]
    pub fn memory(&self) -> Option<Memory> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let bytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
            Some(kib * 1024)
        };
        Some(Memory {
            resident_bytes: bytes("VmRSS:")?,
            peak_bytes: bytes("VmHWM:")?,
        })
    }

    /// Ask the whole group to end (SIGTERM).
    pub fn ask_to_end(&mut self) {
        self.signal(signal::Signal::SIGTERM);
    }

    /// Wait until it has ended, and end the whole group by force (SIGKILL) when `grace` is over.
    ///
    /// # Errors
    /// When the kernel does not say how it ended.
    pub fn wait_or_kill(&mut self, grace: Duration) -> anyhow::Result<ExitStatus> {
        let until = Instant::now() + grace;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= until {
                self.signal(signal::Signal::SIGKILL);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Its last lines, each with its name before it.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        tail(&self.name, &self.log, lines)
    }

    fn signal(&mut self, signal: signal::Signal) {
        // Once it was waited for, its ID may be another's.
        if matches!(self.ended(), Ok(None)) {
            self.signal_group(signal);
        }
    }

    fn signal_group(&self, signal: signal::Signal) {
        if let Ok(id) = i32::try_from(self.id()) {
            // Only one error is possible for a group of one's own, that it is gone, and that is wanted.
            let _ = signal::killpg(Pid::from_raw(id), signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.ask_to_end();
        let _ = self.wait_or_kill(LAST_GRACE);
    }
}

/// The last lines of a log, each with this name before it.
#[must_use]
pub fn tail(name: &str, log: &Path, lines: usize) -> String {
    let text = match read_end(log) {
        Ok(text) => text,
        Err(error) => return format!("{name}: no log at {}: {error}\n", log.display()),
    };
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    all[from..]
        .iter()
        .map(|line| format!("{name} | {line}\n"))
        .collect()
}

fn read_end(log: &Path) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
