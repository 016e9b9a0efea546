//! Writing a release into the slot that does not run: unbootable first, the record last.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use drydock_images::{Artifact, Digest, Manifest, Repository};
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::StageError;
use super::admit::{Terms, admit};
use super::assemble::{Assembly, Remote};
use super::delta::{DeltaAssembly, DeltaPlan, DeltaSupplier, Fetched, Fit};
use super::drain::Target;
use super::held::{Held, Keeping};
use super::running::Running;
use super::seed::{Seed, Seeds};
use super::supply::{Looks, Supplier};
use super::verify::read_back;
use super::way::{Way, pages, ways};
use crate::disk::{BootControl, GptBootControl, SlotName, SlotWriter};
use crate::state::{Hints, SlotRecord, SlotRecords, StateDir, StateLock};

/// Ranges that wait for the assembly, beside those that are being fetched.
const SUPPLY_AHEAD: usize = 1;

/// What is done at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StagePhase {
    /// Content is put into the slot.
    Writing,
    /// The slot is read back from the device.
    ReadingBack,
}

/// How far staging is, in bytes of the release unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageProgress {
    pub phase: StagePhase,
    pub total: u64,
    /// In place, by whatever way.
    pub done: u64,
    /// Of these, not fetched: from the running slot, right already, or zeros.
    pub reused: u64,
    /// Over the wire: index, pages and frames.
    pub fetched: u64,
    /// Right in the target before, and not written.
    pub stood: u64,
    /// Read back and hashed.
    pub read_back: u64,
}

/// Whether the running slot is a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// What it has is copied.
    Running,
    /// It is not read; everything is fetched.
    Nothing,
}

/// One release to stage.
pub struct StageJob {
    pub repository: Repository,
    pub release: Digest,
    pub terms: Terms,
    pub control: GptBootControl,
    pub state: StateDir,
    /// [`crate::state::LockName::Slot`]; held until the last write, even if the future is dropped.
    pub lock: Arc<StateLock>,
    pub target: SlotName,
    pub running: SlotName,
    pub reuse: Reuse,
    pub progress: Arc<dyn Fn(StageProgress) + Send + Sync>,
}

/// Counts, and tells.
pub(super) struct Counter {
    total: u64,
    done: AtomicU64,
    reused: AtomicU64,
    fetched: AtomicU64,
    stood: AtomicU64,
    read_back: AtomicU64,
    tell: Arc<dyn Fn(StageProgress) + Send + Sync>,
}

impl Counter {
    fn new(total: u64, tell: Arc<dyn Fn(StageProgress) + Send + Sync>) -> Self {
        let [done, reused, fetched, stood, read_back] = [const { AtomicU64::new(0) }; 5];
        Self {
            total,
            done,
            reused,
            fetched,
            stood,
            read_back,
            tell,
        }
    }

    pub(super) fn reused(&self, bytes: u64) {
        self.reused.fetch_add(bytes, Ordering::Relaxed);
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.tell(StagePhase::Writing);
    }

    /// So much more is in place that was fetched.
    pub(super) fn fetched(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.tell(StagePhase::Writing);
    }

    /// So much more came over the wire.
    pub(super) fn wire(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So much more is not written.
    pub(super) fn stood(&self, bytes: u64) {
        self.stood.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So much more was read back; while there is writing to do, that is the news.
    pub(super) fn read_back(&self, bytes: u64) {
        self.read_back.fetch_add(bytes, Ordering::Relaxed);
        if self.done.load(Ordering::Relaxed) == self.total {
            self.tell(StagePhase::ReadingBack);
        }
    }

    /// All but what came over the wire.
    const fn of_content(&self) -> [&AtomicU64; 4] {
        [&self.done, &self.reused, &self.stood, &self.read_back]
    }

    fn so_far(&self) -> [u64; 4] {
        self.of_content().map(|counter| counter.load(Ordering::Relaxed))
    }

    /// What was put in place since then is done again.
    fn back_to(&self, so_far: [u64; 4]) {
        for (counter, then) in self.of_content().into_iter().zip(so_far) {
            counter.store(then, Ordering::Relaxed);
        }
    }

    fn tell(&self, phase: StagePhase) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (self.tell)(StageProgress {
            phase,
            total: self.total,
            done: load(&self.done),
            reused: load(&self.reused),
            fetched: load(&self.fetched),
            stood: load(&self.stood),
            read_back: load(&self.read_back),
        });
    }
}

/// Stages `job.release` into `job.target` and returns the record that was written. Nothing is written
/// before every check has passed and every index is there. A stop at any point, by `cancel` or by dropping
/// the future, leaves the slot unbootable and without a record.
///
/// # Errors
/// See [`StageError`].
pub async fn stage(
    job: StageJob,
    now: Timestamp,
    cancel: CancellationToken,
) -> Result<SlotRecord, StageError> {
    let cancel = cancel.child_token();
    let _stop_when_dropped = cancel.clone().drop_guard();
    let all = run(job, now, &cancel);
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(StageError::Cancelled),
        done = all => done,
    }
}

