//! The pages of an artifact as its index names them, read some at a time: an index grows with its image, and
//! memory must not. They wait in a file of the state partition; what is read of it is compared with what was
//! written.

use std::io;
use std::ops::Range;

use drydock_images::chunk::{Cuts, ListId, PageRef, Part};
use drydock_images::{ChunkIndex, Digest};

use crate::state::{Scratch, StateDir, StateError};

/// A page in the file: list, digest, five numbers of 32 bits, the part, four numbers of 64 bits.
const ENTRY_BYTES: usize = 16 + 32 + 5 * 4 + 4 + 4 * 8;
/// Pages that are read and compared together.
const GROUP_PAGES: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Pages {
    size: u64,
    window_bytes: u32,
    cuts: Cuts,
    count: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Memory(Vec<PageRef>),
    File(Groups),
}

/// Pages in a file, in groups of [`GROUP_PAGES`].
#[derive(Debug)]
struct Groups {
    file: Scratch,
    /// Of what each group is in the file.
    digests: Vec<Digest>,
}

impl Pages {
    /// Those of an index; in memory only where there is no room for them in the state folder, or none to be
    /// used. Blocks.
    pub(super) fn of(index: &ChunkIndex, state: Option<&StateDir>) -> Self {
        let in_file = state.and_then(|state| {
            let groups = Scratch::make(state).and_then(|file| Groups::write(index.pages(), file));
            groups
                .inspect_err(|error| tracing::warn!(%error, "the list of pages stays in memory"))
                .ok()
        });
        Self {
            size: index.size(),
            window_bytes: index.window_bytes(),
            cuts: index.cuts(),
            count: index.pages().len(),
            content: in_file.map_or_else(|| Content::Memory(index.pages().to_vec()), Content::File),
        }
    }

    /// The artifact's size in bytes.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// See [`ChunkIndex::window_bytes`].
    pub(super) const fn window_bytes(&self) -> u32 {
        self.window_bytes
    }

    /// By which rule the artifact is cut.
    pub(super) const fn cuts(&self) -> Cuts {
        self.cuts
    }

    /// How many there are.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// The pages from the `from`th on, some of them; none behind the last. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, or is not what was written.
    pub(super) fn some(&self, from: usize) -> Result<Vec<PageRef>, StateError> {
        let group = from / GROUP_PAGES;
        let of_group = group * GROUP_PAGES..self.count.min((group + 1) * GROUP_PAGES);
        if from >= of_group.end {
            return Ok(Vec::new());
        }
        match &self.content {
            Content::Memory(pages) => Ok(pages[from..of_group.end].to_vec()),
            Content::File(groups) => {
                let inside = from - of_group.start;
                let mut pages = groups.read(group, of_group)?;
                pages.drain(..inside);
                Ok(pages)
            }
        }
    }
}

impl Groups {
    fn write(pages: &[PageRef], mut file: Scratch) -> Result<Self, StateError> {
        let mut digests = Vec::with_capacity(pages.len().div_ceil(GROUP_PAGES));
        for group in pages.chunks(GROUP_PAGES) {
            let entries: Vec<u8> = group.iter().flat_map(entry).collect();
            digests.push(Digest::of(&entries));
            file.append(&entries)?;
        }
        Ok(Self { file, digests })
    }

    fn read(&self, group: usize, pages: Range<usize>) -> Result<Vec<PageRef>, StateError> {
        let mut entries = vec![0; pages.len() * ENTRY_BYTES];
        self.file
            .read_at(&mut entries, (pages.start * ENTRY_BYTES) as u64)?;
        if Digest::of(&entries) != self.digests[group] {
            let differs = io::Error::other("it is not what was written");
            return Err(self.file.unreadable(differs));
        }
        Ok(entries.as_chunks::<ENTRY_BYTES>().0.iter().map(page).collect())
    }
}

fn entry(page: &PageRef) -> [u8; ENTRY_BYTES] {
    let mut entry = [0; ENTRY_BYTES];
    entry[..16].copy_from_slice(page.list.as_bytes());
    entry[16..48].copy_from_slice(page.digest.as_bytes());
    let [front, rest] = page.frames_bytes;
    let words = [
        page.page_bytes,
        page.image_bytes,
        front,
        rest,
        page.chunks,
        page.part as u32,
    ];
    for (place, word) in entry[48..72].chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    let [front_at, rest_at] = page.frames_at;
    for (place, at) in entry[72..]
        .chunks_exact_mut(8)
        .zip([page.offset, front_at, rest_at, page.page_at])
    {
        place.copy_from_slice(&at.to_le_bytes());
    }
    entry
}

