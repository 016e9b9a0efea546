//! Tables: each condition of a grant alone makes it void, and each order leads to its act.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::event::{Verdict, Word};
use crate::journal::{FailedDigest, Origin};
use crate::seen::{Slot, SlotSeen};
use crate::status::{AttemptReport, AttemptState, GuardKind, GuardStatus, PhaseName, SlotStatus};

fn now() -> Timestamp {
    "2026-11-23T10:00:00Z".parse().unwrap()
}

fn guard(attempt: Option<AttemptReport>) -> GuardStatus {
    let good = SlotSeen {
        successful: true,
        bootable: true,
        priority: 2,
        ..SlotSeen::default()
    };
    GuardStatus {
        boot_id: "boot-1".to_owned(),
        kind: GuardKind::Full,
        running: Some(Slot::A),
        running_digest: Some("old".to_owned()),
        slots: vec![
            SlotStatus {
                name: Slot::A,
                seen: good,
            },
            SlotStatus {
                name: Slot::B,
                seen: SlotSeen::default(),
            },
        ],
        next: Some(Slot::A),
        attempt,
        spent: Vec::new(),
        failed: Vec::new(),
        floor: None,
        committed: None,
        problems: Vec::new(),
    }
}

fn report(state: AttemptState, phase: PhaseName) -> AttemptReport {
    AttemptReport {
        attempt: "a1".to_owned(),
        digest: "new".to_owned(),
        origin: Origin::Cluster,
        state,
        phase,
        boot_id: None,
        code: None,
        text: None,
        confirmed: false,
        spent: false,
    }
}

fn facts() -> Facts {
    Facts {
        boot_id: "boot-1".to_owned(),
        running: Some("old".to_owned()),
        staged: Some("new".to_owned()),
        guard: Some(guard(None)),
        permitted: true,
        ..Facts::default()
    }
}

fn order() -> Order {
    Order {
        uid: "nup".to_owned(),
        generation: 7,
        owner_uid: Some("node-uid".to_owned()),
        wish: Some(Wish {
            repository: "os".to_owned(),
            url: "https://images.example".to_owned(),
            digest: "new".to_owned(),
            version: "2".to_owned(),
            allow_downgrade: false,
        }),
        dock: Some(Asked {
            attempt: "a1".to_owned(),
            digest: "new".to_owned(),
        }),
        grant: Some(Grant {
            attempt: "a1".to_owned(),
            node_uid: "node-uid".to_owned(),
            boot_id: "boot-1".to_owned(),
            digest: "new".to_owned(),
            not_after: now() + Duration::from_secs(120),
            confirm_wait: Duration::from_secs(900),
        }),
        ..Order::default()
    }
}

fn verdict(word: Word) -> Verdict {
    Verdict {
        attempt: "a1".to_owned(),
        boot_id: "boot-1".to_owned(),
        digest: "new".to_owned(),
        word,
    }
}

#[test]
fn a_grant_holds_only_if_every_condition_does() {
    assert_eq!(
        check_grant(&order(), &facts(), now()),
        Ok(Duration::from_secs(119)),
        "a Date of whole seconds may be a second old"
    );
    type Spoil = fn(&mut Order, &mut Facts);
    let spoils: [(&str, Spoil); 14] = [
        ("NoGrant", |o, _| o.grant = None),
        ("GrantOtherAttempt", |o, _| {
            o.dock.as_mut().unwrap().attempt = "a2".to_owned()
        }),
        ("GrantOtherAttempt", |o, _| o.dock = None),
        ("GrantOtherNode", |o, _| {
            o.owner_uid = Some("made-again".to_owned())
        }),
        ("GrantOtherNode", |o, _| o.owner_uid = None),
        ("GrantOtherBoot", |_, f| f.boot_id = "boot-2".to_owned()),
        ("GrantOtherRelease", |_, f| f.staged = None),
        ("GrantOtherRelease", |o, _| {
            o.dock.as_mut().unwrap().digest = "newer".to_owned()
        }),
        ("GrantOver", |o, _| o.grant.as_mut().unwrap().not_after = now()),
        ("CoordinatorGoBack", |o, _| {
            o.verdict = Some(verdict(Word::GoBack))
        }),
        ("ConfigUnknownFields", |_, f| f.config_unknown = true),
        ("FailedHere", |o, _| o.failed.push("new".to_owned())),
        ("NoGuard", |_, f| f.guard = None),
        ("AttemptSpent", |_, f| {
            f.guard.as_mut().unwrap().spent.push("a1".to_owned())
        }),
    ];
    for (code, spoil) in spoils {
        let (mut order, mut facts) = (order(), facts());
        spoil(&mut order, &mut facts);
        assert_eq!(check_grant(&order, &facts, now()).unwrap_err().code(), code);
    }
    let mut generous = order();
    generous.grant.as_mut().unwrap().not_after = now() + Duration::from_secs(86_400);
    assert_eq!(
        check_grant(&generous, &facts(), now()),
        Ok(Duration::from_secs(600))
    );
}

