//! A machine: power, boot loader, watchdog. What runs in it is the image's business.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::Timestamp;

use super::loader::{Loaded, load};
use crate::firmware::Bits;
use crate::observer::SlotId;
use crate::realcluster::process::{Keeper, Process, tail};

const QEMU: &str = "qemu-system-x86_64";
/// A plain processor, and one: five-level page tables, AVX and a second processor to agree with are what an
/// emulated guest pays for and has nothing of.
const PROCESSOR: [&str; 6] = ["-accel", "tcg,thread=multi", "-cpu", "Nehalem", "-smp", "1"];
/// Between two looks at a machine.
const LOOK: Duration = Duration::from_millis(100);
/// After a power cut the current is gone for so long.
const DARK: Duration = Duration::from_secs(2);

/// When a machine counts as dead.
#[derive(Debug, Clone, Copy)]
pub struct Signs {
    /// From power on to the first sign of life of the system in it.
    pub first: Duration,
    /// From one sign to the next.
    pub next: Duration,
}

/// What a machine is.
#[derive(Debug, Clone)]
pub struct MachineSpec {
    /// Its host name.
    pub name: String,
    /// Its disk: a raw image with slots.
    pub disk: PathBuf,
    /// Where its console and the kernel that it boots are written.
    pub folder: PathBuf,
    /// Its memory.
    pub memory_mib: u32,
    /// Its watchdog.
    pub signs: Signs,
}

/// How a boot ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The system in it rebooted.
    Reboot,
    /// Its power was cut by [`Machine::cut_power`].
    PowerCut,
    /// It gave no sign of life.
    Watchdog,
    /// It was turned off by [`Machine::turn_off`].
    Off,
}

/// One boot.
#[derive(Debug, Clone)]
pub struct Boot {
    /// When the loader ran.
    pub at: Timestamp,
    /// The slot that it chose.
    pub slot: SlotId,
    /// The slot's bits before it took a try off.
    pub bits: Bits,
    /// From power on to the first sign of life.
    pub first_sign: Option<Duration>,
    /// What its console has said.
    pub console: PathBuf,
    /// Its signs of life: lines that may hold `NAME=KIB`, the most memory that a program has held.
    pub life: PathBuf,
    /// When and how it ended.
    pub end: Option<(Timestamp, End)>,
}

impl Boot {
    /// Whether the slot was not marked good when it was chosen.
    #[must_use]
    pub fn on_trial(&self) -> bool {
        !self.bits.successful
    }

    /// Whether its console has said this so far.
    #[must_use]
    pub fn said(&self, words: &str) -> bool {
        std::fs::read(&self.console).is_ok_and(|bytes| {
            bytes
                .windows(words.len())
                .any(|window| window == words.as_bytes())
        })
    }
}

enum Order {
    CutPower,
    TurnOff,
}

#[derive(Default)]
struct Book {
    boots: Vec<Boot>,
    /// Why no boot follows any more.
    dead: Option<String>,
    peak_bytes: u64,
}

/// A machine that is on until it is turned off or dropped.
pub struct Machine {
    spec: MachineSpec,
    orders: mpsc::Sender<Order>,
    book: Arc<Mutex<Book>>,
    life: Option<JoinHandle<()>>,
}

impl Machine {
    /// Turns it on.
    ///
    /// # Errors
    /// If its folder cannot be made; a machine that does not boot says so in [`Machine::dead`].
    pub fn turn_on(spec: MachineSpec) -> anyhow::Result<Machine> {
        std::fs::create_dir_all(&spec.folder)
            .with_context(|| format!("the folder of {} ({})", spec.name, spec.folder.display()))?;
        let (orders, received) = mpsc::channel();
        let book = Arc::new(Mutex::new(Book::default()));
        let (own, notes) = (spec.clone(), book.clone());
        let life = std::thread::Builder::new()
            .name(spec.name.clone())
            .spawn(move || {
                if let Err(error) = live(&own, &received, &notes) {
                    lock(&notes).dead = Some(format!("{error:#}"));
                }
            })
            .context("the thread of a machine")?;
        Ok(Machine {
            spec,
            orders,
            book,
            life: Some(life),
        })
    }

