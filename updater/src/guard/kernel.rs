//! Where the loader counts no tries, a kernel that never reaches userspace is never left again: a release
//! with another kernel than the running one is then not armed, unless the owner says so. Pure.

use crate::state::SlotRecord;

/// Why the release in the target slot is not to be armed, or `None`.
pub(super) fn unguarded_kernel(running: Option<&SlotRecord>, target: Option<&SlotRecord>) -> Option<String> {
    let kernel = |record: Option<&SlotRecord>| record.and_then(|record| record.carries.kernel);
    match (kernel(running), kernel(target)) {
        (Some(running), Some(target)) if running == target => None,
        (running, target) => {
            let word = |kernel: Option<drydock_images::Digest>| {
                kernel.map_or_else(|| "an unknown kernel".to_owned(), |digest| digest.to_string())
            };
            Some(format!(
                "this node's loader counts no tries, and the release has another kernel ({}) than the running one \
                 ({}): if it does not start, nothing goes back. Set `disk.unguarded_kernel = true` if that is \
                 accepted, or use a loader that counts",
                word(target),
                word(running)
            ))
        }
    }
}
