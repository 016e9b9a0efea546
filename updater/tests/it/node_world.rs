//! One simulated node for the tests of guard and command line: a disk in memory or in a file, a loader,
//! a clock, health checks that say what they are told to. Never touches this machine.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use drydock_images::{Carries, Digest, Guard as CarriedGuard, SharedState};
use drydock_updater::config::{HealthCheck, LoadedConfig, RunningFrom, Settings};
use drydock_updater::disk::gate::{OpenGate, WriteGate};
use drydock_updater::disk::layout::DiskLayout;
use drydock_updater::disk::sim::SimDisk;
use drydock_updater::disk::{BitsChange, BootBits, Device, GptBootControl, Loader, RawDisk, SlotName, Table};
use drydock_updater::node::{NodeEnv, Outside, Pace};
use drydock_updater::state::{ArtifactRecord, LockName, SlotRecord, SlotRecords, UnknownFields};
use tokio::sync::Notify;

/// What the kernel and the hardware of one node say.
#[derive(Debug)]
pub struct Machine {
    pub boot: AtomicU64,
    pub running: Mutex<SlotName>,
    booted: Mutex<Instant>,
    /// How long the next flush of all file systems takes.
    pub flush_takes: Mutex<Duration>,
    pub healthy: AtomicBool,
    pub reboots: AtomicU64,
    pub reboot_called: Notify,
}

#[async_trait]
impl Outside for Machine {
    fn wall(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }

    fn since_boot(&self) -> Duration {
        self.booted.lock().unwrap().elapsed()
    }

    fn boot_id(&self) -> io::Result<String> {
        Ok(format!("boot-{}", self.boot.load(Ordering::SeqCst)))
    }

    fn cmdline(&self) -> io::Result<String> {
        Ok(format!("quiet drydock.slot={}", self.running.lock().unwrap()))
    }

    fn image_version(&self) -> Option<String> {
        Some("1.0".to_owned())
    }

    async fn flush(&self) -> Result<(), String> {
        self.stall(&self.flush_takes);
        Ok(())
    }

    async fn reboot(&self) -> Result<(), String> {
        self.reboots.fetch_add(1, Ordering::SeqCst);
        self.reboot_called.notify_one();
        Ok(())
    }

    async fn run_check(&self, _check: &HealthCheck) -> Result<(), String> {
        if self.healthy.load(Ordering::SeqCst) {
            Ok(())
        } else {
            Err("is told to fail".to_owned())
        }
    }

    fn notify(&self, _status: &str) {}
}

impl Machine {
    /// Boot 1 of slot A, healthy.
    pub fn new() -> Self {
        Self {
            boot: AtomicU64::new(1),
            running: Mutex::new(SlotName::A),
            booted: Mutex::new(Instant::now()),
            flush_takes: Mutex::new(Duration::ZERO),
            healthy: AtomicBool::new(true),
            reboots: AtomicU64::new(0),
            reboot_called: Notify::new(),
        }
    }

    /// Time passes, once.
    pub fn stall(&self, time: &Mutex<Duration>) {
        *self.booted.lock().unwrap() -= std::mem::take(&mut *time.lock().unwrap());
    }
}

/// See the module.
pub struct World {
    pub machine: Arc<Machine>,
    pub disk: Arc<SimDisk>,
    pub config: Arc<LoadedConfig>,
    /// Removed when it is dropped.
    _folder: tempfile::TempDir,
    loader: Loader,
}

