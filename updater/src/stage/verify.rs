//! Reading a slot back from the device, past everything that only remembers what was written.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::thread;

use drydock_images::{Digest, SPAN_BYTES};
use tokio_util::sync::CancellationToken;

use super::StageError;
use super::ahead::{Ahead, pieces};
use crate::disk::{DiskError, GptBootControl, PartitionReader, SlotName};
use crate::state::{ArtifactRecord, SlotRecord};

/// Each has two buffers of [`PIECE_BYTES`](super::ahead::PIECE_BYTES).
const MAX_HASHERS: usize = 4;

/// Compares every byte of a slot, read from the device, with its record: after staging, and again after
/// the grant, right before arming (S2). What was signed span by span is hashed on all cores. `advance` is
/// told of every piece, one after another. Blocks; flush before, if something was just written.
///
/// # Errors
/// [`StageError::ReadsBackDifferently`], [`StageError::OtherPartition`], I/O errors, a cancellation.
pub fn read_back(
    control: &GptBootControl,
    slot: SlotName,
    record: &SlotRecord,
    cancel: &CancellationToken,
    advance: impl FnMut(u64) + Send,
) -> Result<(), StageError> {
    let (_, slots) = control.read()?;
    let configured = slots.get(slot);
    // A slot of which the record says less than the configuration is not wholly verified.
    let mut names = configured.artifacts.keys();
    if let Some(name) = names.find(|name| !record.artifacts.contains_key(*name)) {
        return Err(StageError::Disk(DiskError::UnknownArtifact {
            slot,
            artifact: name.clone(),
            configured: record.artifacts.keys().cloned().collect::<Vec<_>>().join(", "),
        }));
    }
    let mut spans = Vec::new();
    for (name, artifact) in &record.artifacts {
        let partition = configured.artifact(name)?;
        if partition.guid != artifact.partition {
            return Err(StageError::OtherPartition {
                slot,
                artifact: name.clone(),
                recorded: artifact.partition.to_string(),
                present: partition.to_string(),
            });
        }
        let reader = PartitionReader::open(control.device(), partition)?;
        spans.extend(spans_of(artifact).map(|(bytes, expected)| Span {
            artifact: name,
            reader: reader.clone(),
            bytes,
            expected,
        }));
    }
    let hashers = thread::available_parallelism().map_or(1, |cores| cores.get().min(MAX_HASHERS));
    let next = Mutex::new(spans.iter());
    let take = || next.lock().unwrap_or_else(PoisonError::into_inner).next();
    // One at a time, so that whoever counts never tells of less than before.
    let told = Mutex::new(advance);
    let advance = |bytes| told.lock().unwrap_or_else(PoisonError::into_inner)(bytes);
    let check_all = || {
        while let Some(span) = take() {
            if let Err(error) = span.check(slot, cancel, &advance) {
                // Nobody takes another one.
                while take().is_some() {}
                return Err(error);
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..hashers.min(spans.len()))
            .map(|_| scope.spawn(check_all))
            .collect();
        let own = check_all();
        let stopped = || StageError::Stopped("a hashing thread panicked".to_owned());
        let others = others.into_iter();
        let others = others.map(|other| other.join().unwrap_or_else(|_| Err(stopped())));
        others.fold(own, Result::and)
    })
}

/// The parts of an artifact that are hashed on their own, and what was signed of each.
fn spans_of(artifact: &ArtifactRecord) -> impl Iterator<Item = (Range<u64>, Digest)> {
    let size = artifact.size_bytes;
    // Nothing is no proof, whatever the size.
    let is_whole = artifact.spans.is_empty() || artifact.spans.len() as u64 != size.div_ceil(SPAN_BYTES);
    let whole = is_whole.then_some((0..size, artifact.digest));
    let spans = if is_whole { &[][..] } else { &artifact.spans };
    let starts = (0..).step_by(SPAN_BYTES as usize);
    let spans = starts.zip(spans);
    let spans = spans.map(move |(from, digest)| (from..size.min(from + SPAN_BYTES), *digest));
    whole.into_iter().chain(spans)
}

/// Bytes of an artifact in its partition that are hashed together.
struct Span<'a> {
    artifact: &'a str,
    reader: PartitionReader,
    bytes: Range<u64>,
    expected: Digest,
}

impl Span<'_> {
    fn check(
        &self,
        slot: SlotName,
        cancel: &CancellationToken,
        advance: &(impl Fn(u64) + Sync),
    ) -> Result<(), StageError> {
        let found = thread::scope(|scope| {
            let places = pieces(self.bytes.clone());
            Ahead::start(scope, self.reader.clone(), places).hash(cancel, advance)
        })?;
        if found == self.expected {
            return Ok(());
        }
        Err(StageError::ReadsBackDifferently {
            slot,
            artifact: self.artifact.to_owned(),
            bytes: self.bytes.clone(),
            expected: self.expected,
            found,
        })
    }
}

/// [`read_back`] off the reactor. Dropping the future stops the reading.
///
/// # Errors
/// As [`read_back`].
pub async fn read_back_async(
    control: GptBootControl,
    slot: SlotName,
    record: SlotRecord,
    cancel: CancellationToken,
) -> Result<(), StageError> {
    let cancel = cancel.child_token();
    let _stop_when_dropped = cancel.clone().drop_guard();
    tokio::task::spawn_blocking(move || read_back(&control, slot, &record, &cancel, |_| {}))
        .await
        .map_err(|error| StageError::Stopped(error.to_string()))?
}