    /// Its host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> &Path {
        &self.spec.disk
    }

    /// All its boots so far.
    #[must_use]
    pub fn boots(&self) -> Vec<Boot> {
        lock(&self.book).boots.clone()
    }

    /// Why it does not boot any more, if so.
    #[must_use]
    pub fn dead(&self) -> Option<String> {
        lock(&self.book).dead.clone()
    }

    /// The most memory that QEMU held.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        lock(&self.book).peak_bytes
    }

    /// By program: the most memory that it held in any boot, in KiB, as the signs of life say.
    #[must_use]
    pub fn peaks_in_guest(&self) -> BTreeMap<String, u64> {
        let mut peaks = BTreeMap::new();
        for boot in self.boots() {
            let text = std::fs::read_to_string(&boot.life).unwrap_or_default();
            for (name, kib) in text.split_whitespace().filter_map(|word| word.split_once('=')) {
                if let Ok(kib) = kib.parse::<u64>() {
                    let peak = peaks.entry(name.to_owned()).or_default();
                    *peak = kib.max(*peak);
                }
            }
        }
        peaks
    }

    /// Kills it where it stands; it boots again a moment later.
    pub fn cut_power(&self) {
        // One that is dead has no power.
        let _dead = self.orders.send(Order::CutPower);
    }

    /// Kills it where it stands, and leaves it off.
    pub fn turn_off(&mut self) {
        let _dead = self.orders.send(Order::TurnOff);
        if let Some(life) = self.life.take() {
            let _panicked = life.join();
        }
    }

    /// The last lines of its consoles, each with its name before it.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        let boots = self.boots();
        let last = boots.iter().enumerate().rev().take(2).rev();
        last.map(|(number, boot)| tail(&format!("{} boot {number}", self.spec.name), &boot.console, lines))
            .collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.turn_off();
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

fn live(spec: &MachineSpec, orders: &mpsc::Receiver<Order>, book: &Mutex<Book>) -> anyhow::Result<()> {
    let keeper = Keeper::new()?;
    for number in 0.. {
        let loaded = load(&spec.disk, &spec.folder, &spec.name)?;
        let file = |kind: &str| spec.folder.join(format!("{kind}-{number}.log"));
        let (console, life) = (file("console"), file("life"));
        let begun = Instant::now();
        let mut qemu = keeper.start(&spec.name, command(spec, &loaded, &console, &life), &file("qemu"))?;
        lock(book).boots.push(Boot {
            at: Timestamp::now(),
            slot: loaded.slot,
            bits: loaded.bits,
            first_sign: None,
            console,
            life: life.clone(),
            end: None,
        });
        let end = watch(spec, orders, book, &mut qemu, &Pulse::new(&life, begun))?;
        drop(qemu);
        if let Some(boot) = lock(book).boots.last_mut() {
            boot.end = Some((Timestamp::now(), end.clone()));
        }
        match end {
            End::Off => return Ok(()),
            End::PowerCut => std::thread::sleep(DARK),
            End::Reboot | End::Watchdog => {}
        }
    }
    Ok(())
}

fn command(spec: &MachineSpec, loaded: &Loaded, console: &Path, life: &Path) -> Command {
    let mut command = Command::new(QEMU);
    let with_path = |before: &str, path: &Path| {
        let mut text = std::ffi::OsString::from(before);
        // A comma is doubled in QEMU's options.
        text.push(path.to_string_lossy().replace(',', ",,"));
        text
    };
    command
        .args(PROCESSOR)
        .args(["-m", &spec.memory_mib.to_string()])
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(&loaded.vmlinuz)
        .arg("-initrd")
        .arg(&loaded.initrd)
        .args(["-append", &loaded.cmdline])
        // The host's cache outlives QEMU, so nothing that the guest wrote is lost with it.
        .arg("-drive")
        .arg(with_path("format=raw,if=virtio,cache=unsafe,file=", &spec.disk))
        .args(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net"])
        .args(["-device", "virtio-rng-pci"])
        .arg("-serial")
        .arg(with_path("file:", console))
        .arg("-serial")
        .arg(with_path("file:", life));
    command
}

/// The signs of life of one boot: what the system writes to its second serial port.
struct Pulse<'a> {
    log: &'a Path,
    begun: Instant,
}

impl<'a> Pulse<'a> {
    fn new(log: &'a Path, begun: Instant) -> Self {
        Self { log, begun }
    }

    fn bytes(&self) -> u64 {
        std::fs::metadata(self.log).map_or(0, |meta| meta.len())
    }
}

fn watch(
    spec: &MachineSpec,
    orders: &mpsc::Receiver<Order>,
    book: &Mutex<Book>,
    qemu: &mut Process,
    pulse: &Pulse<'_>,
) -> anyhow::Result<End> {
    let (mut seen, mut since) = (0, pulse.begun);
    loop {
        let order = orders.recv_timeout(LOOK);
        match order {
            Ok(Order::CutPower) => return Ok(End::PowerCut),
            Ok(Order::TurnOff) | Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(End::Off),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if let Some(status) = qemu.ended()? {
            anyhow::ensure!(status.success(), "QEMU ended with {status}:\n{}", qemu.tail(10));
            return Ok(End::Reboot);
        }
        if let Some(memory) = qemu.memory() {
            let mut book = lock(book);
            book.peak_bytes = book.peak_bytes.max(memory.peak_bytes);
        }
        let bytes = pulse.bytes();
        if bytes > seen {
            if seen == 0
                && let Some(boot) = lock(book).boots.last_mut()
            {
                boot.first_sign = Some(pulse.begun.elapsed());
            }
            (seen, since) = (bytes, Instant::now());
        }
        let patience = if seen == 0 {
            spec.signs.first
        } else {
            spec.signs.next
        };
        if since.elapsed() > patience {
            return Ok(End::Watchdog);
        }
    }
}
