//! What a signer signs who errs or was deceived: every digest fits, and what is named is wrong all the same.

use drydock_images::chunk::index::{ENTRY_BYTES, HEADER_BYTES};
use drydock_images::chunk::{
    Chunk, ChunkId, ChunkIndex, ChunkList, Cuts, Frame, FrameError, IndexBuilder, IndexError,
    MAX_FRAME_CONTENT_BYTES, Page, PageError, Part, Rebuilder, encode_frame,
};
use drydock_images::layout::TargetKind;
use drydock_images::{Digest, Manifest, ManifestError};
use zstd::zstd_safe::CCtx;

use crate::support::{Fixture, noise, now};

const WINDOW_BYTES: u32 = 1 << 20;

fn packed(content: &[u8], before: &[u8]) -> Vec<u8> {
    encode_frame(&mut CCtx::create(), content, before, 3).unwrap()
}

/// A page of these chunks whose only frame is stored as `stored`, whatever that is.
fn page(chunks: &[&[u8]], stored: &[u8]) -> Page {
    let mut list = ChunkList::default();
    for bytes in chunks {
        let (length, id) = (u32::try_from(bytes.len()).unwrap(), ChunkId::of(bytes));
        list.push(Chunk { length, id });
    }
    let frame = Frame {
        part: Part::Front,
        first_chunk: 0,
        chunks: u16::try_from(chunks.len()).unwrap(),
        stored_bytes: u32::try_from(stored.len()).unwrap(),
        content_bytes: list.image_bytes(),
        digest: Digest::of(stored),
    };
    Page::new(list, vec![frame]).unwrap()
}

fn index(pages: &[Page]) -> Vec<u8> {
    let mut builder = IndexBuilder::new();
    for page in pages {
        builder.push(page, &page.to_bytes(), Part::Front).unwrap();
    }
    let cuts = Cuts::for_image(1, &[]);
    builder
        .finish(&Digest::of(b"artifact"), WINDOW_BYTES, cuts)
        .unwrap()
}

/// What a node makes of `stored` where an index and a page say that it is these chunks.
fn rebuilt(before: &[u8], chunks: &[&[u8]], stored: &[u8]) -> Result<Vec<u8>, FrameError> {
    let page = page(chunks, stored);
    let index = ChunkIndex::parse(&index(std::slice::from_ref(&page))).unwrap();
    let mut rebuilder = Rebuilder::new(index.window_bytes());
    rebuilder.known(before);
    let mut image = Vec::new();
    rebuilder.page(&page, [stored, &[]], |piece| image.extend_from_slice(piece))?;
    Ok(image)
}

#[test]
fn swapped_chunks_are_refused_though_their_frame_is_the_signed_one() {
    let (first, second) = (noise(1, 5000), noise(2, 5000));
    let (right, swapped) = ([&first[..], &second].concat(), [&second[..], &first].concat());
    let chunks = [&first[..], &second];
    assert_eq!(rebuilt(b"", &chunks, &packed(&right, b"")), Ok(right));
    let wanted = ChunkId::of(&first);
    assert_eq!(
        rebuilt(b"", &chunks, &packed(&swapped, b"")),
        Err(FrameError::Chunk { wanted })
    );
}

#[test]
fn a_truncated_frame_is_refused_though_it_is_the_signed_one() {
    let content = b"a few words ".repeat(500);
    let whole = packed(&content, b"");
    for length in 1..whole.len() {
        let refused = rebuilt(b"", &[&content], &whole[..length]);
        assert!(
            matches!(refused, Err(FrameError::NoFrame | FrameError::CutOff)),
            "cut at {length}: {refused:?}"
        );
    }
}

#[test]
fn a_second_frame_behind_the_first_is_refused_though_both_are_valid() {
    let content = noise(3, 4000);
    let (first, second) = content.split_at(2500);
    let both = [packed(first, b""), packed(second, b"")].concat();
    let refused = rebuilt(b"", &[&content], &both);
    assert!(matches!(refused, Err(FrameError::Trailing { .. })), "{refused:?}");
    let more = [packed(&content, b""), packed(b"", b"")].concat();
    let refused = rebuilt(b"", &[&content], &more);
    assert!(matches!(refused, Err(FrameError::Trailing { .. })), "{refused:?}");
}

#[test]
fn a_decompression_bomb_is_refused_before_it_is_unpacked() {
    let content = noise(4, MAX_FRAME_CONTENT_BYTES as usize);
    let bomb = packed(&vec![0; 256 << 20], b"");
    assert!(bomb.len() < 100_000);
    let refused = rebuilt(b"", &[&content], &bomb);
    assert!(
        matches!(refused, Err(FrameError::ContentSize { found: Some(found), .. }) if found == 256 << 20),
        "{refused:?}"
    );
    // One that says that it is small: the number in its header is another, what it unpacks to is not.
    let mut lying = packed(&vec![7; 512 << 10], b"");
    let said = u32::to_le_bytes(512 << 10);
    let at = lying.windows(4).position(|bytes| bytes == said).unwrap();
    lying[at..at + 4].copy_from_slice(&1000u32.to_le_bytes());
    let refused = rebuilt(b"", &[&content[..1000]], &lying);
    assert!(
        matches!(refused, Err(FrameError::Broken(_) | FrameError::CutOff)),
        "{refused:?}"
    );
}