async fn run(job: StageJob, now: Timestamp, cancel: &CancellationToken) -> Result<SlotRecord, StageError> {
    let manifest = Arc::new(job.repository.stageable(&job.release, now).await?);
    let (judged, control, target) = (manifest.clone(), job.control.clone(), job.target);
    let terms = blocking(move || {
        admit(&judged, control.read()?.1.get(target), &job.terms)?;
        Ok(job.terms)
    })
    .await?;
    let counter = Arc::new(Counter::new(manifest.total_bytes(), job.progress.clone()));
    let work = Arc::new(Work {
        manifest,
        counter,
        cancel: cancel.clone(),
        running: Running::new(&job.control, &job.state, job.running),
        control: job.control,
        records: SlotRecords::new(&job.state),
        hints: Hints::new(&job.state),
        state: job.state,
        lock: job.lock,
        target: job.target,
        now,
    });
    let recorded = work.clone();
    let is_recorded = blocking(move || recorded.is_recorded()).await?;
    // Before the first write, unless it looks as if there will be none.
    let mut ways = Vec::new();
    if !is_recorded {
        ways = find_ways(&work, &job.repository, job.reuse).await?;
    }
    let beginning = work.clone();
    let writer = match blocking(move || beginning.begin(&terms, is_recorded)).await? {
        Begun::Stands(record) => return Ok(record),
        Begun::ToWrite(writer) => Arc::new(writer),
    };
    if is_recorded {
        ways = find_ways(&work, &job.repository, job.reuse).await?;
    }
    for (artifact, way) in ways {
        let pages = match way {
            Way::Chunks(pages) => pages,
            Way::Delta(supplier) => {
                let before = work.counter.so_far();
                match write_by_delta(&work, &writer, *supplier).await? {
                    Fit::Whole => continue,
                    Fit::Not(why) => {
                        tracing::warn!(artifact = %artifact.name, why, "the artifact is put together from chunks");
                        work.counter.back_to(before);
                        work.counter.wire(artifact.index.size);
                        pages(&job.repository, &artifact, Some(&work.state)).await?
                    }
                }
            }
        };
        let (working, name, cuts) = (work.clone(), artifact.name.clone(), pages.cuts());
        let held = match job.reuse {
            Reuse::Nothing => Held::nothing(cuts),
            Reuse::Running => {
                blocking(move || {
                    working
                        .running
                        .held(&name, cuts, Some(&working.lock), &working.cancel)
                })
                .await?
            }
        };
        let supplier = Supplier {
            held: Arc::new(held),
            repository: job.repository.clone(),
            artifact,
            pages,
        };
        write_artifact(&work, &writer, supplier).await?;
    }
    blocking(move || work.finish()).await
}

async fn find_ways(
    work: &Work,
    repository: &Repository,
    reuse: Reuse,
) -> Result<Vec<(Artifact, Way)>, StageError> {
    let running = match reuse {
        Reuse::Running => Some(&work.running),
        Reuse::Nothing => None,
    };
    let (found, asked) = ways(repository, &work.manifest, running, Some(&work.state)).await?;
    work.counter.wire(asked.bytes);
    Ok(found)
}

