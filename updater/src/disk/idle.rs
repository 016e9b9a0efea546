//! Reading a whole slot without being noticed: a thread with the lowest CPU and I/O priority.

#![expect(
    unsafe_code,
    reason = "setpriority(2) and ioprio_set(2) have no safe form; both only take numbers"
)]

use nix::libc;

const LOWEST_NICE: libc::c_int = 19;
/// ioprio_set(2): `IOPRIO_WHO_PROCESS`, for one thread.
const WHO_PROCESS: libc::c_int = 1;
/// ioprio_set(2): `IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT`.
const CLASS_IDLE: libc::c_int = 3 << 13;

/// Runs `work` on a thread of its own with idle priority and waits for it; `None` if it panicked. Where the
/// kernel refuses the priority (a container may not), the work is done all the same.
pub fn with_idle_priority<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: takes three numbers, and 0 means the calling thread; no memory is involved.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LOWEST_NICE) };
            // SAFETY: as above; the arguments are those of ioprio_set(2).
            unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE) };
            work()
        });
        thread.join().ok()
    })
}