#[test]
fn a_frame_on_another_base_than_it_was_made_for_is_refused() {
    let (base, other) = (noise(5, 50_000), noise(6, 50_000));
    let content = base[1234..9000].to_vec();
    let stored = packed(&content, &base);
    assert!(stored.len() < 200, "it is nothing but a reference to its base");
    assert_eq!(
        rebuilt(&base, &[&content], &stored).as_ref(),
        Ok(&content),
        "on its own"
    );
    let shifted = [&base[..], b"x"].concat();
    for (what, before) in [("another", &other[..]), ("none", b""), ("one byte on", &shifted)] {
        let refused = rebuilt(before, &[&content], &stored);
        assert!(
            matches!(refused, Err(FrameError::Chunk { .. } | FrameError::Broken(_))),
            "{what}: {refused:?}"
        );
    }
}

/// Two pages of 5,000 bytes.
fn two_pages() -> (Page, Page) {
    let page = |seed| {
        let content = noise(seed, 5000);
        page(&[&content], &packed(&content, b""))
    };
    (page(7), page(8))
}

fn with_words(bytes: &[u8], words: &[(usize, u32)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, value) in words {
        bytes[*at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

const SIZE_AT: usize = 16;
/// Of the page's entry.
const IMAGE_BYTES_AT: usize = 52;
const FRAMES_BYTES_AT: usize = 56;

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_points_outside_is_refused() {
    let (first, second) = two_pages();
    let good = index(&[first, second]);
    let last = HEADER_BYTES + ENTRY_BYTES;
    for (what, words) in [
        ("outside the image", vec![(last + IMAGE_BYTES_AT, 5001)]),
        ("outside every image", vec![(last + IMAGE_BYTES_AT, u32::MAX)]),
        ("an image past its pages", vec![(SIZE_AT, 10_001)]),
        ("outside every pack", vec![(last + FRAMES_BYTES_AT, u32::MAX)]),
    ] {
        let refused = ChunkIndex::parse(&with_words(&good, &words));
        assert!(
            matches!(refused, Err(IndexError::Sum { .. } | IndexError::Rule(_))),
            "{what}: {refused:?}"
        );
    }
    // Within all bounds, but past the end of the pack that is there.
    let fixture = Fixture::new().await;
    let digest = fixture.release("1.0", 1).await;
    let repository = fixture.load(now()).await.unwrap();
    let artifact = repository.manifest(&digest).await.unwrap().artifacts[0].clone();
    let end = repository.index(&artifact).await.unwrap().pack_bytes();
    for range in [end - 10..end + 10, end + 10..end + 20] {
        let error = repository.pack_range(&artifact, range).await.unwrap_err();
        assert_eq!(error.code(), "Truncated", "{error}");
    }
}

/// There are no offsets in an index, so a page can only claim to cover less than it lists.
#[test]
fn pages_that_would_overlap_do_not_add_up() {
    let (first, second) = two_pages();
    let good = index(&[first.clone(), second]);
    let shorter = (HEADER_BYTES + IMAGE_BYTES_AT, 4000);
    for words in [vec![shorter], vec![(SIZE_AT, 9000)]] {
        let refused = ChunkIndex::parse(&with_words(&good, &words));
        assert!(matches!(refused, Err(IndexError::Sum { .. })), "{refused:?}");
    }
    // Where the sum is made to fit, the page is another than the index names.
    let lying = ChunkIndex::parse(&with_words(&good, &[shorter, (SIZE_AT, 9000)])).unwrap();
    assert_eq!(lying.pages()[1].offset, 4000);
    let refused = lying.pages()[0].read(&first.to_bytes());
    assert!(matches!(refused, Err(PageError::Other(_))), "{refused:?}");
    let lying = with_words(&good, &[(HEADER_BYTES + FRAMES_BYTES_AT, 1)]);
    let refused = ChunkIndex::parse(&lying).unwrap().pages()[0].read(&first.to_bytes());
    assert!(matches!(refused, Err(PageError::Other(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_of_the_wrong_length_is_none() {
    let fixture = Fixture::new().await;
    let manifest = fixture.build("1.0", 1).await.manifest;
    let text = std::str::from_utf8(manifest.bytes()).unwrap();
    let artifact = &manifest.artifacts[0];
    for digest in [artifact.digest, artifact.index.digest] {
        let hex = digest.hex();
        for other in [
            String::new(),
            hex[..12].to_owned(),
            hex[..62].to_owned(),
            hex[..63].to_owned(),
            format!("{hex}0"),
            format!("{hex}{hex}"),
            hex.to_uppercase(),
        ] {
            let refused = Manifest::parse(text.replace(&hex, &other).as_bytes());
            assert!(matches!(refused, Err(ManifestError::Shape(_))), "{other}");
            let target = format!("manifest-{other}.json");
            assert_eq!(TargetKind::from_target_name(&target), None, "{other}");
        }
        let sha512 = text.replace(&format!("sha256:{hex}"), &format!("sha512:{hex}{hex}"));
        let refused = Manifest::parse(sha512.as_bytes());
        assert!(matches!(refused, Err(ManifestError::Shape(_))));
    }
}