/// Fetches on this task and writes on a thread, as [`write_artifact`] does.
async fn write_by_delta(
    work: &Arc<Work>,
    writer: &Arc<SlotWriter>,
    supplier: DeltaSupplier,
) -> Result<Fit, StageError> {
    let name = supplier.artifact.name.as_str().to_owned();
    let standing = Seed::new(writer.reader(&name)?.clone(), supplier.segments.header().size);
    let planned = supplier.clone();
    let mut plan = blocking(move || planned.plan(standing)).await?;
    let ranges = std::mem::take(&mut plan.ranges);
    let (to, supply) = mpsc::channel(SUPPLY_AHEAD);
    let (working, into, of, runtime) = (work.clone(), writer.clone(), supplier.clone(), Handle::current());
    let writing =
        tokio::task::spawn_blocking(move || working.write_by_delta(&into, &of, &plan, runtime, supply));
    let sent = supplier.send(ranges, &work.counter, &to).await;
    drop(to);
    let written = writing
        .await
        .unwrap_or_else(|error| Err(StageError::Stopped(error.to_string())));
    match (sent, written) {
        // Chunks do without what could not be fetched, which is also why the writing stopped.
        (Err(StageError::Trust(error)), Ok(_) | Err(StageError::Stopped(_))) => Ok(supplier.unfit(&error)),
        (Ok(()), written) | (Err(_), written @ Err(_)) => written,
        (Err(error), Ok(_)) => Err(error),
    }
}

/// Fetches on this task and writes on a thread; what is fetched waits in a short queue.
async fn write_artifact(
    work: &Arc<Work>,
    writer: &Arc<SlotWriter>,
    supplier: Supplier,
) -> Result<(), StageError> {
    let (to, supply) = mpsc::channel(SUPPLY_AHEAD);
    let name = supplier.artifact.name.as_str().to_owned();
    let standing = Seed::new(writer.reader(&name)?.clone(), supplier.pages.size());
    let looks = Looks::at(standing);
    let remote = Remote {
        runtime: Handle::current(),
        repository: supplier.repository.clone(),
        artifact: supplier.artifact.clone(),
    };
    let (working, into, of) = (work.clone(), writer.clone(), supplier.clone());
    let writing = tokio::task::spawn_blocking(move || working.write(&into, &of, remote, supply));
    let sent = supplier.send(looks, &work.counter, &to).await;
    drop(to);
    let written = writing
        .await
        .unwrap_or_else(|error| Err(StageError::Stopped(error.to_string())));
    // What could not be fetched is why the writing stopped, and not the other way round.
    sent.and(written)
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StageError> + Send + 'static,
) -> Result<T, StageError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| StageError::Stopped(error.to_string()))?
}

/// What the first writes came to.
enum Begun {
    /// The target holds the release already, as was just read.
    Stands(SlotRecord),
    ToWrite(SlotWriter),
}

/// The parts of a job that block.
struct Work {
    manifest: Arc<Manifest>,
    control: GptBootControl,
    records: SlotRecords,
    hints: Hints,
    state: StateDir,
    lock: Arc<StateLock>,
    target: SlotName,
    running: Running,
    counter: Arc<Counter>,
    cancel: CancellationToken,
    now: Timestamp,
}

impl Work {
    /// Whether the target's record names this release.
    fn is_recorded(&self) -> Result<bool, StageError> {
        let record = self.records.peek(self.target)?.split().0;
        Ok(record.is_some_and(|record| record.release == self.manifest.digest()))
    }

