//! Making the delta of one artifact: both images are unpacked, what moved is found by chunk ids, what is like
//! something old by [`Anchors`], and all cores compress segments. Where the images have content that is packed
//! itself, as a squashfs has, what of it is new is unpacked too, if this program's zstd packs it again as it
//! was. The same releases and level give the same bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use super::SEGMENT_BYTES;
use super::find::{Old, Piece, Tools, Wanted};
use super::head::{DeltaHead, DeltaHeader, Packing, Segment, Source};
use super::packed::{self, PackedFrame};
use super::similar::{Anchoring, Anchors, gather};
use super::view::{self, Stretch, View};
use crate::chunk::{Chunk, ChunkIndex, Cuts, chunk_reader, chunk_slice};
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

/// An artifact as a repository stores it.
pub(crate) struct Side<'a> {
    pub pack: &'a Path,
    pub index: &'a ChunkIndex,
    pub artifact: &'a Artifact,
}

/// What a delta may cost whoever makes it, and the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// The level of zstd.
    pub level: i32,
    /// Whether what is packed in the images may be compared unpacked, which nodes then have to pack again.
    pub unpack: bool,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            level: DEFAULT_LEVEL,
            unpack: true,
        }
    }
}

/// What was made of one artifact.
pub(crate) struct Made {
    pub head: DeltaHead,
    /// Bytes of the new image that are packed with zstd, and that this program's zstd packs otherwise at any
    /// level: they are left as they are.
    pub packed_otherwise_bytes: u64,
}

/// Writes the frames of the delta that makes `to` out of `from` into `frames`, and gives its head.
///
/// # Errors
/// Packs that are not whole; disks that fail.
pub(crate) fn make(
    (from, to): (&Side<'_>, &Side<'_>),
    effort: Effort,
    frames: &Path,
    progress: &Progress,
) -> Result<Made, ReleaseError> {
    let cuts = to.index.cuts();
    let (mut old, mut new) = thread::scope(|scope| {
        let old = scope.spawn(|| unpack(from, cuts, progress));
        let new = unpack(to, cuts, progress);
        let stopped = |_| Err(ReleaseError::Request("the unpacking thread stopped".to_owned()));
        Ok::<_, ReleaseError>((old.join().unwrap_or_else(stopped)?, new?))
    })?;
    let folder = std::env::temp_dir();
    let failed = ReleaseError::io("read what was unpacked into", &folder);
    let (packing, packed_otherwise_bytes) = if effort.unpack {
        look_inside(&mut old, &mut new).map_err(&failed)?
    } else {
        (None, 0)
    };
    let view = View::new(old.size, &old.packed);
    let anchors = anchors(&old.file, &view).map_err(&failed)?;
    let old = Old::new(old.file, view, old.pieces, anchors);
    new.packed.retain(|frame| !old.has(&frame.id));
    let segments = segments(&old, &new, (effort.level, packing), (frames, progress))?;
    let packs = |segment: &Segment| matches!(&segment.source, Source::Frame(frame) if !frame.runs.is_empty());
    let header = DeltaHeader {
        artifact: to.artifact.digest,
        size: to.artifact.size,
        base: from.artifact.digest,
        base_size: from.artifact.size,
        packing: packing.filter(|_| segments.iter().any(packs)),
    };
    let head = DeltaHead::new(&header, &segments);
    Ok(Made {
        head: head.map_err(|error| ReleaseError::Request(error.to_string()))?,
        packed_otherwise_bytes,
    })
}

/// An image as a file, its chunks in order, and what is packed in it.
struct Unpacked {
    file: File,
    size: u64,
    pieces: Vec<Piece>,
    packed: Vec<PackedFrame>,
}