fn page(entry: &[u8; ENTRY_BYTES]) -> PageRef {
    let word = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let mut list = [0; 16];
    list.copy_from_slice(&entry[..16]);
    let mut digest = [0; 32];
    digest.copy_from_slice(&entry[16..48]);
    PageRef {
        list: ListId::from_bytes(list),
        digest: Digest::from_bytes(digest),
        page_bytes: word(48),
        image_bytes: word(52),
        frames_bytes: [word(56), word(60)],
        chunks: word(64),
        part: if word(68) == Part::Front as u32 {
            Part::Front
        } else {
            Part::Rest
        },
        offset: long(72),
        frames_at: [long(80), long(88)],
        page_at: long(96),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::sync::Arc;

    use drydock_images::chunk::{ChunkList, IndexBuilder, Page};

    use super::*;
    use crate::disk::gate::OpenGate;

    fn some_page(number: u32) -> PageRef {
        let long = u64::from(number) << 33;
        PageRef {
            list: ListId::from_bytes([number as u8; 16]),
            digest: Digest::of(&number.to_le_bytes()),
            page_bytes: number + 1,
            image_bytes: number + 2,
            frames_bytes: [number + 3, number + 4],
            chunks: number + 5,
            part: [Part::Front, Part::Rest][number as usize % 2],
            offset: long,
            frames_at: [long + 1, long + 2],
            page_at: long + 3,
        }
    }

    #[test]
    fn pages_come_back_from_the_file_as_they_were_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path(), Arc::new(OpenGate)).unwrap();
        let all: Vec<PageRef> = (0..200).map(some_page).collect();
        let in_file = |damage: &dyn Fn(&mut Scratch, &[u8])| {
            let mut groups = Groups::write(&all, Scratch::make(&state).unwrap()).unwrap();
            let entries: Vec<u8> = all.iter().flat_map(entry).collect();
            damage(&mut groups.file, &entries);
            Pages {
                size: 1,
                window_bytes: 1,
                cuts: Cuts::for_image(1, &[]),
                count: all.len(),
                content: Content::File(groups),
            }
        };
        let pages = in_file(&|_, _| {});
        for from in [0, 1, 63, 64, 130, 199] {
            let some = pages.some(from).unwrap();
            assert!(!some.is_empty());
            assert_eq!(some, all[from..from + some.len()]);
        }
        assert!(pages.some(200).unwrap().is_empty());
        // It has no name, so nothing is left behind.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

        let damaged = in_file(&|file, entries| {
            let mut other = Scratch::make(&state).unwrap();
            let mut entries = entries[..199 * ENTRY_BYTES].to_vec();
            entries[70 * ENTRY_BYTES] ^= 1;
            other.append(&entries).unwrap();
            *file = other;
        });
        assert!(damaged.some(0).is_ok() && damaged.some(128).is_ok());
        assert!(damaged.some(64).is_err());
        assert!(damaged.some(192).is_err());
    }

    #[test]
    fn where_there_is_no_file_pages_are_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let [there, gone] = ["there", "gone"].map(|name| {
            let path = folder.path().join(name);
            StateDir::open(&path, Arc::new(OpenGate)).unwrap()
        });
        std::fs::remove_dir(gone.path()).unwrap();
        let zeros = vec![0; 1 << 20];
        let cuts = Cuts::for_image(zeros.len() as u64, &[]);
        let page = Page::new(ChunkList::of(&zeros, cuts), Vec::new()).unwrap();
        let mut builder = IndexBuilder::new();
        builder.push(&page, &page.to_bytes(), Part::Front).unwrap();
        let index = builder.finish(&Digest::of(&zeros), 1 << 17, cuts).unwrap();
        let index = ChunkIndex::parse(&index).unwrap();
        for (state, in_file) in [(Some(&there), true), (Some(&gone), false), (None, false)] {
            let pages = Pages::of(&index, state);
            assert_eq!(matches!(pages.content, Content::File(_)), in_file);
            assert_eq!(pages.some(0).unwrap(), index.pages());
            assert_eq!((pages.size(), pages.count()), (index.size(), 1));
            assert_eq!(pages.window_bytes(), 1 << 17);
        }
    }
}
