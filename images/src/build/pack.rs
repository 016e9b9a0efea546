//! One artifact into its pack and its index. One thread reads, cuts and hashes; the others compress, a list
//! of chunks at a time; the last writes frames in the order of the image, so the same image gives the same
//! bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use zstd::zstd_safe;

use super::{ArtifactSource, BuildStats, write};
use crate::chunk::{
    Chunk, ChunkId, ChunkList, Cuts, FRONT_BYTES, Frame, IndexBuilder, ListCutter, MAX_ARTIFACT_BYTES, Page,
    Part, chunk_reader, encode_frame,
};
use crate::digest::{Digest, ImageDigests, ImageHasher};
use crate::error::ReleaseError;
use crate::layout;
use crate::manifest::{Artifact, IndexRef};
use crate::progress::Progress;
use crate::release::Known;

/// Frames of one sort.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// A frame is closed when it has this much content. A reader fetches whole frames.
    content_bytes: usize,
    /// How far it refers back at most: what the bytes before it teach costs a reader nothing, they are there.
    window_bytes: usize,
}

/// Every frame may refer back so far, ...
const LEAST_WINDOW_BYTES: usize = 128 * 1024;
/// ... and further only if it has an eighth of that: looking through what went before takes the longest.
const WINDOW_OF_CONTENT: usize = 8;

impl Shape {
    /// How far a frame with so much content refers back.
    fn window_bytes(self, content_bytes: usize) -> usize {
        (content_bytes * WINDOW_OF_CONTENT).clamp(LEAST_WINDOW_BYTES, self.window_bytes)
    }
}

/// Of these a reader may need one and not its neighbours.
const SMALL: Shape = Shape {
    content_bytes: 32 * 1024,
    window_bytes: LEAST_WINDOW_BYTES,
};
/// What is new since the releases before is fetched as a whole by whoever comes from one of them.
const LARGE: Shape = Shape {
    content_bytes: 128 * 1024,
    window_bytes: 512 * 1024,
};
/// What the index says of all.
const WINDOW_BYTES: u32 = LARGE.window_bytes as u32;
/// Lists that wait for each worker.
const WAITING_PER_WORKER: usize = 2;

/// Where a release is made, and how.
pub(super) struct Packing<'a> {
    pub dir: &'a Path,
    pub level: i32,
    /// What the releases before hold.
    pub known: &'a Known,
    pub progress: &'a Progress,
}

/// The parts of a pack while they are written.
type Parts = [BufWriter<File>; 2];

/// The frames of a list, to be compressed.
struct Job {
    place: usize,
    /// Where the content of each is in `bytes`.
    frames: Vec<(Part, Range<usize>)>,
    /// What stands in the image before the list, as far as a frame refers back, and the list.
    bytes: Vec<u8>,
    /// Of the frames in the front of the pack.
    front: Shape,
}

/// A job that was done: its place, and its frames.
type Done = (usize, std::io::Result<Vec<(Part, Vec<u8>)>>);

/// A frame that was written.
struct Stored {
    bytes: u32,
    digest: Digest,
}

/// Where a frame is in its list, and how much of the image is in it.
struct Planned {
    part: Part,
    first_chunk: u16,
    chunks: u16,
    content_bytes: u32,
}

/// The image as it was cut.
struct Cut {
    cuts: Cuts,
    /// Each list with its frames.
    lists: Vec<(ChunkList, Vec<Planned>)>,
    zero_bytes: u64,
}

