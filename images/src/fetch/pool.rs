//! Memory that goes round among ranges: what one was read into takes the next one as soon as nobody needs
//! the first any more. So a long fetch takes as much memory as it has ranges under way, however the
//! allocator deals with what is given back to it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Memory of so many bytes goes round, which is what callers gather ranges to; a shorter one is put into it
/// too, if it is not much shorter, and one that is longer is on its own.
const ROUND_BYTES: usize = 1 << 20;
const LEAST_BYTES: usize = ROUND_BYTES / 4;
/// So much is kept that nobody uses.
const MOST_SPARE: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pool {
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Pool {
    /// Empty memory with room for `bytes`.
    pub fn take(&self, bytes: usize) -> Vec<u8> {
        if !(LEAST_BYTES..=ROUND_BYTES).contains(&bytes) {
            return Vec::with_capacity(bytes);
        }
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.pop().unwrap_or_else(|| Vec::with_capacity(ROUND_BYTES))
    }

    /// The same bytes, whose memory comes back when the last of their owners is gone.
    pub fn lend(self: &Arc<Self>, memory: Vec<u8>) -> Bytes {
        if memory.capacity() != ROUND_BYTES {
            return Bytes::from(memory);
        }
        let pool = Arc::clone(self);
        Bytes::from_owner(Lent { memory, pool })
    }
}

struct Lent {
    memory: Vec<u8>,
    pool: Arc<Pool>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut memory = std::mem::take(&mut self.memory);
        memory.clear();
        let mut spare = self.pool.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MOST_SPARE {
            spare.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_round_when_its_last_owner_is_gone() {
        let pool = Arc::new(Pool::default());
        let mut memory = pool.take(LEAST_BYTES);
        memory.extend_from_slice(&[7; LEAST_BYTES]);
        let place = memory.as_ptr();
        let bytes = pool.lend(memory);
        let part = bytes.slice(1..3);
        drop(bytes);
        let other = pool.take(ROUND_BYTES);
        assert_ne!(other.as_ptr(), place, "a part is still needed");
        drop(part);
        let again = pool.take(ROUND_BYTES);
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
    }
}
