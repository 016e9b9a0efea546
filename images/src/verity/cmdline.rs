//! Does an artifact name a root hash? Looked for as a whole word of hex digits in either case, as a node
//! reads it off its own command line. Where the command line is known to lie, only there.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use super::VerityError;
use super::blocks::length_bytes;
use super::claims::Proof;
use super::uki::{self, UkiError};
use crate::manifest::VerityRoot;
use crate::progress::Progress;

/// The longest file that is taken for a text, in bytes.
const MAX_TEXT_BYTES: u64 = 64 * 1024;
/// How many other hashes are told.
const MAX_OTHERS: usize = 3;
const READ_BYTES: usize = 1 << 20;

/// What an artifact says of a root hash.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// It names it, and where it was searched.
    Yes(Proof),
    /// It does not; what is there instead, in words for people.
    No(String),
}

/// Searches the artifact in `path`: the `.cmdline` sections of a UKI, of which each must name the root; a
/// text without its comments; all bytes of anything else, such as a boot partition.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn names_root(path: &Path, root: &VerityRoot, progress: &Progress) -> Result<Named, VerityError> {
    let failed = VerityError::io("read", path);
    let mut file = File::open(path).map_err(&failed)?;
    let length = length_bytes(&mut file).map_err(&failed)?;
    let mut begin = Vec::new();
    let mut beginning = (&mut file).take(MAX_TEXT_BYTES);
    beginning.read_to_end(&mut begin).map_err(&failed)?;
    if begin.starts_with(&uki::MAGIC) {
        return match uki::cmdlines(&mut file) {
            Ok(cmdlines) => Ok(uki_names(&cmdlines, root)),
            Err(UkiError::Io(error)) => Err(failed(error)),
            Err(error @ (UkiError::Shape(_) | UkiError::NoCmdline)) => Ok(Named::No(error.to_string())),
        };
    }
    if length <= MAX_TEXT_BYTES
        && let Some(text) = as_text(&begin)
    {
        return Ok(text_names(text, root));
    }
    let mut words = HexWords::looking_for(root);
    file.rewind().map_err(&failed)?;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read_bytes = file.read(&mut buffer).map_err(&failed)?;
        if read_bytes == 0 {
            break;
        }
        words.take_in(&buffer[..read_bytes]);
        progress.advance(read_bytes as u64);
    }
    let seen = words.finish();
    Ok(seen.named_or(Proof::Bytes, "its bytes"))
}

fn uki_names(cmdlines: &[Vec<u8>], root: &VerityRoot) -> Named {
    for (place, cmdline) in cmdlines.iter().enumerate() {
        let where_it_is = match cmdlines.len() {
            1 => "the .cmdline section of its UKI".to_owned(),
            count => format!("the .cmdline section {} of {count} of its UKI", place + 1),
        };
        match Seen::of(cmdline, root).named_or(Proof::Uki, &where_it_is) {
            Named::Yes(_) => {}
            named @ Named::No(_) => return named,
        }
    }
    Named::Yes(Proof::Uki)
}

fn as_text(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let control = |c: char| c.is_control() && !c.is_whitespace();
    (!text.contains(control)).then_some(text)
}

/// A comment of a boot loader's entry names nothing.
fn text_names(text: &str, root: &VerityRoot) -> Named {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let text = lines.collect::<Vec<_>>().join("\n");
    Seen::of(text.as_bytes(), root).named_or(Proof::Text, "its text")
}

/// Words of hex digits as long as a root hash, found in bytes that come piece by piece.
struct HexWords<'a> {
    root: &'a str,
    /// The digits of the word that goes on, in lower case, to one more than are looked for.
    word: Vec<u8>,
    seen: Seen,
}

/// What was found.
#[derive(Default)]
struct Seen {
    named: bool,
    /// Other words of that length, to [`MAX_OTHERS`].
    others: BTreeSet<String>,
}

impl<'a> HexWords<'a> {
    fn looking_for(root: &'a VerityRoot) -> Self {
        Self {
            root: root.as_str(),
            word: Vec::new(),
            seen: Seen::default(),
        }
    }

