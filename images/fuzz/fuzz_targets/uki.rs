//! Unified kernel images. Every command line that is found stands in the file as it was found, and all of
//! them are bounded.
#![no_main]

use std::io::Cursor;

use drydock_images::verity::{MAX_CMDLINE_BYTES, UkiError, uki_cmdlines};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let cmdlines = match uki_cmdlines(&mut Cursor::new(data)) {
        Ok(cmdlines) => cmdlines,
        Err(UkiError::Io(error)) => panic!("memory can be read: {error}"),
        Err(UkiError::Shape(_) | UkiError::NoCmdline) => return,
    };
    assert!(!cmdlines.is_empty());
    let bytes: usize = cmdlines.iter().map(Vec::len).sum();
    assert!(bytes as u64 <= MAX_CMDLINE_BYTES);
    for cmdline in cmdlines.iter().filter(|cmdline| !cmdline.is_empty()) {
        assert!(!cmdline.contains(&0));
        assert!(data.windows(cmdline.len()).any(|part| part == cmdline));
    }
});
