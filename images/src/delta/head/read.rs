//! The tables of a head, read entry by entry.

use super::{
    Counts, DeltaError, ENTRY_BYTES, PLACE_BITS, PLACE_MASK, REFERENCE_BYTES, RUN_BYTES, Reference, Run,
    Segment, SegmentFrame, SegmentId, Source, UNPACKED_BIT, rule,
};
use crate::delta::{
    MAX_PACKED_BYTES, MAX_REFERENCE_BYTES, MAX_REFERENCES, MAX_RUNS, MAX_STORED_BYTES, SEGMENT_BYTES,
};
use crate::digest::Digest;

/// A reader that was told before how much there is; zeros where that was wrong.
pub(super) struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    pub fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk::<N>() else {
            return [0; N];
        };
        self.0 = rest;
        *field
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    pub fn digest(&mut self) -> Digest {
        Digest::from_bytes(self.take())
    }
}

/// The segments of some tables, one after another.
pub(super) struct Rows<'a> {
    /// How many are left.
    left: u32,
    entries: Fields<'a>,
    tables: Tables<'a>,
    base_size: u64,
}

impl<'a> Rows<'a> {
    /// The tables have just the lengths that these counts say.
    pub fn new(counts: Counts, bytes: &'a [u8], base_size: u64) -> Self {
        let mut behind = bytes;
        let mut sizes = counts.0.into_iter().zip(ENTRY_BYTES);
        let [entries, runs, references, ids, digests] = [(); 5].map(|()| {
            let bytes = sizes.next().map_or(0, |(count, each)| each * count as usize);
            let (table, others) = behind.split_at_checked(bytes).unwrap_or((behind, &[]));
            behind = others;
            Fields(table)
        });
        Self {
            left: counts.0[0],
            entries,
            tables: Tables {
                runs,
                references,
                ids,
                digests,
            },
            base_size,
        }
    }

    /// That the tables have no more than the segments that were read.
    pub fn check_used_up(&self) -> Result<(), DeltaError> {
        let of = &self.tables;
        let tables = [&of.runs, &of.references, &of.ids, &of.digests];
        if tables.iter().all(|table| table.0.is_empty()) {
            return Ok(());
        }
        rule("there is more in its tables than its segments have".to_owned())
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<Segment, DeltaError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some(read_segment(&mut self.entries, &mut self.tables, self.base_size))
    }
}

/// What segments take from, each in its order.
struct Tables<'a> {
    runs: Fields<'a>,
    references: Fields<'a>,
    ids: Fields<'a>,
    digests: Fields<'a>,
}

impl Tables<'_> {
    fn run(&mut self) -> Run {
        Run {
            verbatim: self.runs.u32(),
            packed: self.runs.u32(),
        }
    }

    /// None where the id that it needs is missing.
    fn reference(&mut self) -> Option<Reference> {
        let word = self.references.u64();
        let is_packed = word & UNPACKED_BIT != 0;
        if is_packed && self.ids.0.is_empty() {
            return None;
        }
        Some(Reference {
            at: word & PLACE_MASK,
            // 26 bits are left.
            bytes: ((word & !UNPACKED_BIT) >> PLACE_BITS) as u32,
            packed: is_packed.then(|| SegmentId(self.ids.take())),
        })
    }
}

fn read_segment(
    entries: &mut Fields<'_>,
    tables: &mut Tables<'_>,
    base_size: u64,
) -> Result<Segment, DeltaError> {
    let id = SegmentId(entries.take());
    let (bytes, stored_bytes) = (entries.u32(), entries.u32());
    let [count, run_count] = [(); 2].map(|()| usize::from(entries.u16()));
    if !(1..=SEGMENT_BYTES).contains(&bytes)
        || stored_bytes > MAX_STORED_BYTES
        || count > MAX_REFERENCES
        || run_count > MAX_RUNS
    {
        return rule(format!(
            "a segment of {bytes} bytes, {stored_bytes} stored, with {count} ranges and {run_count} runs"
        ));
    }
    let is_frame = stored_bytes > 0;
    let fewer = || rule("there is less in its tables than its segments have".to_owned());
    if tables.references.0.len() < count * REFERENCE_BYTES
        || tables.runs.0.len() < run_count * RUN_BYTES
        || (is_frame && tables.digests.0.is_empty())
    {
        return fewer();
    }
    let runs: Vec<Run> = (0..run_count).map(|_| tables.run()).collect();
    let Some(references) = (0..count).map(|_| tables.reference()).collect::<Option<Vec<_>>>() else {
        return fewer();
    };
    let in_base = |range: &Reference| range.bytes > 0 && range.at + u64::from(range.bytes) <= base_size;
    let all: u64 = references.iter().map(|range| u64::from(range.bytes)).sum();
    if !references.iter().all(in_base) || all > u64::from(MAX_REFERENCE_BYTES) {
        return rule(format!("a segment out of {all} bytes of {base_size}"));
    }
    let source = match references.as_slice() {
        _ if is_frame => {
            let frame = SegmentFrame {
                stored_bytes,
                digest: tables.digests.digest(),
                references,
                runs,
            };
            check_runs(&frame, bytes)?;
            Source::Frame(frame)
        }
        [whole] if whole.bytes == bytes && whole.packed.is_none() && runs.is_empty() => {
            Source::Copy { at: whole.at }
        }
        _ => return rule(format!("a copy of {all} bytes out of {count} ranges")),
    };
    Ok(Segment { id, bytes, source })
}

/// That a segment's content is no longer than a segment, that what is not packed fits into it, and that every
/// run but the last packs something, and none too much.
fn check_runs(frame: &SegmentFrame, segment_bytes: u32) -> Result<(), DeltaError> {
    let content = frame.content_bytes(segment_bytes);
    let verbatim: u64 = frame.runs.iter().map(|run| u64::from(run.verbatim)).sum();
    let is_whole = match frame.runs.split_last() {
        Some((last, before)) => {
            before.iter().all(|run| run.packed > 0) && (last.verbatim > 0 || last.packed > 0)
        }
        None => true,
    };
    let is_bounded = frame.runs.iter().all(|run| run.packed <= MAX_PACKED_BYTES);
    if content > u64::from(SEGMENT_BYTES) || verbatim > u64::from(segment_bytes) || !is_whole || !is_bounded {
        return rule(format!(
            "a segment of {segment_bytes} bytes out of {content}, {verbatim} of them as they are"
        ));
    }
    Ok(())
}
