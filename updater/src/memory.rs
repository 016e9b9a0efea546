//! What the C library does with memory that is given back to it. A node's memory belongs to its pods: what
//! staging took for a moment is not kept for later.

/// From this size on memory is taken from the kernel by itself, in bytes.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: i32 = 128 << 10;
/// Heaps beside the first, each of which keeps what its threads gave back.
#[cfg(target_env = "gnu")]
const HEAPS: i32 = 2;

/// Makes large memory go back to the kernel as soon as it is given back. By itself glibc does so only until
/// the first time; then it keeps as much in each of its many heaps (mallopt(3), M_MMAP_THRESHOLD). Other
/// libraries do so anyway.
pub fn give_back_large() {
    #[cfg(target_env = "gnu")]
    {
        use nix::libc::{M_ARENA_MAX, M_MMAP_THRESHOLD, mallopt};
        // SAFETY: sets two numbers of glibc; mallopt(3) states no requirement.
        #[allow(unsafe_code)]
        unsafe {
            mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);
            mallopt(M_ARENA_MAX, HEAPS);
        }
    }
}
