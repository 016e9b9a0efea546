//! Where the bytes of a slot come from: what the running slot has, what stands there already, what mirrors
//! serve; and what is done when one of them lies.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use drydock_images::Digest;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::super::standing::Expected;
use super::super::*;
use super::fixture::{DOUBLED, Fixture, MIB, Node, STRIPED, UNIFORM, control, now, root_image};
use super::spoilt::Spoilt;
use crate::disk::gate::{Killed, OpenGate, WriteEvent, WriteGate, WriteKind};
use crate::disk::*;
use crate::stage::held::Held;
use crate::stage::pages::Pages;
use crate::stage::plan::{MAX_COPIED_BYTES, PagePlan, places_of};
use crate::stage::seed::Seed;
use crate::stage::supply::{Batch, Looks, Supplier};
use crate::state::sim::SimFiles;
use crate::state::{Files, Hints, LockName, ReadAt, StateDir};

/// What the kept file says of a slot is what reading the slot finds.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_slot_holds_is_known_without_reading_it() {
    let fixture = Fixture::new(&[1, 2]).await;
    let node = Node::on(fixture.disk_image(1), fixture.path("state"), Arc::new(OpenGate));
    let record = fixture.stage(2, &node).await.0.unwrap();
    let cancel = CancellationToken::new();
    for (name, artifact) in &record.artifacts {
        let kept = Held::load(&Hints::new(&node.state), SlotName::B, name, &artifact.digest).unwrap();
        let partition = node.slots().b.artifact(name).unwrap().clone();
        let reader = PartitionReader::open(node.control.device(), &partition).unwrap();
        let seed = Seed::new(reader, artifact.size_bytes);
        let read = Held::by_reading(seed, kept.cuts(), &cancel).unwrap();
        assert_eq!(kept.sorted(), read.sorted());
        // Of another release, or damaged, it is none.
        let other = Digest::of(b"another");
        assert!(Held::load(&Hints::new(&node.state), SlotName::B, name, &other).is_none());
        let file = fixture.path("state").join(format!("slot-b.{name}.held"));
        let whole = std::fs::read(&file).unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&file, damaged).unwrap();
            let loaded = Held::load(&Hints::new(&node.state), SlotName::B, name, &artifact.digest);
            assert!(loaded.is_none(), "byte {at}");
        }
    }
}

/// Files that cannot be read in pieces any more after so many reads.
#[derive(Debug)]
struct Failing {
    files: SimFiles,
    reads_left: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct FailingFile(Box<dyn ReadAt>, Arc<AtomicUsize>);

impl ReadAt for FailingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let left = |left: usize| left.checked_sub(1);
        match self.1.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left) {
            Ok(_) => self.0.read_at(buf, offset),
            Err(_) => Err(io::Error::other("a bad sector")),
        }
    }
}

impl Files for Failing {
    fn read(&self, name: &str, max_bytes: u64) -> io::Result<Option<Vec<u8>>> {
        self.files.read(name, max_bytes)
    }
    fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        self.files.write(name, content)
    }
    fn append(&self, name: &str, piece: &[u8]) -> io::Result<()> {
        self.files.append(name, piece)
    }
    fn open(&self, name: &str) -> io::Result<Option<(Box<dyn ReadAt>, u64)>> {
        let opened = self.files.open(name)?;
        Ok(opened.map(|(file, bytes)| {
            let file: Box<dyn ReadAt> = Box::new(FailingFile(file, self.reads_left.clone()));
            (file, bytes)
        }))
    }
    fn sync(&self, name: &str) -> io::Result<()> {
        self.files.sync(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.files.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.files.sync_dir()
    }
}