    /// The last checks, then the first writes: unbootable, record gone. Both are on the medium when this
    /// returns. A record that names the same release is only believed when the slot reads back as it says.
    fn begin(&self, terms: &Terms, is_recorded: bool) -> Result<Begun, StageError> {
        let (_, slots) = self.control.read()?;
        admit(&self.manifest, slots.get(self.target), terms)?;
        let writer = SlotWriter::open(self.control.device(), &slots, self.target, self.running.slot())?;
        if self.cancel.is_cancelled() {
            return Err(StageError::Cancelled);
        }
        self.control.make_unbootable(self.target, self.running.slot())?;
        self.records.remove(&self.lock, self.target)?;
        // What a staging that was killed wrote may be read before it lasts.
        writer.flush()?;
        if is_recorded {
            let record = SlotRecord::of(&self.manifest, slots.get(self.target), self.now)?;
            let read = read_back(&self.control, self.target, &record, &self.cancel, |bytes| {
                self.counter.stood(bytes);
                self.counter.reused(bytes);
                self.counter.read_back(bytes);
            });
            match read {
                Ok(()) => {
                    self.records.save(&self.lock, self.target, &record)?;
                    return Ok(Begun::Stands(record));
                }
                Err(StageError::Cancelled) => return Err(StageError::Cancelled),
                // Written again, and then judged again.
                Err(_) => self.counter.back_to([0; 4]),
            }
        }
        Ok(Begun::ToWrite(writer))
    }

    /// Writes one artifact and reads it back.
    fn write(
        &self,
        writer: &SlotWriter,
        of: &Supplier,
        remote: Remote,
        supply: mpsc::Receiver<super::assemble::Supply>,
    ) -> Result<(), StageError> {
        let name = of.artifact.name.as_str();
        let target = self.target(writer, name);
        let (running, _) = self.running.seed(&of.artifact.name)?;
        let standing = Seed::new(writer.reader(name)?.clone(), of.pages.size());
        let told = (&*self.counter, &self.cancel);
        let keeping = Keeping {
            hints: &self.hints,
            lock: &self.lock,
            slot: self.target,
            name,
        };
        let seeds = Seeds::new(running, standing);
        let assembly = Assembly::new(&of.pages, &of.held, seeds, (remote, supply), keeping, told);
        let mut held = None;
        let found = target.write(|drain| {
            held = Some(assembly.run(drain)?);
            Ok(())
        })?;
        self.check(&of.artifact, found)?;
        if let Some(held) = held {
            held.keep(of.artifact.digest, of.pages.cuts());
        }
        Ok(())
    }

    /// Makes one artifact by its delta and reads it back.
    fn write_by_delta(
        &self,
        writer: &SlotWriter,
        of: &DeltaSupplier,
        plan: &DeltaPlan,
        runtime: Handle,
        supply: mpsc::Receiver<Fetched>,
    ) -> Result<Fit, StageError> {
        let name = of.artifact.name.as_str();
        let target = self.target(writer, name);
        let (running, _) = self.running.seed(&of.artifact.name)?;
        let standing = Seed::new(writer.reader(name)?.clone(), of.segments.header().size);
        let told = (&*self.counter, &self.cancel);
        let assembly = DeltaAssembly::new((of, plan), Seeds::new(running, standing), (runtime, supply), told);
        let mut fit = Fit::Whole;
        let found = target.write(|drain| {
            fit = assembly.run(drain)?;
            Ok(())
        })?;
        if fit == Fit::Whole {
            self.check(&of.artifact, found)?;
        }
        Ok(fit)
    }

    /// Where an artifact is put.
    fn target<'a>(&'a self, writer: &'a SlotWriter, artifact: &'a str) -> Target<'a> {
        Target {
            writer,
            artifact,
            counter: &self.counter,
            cancel: &self.cancel,
        }
    }

    /// That what was read back is the artifact.
    fn check(&self, artifact: &Artifact, found: Digest) -> Result<(), StageError> {
        if found == artifact.digest {
            return Ok(());
        }
        Err(StageError::ReadsBackDifferently {
            slot: self.target,
            artifact: artifact.name.as_str().to_owned(),
            bytes: 0..artifact.size,
            expected: artifact.digest,
            found,
        })
    }

    /// The record, now that every artifact was read back.
    fn finish(&self) -> Result<SlotRecord, StageError> {
        let (_, slots) = self.control.read()?;
        let record = SlotRecord::of(&self.manifest, slots.get(self.target), self.now)?;
        if self.cancel.is_cancelled() {
            return Err(StageError::Cancelled);
        }
        self.records.save(&self.lock, self.target, &record)?;
        Ok(record)
    }
}
