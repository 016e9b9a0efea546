//! The fetching side of a staging: pages of the index that the node does not know, the plan of what they
//! list, and the ranges of the pack that the plan wants, in the order in which they are needed and never
//! more of them than fit memory.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use drydock_images::chunk::{Chunk, Page, PageRef, Part, check_chunks};
use drydock_images::{Artifact, Repository, TrustError};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc::Sender;
use tokio_util::task::AbortOnDropHandle;

use super::StageError;
use super::assemble::Supply;
use super::held::Held;
use super::pages::Pages;
use super::plan::{MAX_COPIED_BYTES, PagePlan, Ranges, plan_page};
use super::seed::Seed;
use super::write::{Counter, blocking};

/// Pages that are planned together: those to be fetched, and all.
const UNKNOWN_TOGETHER: usize = 128;
const PAGES_TOGETHER: usize = 4096;

/// After this many frames in a row that do not stand in the target, only each [`LOOK_AGAIN_EVERY`]th is
/// looked at until one does again: reading a slot full of another release is not free.
const MISSES_UNTIL_SPARSE: u32 = 32;
const LOOK_AGAIN_EVERY: u32 = 64;

/// Looks for frames that stand in the target.
pub(super) struct Looks {
    target: Seed,
    misses: u32,
}

impl Looks {
    pub(super) fn at(target: Seed) -> Self {
        Self { target, misses: 0 }
    }

    fn stands(&mut self, at: u64, len: u32, chunks: &[Chunk]) -> bool {
        let look = self.misses < MISSES_UNTIL_SPARSE || self.misses.is_multiple_of(LOOK_AGAIN_EVERY);
        let found = look.then(|| self.target.read(at, len as usize));
        // What cannot be read does not stand; it is written, and the read-back judges.
        let stands = matches!(found, Some(Ok(Some(bytes))) if check_chunks(bytes, chunks).is_ok());
        self.misses = if stands { 0 } else { self.misses.saturating_add(1) };
        stands
    }
}

/// Some pages in order, planned.
pub(super) struct Batch {
    pub plans: Vec<(PageRef, PagePlan)>,
    pub ranges: Vec<(Part, Range<u64>)>,
    /// What fetching the pages took, in bytes.
    pub page_bytes: u64,
}

/// A page, and where the running slot has all that it lists, if that fits memory.
type Looked = (PageRef, Option<u64>);

/// Where an artifact is fetched from and what is there already.
#[derive(Clone)]
pub(super) struct Supplier {
    pub repository: Repository,
    pub artifact: Artifact,
    pub pages: Arc<Pages>,
    pub held: Arc<Held>,
}

impl Supplier {
    /// Plans the pages from the `from`th on, as many as fit memory; at least one.
    ///
    /// # Errors
    /// Pages that cannot be fetched or are not those of the index.
    pub(super) async fn batch(&self, from: usize, looks: Looks) -> Result<(Batch, Looks), StageError> {
        let looking = self.clone();
        let looked = blocking(move || looking.next_pages(from)).await?;
        let unknown: Vec<(usize, PageRef)> = looked
            .iter()
            .enumerate()
            .filter_map(|(at, (named, held))| held.is_none().then_some((at, *named)))
            .collect();
        let fetches = neighbours(&unknown).into_iter().map(|group| async move {
            let (group, wanted): (Vec<usize>, Vec<PageRef>) = group.into_iter().unzip();
            let pages = self.repository.pages(&self.artifact, &wanted).await?;
            Ok::<_, StageError>(group.into_iter().zip(pages).collect::<Vec<_>>())
        });
        let fetched: Vec<Vec<(usize, Page)>> = stream::iter(fetches)
            .buffered(self.repository.parallel_requests())
            .try_collect()
            .await?;
        let fetched: BTreeMap<usize, Page> = fetched.into_iter().flatten().collect();
        let page_bytes = unknown.iter().map(|(_, named)| u64::from(named.page_bytes)).sum();
        let supplier = self.clone();
        blocking(move || {
            let mut looks = looks;
            let mut batch = supplier.plan(looked, fetched, &mut looks)?;
            batch.page_bytes = page_bytes;
            Ok((batch, looks))
        })
        .await
    }

    /// The pages from the `from`th on, as many as fit memory, each with where the running slot has it. That is
    /// looked up once: what is read of a kept file now may not be readable later. Blocks.
    fn next_pages(&self, from: usize) -> Result<Vec<Looked>, StageError> {
        let (mut next, mut unknown) = (Vec::new(), 0);
        while next.len() < PAGES_TOGETHER {
            let some = self.pages.some(from + next.len())?;
            if some.is_empty() {
                break;
            }
            for named in some {
                let is_short = named.image_bytes <= MAX_COPIED_BYTES;
                let held = is_short.then(|| self.held.list(&named.list)).flatten();
                unknown += usize::from(held.is_none());
                if unknown > UNKNOWN_TOGETHER {
                    return Ok(next);
                }
                next.push((named, held));
            }
        }
        Ok(next)
    }

