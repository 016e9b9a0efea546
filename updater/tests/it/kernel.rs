//! A loader that counts no tries (`gptpriority`): a release with another kernel is armed only where the
//! owner accepts that nothing goes back from it, and status says how far the guard reaches.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use drydock_images::Digest;

use crate::real_node::RealNode;
use crate::shipyard::Draft;

fn with_kernels(running: Option<&[u8]>, next: Option<&[u8]>) -> RealNode {
    let draft = |version, kernel: Option<&[u8]>| Draft {
        kernel: kernel.map(Digest::of),
        ..Draft::of(version)
    };
    let node = RealNode::installed_with(&[draft("1.1", running), draft("1.2", next)]);
    node.configure(|text| text.replace("\"gptprio\"", "\"gptpriority\""));
    node.does(&["adopt"]);
    node.does(&["stage", "--channel", "stable"]);
    node
}

#[test]
fn another_kernel_is_armed_only_where_its_owner_accepts_it() {
    for (running, next) in [(Some(b"one"), Some(b"two")), (Some(b"one"), None), (None, None)] {
        let node = with_kernels(running.map(|k| &k[..]), next.map(|k| &k[..]));
        let guard = node.start("guard");
        let status = node.does(&["status"]);
        assert!(
            status.contains("userspace only: this loader counts no boots"),
            "{status}"
        );
        let refused = node.run(&["arm"]);
        assert_eq!(refused.code, 3, "{}", refused.text);
        assert!(
            refused.text.contains("disk.unguarded_kernel = true"),
            "{}",
            refused.text
        );
        assert_eq!(node.json(&["arm"])["error"]["code"], "UnguardedKernel");
        assert!(node.does(&["status"]).contains("next boot  slot A"));
        guard.stop();

        node.configure(|text| text.replace("\"gptprio\"", "\"gptpriority\"\nunguarded_kernel = true"));
        let guard = node.start("guard");
        node.does(&["arm"]);
        assert!(node.does(&["status"]).contains("next boot  slot B"));
        drop(guard);
    }
}

#[test]
fn the_same_kernel_is_armed_as_it_is() {
    let node = with_kernels(Some(b"one"), Some(b"one"));
    let guard = node.start("guard");
    node.does(&["arm"]);
    let status = node.does(&["status"]);
    // Nothing to count: no tries are written.
    assert!(
        status.contains("slot B     release 1.2 (<1.2>); bootable, not marked good (priority 2, tries 0)"),
        "{status}"
    );
    drop(guard);
}