impl Unpacked {
    /// Makes each packed frame a chunk of its own, with what is between them cut by content.
    fn cut_around_frames(&mut self) -> std::io::Result<()> {
        let cuts = Cuts::for_image(self.size, &[]);
        self.pieces.clear();
        for (_, stretch) in View::new(self.size, &self.packed).stretches() {
            match stretch {
                Stretch::Packed(frame) => self.pieces.push(Piece {
                    at: frame.at,
                    chunk: Chunk {
                        length: frame.bytes,
                        id: frame.id,
                    },
                }),
                Stretch::Verbatim(range) => {
                    let mut at = range.start;
                    for chunk in chunk_slice(&view::content(&self.file, &Stretch::Verbatim(range))?, cuts) {
                        let chunk = Chunk::of(chunk);
                        self.pieces.push(Piece { at, chunk });
                        at += u64::from(chunk.length);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Looks what is packed in both images. None: nothing in the new one, or nothing that this program's zstd packs
/// as it was, and how many bytes of the image that is; then both are left as they are.
fn look_inside(old: &mut Unpacked, new: &mut Unpacked) -> std::io::Result<(Option<Packing>, u64)> {
    let packed = packed::find(&new.file, new.size)?;
    let packing = packed::packing(&new.file, &packed)?;
    if packing.is_none() {
        return Ok((None, packed.iter().map(|frame| u64::from(frame.bytes)).sum()));
    }
    old.packed = packed::find(&old.file, old.size)?;
    new.packed = packed;
    old.cut_around_frames()?;
    new.cut_around_frames()?;
    Ok((packing, 0))
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
    Ok(Unpacked {
        file,
        size: side.artifact.size,
        pieces,
        packed: Vec::new(),
    })
}

fn anchors(file: &File, view: &View) -> std::io::Result<Anchors> {
    let anchoring = Anchoring::for_image(view.bytes());
    let (stretches, next) = (view.stretches(), AtomicUsize::new(0));
    let work = || {
        let mut gathered = Vec::new();
        loop {
            let taken = next.fetch_add(1, Ordering::Relaxed);
            let Some((view_at, stretch)) = stretches.get(taken) else {
                return Ok(gathered);
            };
            // Anchors that lie across two pieces are left out.
            let content = view::content(file, stretch)?;
            gather(anchoring, &content, *view_at, &mut gathered);
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

/// Where the segments of an image of that many bytes begin and end, and which of the frames are in each: none
/// is longer than a segment, as it stands or unpacked, and no frame is in two.
fn cut_segments(size: u64, frames: &[PackedFrame]) -> Vec<(Range<u64>, Range<usize>)> {
    let most = u64::from(SEGMENT_BYTES);
    let (mut cut, mut at, mut next) = (Vec::new(), 0, 0);
    while at < size {
        let (first, mut end, mut room) = (next, at, most);
        // What is not packed is cut anywhere.
        loop {
            let (gap_end, frame) = match frames.get(next) {
                Some(frame) => (frame.at, Some(frame)),
                None => (size, None),
            };
            let gap = room.min(gap_end - end);
            (end, room) = (end + gap, room - gap);
            match frame {
                Some(frame) if end == frame.at && u64::from(frame.content) <= room => {
                    (end, room) = (frame.end(), room - u64::from(frame.content));
                    next += 1;
                }
                _ => break,
            }
        }
        cut.push((at..end, first..next));
        at = end;
    }
    cut
}

/// Makes the segments of the new image and writes their frames in order.
fn segments(
    old: &Old,
    new: &Unpacked,
    (level, packing): (i32, Option<Packing>),
    (frames, progress): (&Path, &Progress),
) -> Result<Vec<Segment>, ReleaseError> {
    let cut = cut_segments(new.size, &new.packed);
    let workers = thread::available_parallelism().map_or(2, usize::from);
    let next = AtomicUsize::new(0);
    let (to_writer, made) = mpsc::sync_channel(WAITING_PER_WORKER * workers);
    let work = |to_writer: mpsc::SyncSender<MadeSegment>| {
        let mut tools = Tools::new(level, packing);
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some((range, frames)) = cut.get(place) else {
                return;
            };
            let made = wanted(new, range, &new.packed[frames.clone()])
                .and_then(|wanted| old.segment(wanted, &new.pieces, &mut tools));
            progress.advance(range.end - range.start);
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

/// A segment of the new image, with those frames of it unpacked.
fn wanted(new: &Unpacked, range: &Range<u64>, frames: &[PackedFrame]) -> std::io::Result<Wanted> {
    let mut image = vec![0; (range.end - range.start) as usize];
    new.file.read_exact_at(&mut image, range.start)?;
    Wanted::new(range.start, image, &new.pieces, frames.to_vec())
}

type MadeSegment = (usize, std::io::Result<(Segment, Vec<u8>)>);

/// Writes frames in their order; those that came too early wait, and no worker gets far ahead of the others.
fn write_frames(made: &mpsc::Receiver<MadeSegment>, path: &Path) -> Result<Vec<Segment>, ReleaseError> {
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