/// Wherever the kept file of the running slot fails, the release is staged all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_file_that_cannot_be_read_any_more_costs_bytes_and_nothing_else() {
    let fixture = Fixture::new(&[1, DOUBLED, DOUBLED + 1]).await;
    // The second is staged over the first, so that what it holds is kept; then it runs.
    let first = Node::on(fixture.disk_image(1), fixture.path("state"), Arc::new(OpenGate));
    fixture.stage(DOUBLED, &first).await.0.unwrap();
    let kept = files_of(&fixture.path("state"));
    let image = fixture.disk_image(DOUBLED);
    let mut fetched = Vec::new();
    for reads in 0.. {
        let reads_left = Arc::new(AtomicUsize::new(reads));
        let files = Failing {
            files: SimFiles::with_content(kept.clone()),
            reads_left: reads_left.clone(),
        };
        let mut node = Node::on(image.clone(), fixture.path("unused"), Arc::new(OpenGate));
        node.state =
            StateDir::with_files(&fixture.path("locks"), Arc::new(files), Arc::new(OpenGate)).unwrap();
        let (result, progress) = fixture.stage(DOUBLED + 1, &node).await;
        result.unwrap();
        let wanted = root_image(DOUBLED + 1);
        assert!(node.content(SlotName::B, "root", wanted.len()) == wanted);
        fetched.push(progress.fetched);
        if reads_left.load(Ordering::SeqCst) > 0 {
            break;
        }
    }
    // It fails in what is read when it is opened, and in what is looked up later.
    let (least, most) = (fetched.iter().min().unwrap(), fetched.iter().max().unwrap());
    assert!(fetched.len() > 4 && least < most, "{fetched:?}");
}

/// What is kept in slot B, as that of a slot A.
fn files_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = folder.read_dir().unwrap().map(|entry| entry.unwrap());
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            let name = name.strip_prefix("slot-b.")?;
            Some((format!("slot-a.{name}"), std::fs::read(entry.path()).unwrap()))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staging_that_was_killed_fetches_only_the_rest() {
    let fixture = Fixture::new(&[1, 2]).await;
    let node = Node::on(fixture.disk_image(1), fixture.path("unused"), Arc::new(OpenGate));
    let (root, all) = {
        let whole = Node::on(fixture.disk_image(1), fixture.path("whole"), Arc::new(OpenGate));
        let (result, progress) = fixture.stage(2, &whole).await;
        (result.unwrap().artifacts["root"].clone(), progress.fetched)
    };
    // Killed before the last piece of the root is written: the first has what is new.
    let start = node.slots().b.artifact("root").unwrap().start_bytes;
    let gate = Arc::new(CutAt(start + MIB..start + 2 * MIB));
    let killed = Node::with(node.disk.clone(), fixture.path("state"), gate);
    fixture.stage(2, &killed).await.0.unwrap_err();
    // The process is gone, what it wrote is not.
    node.disk.flush().unwrap();
    let again = Node::with(node.disk.clone(), fixture.path("state"), Arc::new(OpenGate));
    let (result, progress) = fixture.stage(2, &again).await;
    assert_eq!(result.unwrap().artifacts["root"].digest, root.digest);
    // Indexes and pages are fetched again, and the one frame behind the cut: its last chunk, which the
    // image's end cuts short, is nowhere else.
    assert!(
        all > 300_000 && progress.fetched < 40_000,
        "{} of {all}",
        progress.fetched
    );
}

/// Kills at the first write that begins there.
pub(super) struct CutAt(pub std::ops::Range<u64>);

