//! Everything that a node must refuse, as its owner meets it: the real program on a disk image. Each row is
//! refused with the documented exit code and a text that says what, where and what to do, and changes
//! nothing: the SHA-256 of the whole disk image and of every state file is the same after it. All texts
//! stand together in one snapshot, to be read.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod nodes;
mod releases;

use std::fmt::Write as _;
use std::fs;

use crate::real_node::{Part, RealNode};
use crate::shipyard::Draft;

/// How far the node is when it meets what it has to refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// After a first install: nothing marked good.
    Installed,
    /// Release 1.1 is marked good in slot A.
    Good,
    /// And 1.2 is staged in slot B.
    Staged,
}

struct Row {
    what: &'static str,
    begin: Begin,
    /// A guard runs.
    guarded: bool,
    /// What goes wrong.
    spoil: fn(&RealNode),
    command: &'static [&'static str],
    exit: i32,
    /// Words that the text must have.
    words: &'static [&'static str],
    /// What must be the same after it.
    same: Part,
}

const STAGE: &[&str] = &["stage", "--channel", "stable"];

/// Refused by `stage` on a good node.
const fn stage(what: &'static str, spoil: fn(&RealNode), words: &'static [&'static str]) -> Row {
    Row {
        what,
        begin: Begin::Good,
        guarded: false,
        spoil,
        command: STAGE,
        exit: 3,
        words,
        same: Part::All,
    }
}

/// Refused by `arm` where a release is staged and a guard runs.
const fn arm(what: &'static str, spoil: fn(&RealNode), words: &'static [&'static str]) -> Row {
    Row {
        begin: Begin::Staged,
        guarded: true,
        command: &["arm"],
        ..stage(what, spoil, words)
    }
}

fn template() -> [RealNode; 3] {
    let floor = Draft {
        floor: Some("1.0"),
        ..Draft::of("1.1")
    };
    let installed = RealNode::installed_with(&[floor, Draft::of("1.2"), Draft::of("1.0"), Draft::of("0.9")]);
    installed.does(&["check"]);
    let good = installed.copy();
    good.does(&["adopt"]);
    let staged = good.copy();
    staged.does(STAGE);
    // Staging makes the lock's file; nothing else may appear later.
    for node in [&installed, &good] {
        fs::write(node.path("state/slot.lock"), "").unwrap();
    }
    [installed, good, staged]
}

/// What the row looks like to its person, and what about it is not as it must be.
fn meet(row: &Row, [installed, good, staged]: &[RealNode; 3], faults: &mut Vec<String>) -> String {
    let node = match row.begin {
        Begin::Installed => installed.copy(),
        Begin::Good => good.copy(),
        Begin::Staged => staged.copy(),
    };
    (row.spoil)(&node);
    let guard = row.guarded.then(|| node.start("guard"));
    let before = node.fingerprint(row.same);
    let words: Vec<String> = row
        .command
        .iter()
        .map(|word| {
            word.strip_prefix("RELEASE ")
                .map_or_else(|| (*word).to_owned(), |version| node.release(version).to_owned())
        })
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let said = node.run(&words);
    let after = node.fingerprint(row.same);
    drop(guard);
    let (what, text) = (row.what, &said.text);
    if said.code != row.exit {
        faults.push(format!("{what}: exit {}, not {}: {text}", said.code, row.exit));
    }
    if before != after {
        faults.push(format!("{what}: it changed something: {before:#?} {after:#?}"));
    }
    for word in row.words.iter().filter(|word| !text.contains(**word)) {
        faults.push(format!("{what}: {word:?} is not in: {text}"));
    }
    if text.lines().count() != 1 {
        faults.push(format!("{what}: not one line: {text}"));
    }
    let nothing = match row.same {
        Part::All => "nothing was changed",
        Part::AllButSlotB => "slot B is not bootable, nothing else was changed",
    };
    let mut shown = String::new();
    writeln!(
        shown,
        "# {what}\n$ drydock-updater {}",
        node.plain(&words.join(" "))
    )
    .unwrap();
    writeln!(shown, "{text}exit {}; {nothing}\n", said.code).unwrap();
    shown
}

#[test]
fn what_must_be_refused_says_what_to_do_and_changes_nothing() {
    let (nodes, mut faults) = (template(), Vec::new());
    let rows = [releases::rows(), nodes::disk_rows(), nodes::arm_rows()];
    let all: String = rows
        .iter()
        .flatten()
        .map(|row| meet(row, &nodes, &mut faults))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    insta::assert_snapshot!(all);
}
