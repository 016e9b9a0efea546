//! Channels, advisories, withdrawals and deltas. One that is accepted is written and read back the same, and nodes
//! are sent to nothing that was withdrawn, or back.
#![no_main]

use std::fmt::Debug;

use drydock_images::channel::{Document, DocumentError};
use drydock_images::delta::{Delta, MAX_HEAD_BYTES};
use drydock_images::{Advisory, Channel, Withdrawal};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(channel) = read::<Channel>(data) {
        let ascending = channel.releases.is_sorted_by(|a, b| a.version <= b.version);
        assert!(ascending, "{channel:?}");
        for release in &channel.releases {
            assert_eq!(channel.find(&release.digest), Some(release));
            if let Some(next) = channel.next_from(&release.version) {
                assert!(next.version > release.version && next.withdrawn.is_none());
            }
        }
        assert!(channel.latest().is_none_or(|latest| latest.withdrawn.is_none()));
    }
    if let Some(advisory) = read::<Advisory>(data) {
        let worst = advisory.worst();
        assert_eq!(worst.is_none(), advisory.vulnerabilities.is_empty());
        assert!(
            advisory
                .vulnerabilities
                .iter()
                .all(|flaw| Some(flaw.severity) <= worst)
        );
    }
    read::<Withdrawal>(data);
    if let Some(delta) = read::<Delta>(data) {
        assert_ne!(delta.from, delta.to);
        for artifact in &delta.artifacts {
            assert_eq!(delta.artifact(&artifact.name), Some(artifact));
            assert!(artifact.head.size <= MAX_HEAD_BYTES);
        }
    }
});

fn read<D: Document + Debug + PartialEq>(data: &[u8]) -> Option<D> {
    let document = D::parse(data).ok()?;
    assert!(data.len() as u64 <= D::MAX_BYTES);
    match document.to_bytes() {
        Ok(bytes) => {
            let again = D::parse(&bytes).expect("what was written can be read");
            assert_eq!(again, document);
            assert_eq!(again.to_bytes().expect("again"), bytes);
        }
        // What was left out is written, which may be too much.
        Err(DocumentError::TooLong { .. }) => {}
        Err(error) => panic!("accepted, but cannot be written: {error}"),
    }
    Some(document)
}