impl Packing<'_> {
    /// Makes pack and index of an artifact.
    pub(super) fn artifact(
        &self,
        source: &ArtifactSource,
        stats: &mut BuildStats,
    ) -> Result<Artifact, ReleaseError> {
        let packs = self.dir.join(layout::PACKS_DIR);
        let path = packs.join(".front");
        let failed = ReleaseError::io("write", &path);
        let files = [File::create(&path), File::create_new(packs.join(".rest"))];
        let [front, rest] = files.map(|file| file.map_err(&failed));
        let pack = [front?, rest?].map(|file| BufWriter::with_capacity(1 << 20, file));
        let ((digest, spans), cut, stored, mut pack) = self.compress(source, pack, &path)?;
        let mut index = IndexBuilder::new();
        let mut stored = stored.into_iter();
        let mut pages = [Vec::new(), Vec::new()];
        for (list, planned) in cut.lists {
            stats.chunks += list.count() as u64;
            stats.pages += 1;
            stats.frames += planned.len() as u64;
            stats.image_bytes += u64::from(list.image_bytes());
            let frames = planned
                .iter()
                .zip(stored.by_ref())
                .map(|(planned, stored)| Frame {
                    part: planned.part,
                    first_chunk: planned.first_chunk,
                    chunks: planned.chunks,
                    stored_bytes: stored.bytes,
                    content_bytes: planned.content_bytes,
                    digest: stored.digest,
                });
            let part = self.part_of(self.known.lists.contains(&list.id()));
            let page = Page::new(list, frames.collect())?;
            let bytes = page.to_bytes();
            index.push(&page, &bytes, part)?;
            pages[part as usize].extend_from_slice(&bytes);
        }
        for (pack, pages) in pack.iter_mut().zip(&pages) {
            pack.write_all(pages).map_err(&failed)?;
            pack.flush().map_err(&failed)?;
        }
        let rest = packs.join(".rest");
        let mut appended = File::open(&rest).map_err(&failed)?;
        std::io::copy(&mut appended, &mut pack[0]).map_err(&failed)?;
        fs::remove_file(&rest).map_err(&failed)?;
        let pack = &mut pack[0];
        stats.stored_bytes += pack.stream_position().map_err(&failed)?;
        stats.zero_bytes += cut.zero_bytes;
        pack.flush().map_err(&failed)?;
        let index = index.finish(&digest, WINDOW_BYTES, cut.cuts)?;
        let index_ref = IndexRef {
            digest: Digest::of(&index),
            size: index.len() as u64,
        };
        write(&self.dir.join(layout::index_path(&index_ref.digest)), &index)?;
        let named = self.dir.join(layout::pack_path(&index_ref.digest));
        fs::rename(&path, &named).map_err(ReleaseError::io("write", &named))?;
        Ok(Artifact {
            name: source.name.clone(),
            size: crate::chunk::ChunkIndex::parse(&index)?.size(),
            digest,
            // Of one span, the whole says as much.
            spans: if spans.len() > 1 { spans } else { Vec::new() },
            index: index_ref,
            verity_root: source.verity_root.clone(),
        })
    }

    fn part_of(&self, is_known: bool) -> Part {
        if is_known { Part::Rest } else { Part::Front }
    }

    /// Reads the image once and writes its frames, each into its part of the pack.
    fn compress(
        &self,
        source: &ArtifactSource,
        pack: Parts,
        pack_path: &Path,
    ) -> Result<(ImageDigests, Cut, Vec<Stored>, Parts), ReleaseError> {
        let workers = thread::available_parallelism().map_or(2, usize::from);
        let (to_workers, jobs) = mpsc::sync_channel::<Job>(WAITING_PER_WORKER * workers);
        let jobs = Mutex::new(jobs);
        let (to_writer, lists) = mpsc::sync_channel(WAITING_PER_WORKER * workers);
        thread::scope(|scope| {
            let jobs = &jobs;
            for _ in 0..workers {
                let to_writer = to_writer.clone();
                scope.spawn(move || compress_lists(jobs, &to_writer, self.level));
            }
            drop(to_writer);
            let writer = scope.spawn(move || write_frames(&lists, pack, pack_path));
            let read = self.read(source, &to_workers);
            // Workers end with their jobs, and the writer with the workers.
            drop(to_workers);
            let written = writer
                .join()
                .unwrap_or_else(|_| Err(ReleaseError::Request("the writing thread stopped".to_owned())));
            // What stopped the writer stopped the reader too, and says more.
            let (stored, pack) = written?;
            let (digests, cut) = read?;
            Ok((digests, cut, stored, pack))
        })
    }

    /// Reads, cuts and hashes; hands every frame to the workers.
    fn read(
        &self,
        source: &ArtifactSource,
        to_workers: &mpsc::SyncSender<Job>,
    ) -> Result<(ImageDigests, Cut), ReleaseError> {
        let failed = ReleaseError::io("read the image", &source.path);
        let mut file = File::open(&source.path).map_err(ReleaseError::io("open the image", &source.path))?;
        let size = file.seek(SeekFrom::End(0)).map_err(&failed)?;
        file.rewind().map_err(&failed)?;
        if size == 0 || size > MAX_ARTIFACT_BYTES {
            let path = source.path.display();
            return Err(ReleaseError::Request(format!(
                "the image {path} has {size} bytes, where 1 to {MAX_ARTIFACT_BYTES} are allowed"
            )));
        }
        let mut front = [0; FRONT_BYTES];
        // A shorter image is no file system.
        let front_bytes = file.read_at(&mut front, 0).map_err(&failed)?;
        let cuts = Cuts::for_image(size, &front[..front_bytes]);
        let mut frames = Framing::new(to_workers, cuts, self.known);
        let mut hasher = ImageHasher::default();
        for chunk in chunk_reader(file, cuts) {
            let data = chunk.map_err(&failed)?.data;
            hasher.update(&data);
            self.progress.advance(data.len() as u64);
            frames.push(&data)?;
        }
        if hasher.length_bytes() != size {
            let path = source.path.display();
            let found = hasher.length_bytes();
            return Err(ReleaseError::Request(format!(
                "the image {path} had {size} bytes and gave {found}: something writes to it"
            )));
        }
        Ok((hasher.finish(), frames.finish()?))
    }
}

