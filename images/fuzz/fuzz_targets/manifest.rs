//! Manifests. One that is accepted keeps its bytes and its digest, keeps every rule, and has one canonical
//! form.
#![no_main]

use drydock_images::chunk::{MAX_ARTIFACT_BYTES, MAX_INDEX_BYTES};
use drydock_images::manifest::{MAX_ARTIFACTS, MAX_MANIFEST_BYTES};
use drydock_images::{Digest, Manifest, ManifestError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(manifest) = Manifest::parse(data) else {
        return;
    };
    assert!(data.len() <= MAX_MANIFEST_BYTES);
    assert_eq!((manifest.bytes(), manifest.digest()), (data, Digest::of(data)));
    assert!((1..=MAX_ARTIFACTS).contains(&manifest.artifacts.len()));
    for artifact in &manifest.artifacts {
        assert!((1..=MAX_ARTIFACT_BYTES).contains(&artifact.size) && artifact.index.size <= MAX_INDEX_BYTES);
        // The one of that name, so no other has it.
        assert_eq!(manifest.artifact(artifact.name.as_str()), Some(artifact));
    }
    assert!(
        manifest
            .floor
            .as_ref()
            .is_none_or(|floor| *floor <= manifest.version)
    );
    for (piece, format) in manifest.carries.state.pieces() {
        assert!(1 <= format.reads_from && format.reads(&format), "{piece}");
    }
    match Manifest::seal((*manifest).clone()) {
        Ok(sealed) => {
            assert_eq!(*sealed, *manifest);
            let again = Manifest::seal((*sealed).clone()).expect("what was sealed can be sealed");
            assert_eq!(again.digest(), sealed.digest());
        }
        // What was left out is written, which may be too much.
        Err(ManifestError::TooLong { .. }) => {}
        Err(error) => panic!("accepted, but not its canonical form: {error}"),
    }
});
