//! Drains: what the eviction API's answers mean, and what kind of pod stops, stays or goes.

use std::time::Duration;

use drydock_plan::{Action, Answer, Controller, Plan, RawAnswer, Reason, plan};
use jiff::SignedDuration;

use crate::{model::Cluster, script::policy};

/// What makes a pod special.
type Change = fn(&mut drydock_plan::PodView);

fn raw(code: u16, message: &str) -> RawAnswer<'_> {
    RawAnswer {
        code,
        message,
        is_status: true,
        ..RawAnswer::default()
    }
}

#[test]
fn every_answer_of_the_eviction_api_is_told_apart() {
    let budget = ["DisruptionBudget".to_owned()];
    let ending = ["NamespaceTerminating".to_owned()];
    let text = |answer: Answer| {
        format!("{answer:?}")
            .split([' ', '{'])
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let table = [
        (raw(201, ""), "Accepted"),
        (raw(404, "pods \"a\" not found"), "Gone"),
        // As the registry says it, and as the storage does.
        (
            raw(
                409,
                "Operation cannot be fulfilled on Pod \"a\": the UID in the precondition (x) does not match the UID in record (y). The object might have been deleted and then recreated",
            ),
            "Gone",
        ),
        (
            raw(
                409,
                "Operation cannot be fulfilled on pods \"a\": StorageError: invalid object, Code: 4, Key: /registry/pods/d/a, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: x, UID in object meta: y",
            ),
            "Gone",
        ),
        // Conflicts of another cause: the pod is still there.
        (
            raw(
                409,
                "Operation cannot be fulfilled on Pod \"a\": the ResourceVersion in the precondition (5) does not match the ResourceVersion in record (6). The object might have been modified",
            ),
            "Again",
        ),
        (
            raw(
                409,
                "Operation cannot be fulfilled on poddisruptionbudgets.policy \"web\": the object has been modified; please apply your changes to the latest version and try again",
            ),
            "Again",
        ),
        // The budget was made again while the server counted on it: its UID, not the pod's.
        (
            raw(
                409,
                "Operation cannot be fulfilled on poddisruptionbudgets.policy \"web\": StorageError: invalid object, Code: 4, Key: /registry/poddisruptionbudgets/d/web, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: x, UID in object meta: y",
            ),
            "Again",
        ),
        (raw(409, "object is being deleted"), "Again"),
        (
            RawAnswer {
                causes: &budget,
                ..raw(429, "Cannot evict pod")
            },
            "Budget",
        ),
        (
            RawAnswer {
                is_status: false,
                retry_after: Some(Duration::from_secs(5)),
                ..raw(429, "Too many requests")
            },
            "Busy",
        ),
        (raw(429, "not now"), "Denied"),
        (
            raw(400, "admission webhook \"x.example\" denied the request: no"),
            "Denied",
        ),
        // A ValidatingAdmissionPolicy answers with the code of its reason: Invalid, unless it says another.
        (
            raw(
                422,
                "pods \"a\" is forbidden: ValidatingAdmissionPolicy 'keep' with binding 'all' denied request: not by day",
            ),
            "Denied",
        ),
        (
            raw(
                403,
                "pods \"a\" is forbidden: ValidatingAdmissionPolicy 'keep' with binding 'all' denied request: nobody cannot create resource here",
            ),
            "Denied",
        ),
        (
            raw(
                413,
                "pods \"a\" is forbidden: ValidatingAdmissionPolicy 'keep' denied request: too large",
            ),
            "Denied",
        ),
        (
            raw(
                500,
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ),
            "ManyBudgets",
        ),
        (raw(500, "internal error"), "Again"),
        (raw(504, "timeout"), "Again"),
        (
            raw(
                403,
                "poddisruptionbudgets.policy \"a\" is forbidden: pdb disruption allowance is negative",
            ),
            "Again",
        ),
        (
            RawAnswer {
                causes: &ending,
                ..raw(403, "unable to create new content")
            },
            "NamespaceTerminating",
        ),
        (
            raw(
                403,
                "pods \"a\" is forbidden: User \"x\" cannot create resource \"pods/eviction\"",
            ),
            "Forbidden",
        ),
    ];
    for (answer, wanted) in table {
        assert_eq!(text(Answer::read(answer)), wanted, "{answer:?}");
    }
}

/// Runs until the first eviction or the end of the attempt: the pods asked to go, or the reason it ended.
fn first_drain(drain: &str, pods: &[(&str, Controller, Change)]) -> Result<Vec<String>, Reason> {
    let mut cluster = Cluster::new("2026-11-02T08:00:00Z".parse().unwrap());
    cluster.release("1.0");
    cluster.release("2.0");
    cluster.apply("a", policy("a", &format!("{{drain: {drain}}}")));
    cluster.join("n1", "1.0", [("pool".to_owned(), "a".to_owned())].into());
    for (name, controller, change) in pods {
        change(cluster.pod("n1", name, controller.clone()));
    }
    for _ in 0..60 {
        let made = plan(&cluster.world());
        for action in &made.actions {
            match action {
                Action::EvictPods { pods, .. } => {
                    return Ok(pods.iter().map(|pod| pod.name.clone()).collect());
                }
                Action::WriteSpec {
                    change: drydock_plan::SpecChange::Leave(reason),
                    ..
                } => return Err(*reason),
                Action::WriteSpec {
                    change: drydock_plan::SpecChange::Grant,
                    ..
                } => return Ok(Vec::new()),
                _ => {}
            }
        }
        cluster.execute(&made, 1, usize::MAX).unwrap();
        cluster.tick();
    }
    panic!("nothing came of it");
}

#[test]
fn pods_stay_go_or_stop_the_drain_by_what_they_are() {
    let set = || Controller::Other {
        name: "ReplicaSet/a".to_owned(),
    };
    let daemon = |gone| Controller::DaemonSet { gone };
    let plain: Change = |_| {};
    let cache: Change = |pod| pod.empty_dir = true;
    let done: Change = |pod| {
        pod.finished = true;
        pod.empty_dir = true;
    };
    let mirror: Change = |pod| pod.mirror = true;
    let skipped: Change = |pod| {
        pod.labels.insert("keep".to_owned(), "yes".to_owned());
    };
    let web = ("web", set(), plain);
    assert_eq!(
        first_drain("{}", std::slice::from_ref(&web)),
        Ok(vec!["web".to_owned()])
    );
    // DaemonSet, mirror, finished and skipped pods stay; the reboot takes no notice of them.
    let skip = "{skipPodSelectors: [{matchLabels: {keep: 'yes'}}]}";
    let stay = [
        ("logs", daemon(false), cache),
        ("static", Controller::None, mirror),
        ("job", Controller::None, done),
        ("kept", set(), skipped),
    ];
    assert_eq!(first_drain(skip, &stay), Ok(Vec::new()));
    // What is refused stops the drain before any eviction, whatever else is there.
    for (name, controller, change) in [
        ("cache", set(), cache),
        ("bare", Controller::None, plain),
        ("orphan", daemon(true), plain),
    ] {
        let pods = [web.clone(), (name, controller, change)];
        assert_eq!(first_drain("{}", &pods), Err(Reason::PodRefused), "{name}");
        let mut gone = first_drain("{emptyDir: Delete, unmanagedPods: Evict}", &pods).unwrap();
        gone.sort();
        let mut wanted = vec!["web".to_owned(), name.to_owned()];
        wanted.sort();
        assert_eq!(gone, wanted);
    }
    // The coordinator is evicted with what it keeps for itself: refused, it would stop every rollout.
    let own: Change = |pod| {
        pod.empty_dir = true;
        pod.coordinator = true;
    };
    assert_eq!(
        first_drain("{}", &[("own", set(), own)]),
        Ok(vec!["own".to_owned()])
    );
    // With mode None nothing is evicted.
    assert_eq!(first_drain("{mode: None}", &[web]), Ok(Vec::new()));
}

/// A node in the middle of its drain, with these pods as they are changed then.
fn while_draining(drain: &str, pods: &[(&str, Change)]) -> (Cluster, Plan) {
    let mut cluster = Cluster::new("2026-11-02T08:00:00Z".parse().unwrap());
    cluster.release("1.0");
    cluster.release("2.0");
    cluster.apply("a", policy("a", &format!("{{drain: {drain}}}")));
    cluster.join("n1", "1.0", [("pool".to_owned(), "a".to_owned())].into());
    for (name, _) in pods {
        let pod = cluster.pod(
            "n1",
            name,
            Controller::Other {
                name: "ReplicaSet/a".to_owned(),
            },
        );
        pod.labels.insert("stubborn".to_owned(), String::new());
    }
    for _ in 0..60 {
        let made = plan(&cluster.world());
        let evicts = |action: &Action| matches!(action, Action::EvictPods { .. });
        let begun = made.actions.iter().any(evicts);
        cluster.execute(&made, 1, usize::MAX).unwrap();
        if begun {
            for (pod, (_, change)) in cluster.pods.get_mut("n1").unwrap().iter_mut().zip(pods) {
                change(pod);
            }
            let made = plan(&cluster.world());
            return (cluster, made);
        }
        cluster.tick();
    }
    panic!("it never drained");
}

fn answer(pod: &mut drydock_plan::PodView, answer: Answer) {
    pod.answer = pod.created.map(|created| (created, answer));
}

/// "Why is nothing happening?": what blocks comes before that it drains, and what no waiting heals before
/// what passes.
#[test]
fn a_drain_names_what_blocks_it_first() {
    let plain: Change = |_| {};
    let budget: Change = |pod| {
        let text = "web needs 2 healthy pods".to_owned();
        answer(pod, Answer::Budget { text });
    };
    let budgets: Change = |pod| answer(pod, Answer::ManyBudgets);
    let webhook: Change = |pod| {
        let text = "denied the request".to_owned();
        answer(pod, Answer::Denied { text });
    };
    let busy: Change = |pod| {
        let retry_after = Duration::from_secs(5);
        answer(pod, Answer::Busy { retry_after });
    };
    let fails: Change = |pod| {
        let text = "etcdserver: request timed out".to_owned();
        answer(pod, Answer::Again { text });
    };
    let ending: Change = |pod| answer(pod, Answer::NamespaceTerminating);
    let forbidden: Change = |pod| {
        let at = pod.created.unwrap() + SignedDuration::from_mins(5);
        let text = "cannot create resource".to_owned();
        pod.answer = Some((at, Answer::Forbidden { text }));
    };
    let going: Change = |pod| pod.deleting = pod.created;
    let returned: Change = |pod| {
        pod.created = pod.created.map(|created| created + SignedDuration::from_mins(10));
    };
    let own: Change = |pod| {
        pod.coordinator = true;
        pod.created = pod.created.map(|created| created + SignedDuration::from_mins(10));
    };
    let table: [(&[Change], Reason); 15] = [
        (&[plain], Reason::Draining),
        (&[budget], Reason::BudgetBlocks),
        (&[plain, budgets], Reason::ManyBudgets),
        (&[webhook], Reason::WebhookDenies),
        (&[busy], Reason::ApiBusy),
        (&[fails], Reason::EvictFails),
        (&[ending], Reason::NamespaceTerminating),
        (&[forbidden], Reason::EvictForbidden),
        (&[plain, going], Reason::PodTerminating),
        (&[returned], Reason::PodReturns),
        // The coordinator's own pod is waited for by nobody.
        (&[own, plain], Reason::Draining),
        (&[going, busy, budget], Reason::BudgetBlocks),
        (&[budget, budgets, webhook], Reason::ManyBudgets),
        (&[budget, returned, going], Reason::PodReturns),
        (&[budgets, forbidden, webhook], Reason::EvictForbidden),
    ];
    for (changes, wanted) in table {
        let names = ["p0", "p1", "p2"];
        let pods: Vec<(&str, Change)> = names.into_iter().zip(changes.iter().copied()).collect();
        let (_, made) = while_draining("{}", &pods);
        let notes = &made.nodes["n1"].notes;
        assert_eq!(notes[0].reason, wanted, "{notes:?}");
        // How many are left, and until when, is still said.
        assert!(
            notes.iter().any(|note| note.reason == Reason::Draining),
            "{notes:?}"
        );
        // And so it reaches the policy's counts, from which metrics and people read.
        let counts = &made.policies["a"].status.reasons;
        assert_eq!(
            (counts.len(), counts[0].name.as_str(), counts[0].names.as_slice()),
            (1, wanted.name(), ["n1".to_owned()].as_slice())
        );
    }
}

/// Whose a volume is that stays attached is asked again, not guessed.
#[test]
fn a_claim_that_was_not_read_is_named_and_read_with_the_next_list() {
    let mut cluster = Cluster::new("2026-11-02T08:00:00Z".parse().unwrap());
    cluster.release("1.0");
    cluster.release("2.0");
    cluster.apply("a", policy("a", "{drain: {waitForVolumeDetach: true}}"));
    cluster.join("n1", "1.0", [("pool".to_owned(), "a".to_owned())].into());
    cluster.pod("n1", "logs", Controller::DaemonSet { gone: false });
    cluster.attach("n1", "pv-logs");
    let unread = |cluster: &mut Cluster, volume: Option<&str>| {
        let pod = &mut cluster.pods.get_mut("n1").unwrap()[0];
        pod.claims[0].volume = volume.map(str::to_owned);
    };
    unread(&mut cluster, None);
    cluster.stuck_volumes.insert("pv-logs".to_owned());
    let mut lists = 0;
    for _ in 0..20 {
        let made = plan(&cluster.world());
        let list = |action: &&Action| matches!(action, Action::ListPods { .. });
        lists += made.actions.iter().filter(list).count();
        cluster.execute(&made, 1, usize::MAX).unwrap();
        cluster.tick();
    }
    assert!(lists > 2, "{lists} lists");
    let notes = &plan(&cluster.world()).nodes["n1"].notes;
    assert_eq!(
        notes[0].to_string(),
        "VolumeDetaching: pv-logs; not read, and maybe among them: claim pv-logs-claim of default/logs"
    );
    unread(&mut cluster, Some("pv-logs"));
    for _ in 0..3 {
        let made = plan(&cluster.world());
        cluster.execute(&made, 1, usize::MAX).unwrap();
        cluster.tick();
    }
    assert!(cluster.upgrades["n1"].spec.grant.is_some());
}
