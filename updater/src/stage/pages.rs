//! The pages of an artifact as its index names them, read some at a time: an index grows with its image, and
//! memory must not.

use drydock_images::chunk::{Cuts, ListId, PageRef, Part};
use drydock_images::{ChunkIndex, Digest};

use super::groups::Groups;
use crate::state::{StateDir, StateError};

/// A page in its group: list, digest, five numbers of 32 bits, the part, four numbers of 64 bits.
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
    groups: Groups,
}

impl Pages {
    /// Those of an index, kept in the state folder if there is one that has room. Blocks.
    pub(super) fn of(index: &ChunkIndex, state: Option<&StateDir>) -> Self {
        Self {
            size: index.size(),
            window_bytes: index.window_bytes(),
            cuts: index.cuts(),
            count: index.pages().len(),
            groups: Groups::keep("the list of pages", || groups_of(index.pages()), state),
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
    /// See [`Groups::get`].
    pub(super) fn some(&self, from: usize) -> Result<Vec<PageRef>, StateError> {
        let Some(group) = self.groups.get(from / GROUP_PAGES)? else {
            return Ok(Vec::new());
        };
        let entries = group.as_chunks::<ENTRY_BYTES>().0.iter();
        Ok(entries.skip(from % GROUP_PAGES).map(page).collect())
    }
}

fn groups_of(pages: &[PageRef]) -> impl Iterator<Item = Vec<u8>> {
    let groups = pages.chunks(GROUP_PAGES);
    groups.map(|group| group.iter().flat_map(entry).collect())
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
    use drydock_images::chunk::{ChunkList, IndexBuilder, Page};

    use super::*;

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
    fn some_pages_at_a_time_are_all_pages() {
        let all: Vec<PageRef> = (0..200).map(some_page).collect();
        let pages = Pages {
            size: 1,
            window_bytes: 1,
            cuts: Cuts::for_image(1, &[]),
            count: all.len(),
            groups: Groups::keep("it", || groups_of(&all), None),
        };
        for from in [0, 1, 63, 64, 130, 199] {
            let some = pages.some(from).unwrap();
            assert!(!some.is_empty());
            assert_eq!(some, all[from..from + some.len()]);
        }
        assert!(pages.some(200).unwrap().is_empty());
    }

    #[test]
    fn pages_are_those_of_the_index() {
        let zeros = vec![0; 1 << 20];
        let cuts = Cuts::for_image(zeros.len() as u64, &[]);
        let page = Page::new(ChunkList::of(&zeros, cuts), Vec::new()).unwrap();
        let mut builder = IndexBuilder::new();
        builder.push(&page, &page.to_bytes(), Part::Front).unwrap();
        let index = builder.finish(&Digest::of(&zeros), 1 << 17, cuts).unwrap();
        let index = ChunkIndex::parse(&index).unwrap();
        let pages = Pages::of(&index, None);
        assert_eq!(pages.some(0).unwrap(), index.pages());
        assert_eq!((pages.size(), pages.count()), (index.size(), 1));
        assert_eq!(pages.window_bytes(), 1 << 17);
    }
}
