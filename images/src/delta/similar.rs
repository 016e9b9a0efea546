//! Where an old image has something like what is new: places that a rolling hash picks by their content, so
//! that the same bytes are picked wherever they lie. No part of the format; a reader never knows.

/// The hash looks at the last 32 bytes.
const ANCHORED_BYTES: usize = 32;
/// At most about so many anchors of an image are kept, 8 bytes each.
const ANCHORS_AIMED_AT: u64 = 16 << 20;
/// One in so many bytes is an anchor in the smallest images.
const LEAST_SPACING: u64 = 64;
/// An anchor that is in so many places says nothing.
const MAX_PLACES: usize = 8;
/// Places are kept in units of so many bytes.
const UNIT_BYTES: u64 = 16;
/// The upper bits of a hash by which anchors are found without searching all of them.
const BUCKET_BITS: u32 = 16;

/// The hash's table: bits that look random (splitmix64, Steele et al. 2014).
const GEAR: [u32; 256] = {
    let mut table = [0; 256];
    let (mut state, mut byte) = (0u64, 0);
    while byte < 256 {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        table[byte] = (mixed ^ (mixed >> 31)) as u32;
        byte += 1;
    }
    table
};

/// Which places of images are anchors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Anchoring {
    /// An anchor's upper bits are zero.
    zero_bits: u32,
}

impl Anchoring {
    /// For an old image of that many bytes.
    pub fn for_image(size: u64) -> Self {
        let spacing = (size / ANCHORS_AIMED_AT).max(LEAST_SPACING);
        Self {
            zero_bits: spacing.next_power_of_two().trailing_zeros(),
        }
    }

    /// Calls `found` with the hash and the place of each anchor, where a place is that of the first byte that
    /// the hash looks at.
    pub fn anchors(self, bytes: &[u8], mut found: impl FnMut(u32, usize)) {
        let (mut hash, mut last) = (0u32, None);
        let limit = u32::MAX >> self.zero_bits;
        for (at, byte) in bytes.iter().enumerate() {
            hash = (hash << 1).wrapping_add(GEAR[usize::from(*byte)]);
            // A run of the same byte has the same hash all along.
            if hash <= limit && at + 1 >= ANCHORED_BYTES && last != Some(hash) {
                found(hash, at + 1 - ANCHORED_BYTES);
                last = Some(hash);
            }
        }
    }
}

/// The anchors of an image.
pub(super) struct Anchors {
    anchoring: Anchoring,
    /// Hash, then place; sorted.
    sorted: Vec<u64>,
    /// Where the hashes with those upper bits begin.
    buckets: Vec<u32>,
}

/// A hash without the bits that are zero in every anchor.
fn spread(hash: u32, anchoring: Anchoring) -> u32 {
    hash << anchoring.zero_bits
}

impl Anchors {
    /// The anchors of an image out of those of its pieces, as [`gather`] gives them.
    pub fn of(anchoring: Anchoring, pieces: Vec<Vec<u64>>) -> Self {
        let mut sorted = pieces.concat();
        drop(pieces);
        sorted.sort_unstable();
        let mut buckets = vec![0; (1 << BUCKET_BITS) + 1];
        for anchor in &sorted {
            buckets[(anchor >> (64 - BUCKET_BITS)) as usize + 1] += 1;
        }
        let mut sum = 0;
        for bucket in &mut buckets {
            sum += *bucket;
            *bucket = sum;
        }
        Self {
            anchoring,
            sorted,
            buckets,
        }
    }

    /// One in so many bytes of the image is an anchor.
    pub fn spacing_bytes(&self) -> usize {
        1 << self.anchoring.zero_bits
    }

    /// Calls `found` with the places in the image of what stands in `bytes`, and where it stands there.
    pub fn places(&self, bytes: &[u8], mut found: impl FnMut(u64, usize)) {
        self.anchoring.anchors(bytes, |hash, at| {
            let hash = spread(hash, self.anchoring);
            let bucket = (hash >> (32 - BUCKET_BITS)) as usize;
            let range = self.buckets[bucket] as usize..self.buckets[bucket + 1] as usize;
            let inside = &self.sorted[range];
            let first = inside.partition_point(|anchor| ((anchor >> 32) as u32) < hash);
            let same = inside[first..]
                .iter()
                .take_while(|anchor| (*anchor >> 32) as u32 == hash)
                .take(MAX_PLACES + 1);
            if same.clone().count() <= MAX_PLACES {
                same.for_each(|anchor| found((anchor & u64::from(u32::MAX)) * UNIT_BYTES, at));
            }
        });
    }
}

/// The anchors of a piece of an image that begins at `offset` in it.
pub(super) fn gather(anchoring: Anchoring, bytes: &[u8], offset: u64, into: &mut Vec<u64>) {
    anchoring.anchors(bytes, |hash, at| {
        // An image has at most 2^36 bytes, which are 2^32 units.
        let unit = (offset + at as u64) / UNIT_BYTES;
        into.push(u64::from(spread(hash, anchoring)) << 32 | unit);
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::chunk::cut::tests::noise;

    #[test]
    fn what_moved_is_found_and_what_is_everywhere_is_not() {
        let mut old = noise(1, 1 << 20);
        for filler in [200_000, 700_000] {
            old[filler..filler + 50_000].fill(7);
        }
        let anchoring = Anchoring::for_image(old.len() as u64);
        let mut gathered = Vec::new();
        gather(anchoring, &old, 0, &mut gathered);
        let anchors = Anchors::of(anchoring, vec![gathered]);
        let moved = [noise(2, 333).as_slice(), &old[300_001..340_001]].concat();
        let mut found = Vec::new();
        anchors.places(&moved, |place, at| found.push((place, at)));
        assert!(found.len() > 40_000 / 128, "{}", found.len());
        // Two that have nothing in common may have the same hash.
        let right = |(place, at): &&(u64, usize)| (place + 333).abs_diff(*at as u64 + 300_001) < UNIT_BYTES;
        let wrong = found.len() - found.iter().filter(right).count();
        assert!(wrong < 5, "{wrong} of {}", found.len());
        let mut filler = 0;
        anchors.places(&[7; 10_000], |_, _| filler += 1);
        assert!(filler <= MAX_PLACES, "{filler}");
    }
}
