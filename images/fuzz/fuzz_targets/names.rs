//! Names, digests and versions. A text that is accepted is the one that is written, no name is a path, and
//! versions have one total order.
#![no_main]

use std::cmp::Ordering;
use std::fmt::{Debug, Display};
use std::str::FromStr;

use drydock_images::layout::TargetKind;
use drydock_images::{
    Arch, ArtifactName, Board, ChannelName, Digest, MAX_VERSION_BYTES, ReleaseName, VerityRoot, Version,
};
use libfuzzer_sys::fuzz_target;

/// What versions are made of; the fuzzer chooses among these, so that no input is wasted.
const ALPHABET: &[u8] = b"0019aAbZ..~^_+-";

fuzz_target!(|data: &[u8]| {
    let texts: Vec<&[u8]> = data.splitn(3, |byte| *byte == b'\n').collect();
    for text in texts.iter().filter_map(|text| std::str::from_utf8(text).ok()) {
        one_text(text);
    }
    if let [a, b, c] = texts[..] {
        order([a, b, c].map(version));
    }
});

fn one_text(text: &str) {
    for kept in [
        same::<ReleaseName>(text),
        same::<Board>(text),
        same::<Arch>(text),
        same::<ArtifactName>(text),
        same::<ChannelName>(text),
    ] {
        assert!(!kept || !(text.is_empty() || text.starts_with('.') || text.contains(['/', '\\', '\0'])));
    }
    same::<Digest>(text);
    same::<VerityRoot>(text);
    assert!(!same::<Version>(text) || (1..=MAX_VERSION_BYTES).contains(&text.len()));
    if let Some(kind) = TargetKind::from_target_name(text) {
        assert_eq!(kind.target_name(), text);
    }
}

/// Whether the text is one of these; then it is written as it was read.
fn same<T: FromStr<Err: Debug> + Display + PartialEq + Debug>(text: &str) -> bool {
    let Ok(value) = text.parse::<T>() else {
        return false;
    };
    assert_eq!(value.to_string(), text);
    assert_eq!(value, text.parse::<T>().expect("the same text again"));
    true
}

fn version(bytes: &[u8]) -> Version {
    let rest = bytes.iter().take(MAX_VERSION_BYTES - 1);
    let rest = rest.map(|byte| match ALPHABET.contains(byte) {
        true => *byte,
        false => ALPHABET[usize::from(*byte) % ALPHABET.len()],
    });
    let text: String = std::iter::once(b'1').chain(rest).map(char::from).collect();
    text.parse().expect("of the alphabet, and not too long")
}

/// Reflexive, antisymmetric and transitive, also where two are equal and written differently.
fn order(versions: [Version; 3]) {
    for a in &versions {
        assert_eq!(a.cmp(a), Ordering::Equal);
        for b in &versions {
            assert_eq!(a.cmp(b), b.cmp(a).reverse(), "{a} {b}");
            for c in &versions {
                if a <= b && b <= c {
                    assert!(a <= c, "{a} {b} {c}");
                    assert!(a < c || (a == b && b == c), "{a} {b} {c}");
                }
            }
        }
    }
}