/// Puts chunks into lists and frames as they come.
struct Framing<'a> {
    to_workers: &'a mpsc::SyncSender<Job>,
    known: &'a Known,
    lists: ListCutter,
    cut: Cut,
    /// Of the list that is not complete yet, its frames and its bytes, behind those before it.
    planned: Vec<Planned>,
    frames: Vec<(Part, Range<usize>)>,
    bytes: Vec<u8>,
    /// The frame that is not closed yet: where it begins in `bytes`, and its chunks.
    frame_at: usize,
    part: Part,
    chunks: u16,
    /// Chunks of the list so far.
    in_list: u16,
    places: usize,
    /// Of the frames in the front of the pack.
    front: Shape,
}

impl<'a> Framing<'a> {
    fn new(to_workers: &'a mpsc::SyncSender<Job>, cuts: Cuts, known: &'a Known) -> Self {
        Self {
            to_workers,
            known,
            lists: ListCutter::default(),
            cut: Cut {
                cuts,
                lists: Vec::new(),
                zero_bytes: 0,
            },
            planned: Vec::new(),
            frames: Vec::new(),
            bytes: Vec::new(),
            frame_at: 0,
            part: Part::Front,
            chunks: 0,
            in_list: 0,
            places: 0,
            // Where nothing is known everything is in front.
            front: if known.chunks.is_empty() { SMALL } else { LARGE },
        }
    }

    fn push(&mut self, data: &[u8]) -> Result<(), ReleaseError> {
        let chunk = Chunk::of(data);
        let Chunk { length, id } = chunk;
        let too_long = self.content_bytes() + data.len() > crate::chunk::MAX_FRAME_CONTENT_BYTES as usize;
        let part = if self.known.chunks.contains(&id) {
            Part::Rest
        } else {
            Part::Front
        };
        if id == ChunkId::ZEROS || too_long || part != self.part {
            self.close_frame();
        }
        if id == ChunkId::ZEROS {
            self.cut.zero_bytes += u64::from(length);
            self.frame_at += data.len();
        } else {
            self.part = part;
            self.chunks += 1;
        }
        self.in_list += 1;
        self.bytes.extend_from_slice(data);
        if self.content_bytes() >= shape_of(part, self.front).content_bytes {
            self.close_frame();
        }
        match self.lists.push(chunk) {
            Some(list) => self.close_list(list),
            None => Ok(()),
        }
    }

