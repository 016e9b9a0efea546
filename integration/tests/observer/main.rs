//! The observer finds nothing in a story in which all is right, and finds each thing that is put wrong
//! in it: an observer that cannot complain proves nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod story;

use drydock_integration::observer::{Content, Invariant, Observer, Place, Seen, SlotId, TableView};
use serde_json::{Value, json};

use story::*;

fn observe(events: Vec<(&'static str, i64, Seen)>) -> Observer {
    let mut observer = Observer::new(knowledge());
    for (_, secs, seen) in events {
        observer.see(at(secs), seen);
    }
    observer.finish(at(60), &[]);
    observer
}

#[test]
fn a_story_in_which_all_is_right_tests_every_invariant_and_finds_nothing() {
    let observer = observe(story());
    assert_eq!(observer.report().findings(), Vec::<&_>::new());
    assert_eq!(observer.report().untested(), []);
}

/// One thing put wrong: the event of this name is replaced by another at another second, or left out.
struct Wrong {
    what: &'static str,
    event: &'static str,
    by: Option<(i64, Seen)>,
    found: Invariant,
}

fn wrong(what: &'static str, event: &'static str, secs: i64, seen: Seen, found: Invariant) -> Wrong {
    Wrong {
        what,
        event,
        by: Some((secs, seen)),
        found,
    }
}

fn left_out(what: &'static str, event: &'static str, found: Invariant) -> Wrong {
    Wrong {
        what,
        event,
        by: None,
        found,
    }
}

fn moved(what: &'static str, event: &'static str, secs: i64, found: Invariant) -> Wrong {
    let (_, _, seen) = story().into_iter().find(|(name, _, _)| *name == event).unwrap();
    wrong(what, event, secs, seen, found)
}

fn wrongs_on_disk() -> Vec<Wrong> {
    use Invariant::{S1, S2, S3, S4, S5, S14};
    let trial = || table(GOOD, bits(3, 1, false), SlotId::B);
    let armed = || table(GOOD, bits(3, 2, false), SlotId::B);
    let committed = || table(GOOD, bits(3, 0, true), SlotId::B);
    let elsewhere = TableView {
        rest: "other".into(),
        ..committed()
    };
    let dead = Seen::Dead {
        node: "one".into(),
        why: "no table".into(),
    };
    let no_table = Seen::Table {
        node: "one".into(),
        table: None,
        other: Content::Unknown,
    };
    let bootable = changed(table(GOOD, bits(1, 0, true), SlotId::A), OLD);
    let lowered = changed(table(UNBOOTABLE, bits(3, 1, false), SlotId::B), OLD);
    vec![
        wrong(
            "the running slot is written",
            "staging",
            5,
            bytes(Place::Slot(SlotId::A)),
            S1,
        ),
        wrong("a byte goes elsewhere", "staging", 5, bytes(Place::Elsewhere), S1),
        wrong(
            "another partition moves",
            "commit",
            21,
            changed(elsewhere, OLD),
            S1,
        ),
        wrong("other content is armed", "arm", 16, changed(armed(), OLD), S2),
        left_out("armed without a grant", "grant", S3),
        moved("armed too late", "arm", 601, S3),
        left_out("rebooted with nothing armed", "arm", S3),
        left_out("marked good without a verdict", "verdict", S4),
        wrong(
            "the verdict is for another boot",
            "trial",
            18,
            boot("boot-3", SlotId::B, release(NEW), trial()),
            S4,
        ),
        wrong("nothing boots", "trial", 18, dead, S5),
        wrong(
            "something else boots",
            "trial",
            18,
            boot("boot-2", SlotId::B, Content::Unknown, trial()),
            S5,
        ),
        wrong(
            "written while the loader could boot it",
            "unbootable",
            4,
            bootable,
            S5,
        ),
        wrong("no copy of the table is whole", "arm", 16, no_table, S5),
        wrong(
            "the other slot is overwritten on trial",
            "verdict",
            20,
            bytes(Place::Slot(SlotId::A)),
            S14,
        ),
        wrong("the way back is lowered on trial", "verdict", 20, lowered, S14),
    ]
}

fn wrongs_in_the_cluster() -> Vec<Wrong> {
    use Invariant::{S6, S7, S8, S9, S10, S12};
    let halt = json!({"metadata": {"name": NEW.replace(':', "-")}, "spec": {"digest": NEW}});
    let failed = json!([{"digest": NEW, "attempt": "a0", "class": "Failed", "at": START}]);
    let again = upgrade(json!({"wish": wish(), "stage": true, "records": failed}));
    let deleted = coordinator("pods", pod("a", "one", false), Value::Null);
    let kept = node("one", true, Some("a1-7-0 policy=all kept"));
    let bare = coordinator("nodes", node("one", false, None), node("one", true, None));
    let by_agent = write(
        "agent-one",
        "nodes",
        "",
        node("one", false, None),
        node("one", true, Some(MARK)),
    );
    let down = write("kubelet", "nodes", "", Value::Null, node("two", true, None));
    vec![
        wrong(
            "a halted release is granted",
            "report",
            6,
            coordinator("releasehalts", Value::Null, halt),
            S6,
        ),
        wrong(
            "what failed is staged again",
            "wish",
            3,
            coordinator("nodeupgrades", upgrade(json!({})), again),
            S6,
        ),
        wrong("the other node is down", "node two", 1, down, S7),
        moved("cordoned after the window", "cordon", 3601, S8),
        moved("cordoned with too little left", "cordon", 3500, S8),
        moved("evicted before the window", "evict", -1, S8),
        left_out("granted with a pod left", "gone", S9),
        left_out("the last healthy pod is evicted", "pod b", S9),
        wrong("a pod is deleted, not evicted", "evict", 13, deleted, S9),
        left_out("left behind cordoned", "uncordon", S10),
        wrong(
            "another's cordon is removed",
            "uncordon",
            22,
            coordinator("nodes", kept, node("one", false, None)),
            S10,
        ),
        wrong("cordoned without a mark", "cordon", 11, bare, S10),
        wrong("an agent cordons", "report", 6, by_agent, S12),
    ]
}

#[test]
fn each_thing_put_wrong_is_found() {
    let mut covered = Vec::new();
    for Wrong {
        what,
        event,
        by,
        found,
    } in wrongs_on_disk().into_iter().chain(wrongs_in_the_cluster())
    {
        let mut events = story();
        let index = events.iter().position(|(name, _, _)| *name == event).unwrap();
        match by {
            Some((secs, seen)) => events[index] = (event, secs, seen),
            None => drop(events.remove(index)),
        }
        let observer = observe(events);
        let tally = observer.report().tally(found);
        assert!(
            tally.violated > 0,
            "{what}: {found} saw nothing: {:#?}",
            observer.report()
        );
        covered.push(found);
    }
    assert!(Invariant::ALL.iter().all(|invariant| covered.contains(invariant)));
}
