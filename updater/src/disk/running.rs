//! Which slot runs, by the kernel's command line. Pure: the caller reads `/proc/cmdline`.
//!
//! Nothing found, or both slots named, is an error and never a guess: everything that protects the
//! running slot (S1) begins here.

use super::slots::{SlotName, Slots};

/// Why the running slot is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunningError {
    #[error(
        "the kernel's command line names no partition of slot A or B (looked for {looked_for}); add \
         `drydock.slot=A` (or B) to it in the boot loader's configuration of that slot"
    )]
    Unnamed { looked_for: String },

    #[error(
        "the kernel's command line names partitions of both slots; add `drydock.slot=A` (or B) to it in the \
         boot loader's configuration of that slot"
    )]
    Both,

    #[error("the kernel's command line has `drydock.slot={found}`, and slots are A and B")]
    NotASlot { found: String },
}

/// The slot that this command line boots. `drydock.slot=` counts before all else; then a PARTUUID (or
/// PARTLABEL) of a slot's partition anywhere in it, as roots, dm-verity tables and vboot's `kern_guid` name it.
///
/// # Errors
/// See [`RunningError`].
pub fn running_slot(cmdline: &str, slots: &Slots) -> Result<SlotName, RunningError> {
    let explicit = cmdline
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("drydock.slot="));
    if let Some(found) = explicit {
        return match found {
            "A" => Ok(SlotName::A),
            "B" => Ok(SlotName::B),
            _ => Err(RunningError::NotASlot {
                found: found.chars().take(40).collect(),
            }),
        };
    }
    let lower = cmdline.to_ascii_lowercase();
    let named = |name: &SlotName| {
        let slot = slots.get(*name);
        slot.artifacts.values().chain([&slot.boot]).any(|partition| {
            let label = format!("partlabel={}", partition.label.to_ascii_lowercase());
            lower.contains(&partition.guid.to_string())
                || lower
                    .split(|c: char| c.is_ascii_whitespace() || c == '"')
                    .any(|word| word.ends_with(&label))
        })
    };
    match SlotName::BOTH.map(|name| named(&name)) {
        [true, false] => Ok(SlotName::A),
        [false, true] => Ok(SlotName::B),
        [true, true] => Err(RunningError::Both),
        [false, false] => {
            let all = SlotName::BOTH.map(|name| {
                let slot = slots.get(name);
                slot.artifacts
                    .values()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            });
            Err(RunningError::Unnamed {
                looked_for: all.join(", "),
            })
        }
    }
}

/// Does the command line carry this dm-verity root hash, as a whole word of hex digits?
#[must_use]
pub fn names_verity_root(cmdline: &str, root_hash: &str) -> bool {
    !root_hash.is_empty()
        && cmdline
            .split(|c: char| !c.is_ascii_hexdigit())
            .any(|word| word.eq_ignore_ascii_case(root_hash))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::super::tests::{control, open_device, small_image};
    use super::*;
    use crate::disk::Loader;

    #[test]
    fn the_running_slot_is_read_off_the_command_line_or_not_known() {
        let (_, slots) = control(open_device(small_image(512), 512), Loader::Vboot)
            .read()
            .unwrap();
        let (root_b, kern_a) = (slots.b.artifact("root").unwrap().guid, slots.a.boot.guid);
        let table = [
            (format!("quiet root=PARTUUID={root_b} ro"), Ok(SlotName::B)),
            (
                format!("root=PARTUUID={}/PARTNROFF=1", kern_a.to_string().to_uppercase()),
                Ok(SlotName::A),
            ),
            (
                format!("dm-mod.create=\"vroot,,,ro,0 8 verity 1 PARTUUID={root_b} x\""),
                Ok(SlotName::B),
            ),
            ("root=PARTLABEL=ROOT-B quiet".to_owned(), Ok(SlotName::B)),
            (
                "root=PARTLABEL=ROOT-BACKUP quiet".to_owned(),
                Err("names no partition"),
            ),
            (format!("drydock.slot=A root=PARTUUID={root_b}"), Ok(SlotName::A)),
            ("drydock.slot=C".to_owned(), Err("drydock.slot=C")),
            (format!("a={root_b} b={kern_a}"), Err("both slots")),
            ("root=/dev/sda3".to_owned(), Err("names no partition")),
        ];
        for (cmdline, expected) in table {
            match (running_slot(&cmdline, &slots), expected) {
                (Ok(found), Ok(wanted)) => assert_eq!(found, wanted, "{cmdline}"),
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{cmdline}: {error}"),
                (found, _) => panic!("{cmdline}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_verity_root_is_found_as_a_whole_word_only() {
        let hash = "ab".repeat(32);
        assert!(names_verity_root(
            &format!("root_hexdigest={hash} salt=00"),
            &hash
        ));
        assert!(names_verity_root(
            &format!("verity.usrhash={}", hash.to_uppercase()),
            &hash
        ));
        assert!(!names_verity_root(&format!("root_hexdigest={hash}00"), &hash));
        assert!(!names_verity_root("root=/dev/sda", ""));
    }
}
