//! The segments of a delta, read some at a time: a head grows with its image, and memory must not.

use drydock_images::delta::{DeltaHead, DeltaHeader, Segment, segments_from_bytes, segments_to_bytes};

use super::StageError;
use super::groups::Groups;
use crate::state::StateDir;

/// Segments that are read and compared together; one in tests, whose images are small.
const GROUP_SEGMENTS: usize = if cfg!(test) { 1 } else { 16 };

/// See the module.
#[derive(Debug)]
pub(super) struct Segments {
    header: DeltaHeader,
    groups: Groups,
}

impl Segments {
    /// Those of a head, kept in the state folder if there is one that has room. Blocks.
    pub(super) fn of(head: &DeltaHead, state: Option<&StateDir>) -> Self {
        Self {
            header: *head.header(),
            groups: Groups::keep("the list of segments", || groups_of(head, GROUP_SEGMENTS), state),
        }
    }

    /// What is made, and out of what.
    pub(super) const fn header(&self) -> &DeltaHeader {
        &self.header
    }

    /// The segments of the group with that number; none behind the last group. Blocks.
    ///
    /// # Errors
    /// See [`Groups::get`].
    pub(super) fn group(&self, number: usize) -> Result<Vec<Segment>, StageError> {
        let Some(group) = self.groups.get(number)? else {
            return Ok(Vec::new());
        };
        // They were read before.
        segments_from_bytes(&group, self.header.base_size)
            .map_err(|error| StageError::Stopped(error.to_string()))
    }
}

fn groups_of(head: &DeltaHead, together: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut segments = head.segments();
    std::iter::from_fn(move || {
        let group: Vec<Segment> = segments.by_ref().take(together).collect();
        (!group.is_empty()).then(|| segments_to_bytes(&group))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use drydock_images::Digest;
    use drydock_images::delta::{SegmentId, Source};

    use super::*;

    #[test]
    fn groups_of_segments_are_all_segments() {
        let header = DeltaHeader {
            artifact: Digest::of(b"new"),
            size: 10 + 11 + 12 + 13 + 14,
            base: Digest::of(b"old"),
            base_size: 1000,
            packing: None,
        };
        let all: Vec<Segment> = (0..5)
            .map(|place| Segment {
                id: SegmentId::of(&[place]),
                bytes: 10 + u32::from(place),
                source: Source::Copy {
                    at: u64::from(place) * 100,
                },
            })
            .collect();
        let head = DeltaHead::new(&header, &all).unwrap();
        for together in 1..7 {
            let groups = Groups::keep("it", || groups_of(&head, together), None);
            let segments = Segments { header, groups };
            for (number, group) in all.chunks(together).enumerate() {
                assert_eq!(segments.group(number).unwrap(), group);
            }
            let behind = segments.group(all.len().div_ceil(together)).unwrap();
            assert!(behind.is_empty());
        }
    }
}
