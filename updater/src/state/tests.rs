//! What must hold of the state files, with the power taken away at every step.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::sim::SimFiles;
use super::*;
use crate::disk::gate::{CutGate, CutSide, OpenGate, WriteGate, is_killed};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Sample {
    count: u64,
    #[serde(flatten)]
    unknown: UnknownFields,
}

impl Record for Sample {
    const KIND: &'static str = "sample";
    const MAJOR: u32 = 1;
    const LOCK: LockName = LockName::Slot;
}

fn sample(count: u64) -> Sample {
    Sample {
        count,
        unknown: UnknownFields::new(),
    }
}

fn store(folder: &std::path::Path, files: Arc<SimFiles>, gate: Arc<dyn WriteGate>) -> Store<Sample> {
    Store::new(&StateDir::with_files(folder, files, gate).unwrap(), "sample.json")
}

#[test]
fn a_power_cut_at_any_step_of_a_save_leaves_the_old_file_or_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let locks = StateDir::open(folder.path(), Arc::new(OpenGate)).unwrap();
    let lock = locks.lock(LockName::Slot).unwrap();
    for at in 0.. {
        let mut fired = false;
        for side in [CutSide::Before, CutSide::After] {
            let files = Arc::new(SimFiles::default());
            store(folder.path(), files.clone(), Arc::new(OpenGate))
                .save(&lock, &sample(1))
                .unwrap();
            let gate = Arc::new(CutGate::new(at, side));
            let saved = store(folder.path(), files.clone(), gate.clone()).save(&lock, &sample(2));
            fired |= gate.fired();
            assert_eq!(saved.is_err(), gate.fired());
            let seeded = (0..12).map(|seed| files.after_seeded_power_cut(seed));
            let total = std::iter::once(files.after_total_power_cut());
            for after in files.after_power_cut().into_iter().chain(seeded).chain(total) {
                let found = store(folder.path(), Arc::new(after), Arc::new(OpenGate))
                    .peek()
                    .unwrap();
                match &saved {
                    Ok(()) => assert_eq!(found, Loaded::Present(sample(2))),
                    Err(error) => {
                        assert!(is_killed(error));
                        let whole = [1, 2].map(|count| Loaded::Present(sample(count)));
                        assert!(whole.contains(&found), "cut {side:?} {at}: {found:?}");
                    }
                }
            }
        }
        if !fired {
            assert_eq!(at, 4, "content, its flush, name, its flush");
            return;
        }
    }
}

#[test]
fn a_power_cut_may_lose_tear_or_keep_what_was_not_flushed_and_nothing_else() {
    let files = SimFiles::with_content([("old".to_owned(), b"lasting".to_vec())].into());
    files.write("new", b"in doubt").unwrap();
    files.rename("new", "old").unwrap();
    let mut found = std::collections::BTreeSet::new();
    for seed in 0..200 {
        found.extend(files.after_seeded_power_cut(seed).content());
    }
    assert!(found.contains(&("old".to_owned(), b"lasting".to_vec())));
    assert!(found.contains(&("old".to_owned(), b"in doubt".to_vec())));
    assert!(found.contains(&("old".to_owned(), b"in ".to_vec())));
    assert!(found.contains(&("new".to_owned(), b"in d".to_vec())));
    let lost = files.after_total_power_cut().content();
    assert_eq!(lost, [("old".to_owned(), b"lasting".to_vec())].into());
    files.sync("old").unwrap();
    files.sync_dir().unwrap();
    let kept = files.after_total_power_cut().content();
    assert_eq!(kept, [("old".to_owned(), b"in doubt".to_vec())].into());
}

#[test]
fn a_file_cut_or_changed_anywhere_counts_as_lost_and_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let dir = StateDir::open(folder.path(), Arc::new(OpenGate)).unwrap();
    let lock = dir.lock(LockName::Slot).unwrap();
    let store = Store::<Sample>::new(&dir, "sample.json");
    assert_eq!(store.load(&lock).unwrap(), Loaded::Absent);
    store.save(&lock, &sample(7)).unwrap();
    let path = folder.path().join("sample.json");
    let whole = std::fs::read(&path).unwrap();
    let mut broken: Vec<Vec<u8>> = (0..whole.len()).map(|len| whole[..len].to_vec()).collect();
    broken.extend((0..whole.len()).map(|at| {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x40;
        flipped
    }));
    broken.push(vec![b'x'; usize::try_from(MAX_FILE_BYTES).unwrap() + 10]);
    for content in broken {
        std::fs::write(&path, &content).unwrap();
        match store.load(&lock).unwrap() {
            Loaded::Lost(lost) => {
                assert_eq!(lost.kept_as.as_deref(), Some("sample.json.damaged"));
                assert_eq!(store.load(&lock).unwrap(), Loaded::Absent);
            }
            other => panic!("{other:?} from {}", String::from_utf8_lossy(&content)),
        }
    }
}

#[test]
fn unknown_fields_are_kept_and_a_newer_major_is_set_aside() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Newer<const MAJOR: u32> {
        count: u64,
        more: Vec<u8>,
    }
    impl<const N: u32> Record for Newer<N> {
        const KIND: &'static str = "sample";
        const MAJOR: u32 = N;
        const LOCK: LockName = LockName::Slot;
    }
    let folder = tempfile::tempdir().unwrap();
    let dir = StateDir::open(folder.path(), Arc::new(OpenGate)).unwrap();
    let lock = dir.lock(LockName::Slot).unwrap();
    let ours = Store::<Sample>::new(&dir, "sample.json");

    Store::<Newer<1>>::new(&dir, "sample.json")
        .save(
            &lock,
            &Newer {
                count: 1,
                more: vec![1, 2],
            },
        )
        .unwrap();
    let Loaded::Present(mut value) = ours.load(&lock).unwrap() else {
        panic!("not read")
    };
    value.count = 2;
    ours.save(&lock, &value).unwrap();
    let Loaded::Present(theirs) = Store::<Newer<1>>::new(&dir, "sample.json").load(&lock).unwrap() else {
        panic!("not read back")
    };
    assert_eq!((theirs.count, theirs.more), (2, vec![1, 2]));

    Store::<Newer<2>>::new(&dir, "sample.json")
        .save(
            &lock,
            &Newer {
                count: 3,
                more: vec![],
            },
        )
        .unwrap();
    let Loaded::Lost(lost) = ours.load(&lock).unwrap() else {
        panic!("a newer format was read")
    };
    assert_eq!(lost.reason, LostReason::Newer { major: 2 });
    assert!(folder.path().join("sample.json.newer-2").exists());
    assert_eq!(ours.load(&lock).unwrap(), Loaded::Absent);
}

#[test]
fn a_lock_is_held_once_and_guards_its_own_files_alone() {
    let folder = tempfile::tempdir().unwrap();
    let dir = StateDir::open(folder.path(), Arc::new(OpenGate)).unwrap();
    let journal = dir.try_lock(LockName::Journal).unwrap();
    assert!(matches!(
        dir.try_lock(LockName::Journal),
        Err(StateError::LockHeld { .. })
    ));
    let store = Store::<Sample>::new(&dir, "sample.json");
    assert!(matches!(
        store.save(&journal, &sample(1)),
        Err(StateError::WrongLock { .. })
    ));
    let slot = dir.try_lock(LockName::Slot).unwrap();
    store.save(&slot, &sample(1)).unwrap();
    drop(journal);
    dir.try_lock(LockName::Journal).unwrap();
}