#[test]
fn each_order_leads_to_its_act() {
    let name = || "a1".to_owned();
    let with = |state, phase| Facts {
        guard: Some(guard(Some(report(state, phase)))),
        ..facts()
    };
    assert_eq!(decide(&order(), &facts()), Decision::Arm { attempt: name() });

    let armed = with(AttemptState::Armed, PhaseName::Armed);
    assert_eq!(decide(&order(), &armed), Decision::Reboot { attempt: name() });
    let taken_back = Order {
        grant: None,
        ..order()
    };
    assert_eq!(decide(&taken_back, &armed), Decision::Disarm { attempt: name() });
    let given_up = Facts {
        given_up: Some(name()),
        ..armed.clone()
    };
    assert_eq!(decide(&order(), &given_up), Decision::Disarm { attempt: name() });

    let confirming = with(AttemptState::Trying, PhaseName::Confirming);
    assert_eq!(decide(&order(), &confirming), Decision::Rest);
    let said = Order {
        verdict: Some(verdict(Word::Confirm)),
        ..order()
    };
    assert_eq!(decide(&said, &confirming), Decision::Tell(verdict(Word::Confirm)));
    let other_boot = Facts {
        boot_id: "boot-2".to_owned(),
        ..confirming.clone()
    };
    assert_eq!(decide(&said, &other_boot), Decision::Rest);
    let no = Order {
        verdict: Some(verdict(Word::GoBack)),
        ..order()
    };
    assert_eq!(decide(&no, &other_boot), Decision::Tell(verdict(Word::GoBack)));

    let mut root = armed;
    root.guard.as_mut().unwrap().attempt.as_mut().unwrap().origin = Origin::Root;
    assert_eq!(
        decide(&taken_back, &root),
        Decision::Rest,
        "root's own attempt is root's"
    );
}

#[test]
fn the_wish_is_staged_only_where_it_may_be() {
    let wanted = Order {
        grant: None,
        dock: None,
        stage: true,
        ..order()
    };
    let empty = Facts {
        staged: None,
        ..facts()
    };
    assert_eq!(decide(&wanted, &empty), Decision::Stage);
    assert_eq!(
        decide(
            &Order {
                stage: false,
                ..wanted.clone()
            },
            &empty
        ),
        Decision::Rest
    );
    assert_eq!(decide(&wanted, &facts()), Decision::Rest, "it lies there");
    let staging = Facts {
        staging: Some("other".to_owned()),
        ..empty.clone()
    };
    assert_eq!(decide(&wanted, &staging), Decision::StopStaging);

    type Spoil = fn(&mut Facts);
    let spoils: [(&str, Spoil); 5] = [
        ("ConfigUnknownFields", |f| f.config_unknown = true),
        ("RepositoryNotPermitted", |f| f.permitted = false),
        ("NoGuard", |f| f.guard = None),
        ("RunningNotGood", |f| {
            f.guard.as_mut().unwrap().slots[0].seen.successful = false
        }),
        ("FailedHere", |f| {
            f.failed.push(FailedDigest {
                digest: "new".to_owned(),
                attempt: "a0".to_owned(),
                code: "HealthCheck".to_owned(),
            });
        }),
    ];
    for (code, spoil) in spoils {
        let mut facts = empty.clone();
        spoil(&mut facts);
        assert_eq!(decide(&wanted, &facts), Decision::Rest, "{code}");
        assert_eq!(may_stage(&wanted, &facts).unwrap_err().code(), code);
        assert_eq!(agent_state(Some(&wanted), &facts, None), "Error");
    }
}

#[test]
fn what_a_person_forgave_is_dropped_first() {
    let mut facts = facts();
    facts.failed.push(FailedDigest {
        digest: "bad".to_owned(),
        attempt: "a0".to_owned(),
        code: "HealthCheck".to_owned(),
    });
    let order = Order {
        forgiven: vec!["a0".to_owned()],
        ..order()
    };
    assert_eq!(decide(&order, &facts), Decision::Forgive(vec!["a0".to_owned()]));
}
