//! What a person who waits must see at once, also from inside a test that passes.

use std::io::Write as _;

/// A line on standard error. Written to the stream itself: the test harness keeps what the print macros
/// write until a test has failed.
pub fn say(line: &str) {
    // A closed standard error is nobody who waits.
    let _ = writeln!(std::io::stderr().lock(), "real cluster: {line}");
}
