//! What is stored of artifacts: indexes, pages, frames and deltas, each compared with what names it where it
//! is handed out as proven.

use std::ops::Range;

use bytes::Bytes;
use url::Url;

use super::Repository;
use crate::chunk::{ChunkIndex, Frame, FrameError, Page, PageRef};
use crate::delta::{DeltaArtifact, DeltaHead, SegmentFrame};
use crate::digest::Digest;
use crate::layout;
use crate::manifest::Artifact;
use crate::trust::TrustError;

impl Repository {
    /// The chunk index of an artifact.
    ///
    /// # Errors
    /// Not to be fetched, or not the index that the manifest names, or not of this artifact.
    pub async fn index(&self, artifact: &Artifact) -> Result<ChunkIndex, TrustError> {
        let what = format!("the chunk index of {} in repository {}", artifact.name, self.name);
        let path = layout::index_path(&artifact.index.digest);
        let bytes = self
            .exact(&path, &what, artifact.index.size, &artifact.index.digest)
            .await?;
        let parsed = ChunkIndex::parse(&bytes).and_then(|index| {
            index
                .check_artifact(&artifact.digest, artifact.size)
                .map(|()| index)
        });
        parsed.map_err(|error| TrustError::index(&what, &error))
    }

    /// Pages of one part of the pack, in their order, in one request with whatever lies between them.
    ///
    /// # Errors
    /// Not to be fetched, or not the pages that the index names.
    pub async fn pages(&self, artifact: &Artifact, named: &[PageRef]) -> Result<Vec<Page>, TrustError> {
        let what = format!(
            "the list of pages of {} in repository {}",
            artifact.name, self.name
        );
        let Some((first, last)) = named.first().zip(named.last()) else {
            return Ok(Vec::new());
        };
        let url = self.below(&layout::pack_path(&artifact.index.digest))?;
        let range = first.page_at..last.stored().end;
        let read = |bytes: Bytes| std::future::ready(read_pages(&what, named, &bytes));
        let fetched = self.fetcher.fetch_range_checked(&url, range, read).await;
        fetched.map_err(|error| TrustError::fetching(&what, error))?
    }

    /// One frame of an artifact's pack, from whichever mirror has it as it was signed.
    ///
    /// # Errors
    /// Not to be fetched, or nowhere the frame that the page names.
    pub async fn frame(&self, artifact: &Artifact, at: u64, frame: &Frame) -> Result<Bytes, TrustError> {
        let what = format!("the pack of {} in repository {}", artifact.name, self.name);
        let url = self.below(&layout::pack_path(&artifact.index.digest))?;
        let range = at..at + u64::from(frame.stored_bytes);
        self.frame_at(&url, range, &frame.digest, &what).await
    }

    async fn frame_at(
        &self,
        url: &Url,
        range: Range<u64>,
        wanted: &Digest,
        what: &str,
    ) -> Result<Bytes, TrustError> {
        let check = |bytes: Bytes| {
            let found = Digest::of(&bytes);
            std::future::ready(if found == *wanted {
                Ok(bytes)
            } else {
                Err(TrustError::frame(what, &FrameError::Digest { found }))
            })
        };
        let fetched = self.fetcher.fetch_range_checked(url, range, check).await;
        fetched.map_err(|error| TrustError::fetching(what, error))?
    }

    /// Bytes of an artifact's pack as they are stored: nothing of them is proven yet.
    ///
    /// # Errors
    /// Not to be fetched.
    pub async fn pack_range(&self, artifact: &Artifact, range: Range<u64>) -> Result<Bytes, TrustError> {
        let what = format!("the pack of {} in repository {}", artifact.name, self.name);
        let url = self.below(&layout::pack_path(&artifact.index.digest))?;
        let fetched = self.fetcher.fetch_range(&url, range).await;
        fetched.map_err(|error| TrustError::fetching(&what, error))
    }

    /// The head of the delta that makes `artifact`.
    ///
    /// # Errors
    /// Not to be fetched, not as signed, or of other artifacts.
    pub async fn delta_head(&self, artifact: &Artifact, of: &DeltaArtifact) -> Result<DeltaHead, TrustError> {
        let what = self.delta_of(artifact);
        let wanted = of.head.digest;
        let check = |bytes: Bytes| {
            let found = Digest::of(&bytes);
            std::future::ready(if found == wanted {
                Ok(bytes)
            } else {
                let detail = format!("its head has digest {found}, {wanted} was signed");
                let what = what.clone();
                Err(TrustError::Tampered { what, detail })
            })
        };
        let url = self.below(&layout::delta_path(&wanted))?;
        let fetched = self
            .fetcher
            .fetch_range_checked(&url, 0..of.head.size, check)
            .await;
        let bytes = fetched.map_err(|error| TrustError::fetching(&what, error))??;
        let head = DeltaHead::parse(bytes).and_then(|head| {
            let made = (&artifact.digest, artifact.size);
            head.check(made, (&of.base, of.base_size)).map(|()| head)
        });
        let malformed = |detail: String| TrustError::Malformed { what, detail };
        match head {
            Ok(head) if head.frames_bytes() == of.frames_bytes => Ok(head),
            Ok(head) => Err(malformed(format!(
                "its frames have {} bytes",
                head.frames_bytes()
            ))),
            Err(error) => Err(malformed(error.to_string())),
        }
    }

    /// Bytes of a delta's frames as they are stored, counted from the first of them: nothing of them is
    /// proven yet.
    ///
    /// # Errors
    /// Not to be fetched.
    pub async fn delta_range(
        &self,
        artifact: &Artifact,
        of: &DeltaArtifact,
        range: Range<u64>,
    ) -> Result<Bytes, TrustError> {
        let url = self.below(&layout::delta_path(&of.head.digest))?;
        let range = range.start + of.head.size..range.end + of.head.size;
        let fetched = self.fetcher.fetch_range(&url, range).await;
        fetched.map_err(|error| TrustError::fetching(&self.delta_of(artifact), error))
    }

    /// One frame of a delta, from whichever mirror has it as it was signed.
    ///
    /// # Errors
    /// Not to be fetched, or nowhere the frame that the head names.
    pub async fn delta_frame(
        &self,
        artifact: &Artifact,
        of: &DeltaArtifact,
        at: u64,
        frame: &SegmentFrame,
    ) -> Result<Bytes, TrustError> {
        let url = self.below(&layout::delta_path(&of.head.digest))?;
        let range = of.head.size + at..of.head.size + at + u64::from(frame.stored_bytes);
        self.frame_at(&url, range, &frame.digest, &self.delta_of(artifact))
            .await
    }

    /// What the delta of an artifact is called in messages.
    pub(crate) fn delta_of(&self, artifact: &Artifact) -> String {
        format!("the delta of {} in repository {}", artifact.name, self.name)
    }
}

/// The pages that are named, out of the bytes from the first of them on.
fn read_pages(what: &str, named: &[PageRef], bytes: &[u8]) -> Result<Vec<Page>, TrustError> {
    let first = named.first().map_or(0, |named| named.page_at);
    let mut pages = Vec::with_capacity(named.len());
    for named in named {
        let place = named.page_at.checked_sub(first);
        let from = place.and_then(|place| usize::try_from(place).ok());
        let stored = from.and_then(|from| bytes.get(from..from + named.page_bytes as usize));
        let stored = stored.ok_or_else(|| TrustError::Malformed {
            what: what.to_owned(),
            detail: "they are not in their order".to_owned(),
        })?;
        pages.push(
            named
                .read(stored)
                .map_err(|error| TrustError::page(what, &error))?,
        );
    }
    Ok(pages)
}
