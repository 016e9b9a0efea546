//! Making the delta of one artifact: both images are unpacked, what moved is found by chunk ids, what is like
//! something old by [`Anchors`], and all cores compress segments. The same releases and level give the same
//! bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use zstd::zstd_safe;

use super::SEGMENT_BYTES;
use super::find::{Old, Piece, Wanted};
use super::head::{DeltaHead, Segment};
use super::segment::SegmentDecoder;
use super::similar::{Anchoring, Anchors, gather};
use crate::chunk::{Chunk, ChunkIndex, Cuts, chunk_reader};
use crate::error::ReleaseError;
use crate::manifest::Artifact;
use crate::progress::Progress;
use crate::release::read_pack;

/// The zstd level that is used when none is asked for.
pub const DEFAULT_LEVEL: i32 = 9;
/// The level that makes the smallest deltas: those above take longer and save nothing.
pub const BEST_LEVEL: i32 = 19;
/// Segments that wait for the writer, for each worker.
const WAITING_PER_WORKER: usize = 4;
/// An image's anchors are gathered in pieces of so many bytes.
const PIECE_BYTES: u64 = 16 << 20;

/// An artifact as a repository stores it.
pub(crate) struct Side<'a> {
    pub pack: &'a Path,
    pub index: &'a ChunkIndex,
    pub artifact: &'a Artifact,
}

/// Writes the frames of the delta that makes `to` out of `from` into `frames`, and gives its head.
///
/// # Errors
/// Packs that are not whole; disks that fail.
pub(crate) fn make(
    (from, to): (&Side<'_>, &Side<'_>),
    level: i32,
    frames: &Path,
    progress: &Progress,
) -> Result<DeltaHead, ReleaseError> {
    let cuts = to.index.cuts();
    let (old, new) = thread::scope(|scope| {
        let old = scope.spawn(|| unpack(from, cuts, progress));
        let new = unpack(to, cuts, progress);
        let stopped = |_| Err(ReleaseError::Request("the unpacking thread stopped".to_owned()));
        Ok::<_, ReleaseError>((old.join().unwrap_or_else(stopped)?, new?))
    })?;
    let folder = std::env::temp_dir();
    let failed = ReleaseError::io("read what was unpacked into", &folder);
    let anchors = anchors(&old.file, from.artifact.size).map_err(failed)?;
    let old = Old::new(old.file, from.artifact.size, old.pieces, anchors);
    let segments = segments(&old, &new, to.artifact.size, level, (frames, progress))?;
    Ok(DeltaHead {
        artifact: to.artifact.digest,
        size: to.artifact.size,
        base: from.artifact.digest,
        base_size: from.artifact.size,
        segments,
    })
}

/// An image as a file, and its chunks in order.
struct Unpacked {
    file: File,
    pieces: Vec<Piece>,
}

/// Unpacks an image; its chunks are those of that rule.
fn unpack(side: &Side<'_>, cuts: Cuts, progress: &Progress) -> Result<Unpacked, ReleaseError> {
    let folder = std::env::temp_dir();
    let failed = ReleaseError::io("unpack an image into", &folder);
    let file = tempfile::tempfile_in(&folder).map_err(&failed)?;
    let mut pieces = Vec::new();
    let mut add = |at: &mut u64, chunk: Chunk| {
        pieces.push(Piece { at: *at, chunk });
        *at += u64::from(chunk.length);
    };
    let same_cuts = side.index.cuts() == cuts;
    read_pack(side.pack, side.index, side.artifact, |named, page, content| {
        let mut at = named.offset;
        for chunk in page.list().chunks().filter(|_| same_cuts) {
            add(&mut at, chunk);
        }
        progress.advance(content.len() as u64);
        file.write_all_at(content, named.offset).map_err(&failed)
    })?;
    if !same_cuts {
        let mut at = 0;
        for chunk in chunk_reader(&file, cuts) {
            add(&mut at, Chunk::of(&chunk.map_err(&failed)?.data));
        }
    }
    Ok(Unpacked { file, pieces })
}

fn anchors(file: &File, size: u64) -> std::io::Result<Anchors> {
    let anchoring = Anchoring::for_image(size);
    let next = AtomicU64::new(0);
    let work = || {
        let (mut gathered, mut piece) = (Vec::new(), Vec::new());
        loop {
            let at = next.fetch_add(PIECE_BYTES, Ordering::Relaxed);
            if at >= size {
                return Ok(gathered);
            }
            // At most PIECE_BYTES. Anchors that lie across two pieces are left out.
            piece.resize((size - at).min(PIECE_BYTES) as usize, 0);
            file.read_exact_at(&mut piece, at)?;
            gather(anchoring, &piece, at, &mut gathered);
        }
    };
    let workers = thread::available_parallelism().map_or(2, usize::from);
    let gathered: std::io::Result<Vec<_>> = thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let stopped = |_| Err(std::io::Error::other("a thread stopped"));
        running
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(stopped))
            .collect()
    });
    Ok(Anchors::of(anchoring, gathered?))
}

/// Makes the segments of the new image and writes their frames in order.
fn segments(
    old: &Old,
    new: &Unpacked,
    size: u64,
    level: i32,
    (frames, progress): (&Path, &Progress),
) -> Result<Vec<Segment>, ReleaseError> {
    let workers = thread::available_parallelism().map_or(2, usize::from);
    let next = AtomicUsize::new(0);
    let (to_writer, made) = mpsc::sync_channel(WAITING_PER_WORKER * workers);
    let work = |to_writer: mpsc::SyncSender<Made>| {
        let (mut context, mut decoder) = (zstd_safe::CCtx::create(), SegmentDecoder::default());
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let at = place as u64 * u64::from(SEGMENT_BYTES);
            if at >= size {
                return;
            }
            let bytes = (size - at).min(u64::from(SEGMENT_BYTES));
            let made = wanted(new, at, bytes).and_then(|wanted| {
                let made = old.segment(&wanted, &mut context, &mut decoder, level);
                progress.advance(bytes);
                made
            });
            // Where nobody wants it any more, the writer says why.
            if to_writer.send((place, made)).is_err() {
                return;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..workers {
            let to_writer = to_writer.clone();
            scope.spawn(|| work(to_writer));
        }
        drop(to_writer);
        write_frames(&made, frames)
    })
}

/// The segment of the new image that begins at that byte.
fn wanted(new: &Unpacked, at: u64, bytes: u64) -> std::io::Result<Wanted> {
    // At most SEGMENT_BYTES.
    let mut content = vec![0; bytes as usize];
    new.file.read_exact_at(&mut content, at)?;
    let first = new.pieces.partition_point(|piece| piece.end() <= at);
    let pieces = new.pieces[first..]
        .iter()
        .take_while(|piece| piece.at < at + bytes);
    Ok(Wanted::new(at, content, pieces.copied().collect()))
}

type Made = (usize, std::io::Result<(Segment, Vec<u8>)>);

/// Writes frames in their order; those that came too early wait, and no worker gets far ahead of the others.
fn write_frames(made: &mpsc::Receiver<Made>, path: &Path) -> Result<Vec<Segment>, ReleaseError> {
    let failed = ReleaseError::io("write", path);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(&failed)?);
    let (mut early, mut segments) = (BTreeMap::new(), Vec::new());
    for (place, segment) in made {
        early.insert(place, segment.map_err(ReleaseError::io("compress into", path))?);
        while let Some((segment, frame)) = early.remove(&segments.len()) {
            file.write_all(&frame).map_err(&failed)?;
            segments.push(segment);
        }
    }
    file.flush().map_err(&failed)?;
    Ok(segments)
}
