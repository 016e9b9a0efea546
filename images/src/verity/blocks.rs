//! Reading an image's blocks in order and hashing them on all cores. The memory does not grow with the
//! image: two batches of 1 MiB for each core and one more, and one hash block for each level of the tree.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use super::geometry::Geometry;
use super::parameters::{BlockHasher, BlockSize, Parameters};
use super::tree::{HashBlock, TreeBuilder};
use super::{MAX_IMAGE_BYTES, VerityError};
use crate::digest::{Digest, Hasher};
use crate::progress::Progress;

/// What one thread hashes at a time, in bytes: a multiple of every block size.
const BATCH_BYTES: usize = 1 << 20;

/// An image whose length is known and fits the blocks asked for.
pub(super) struct Image {
    path: PathBuf,
    file: File,
    data_block: BlockSize,
    data_blocks: u64,
}

/// The length of a file or block device in bytes.
pub(super) fn length_bytes(file: &mut File) -> io::Result<u64> {
    if file.metadata()?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let length = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    Ok(length)
}

impl Image {
    /// Opens the image and counts its blocks: `data_blocks`, or all of them.
    pub(super) fn open(
        path: &Path,
        data_block: BlockSize,
        data_blocks: Option<u64>,
    ) -> Result<Self, VerityError> {
        let failed = VerityError::io("read the image", path);
        let mut file = File::open(path).map_err(&failed)?;
        let image_bytes = length_bytes(&mut file).map_err(&failed)?;
        let path = path.to_path_buf();
        let whole_blocks = image_bytes / u64::from(data_block.bytes());
        let data_blocks = match data_blocks {
            Some(0) => return Err(VerityError::Empty { path }),
            None if image_bytes == 0 => return Err(VerityError::Empty { path }),
            Some(data_blocks) if data_blocks > whole_blocks => {
                return Err(VerityError::Shorter {
                    path,
                    image_bytes,
                    data_blocks,
                    block: data_block,
                });
            }
            None if !image_bytes.is_multiple_of(u64::from(data_block.bytes())) => {
                return Err(VerityError::PartOfABlock {
                    path,
                    image_bytes,
                    block: data_block,
                    whole_blocks,
                });
            }
            Some(data_blocks) => data_blocks,
            None => whole_blocks,
        };
        if image_bytes > MAX_IMAGE_BYTES {
            return Err(VerityError::TooLong { path, image_bytes });
        }
        Ok(Self {
            path,
            file,
            data_block,
            data_blocks,
        })
    }

    pub(super) const fn data_blocks(&self) -> u64 {
        self.data_blocks
    }

    /// The SHA-256 of the blocks, read from the first.
    pub(super) fn digest(&mut self, progress: &Progress) -> Result<Digest, VerityError> {
        let mut whole = Hasher::new();
        self.each_batch(progress, |batch| {
            whole.update(&batch);
            Ok(())
        })?;
        Ok(whole.finish())
    }

    /// Grows the tree over the blocks, read from the first: hands every hash block to `each`, every byte
    /// to `whole` if it is there, and returns the root digest.
    pub(super) fn tree(
        &mut self,
        parameters: &Parameters,
        geometry: &Geometry,
        mut whole: Option<&mut Hasher>,
        progress: &Progress,
        mut each: impl FnMut(HashBlock<'_>) -> Result<(), VerityError>,
    ) -> Result<Vec<u8>, VerityError> {
        let hasher = parameters.hasher();
        let digest_bytes = parameters.algorithm.digest_bytes();
        let block_bytes = self.data_block.bytes() as usize;
        let workers = thread::available_parallelism().map_or(2, usize::from);
        let mut tree = TreeBuilder::new(geometry, hasher.clone());
        let mut grow = |digests: Vec<u8>| {
            let mut digests = digests.chunks_exact(digest_bytes);
            digests.try_for_each(|digest| tree.push(digest, &mut each))
        };
        let (to_workers, from_reader) = mpsc::sync_channel::<Job>(workers);
        let from_reader = Mutex::new(from_reader);
        thread::scope(|scope| -> Result<(), VerityError> {
            // In here, so that the workers end when this ends, by whichever way.
            let to_workers = to_workers;
            for _ in 0..workers {
                scope.spawn(|| work(&from_reader, &hasher, block_bytes));
            }
            let mut waiting = VecDeque::new();
            self.each_batch(progress, |batch| {
                if let Some(whole) = &mut whole {
                    whole.update(&batch);
                }
                let (done, digests) = mpsc::sync_channel(1);
                to_workers.send(Job { batch, done }).map_err(|_| stopped())?;
                waiting.push_back(digests);
                if waiting.len() < 2 * workers {
                    return Ok(());
                }
                grow(next(&mut waiting)?)
            })?;
            while !waiting.is_empty() {
                grow(next(&mut waiting)?)?;
            }
            Ok(())
        })?;
        tree.finish(&mut each)
    }

    fn each_batch(
        &mut self,
        progress: &Progress,
        mut each: impl FnMut(Vec<u8>) -> Result<(), VerityError>,
    ) -> Result<(), VerityError> {
        let failed = VerityError::io("read the image", &self.path);
        self.file.rewind().map_err(&failed)?;
        let mut left_bytes = self.data_blocks * u64::from(self.data_block.bytes());
        while left_bytes > 0 {
            let batch_bytes = left_bytes.min(BATCH_BYTES as u64);
            let mut batch = vec![0; batch_bytes as usize];
            self.file.read_exact(&mut batch).map_err(|error| {
                if error.kind() == io::ErrorKind::UnexpectedEof {
                    let path = self.path.clone();
                    VerityError::EndedEarly { path }
                } else {
                    failed(error)
                }
            })?;
            left_bytes -= batch_bytes;
            each(batch)?;
            progress.advance(batch_bytes);
        }
        Ok(())
    }
}

/// Blocks to hash, and where their digests go.
struct Job {
    batch: Vec<u8>,
    done: mpsc::SyncSender<Vec<u8>>,
}

/// Hashes until the reader is done. A reader that has given up no longer waits for an answer.
fn work(from_reader: &Mutex<mpsc::Receiver<Job>>, hasher: &BlockHasher, block_bytes: usize) {
    loop {
        let next = from_reader.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { batch, done }) = next else { return };
        let mut digests = Vec::new();
        for block in batch.chunks_exact(block_bytes) {
            hasher.append(block, &mut digests);
        }
        let _ = done.send(digests);
    }
}

/// The digests of the batch that was read first.
fn next(waiting: &mut VecDeque<mpsc::Receiver<Vec<u8>>>) -> Result<Vec<u8>, VerityError> {
    let first = waiting.pop_front().ok_or_else(stopped)?;
    first.recv().map_err(|_| stopped())
}

fn stopped() -> VerityError {
    VerityError::Stopped {
        detail: "a thread that hashes has ended".to_owned(),
    }
}