impl WriteGate for CutAt {
    fn before(&self, event: &WriteEvent<'_>) -> std::io::Result<()> {
        if event.kind == WriteKind::DeviceWrite && self.0.contains(&event.offset) {
            return Err(std::io::Error::other(Killed { at: 0 }));
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_running_slot_does_not_hold_after_all_is_fetched() {
    let fixture = Fixture::new(&[1, 2]).await;
    let image = fixture.disk_image(1);
    let node = Node::on(image.clone(), fixture.path("unused"), Arc::new(OpenGate));
    let start = node.slots().a.artifact("root").unwrap().start_bytes;
    let (_, sound) = fixture.stage(2, &node).await;
    // In what both releases have: some of it in the middle, and near the end.
    for at in [1_000_000, 1_400_000] {
        // Right when it is looked through, wrong when it is copied.
        let disk = Arc::new(Spoilt::new(image.clone(), start + at, 1));
        let device = Device::new(std::path::Path::new("sim"), disk, Arc::new(OpenGate));
        let state = StateDir::open(&fixture.path(&format!("state-{at}")), Arc::new(OpenGate)).unwrap();
        let fetched = Arc::new(AtomicU64::new(0));
        let told = fetched.clone();
        let job = StageJob {
            control: control(device.clone()),
            state: state.clone(),
            lock: Arc::new(state.lock(LockName::Slot).unwrap()),
            progress: Arc::new(move |progress| told.store(progress.fetched, Ordering::SeqCst)),
            ..fixture.job(2, &node)
        };
        stage(job, now(), CancellationToken::new()).await.unwrap();
        let fetched = fetched.load(Ordering::SeqCst);
        assert!(
            fetched > sound.fetched,
            "{fetched}, and {} from a sound one",
            sound.fetched
        );
    }
}

/// What the configuration allows is what the repository fetches at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_says_how_much_is_fetched_at_the_same_time() {
    let fixture = Fixture::new(&[1]).await;
    let text = format!(
        r#"
        node = {{ board = "generic", arch = "amd64" }}
        disk = {{ path = "/dev/sda", loader = "gptprio" }}
        slots.A = {{ boot = "PARTLABEL=KERN-A", artifacts.root = "PARTLABEL=ROOT-A" }}
        slots.B = {{ boot = "PARTLABEL=KERN-B", artifacts.root = "PARTLABEL=ROOT-B" }}
        paths = {{ state = {state:?}, run = "/run/drydock" }}
        repositories = [{{ name = "test", url = "{url}", root = {root:?} }}]
        releases.fetches_at_once = 7
        health.checks = [{{ name = "true", command = ["/bin/true"] }}]
        "#,
        state = fixture.path("state"),
        url = Url::from_directory_path(fixture.path("repo")).unwrap(),
        root = fixture.path("keys").join("1.root.json"),
    );
    let file = fixture.path("updater.toml");
    std::fs::write(&file, text).unwrap();
    let settings = crate::config::load(&[file], "node-1").unwrap().settings;
    let gate: Arc<dyn WriteGate> = Arc::new(OpenGate);
    let loaded = crate::agent::load_repository(&settings, &settings.repositories[0], now(), &gate);
    assert_eq!(loaded.await.unwrap().parallel_requests(), 7);
}

/// Three of the places that are read ahead are in memory.
#[tokio::test(flavor = "multi_thread")]
async fn however_long_a_page_is_what_is_copied_for_it_is_read_in_short_pieces() {
    for (old, longest_page) in [
        (UNIFORM, 600_000..=MAX_COPIED_BYTES),
        (UNIFORM + 2, MAX_COPIED_BYTES + 1..=u32::MAX),
    ] {
        let new = old + 1;
        let fixture = Fixture::new(&[old, new]).await;
        let node = Node::on(fixture.disk_image(old), fixture.path("state"), Arc::new(OpenGate));
        let partition = node.slots().a.artifact("root").unwrap().clone();
        let plans = plans(&fixture, new, &node, &partition).await;
        let (named, plan) = plans
            .plans
            .iter()
            .max_by_key(|(named, _)| named.image_bytes)
            .unwrap();
        assert!(longest_page.contains(&named.image_bytes), "{named:?}");
        let is_copied = matches!(plan, PagePlan::Copy { .. });
        assert_eq!(is_copied, named.image_bytes <= MAX_COPIED_BYTES, "{named:?}");
        let places = places_of(&plans.plans, Expected::default())
            .into_iter()
            .map(|(_, place)| place);
        let longest = places.map(|place| place.end - place.start).max();
        assert!(longest.unwrap() <= 2 * ahead::PIECE_BYTES as u64, "{longest:?}");

        // And staging reads just these.
        let disk = Arc::new(Spoilt::new(
            fixture.disk_image(old),
            partition.start_bytes + 1_000_000,
            u64::MAX,
        ));
        let device = Device::new(Path::new("sim"), disk.clone(), Arc::new(OpenGate));
        let job = StageJob {
            control: control(device),
            ..fixture.job(new, &node)
        };
        let record = stage(job, now(), CancellationToken::new()).await.unwrap();
        assert_eq!(record.artifacts["root"].digest, Digest::of(&root_image(new)));
        let most = (2 * ahead::PIECE_BYTES + 2 * DIRECT_ALIGN) as u64;
        assert!(
            (1..=most).contains(&disk.longest_read()),
            "{}",
            disk.longest_read()
        );
    }
}

/// How a release's root is put together on a node of which only the running root is known, by reading it.
async fn plans(fixture: &Fixture, release: u64, node: &Node, running: &Partition) -> Batch {
    let repository = &fixture.repository;
    let manifest = repository.manifest(&fixture.releases[&release]).await.unwrap();
    let artifact = manifest
        .artifacts
        .iter()
        .find(|artifact| artifact.name.as_str() == "root")
        .unwrap()
        .clone();
    let index = repository.index(&artifact).await.unwrap();
    let seed = || {
        Seed::new(
            PartitionReader::open(node.control.device(), running).unwrap(),
            u64::MAX,
        )
    };
    let held = Held::by_reading(seed(), index.cuts(), &CancellationToken::new()).unwrap();
    let supplier = Supplier {
        repository: repository.clone(),
        artifact,
        pages: Arc::new(Pages::of(&index, None)),
        held: Arc::new(held),
    };
    supplier.batch(0, Looks::at(seed().empty())).await.unwrap().0
}

/// The assembly fetches what no plan foresaw through the same few places as the ranges that wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_foreseen_is_fetched_though_every_place_is_taken() {
    let (old, new) = (STRIPED, STRIPED + 1);
    let fixture = Fixture::new(&[old, new]).await;
    let node = Node::on(
        fixture.disk_image(old),
        fixture.path("unused"),
        Arc::new(OpenGate),
    );
    let at = node.slots().a.artifact("root").unwrap().start_bytes + 1000;
    let disk = Arc::new(Spoilt::new(fixture.disk_image(old), at, 1));
    let node = Node::on(fixture.disk_image(old), fixture.path("state"), Arc::new(OpenGate));
    let device = Device::new(Path::new("sim"), disk.clone(), Arc::new(OpenGate));
    let job = StageJob {
        repository: fixture.load(|config| config.parallel_requests = 1).await,
        terms: Terms {
            running_version: Some(format!("1.{old}").parse().unwrap()),
            ..super::fixture::terms()
        },
        control: control(device.clone()),
        ..fixture.job(new, &node)
    };
    let staged = stage(job, now(), CancellationToken::new());
    let staged = tokio::time::timeout(Duration::from_secs(60), staged).await;
    staged.expect("it waits for itself").unwrap();
}

/// Changes a byte of every pack.
fn spoil_packs(repository: &Path, which: impl Fn(usize) -> usize) {
    for pack in std::fs::read_dir(repository.join("packs")).unwrap() {
        let pack = pack.unwrap().path();
        let mut bytes = std::fs::read(&pack).unwrap();
        let at = which(bytes.len());
        bytes[at] ^= 1;
        std::fs::write(&pack, bytes).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_that_are_wrong_at_one_mirror_are_fetched_from_another() {
    // A pack begins with a frame and ends with a page.
    let first = |_| 0;
    let last = |length: usize| length - 1;
    let wrong: [(&str, &dyn Fn(usize) -> usize); 2] = [("frame", &first), ("page", &last)];
    for (what, which) in wrong {
        let fixture = Fixture::new(&[1, 2]).await;
        let (repo, mirror) = (fixture.path("repo"), fixture.path("mirror"));
        let mut copy = std::process::Command::new("cp");
        assert!(copy.arg("-r").args([&repo, &mirror]).status().unwrap().success());
        spoil_packs(&repo, which);
        let with = async |mirrors: Vec<Url>, state: &str| {
            let node = Node::on(fixture.disk_image(1), fixture.path(state), Arc::new(OpenGate));
            let job = StageJob {
                repository: fixture.load(|config| config.mirrors = mirrors).await,
                ..fixture.job(2, &node)
            };
            let staged = stage(job, now(), CancellationToken::new()).await;
            (staged, node)
        };
        let (alone, _) = with(Vec::new(), "alone").await;
        assert!(matches!(alone, Err(StageError::Trust(_))), "{what}: {alone:?}");
        let other = Url::from_directory_path(&mirror).unwrap();
        let (staged, node) = with(vec![other], "mirrored").await;
        staged.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(node.content(SlotName::B, "root", root_image(2).len()) == root_image(2));
    }
}