    fn take_in(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if byte.is_ascii_hexdigit() {
                if self.word.len() <= self.root.len() {
                    self.word.push(byte.to_ascii_lowercase());
                }
            } else if !self.word.is_empty() {
                self.end_word();
            }
        }
    }

    fn end_word(&mut self) {
        if self.word == self.root.as_bytes() {
            self.seen.named = true;
        } else if self.word.len() == self.root.len() && self.seen.others.len() < MAX_OTHERS {
            self.seen
                .others
                .insert(String::from_utf8_lossy(&self.word).into_owned());
        }
        self.word.clear();
    }

    fn finish(mut self) -> Seen {
        self.end_word();
        self.seen
    }
}

impl Seen {
    fn of(bytes: &[u8], root: &VerityRoot) -> Self {
        let mut words = HexWords::looking_for(root);
        words.take_in(bytes);
        words.finish()
    }

    fn named_or(self, proof: Proof, place: &str) -> Named {
        if self.named {
            return Named::Yes(proof);
        }
        let others: Vec<String> = self.others.into_iter().collect();
        Named::No(if others.is_empty() {
            format!("there is no hash of that length in {place}")
        } else {
            format!("instead there is {} in {place}", others.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::verity::uki::tests::pe;

    fn root() -> VerityRoot {
        "ab".repeat(32).parse().unwrap()
    }

    fn named(bytes: &[u8]) -> Named {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        names_root(file.path(), &root(), &Progress::none()).unwrap()
    }

    fn refused(bytes: &[u8]) -> String {
        match named(bytes) {
            Named::No(text) => text,
            Named::Yes(proof) => panic!("{proof:?}"),
        }
    }

    #[test]
    fn a_root_is_found_where_a_command_line_lies() {
        let hash = root().as_str().to_owned();
        let cmdline = format!("quiet roothash={hash} ro");
        let entry = format!("title Harbor\nlinux /vmlinuz\noptions {cmdline}\n");
        let uki = pe(&[(b".cmdline", cmdline.as_bytes()), (b".linux\0\0", b"kernel")]);
        let partition = [&[0xeb; 70_000], cmdline.as_bytes(), &[0; 70_000]].concat();
        assert_eq!(named(cmdline.as_bytes()), Named::Yes(Proof::Text));
        assert_eq!(named(hash.to_uppercase().as_bytes()), Named::Yes(Proof::Text));
        assert_eq!(named(entry.as_bytes()), Named::Yes(Proof::Text));
        assert_eq!(named(&uki), Named::Yes(Proof::Uki));
        assert_eq!(named(&partition), Named::Yes(Proof::Bytes));
    }

    #[test]
    fn a_root_that_is_elsewhere_or_part_of_a_word_does_not_count() {
        let hash = root().as_str().to_owned();
        let line = format!("roothash={hash}");
        let other = "cd".repeat(32);
        assert_eq!(refused(b"quiet"), "there is no hash of that length in its text");
        assert!(refused(format!("roothash={hash}00").as_bytes()).contains("no hash of that length"));
        assert!(refused(format!("roothash=0{hash}").as_bytes()).contains("no hash of that length"));
        assert!(refused(format!("# options {line}").as_bytes()).contains("no hash of that length"));
        assert!(refused(b"").contains("no hash of that length"));
        assert_eq!(
            refused(format!("roothash={other}").as_bytes()),
            format!("instead there is {other} in its text")
        );
        let in_kernel = pe(&[(b".cmdline", b"quiet"), (b".linux\0\0", line.as_bytes())]);
        assert!(refused(&in_kernel).contains("the .cmdline section of its UKI"));
        let one_profile = pe(&[(b".cmdline", line.as_bytes()), (b".cmdline", b"roothash=debug")]);
        assert!(refused(&one_profile).contains("section 2 of 2"));
        assert!(refused(&pe(&[(b".linux\0\0", line.as_bytes())])).contains("without a .cmdline section"));
    }

    proptest! {
        /// However the bytes are cut into pieces, the words are the same.
        #[test]
        fn pieces_change_nothing(
            before in "[ -~]{0,40}", after in "[ -~]{0,40}", cut in 0usize..150,
        ) {
            let root = root();
            let text = format!("{before}{}{after}", root.as_str());
            let mut words = HexWords::looking_for(&root);
            let (first, second) = text.as_bytes().split_at(cut.min(text.len()));
            words.take_in(first);
            words.take_in(second);
            let whole = text
                .split(|c: char| !c.is_ascii_hexdigit())
                .any(|word| word.eq_ignore_ascii_case(root.as_str()));
            prop_assert_eq!(words.finish().named, whole);
        }
    }
}
