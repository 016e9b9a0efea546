//! One leader at a time, in terms that only rise.

use std::time::Duration;

use drydock_api::annotation;
use drydock_coordinator::{
    LeaseSettings, SystemClock,
    lead::{Elector, Lost},
};
use drydock_integration::apiserver::ApiServer;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;

use crate::{cluster, until};

fn settings() -> LeaseSettings {
    LeaseSettings {
        name: "drydock-coordinator".to_owned(),
        duration: Duration::from_millis(900),
        renew_deadline: Duration::from_millis(600),
        retry: Duration::from_millis(50),
    }
}

async fn leases(server: &ApiServer) -> Api<Lease> {
    Api::namespaced(server.client("coordinator").await.unwrap(), "default")
}

#[tokio::test]
async fn a_paused_leaders_gate_is_shut_before_another_leads_and_its_term_is_higher() {
    let server = cluster().await;
    let (settings, clock) = (settings(), SystemClock);
    let mut first = Elector::new(leases(&server).await, &settings, "first", &clock);
    let mut second = Elector::new(leases(&server).await, &settings, "second", &clock);
    let mut paused = first.try_acquire().await.unwrap().expect("nobody holds it");
    assert!(paused.gate.pass().is_ok());
    assert!(second.try_acquire().await.unwrap().is_none(), "it is held");
    // `first` sleeps: nothing renews its Lease.
    let tenure = second.acquire().await;
    assert!(paused.gate.pass().is_err(), "two gates were open at once");
    assert!(tenure.gate.pass().is_ok());
    assert!(tenure.term > paused.term, "{} after {}", tenure.term, paused.term);
    assert!(tenure.previous_sign.is_some());
    // It wakes up, and finds that it leads no more.
    assert_eq!(first.hold(&mut paused).await, Lost::NotRenewed);
    assert!(first.try_acquire().await.unwrap().is_none());
}

#[tokio::test]
async fn a_leader_that_renews_is_never_replaced_and_one_that_gives_up_is_at_once() {
    let server = cluster().await;
    let (settings, clock) = (settings(), SystemClock);
    let mut first = Elector::new(leases(&server).await, &settings, "first", &clock);
    let mut second = Elector::new(leases(&server).await, &settings, "second", &clock);
    let mut tenure = first.acquire().await;
    tokio::select! {
        lost = first.hold(&mut tenure) => panic!("lost though nothing was wrong: {lost}"),
        taken = second.acquire() => panic!("taken from a leader that renews: {taken:?}"),
        () = tokio::time::sleep(settings.duration * 2) => {}
    }
    // The renewal that was under way when it was dropped may have been written: read what is true.
    let mut again = Elector::new(leases(&server).await, &settings, "third", &clock);
    first.give_up(tenure).await;
    let held = server
        .get("coordination.k8s.io", "leases", "default", "drydock-coordinator")
        .unwrap();
    let next = if held["spec"]["holderIdentity"] == "" {
        again.try_acquire().await.unwrap().expect("it was given up")
    } else {
        again.acquire().await
    };
    assert_eq!(next.term, 2);
}

#[tokio::test]
async fn of_many_candidates_one_wins_and_no_term_is_taken_twice() {
    let server = cluster().await;
    let (settings, clock) = (settings(), SystemClock);
    let mut terms = Vec::new();
    for round in 0..5 {
        let names: Vec<String> = (0..8).map(|i| format!("r{round}-{i}")).collect();
        let mut candidates = Vec::new();
        for name in &names {
            candidates.push(Elector::new(leases(&server).await, &settings, name, &clock));
        }
        let tries = candidates.iter_mut().map(Elector::try_acquire);
        let won: Vec<_> = futures::future::join_all(tries)
            .await
            .into_iter()
            .filter_map(Result::unwrap)
            .collect();
        assert_eq!(won.len(), 1, "round {round}");
        let tenure = won.into_iter().next().unwrap();
        terms.push(tenure.term);
        candidates.first().unwrap().give_up(tenure).await;
    }
    assert_eq!(terms, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_label_that_a_person_puts_on_the_lease_ends_no_leading_and_its_deletion_lowers_no_term() {
    let server = cluster().await;
    let (settings, clock) = (settings(), SystemClock);
    let mut elector = Elector::new(leases(&server).await, &settings, "first", &clock);
    let mut tenure = elector.acquire().await;
    let mut lease = (*server
        .get("coordination.k8s.io", "leases", "default", "drydock-coordinator")
        .unwrap())
    .clone();
    assert_eq!(lease["metadata"]["annotations"][annotation::TERM], "1");
    lease["metadata"]["labels"] = serde_json::json!({"mine": "x"});
    server.put(lease).unwrap();
    tokio::select! {
        lost = elector.hold(&mut tenure) => panic!("{lost}"),
        () = tokio::time::sleep(settings.duration * 2) => {}
    }
    let api = leases(&server).await;
    api.delete("drydock-coordinator", &kube::api::DeleteParams::default())
        .await
        .unwrap();
    // A server that makes a Lease by a replace lets the leader put it back; else leading ends.
    let held = || server.get("coordination.k8s.io", "leases", "default", "drydock-coordinator");
    tokio::select! {
        lost = elector.hold(&mut tenure) => {
            assert_eq!(lost, Lost::Deleted);
            assert!(tenure.gate.pass().is_err());
        }
        () = until("it is put back", || held().is_some()) => {
            assert_eq!(held().unwrap()["metadata"]["annotations"][annotation::TERM], "1");
        }
    }
    let _ = api
        .delete("drydock-coordinator", &kube::api::DeleteParams::default())
        .await;
    elector.terms_above(7);
    assert_eq!(elector.acquire().await.term, 8);
}
