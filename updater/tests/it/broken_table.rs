//! One copy of the partition table is broken: everything works from the other one and says so, and the first
//! write mends it and says so. By the real program, for each copy.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::real_node::{RealNode, TableCopy};

const COPIES: [(TableCopy, &str); 2] = [
    (TableCopy::Primary, "the primary partition table is broken"),
    (TableCopy::Backup, "the backup partition table is broken"),
];
const MENDED: &str = "the broken copy of the partition table was mended from the other one";

#[test]
fn every_command_works_from_one_copy_and_the_first_write_mends_the_other() {
    let installed = RealNode::installed();
    for (copy, words) in COPIES {
        let node = installed.copy();
        let whole = node.table();
        node.break_table(copy);
        let broken = node.table();
        for _ in 0..2 {
            let said = node.does(&["status"]);
            assert!(said.contains(words) && said.contains("slot A"), "{said}");
        }
        node.does(&["check", "--channel", "stable"]);
        assert!(broken == node.table(), "looking wrote something");

        let said = node.does(&["adopt"]);
        assert!(said.contains(MENDED), "{said}");
        assert!(
            node.does(&["status"])
                .contains("both copies of the partition table are valid")
        );

        // Staging makes slot B unbootable, which it is: even so it mends.
        node.break_table(copy);
        let said = node.does(&["stage", "--channel", "stable"]);
        assert!(said.contains(MENDED), "{said}");
        assert!(whole != node.table() && broken != node.table());
        assert!(!node.does(&["mark-good"]).contains(MENDED));
    }
}

#[test]
fn the_guard_says_so_and_mends_it_too() {
    let node = RealNode::installed();
    node.does(&["adopt"]);
    node.does(&["stage", "--channel", "stable"]);
    for (copy, words) in COPIES {
        node.break_table(copy);
        let guard = node.start("guard");
        // This is what the agent reports, too.
        let status = node.ask(r#"{"request": "status"}"#);
        assert!(
            status.contains(words) && status.contains("the next write of boot bits mends it"),
            "{status}"
        );
        let said = node.does(&["arm"]);
        assert!(said.contains(MENDED), "{said}");
        guard.until_it_says("it was mended from the other one");
        assert!(
            !node
                .ask(r#"{"request": "status"}"#)
                .contains("partition table is broken")
        );
        node.does(&["disarm"]);
        drop(guard);
    }
}