    /// Of the frame that is not closed yet.
    fn content_bytes(&self) -> usize {
        self.bytes.len().saturating_sub(self.frame_at)
    }

    fn close_frame(&mut self) {
        if self.chunks == 0 {
            return;
        }
        self.planned.push(Planned {
            part: self.part,
            first_chunk: self.in_list - self.chunks,
            chunks: self.chunks,
            content_bytes: self.content_bytes() as u32,
        });
        self.frames.push((self.part, self.frame_at..self.bytes.len()));
        self.frame_at = self.bytes.len();
        self.chunks = 0;
    }

    fn close_list(&mut self, list: ChunkList) -> Result<(), ReleaseError> {
        self.close_frame();
        self.cut.lists.push((list, std::mem::take(&mut self.planned)));
        self.in_list = 0;
        let before = &self.bytes[self.bytes.len().saturating_sub(WINDOW_BYTES as usize)..];
        let mut next = Vec::with_capacity(self.bytes.len());
        next.extend_from_slice(before);
        self.frame_at = next.len();
        let job = Job {
            place: self.places,
            frames: std::mem::take(&mut self.frames),
            bytes: std::mem::replace(&mut self.bytes, next),
            front: self.front,
        };
        self.places += 1;
        self.to_workers
            .send(job)
            .map_err(|_| ReleaseError::Request("the compressing threads stopped".to_owned()))
    }

    fn finish(mut self) -> Result<Cut, ReleaseError> {
        if let Some(list) = std::mem::take(&mut self.lists).finish() {
            self.close_list(list)?;
        }
        Ok(self.cut)
    }
}

const fn shape_of(part: Part, front: Shape) -> Shape {
    match part {
        Part::Front => front,
        Part::Rest => SMALL,
    }
}

/// Compresses until there are no more jobs. When nobody wants the frames any more it only empties the
/// queue, so that the reader never waits for a worker that has stopped.
fn compress_lists(jobs: &Mutex<mpsc::Receiver<Job>>, to_writer: &mpsc::SyncSender<Done>, level: i32) {
    let mut wanted = true;
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        if wanted {
            let mut context = zstd_safe::CCtx::create();
            let frames = job.frames.iter().map(|(part, at)| {
                let window_bytes = shape_of(*part, job.front).window_bytes(at.len());
                let before = &job.bytes[at.start.saturating_sub(window_bytes)..at.start];
                let frame = encode_frame(&mut context, &job.bytes[at.clone()], before, level)?;
                Ok((*part, frame))
            });
            wanted = to_writer.send((job.place, frames.collect())).is_ok();
        }
    }
}

/// Writes frames in their order. Lists that came too early wait; they are about as many as there are
/// workers, because all are about as long.
fn write_frames(
    lists: &mpsc::Receiver<Done>,
    mut pack: Parts,
    path: &Path,
) -> Result<(Vec<Stored>, Parts), ReleaseError> {
    let mut early = BTreeMap::new();
    let (mut next, mut stored) = (0, Vec::new());
    for (place, frames) in lists {
        let frames = frames.map_err(ReleaseError::io("compress into", path))?;
        early.insert(place, frames);
        while let Some(frames) = early.remove(&next) {
            next += 1;
            for (part, frame) in frames {
                pack[part as usize]
                    .write_all(&frame)
                    .map_err(ReleaseError::io("write", path))?;
                stored.push(Stored {
                    // At most MAX_FRAME_BYTES, which a page is checked for.
                    bytes: frame.len() as u32,
                    digest: Digest::of(&frame),
                });
            }
        }
    }
    Ok((stored, pack))
}
