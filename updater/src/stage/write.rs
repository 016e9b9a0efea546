//! Writing a release into the slot that does not run: unbootable first, the record last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use drydock_images::{ChunkContent, ChunkIndex, ChunkRef, Digest, Manifest, Repository};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::StageError;
use super::admit::{Terms, admit};
use super::local::{LocalCopy, Missing};
use super::verify::read_back;
use crate::disk::{BootControl, GptBootControl, PartitionReader, SlotName, SlotWriter};
use crate::state::{SlotRecord, SlotRecords, StateDir, StateLock};

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
    /// Over the wire (compressed).
    pub fetched: u64,
    /// Read back and hashed.
    pub read_back: u64,
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
    /// Chunks that are fetched at the same time; each is at most 256 KiB.
    pub fetches_at_once: usize,
    pub progress: Arc<dyn Fn(StageProgress) + Send + Sync>,
}

/// Counts, and tells.
pub(super) struct Counter {
    total: u64,
    done: AtomicU64,
    reused: AtomicU64,
    fetched: AtomicU64,
    read_back: AtomicU64,
    tell: Arc<dyn Fn(StageProgress) + Send + Sync>,
}

impl Counter {
    fn new(total: u64, tell: Arc<dyn Fn(StageProgress) + Send + Sync>) -> Self {
        let [done, reused, fetched, read_back] = [const { AtomicU64::new(0) }; 4];
        Self {
            total,
            done,
            reused,
            fetched,
            read_back,
            tell,
        }
    }

    pub(super) fn reused(&self, bytes: u64) {
        self.reused.fetch_add(bytes, Ordering::Relaxed);
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.tell(StagePhase::Writing);
    }

    fn fetched(&self, written: u64, wire: u64) {
        self.fetched.fetch_add(wire, Ordering::Relaxed);
        self.done.fetch_add(written, Ordering::Relaxed);
        self.tell(StagePhase::Writing);
    }

    fn read_back(&self, bytes: u64) {
        self.read_back.fetch_add(bytes, Ordering::Relaxed);
        self.tell(StagePhase::ReadingBack);
    }

    fn tell(&self, phase: StagePhase) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (self.tell)(StageProgress {
            phase,
            total: self.total,
            done: load(&self.done),
            reused: load(&self.reused),
            fetched: load(&self.fetched),
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
    let mut indexes = BTreeMap::new();
    for artifact in &manifest.artifacts {
        indexes.insert(
            artifact.name.as_str().to_owned(),
            job.repository.index(artifact).await?,
        );
    }
    let counter = Arc::new(Counter::new(manifest.total_bytes(), job.progress.clone()));
    let work = Work {
        manifest,
        counter: counter.clone(),
        cancel: cancel.clone(),
        indexes,
        control: job.control,
        records: SlotRecords::new(&job.state),
        lock: job.lock,
        target: job.target,
        running: job.running,
    };

    let (work, writer, missing) = blocking(move || {
        let writer = Arc::new(work.begin(&terms)?);
        let missing = work.copy_local(&writer)?;
        Ok((work, writer, missing))
    })
    .await?;
    for (artifact, missing) in missing {
        fetch(
            &job.repository,
            &writer,
            &work.lock,
            &artifact,
            missing,
            &counter,
            job.fetches_at_once,
        )
        .await?;
    }
    blocking(move || work.finish(&writer, now)).await
}

/// Fetches what is missing of one artifact and writes it to all its places.
async fn fetch(
    repository: &Repository,
    writer: &Arc<SlotWriter>,
    lock: &Arc<StateLock>,
    artifact: &str,
    missing: Missing,
    counter: &Counter,
    at_once: usize,
) -> Result<(), StageError> {
    // In the order of their places: a disk writes neighbours best.
    let mut missing: Vec<_> = missing.into_iter().collect();
    missing.sort_by_key(|(_, (_, places))| places.first().copied());
    let fetches = missing.into_iter().map(|(digest, (length, places))| {
        let (writer, lock, artifact) = (writer.clone(), lock.clone(), artifact.to_owned());
        async move {
            let chunk = ChunkRef {
                offset: 0,
                length,
                content: ChunkContent::Stored(digest),
            };
            let fetched = repository.chunk(&chunk).await?;
            let (wire, written) = (fetched.fetched_bytes, u64::from(length) * places.len() as u64);
            blocking(move || {
                let _held = lock;
                for place in places {
                    writer.write_at(&artifact, place, &fetched.data)?;
                }
                Ok(())
            })
            .await?;
            counter.fetched(written, wire);
            Ok::<(), StageError>(())
        }
    });
    stream::iter(fetches)
        .buffer_unordered(at_once.max(1))
        .try_collect()
        .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StageError> + Send + 'static,
) -> Result<T, StageError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| StageError::Stopped(error.to_string()))?
}

/// The parts of a job that block.
struct Work {
    manifest: Arc<Manifest>,
    indexes: BTreeMap<String, ChunkIndex>,
    control: GptBootControl,
    records: SlotRecords,
    lock: Arc<StateLock>,
    target: SlotName,
    running: SlotName,
    counter: Arc<Counter>,
    cancel: CancellationToken,
}

impl Work {
    /// The last checks, then the first writes: unbootable, record gone. Both are on the medium when this
    /// returns.
    fn begin(&self, terms: &Terms) -> Result<SlotWriter, StageError> {
        let (_, slots) = self.control.read()?;
        admit(&self.manifest, slots.get(self.target), terms)?;
        let writer = SlotWriter::open(self.control.device(), &slots, self.target, self.running)?;
        if self.cancel.is_cancelled() {
            return Err(StageError::Cancelled);
        }
        self.control.make_unbootable(self.target, self.running)?;
        self.records.remove(&self.lock, self.target)?;
        Ok(writer)
    }

    fn copy_local(&self, writer: &SlotWriter) -> Result<Vec<(String, Missing)>, StageError> {
        let (_, slots) = self.control.read()?;
        let record = self.records.peek(self.running)?.split().0;
        let mut all = Vec::new();
        for (name, index) in &self.indexes {
            let partition = slots.get(self.running).artifact(name)?;
            let running = PartitionReader::open(self.control.device(), partition)?;
            let recorded = record.as_ref().and_then(|record| record.artifacts.get(name));
            let running_bytes = recorded.map_or(partition.len_bytes, |artifact| artifact.size_bytes);
            let copy = LocalCopy {
                writer,
                artifact: name,
                index,
                running: &running,
                running_bytes: running_bytes.min(partition.len_bytes),
                counter: &self.counter,
                cancel: &self.cancel,
            };
            all.push((name.clone(), copy.run()?));
        }
        Ok(all)
    }

    /// Flush, read-back, record.
    fn finish(&self, writer: &SlotWriter, now: Timestamp) -> Result<SlotRecord, StageError> {
        writer.flush()?;
        let (_, slots) = self.control.read()?;
        let record = SlotRecord::of(&self.manifest, slots.get(self.target), now)?;
        read_back(&self.control, self.target, &record, &self.cancel, |bytes| {
            self.counter.read_back(bytes)
        })?;
        if self.cancel.is_cancelled() {
            return Err(StageError::Cancelled);
        }
        self.records.save(&self.lock, self.target, &record)?;
        Ok(record)
    }
}