impl World {
    /// Slot A runs and is good; slot B holds a staged release that is not bootable.
    pub fn new(loader: Loader) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = DiskLayout::cos_like(7, 1 << 20, 1 << 20, 1 << 20);
        let world = Self {
            machine: Arc::new(Machine::new()),
            disk: Arc::new(SimDisk::new(layout.to_bytes().unwrap(), 512)),
            config: Arc::new(loaded(settings(folder.path(), loader))),
            _folder: folder,
            loader,
        };
        let node = world
            .env(Arc::new(OpenGate))
            .open(&world.config.settings)
            .unwrap();
        let (_, slots) = node.control.read().unwrap();
        let lock = node.state.lock(LockName::Slot).unwrap();
        for slot in SlotName::BOTH {
            let artifacts = slots.get(slot).artifacts.iter().map(|(name, partition)| {
                let record = ArtifactRecord {
                    digest: Digest::of(&vec![0; 1 << 20]),
                    spans: Vec::new(),
                    size_bytes: 1 << 20,
                    partition: partition.guid,
                    verity_root: None,
                    unknown: UnknownFields::new(),
                };
                (name.clone(), record)
            });
            let record = SlotRecord {
                release: digest(slot),
                version: if slot == SlotName::A { "1.0" } else { "2.0" }.parse().unwrap(),
                floor: None,
                carries: carries(),
                artifacts: artifacts.collect::<BTreeMap<_, _>>(),
                verified_at: "2026-11-23T10:00:00Z".parse().unwrap(),
                unknown: UnknownFields::new(),
            };
            SlotRecords::new(&node.state).save(&lock, slot, &record).unwrap();
        }
        drop(lock);
        world
    }

    pub fn env(&self, gate: Arc<dyn WriteGate>) -> NodeEnv {
        NodeEnv {
            outside: self.machine.clone(),
            gate,
            disk: Some(self.disk.clone() as Arc<dyn RawDisk>),
            pace: pace(),
        }
    }

    pub fn control(&self) -> GptBootControl {
        let device = Device::new(Path::new("/sim"), self.disk.clone(), Arc::new(OpenGate));
        let settings = &self.config.settings;
        GptBootControl::new(
            device,
            self.loader,
            settings.slot_a.clone(),
            settings.slot_b.clone(),
        )
    }

    /// One boot, as the loader does it.
    pub fn boot(&self) -> SlotName {
        let control = self.control();
        let (table, slots) = control.read().unwrap();
        let pair = [&slots.a.boot, &slots.b.boot];
        let mut bits = pair.map(|partition| BootBits::from_attributes(partition.attributes));
        let index = self
            .loader
            .boot(&mut bits)
            .expect("S5: the loader finds nothing to boot");
        let changes = [0, 1].map(|i| BitsChange {
            partition: pair[i].number,
            bits: bits[i],
        });
        let device = Device::new(Path::new("/sim"), self.disk.clone(), Arc::new(OpenGate));
        Table::commit(&table, &device, &changes).unwrap();
        let slot = SlotName::BOTH[index];
        *self.machine.running.lock().unwrap() = slot;
        *self.machine.booted.lock().unwrap() = Instant::now();
        self.machine.boot.fetch_add(1, Ordering::SeqCst);
        slot
    }
}

/// The digest of what each slot holds.
pub fn digest(slot: SlotName) -> Digest {
    Digest::of(slot.to_string().as_bytes())
}

fn carries() -> Carries {
    Carries {
        guard: Some(CarriedGuard { protocol: 1 }),
        kubelet: None,
        kernel: None,
        state: SharedState::default(),
    }
}

fn loaded(settings: Settings) -> LoadedConfig {
    LoadedConfig {
        settings,
        unknown_fields: Vec::new(),
        files: Vec::new(),
    }
}

fn settings(folder: &Path, loader: Loader) -> Settings {
    Settings {
        node_name: "node-1".to_owned(),
        board: "sim".parse().unwrap(),
        arch: "x86_64".parse().unwrap(),
        disk: "/sim".into(),
        loader,
        slot_a: DiskLayout::cos_selectors(SlotName::A),
        slot_b: DiskLayout::cos_selectors(SlotName::B),
        running: RunningFrom::Cmdline,
        state_dir: folder.join("state"),
        run_dir: folder.join("run"),
        repositories: Vec::new(),
        floor: None,
        allow_downgrade: false,
        unguarded_kernel: loader == Loader::GptPriority,
        fetches_at_once: 2,
        max_bytes_per_second: None,
        checks: vec![HealthCheck {
            name: "kubelet".to_owned(),
            command: vec!["true".to_owned()],
            timeout: Duration::from_secs(1),
        }],
        confirm_wait: Duration::from_secs(5),
        health_deadline: Duration::from_millis(20),
        kubernetes: None,
    }
}

/// As a node's, only shorter.
pub fn pace() -> Pace {
    let ms = Duration::from_millis;
    Pace {
        guard_retry: ms(3),
        check_retry: ms(2),
        shutdown: ms(50),
        guard_poll: ms(5),
        guard_answer: Duration::from_secs(10),
        api_answer: Duration::from_secs(5),
        resync: ms(200),
        status_every: ms(10),
        retry_first: ms(5),
        retry_longest: ms(50),
    }
}