    fn plan(
        &self,
        looked: Vec<Looked>,
        mut fetched: BTreeMap<usize, Page>,
        looks: &mut Looks,
    ) -> Result<Batch, StageError> {
        let mut ranges = Ranges::default();
        let mut plans = Vec::with_capacity(looked.len());
        for (at, (named, held)) in looked.into_iter().enumerate() {
            let plan = match (held, fetched.remove(&at)) {
                (Some(from), _) => PagePlan::Copy { from },
                (None, Some(page)) => plan_page(&named, &page, &self.held, |at, len, chunks| {
                    looks.stands(at, len, chunks)
                }),
                (None, None) => {
                    return Err(StageError::Stopped(
                        "a page was asked for and none came".to_owned(),
                    ));
                }
            };
            ranges.push_frames(&named, &plan);
            plans.push((named, plan));
        }
        Ok(Batch {
            plans,
            ranges: ranges.in_order(),
            page_bytes: 0,
        })
    }

    /// Sends all that the assembly needs; ends when it is sent, or when nobody wants it any more. While a
    /// batch is sent, the next one is planned.
    ///
    /// # Errors
    /// What cannot be fetched.
    pub(super) async fn send(
        &self,
        looks: Looks,
        counter: &Counter,
        to: &Sender<Supply>,
    ) -> Result<(), StageError> {
        let mut from = 0;
        let mut planned = Some(self.batch(from, looks).await?);
        while let Some((batch, looks)) = planned {
            from += batch.plans.len();
            let next = async {
                if from == self.pages.count() {
                    return Ok(None);
                }
                self.batch(from, looks).await.map(Some)
            };
            planned = tokio::try_join!(self.send_batch(batch, counter, to), next)?.1;
            if to.is_closed() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn send_batch(
        &self,
        batch: Batch,
        counter: &Counter,
        to: &Sender<Supply>,
    ) -> Result<(), StageError> {
        counter.wire(batch.page_bytes);
        if to.send(Supply::Plans(batch.plans)).await.is_err() {
            return Ok(());
        }
        let fetches = batch.ranges.into_iter().map(|(part, range)| {
            let (repository, artifact) = (self.repository.clone(), self.artifact.clone());
            async move {
                let at = range.start;
                let stored = repository.pack_range(&artifact, range).await?;
                Ok((part, at, stored))
            }
        });
        pass_on(fetches, &self.repository, to, |(part, at, stored)| {
            counter.wire(stored.len() as u64);
            Supply::Stored(part, at, stored)
        })
        .await
    }
}

/// Fetches as many at the same time as the repository allows, and sends in order what came; ends when it is
/// sent, or when nobody wants it any more. Each is on a task of its own, which goes on while nobody asks for
/// the outcome: the assembly may wait for a place among the fetches while this side waits for the assembly.
///
/// # Errors
/// What cannot be fetched.
pub(super) async fn pass_on<T, F, S>(
    fetches: impl Iterator<Item = F>,
    repository: &Repository,
    to: &Sender<S>,
    mut as_sent: impl FnMut(T) -> S,
) -> Result<(), StageError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, TrustError>> + Send + 'static,
{
    let fetches = fetches.map(|fetch| async move {
        let task = AbortOnDropHandle::new(tokio::spawn(fetch));
        let fetched = task.await;
        Ok::<_, StageError>(fetched.map_err(|error| StageError::Stopped(error.to_string()))??)
    });
    let mut fetched = stream::iter(fetches).buffered(repository.parallel_requests());
    // None is taken before there is a place for it, so that none waits between the two.
    while let Ok(place) = to.reserve().await {
        let Some(next) = fetched.try_next().await? else {
            break;
        };
        place.send(as_sent(next));
    }
    Ok(())
}

/// Groups pages that are fetched in one request; each comes with its place.
fn neighbours(wanted: &[(usize, PageRef)]) -> Vec<Vec<(usize, PageRef)>> {
    let mut ranges = Ranges::default();
    for (_, named) in wanted {
        ranges.push(named.part, named.stored());
    }
    let inside = |range: &Range<u64>| -> Vec<(usize, PageRef)> {
        let pages = wanted.iter().copied();
        pages
            .filter(|(_, named)| range.contains(&named.page_at))
            .collect()
    };
    let ranges = ranges.in_order();
    ranges.iter().map(|(_, range)| inside(range)).collect()
}
