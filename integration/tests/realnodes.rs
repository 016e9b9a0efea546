//! The whole story on a real Kubernetes with real nodes that really reboot. It takes a quarter of an hour
//! and more; what it took is printed on standard error, also when it passes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write as _;
use std::time::Duration;

use drydock_integration::demo::PlainScreen;
use drydock_integration::realstory::{tell, yard};

/// Everything has a bound of its own; together they are far longer than this.
const PATIENCE: Duration = Duration::from_secs(45 * 60);

/// Not kept by the test harness.
fn say(text: &str) {
    let mut err = std::io::stderr().lock();
    writeln!(err, "{text}").unwrap();
}

#[test]
fn five_releases_on_three_real_nodes() {
    let folder = tempfile::Builder::new()
        .prefix("drydock-real-")
        .tempdir()
        .unwrap();
    let Some(yard) = yard(folder.path(), &mut |line| say(line)).unwrap() else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let report = runtime.block_on(async {
        let mut screen = PlainScreen::default();
        let told = tokio::time::timeout(PATIENCE, tell(yard, &mut screen)).await;
        let (story, report) = told.expect("the story has not ended").unwrap();
        story.berths.stop().await.unwrap();
        report
    });
    say(&report.text());
    assert!(report.all_held(), "the budget was not kept");
}
