//! The guard over its socket, on a simulated node: a whole attempt, and the same with the guard killed
//! before and after each of its writes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::attempt::{ATTEMPT, arm, client, confirm, push};
use crate::node_world::{Machine, World};
use drydock_machine::{AttemptState, GuardStatus, PhaseName, Request, Slot};
use drydock_updater::disk::gate::{CutGate, CutSide, OpenGate, WriteEvent, WriteGate, WriteKind};
use drydock_updater::disk::{BootControl, Loader, SlotName};
use drydock_updater::guard::{self, AskError, GuardClient, GuardError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const LOADERS: [Loader; 3] = [Loader::GptPrio, Loader::Vboot, Loader::GptPriority];

struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), GuardError>>,
}

impl Running {
    fn start(world: &World, gate: Arc<dyn WriteGate>) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(guard::run(world.config.clone(), world.env(gate), stop.clone()));
        Self { stop, task }
    }

    async fn kill(self) {
        self.stop.cancel();
        // However it ended, it is over.
        let _ended = self.task.await.unwrap();
    }
}

/// Asks until the guard is there and what is wanted is so.
async fn until(client: &GuardClient, wanted: impl Fn(&GuardStatus) -> bool) -> GuardStatus {
    for _ in 0..2_000 {
        if let Ok(status) = client.ask(&Request::Status).await
            && wanted(&status)
        {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("it never came to that: {:#?}", client.ask(&Request::Status).await);
}

fn phase(status: &GuardStatus) -> Option<PhaseName> {
    status.attempt.as_ref().map(|attempt| attempt.phase)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_release_is_armed_tried_and_marked_good() {
    for loader in LOADERS {
        let world = World::new(loader);
        let (guard, client) = (Running::start(&world, Arc::new(OpenGate)), client(&world));
        until(&client, |_| true).await;
        let armed = client.ask(&arm()).await.unwrap();
        assert_eq!(
            (phase(&armed), armed.next),
            (Some(PhaseName::Armed), Some(Slot::B))
        );
        let rebooting = client
            .ask(&Request::Reboot {
                attempt: ATTEMPT.to_owned(),
            })
            .await
            .unwrap();
        assert_eq!(phase(&rebooting), Some(PhaseName::Used));
        assert_eq!(world.machine.reboots.load(Ordering::SeqCst), 1);
        guard.kill().await;

        assert_eq!(world.boot(), SlotName::B);
        let guard = Running::start(&world, Arc::new(OpenGate));
        until(&client, |status| phase(status) == Some(PhaseName::Confirming)).await;
        assert!(!world.control().state().unwrap().b.successful, "S4");
        let done = client.ask(&confirm(&world)).await.unwrap();
        assert_eq!(
            done.attempt.as_ref().map(|a| a.state),
            Some(AttemptState::Committed)
        );
        assert_eq!(done.floor.as_deref(), Some("2.0"));
        assert!(world.control().state().unwrap().b.successful);
        guard.kill().await;
        assert_eq!(world.boot(), SlotName::B);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_whose_checks_fail_is_left_again_and_barred() {
    for loader in LOADERS {
        let world = World::new(loader);
        let (guard, client) = (Running::start(&world, Arc::new(OpenGate)), client(&world));
        until(&client, |_| true).await;
        client.ask(&arm()).await.unwrap();
        client
            .ask(&Request::Reboot {
                attempt: ATTEMPT.to_owned(),
            })
            .await
            .unwrap();
        guard.kill().await;
        world.machine.healthy.store(false, Ordering::SeqCst);
        world.boot();
        let guard = Running::start(&world, Arc::new(OpenGate));
        until(&client, |status| phase(status) == Some(PhaseName::GoingBack)).await;
        while world.machine.reboots.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        guard.kill().await;

        assert_eq!(world.boot(), SlotName::A, "{loader:?}");
        let guard = Running::start(&world, Arc::new(OpenGate));
        let back = until(&client, |status| phase(status) == Some(PhaseName::Ended)).await;
        let attempt = back.attempt.unwrap();
        assert_eq!(
            (attempt.state, attempt.code.as_deref()),
            (AttemptState::Failed, Some("HealthCheck"))
        );
        assert!(attempt.text.unwrap().contains("`kubelet` is told to fail"));
        let mut again = arm();
        if let Request::Arm(arm) = &mut again {
            arm.attempt = "a1-200-0".to_owned();
        }
        let refused = client.ask(&again).await.unwrap_err();
        assert!(
            matches!(&refused, AskError::Refused { code, .. } if code == "FailedHere"),
            "{refused}"
        );
        client
            .ask(&Request::Forgive {
                attempts: vec![ATTEMPT.to_owned()],
            })
            .await
            .unwrap();
        client.ask(&again).await.unwrap();
        guard.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guard_disarms_when_the_grant_is_over_though_nobody_asks() {
    let world = World::new(Loader::GptPrio);
    let (guard, client) = (Running::start(&world, Arc::new(OpenGate)), client(&world));
    until(&client, |_| true).await;
    let mut short = arm();
    if let Request::Arm(arm) = &mut short {
        arm.remaining = Some(Duration::from_millis(30));
    }
    client.ask(&short).await.unwrap();
    let over = until(&client, |status| phase(status) == Some(PhaseName::Ended)).await;
    assert_eq!(over.next, Some(Slot::A));
    assert_eq!(over.attempt.unwrap().code.as_deref(), Some("GrantOver"));
    let refused = client.ask(&arm()).await.unwrap_err();
    assert!(
        matches!(&refused, AskError::Refused { code, .. } if code == "AttemptSpent"),
        "{refused}"
    );
    guard.kill().await;
}

/// A disk on which the next write of this kind takes as long as it is told.
struct SlowDisk {
    machine: Arc<Machine>,
    slow: WriteKind,
    takes: Mutex<Duration>,
}

impl WriteGate for SlowDisk {
    fn after(&self, event: &WriteEvent<'_>) -> io::Result<()> {
        if event.kind == self.slow {
            self.machine.stall(&self.takes);
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_ends_while_the_disk_is_slow_arms_nothing_and_reboots_nothing() {
    let reboot = Request::Reboot {
        attempt: ATTEMPT.to_owned(),
    };
    for slow in [
        "the journal at arming",
        "the first copy of the table at arming",
        "the journal at the reboot",
        "the flush before it",
    ] {
        let world = World::new(Loader::GptPrio);
        let disk = Arc::new(SlowDisk {
            machine: world.machine.clone(),
            slow: if slow.contains("table") {
                WriteKind::DeviceFlush
            } else {
                WriteKind::FileSync
            },
            takes: Mutex::default(),
        });
        let (guard, client) = (Running::start(&world, disk.clone()), client(&world));
        until(&client, |_| true).await;
        let late = Duration::from_secs(601);
        let asked = if slow.ends_with("arming") {
            *disk.takes.lock().unwrap() = late;
            client.ask(&arm()).await
        } else {
            client.ask(&arm()).await.unwrap();
            let takes = if slow.starts_with("the journal") {
                &disk.takes
            } else {
                &world.machine.flush_takes
            };
            *takes.lock().unwrap() = late;
            client.ask(&reboot).await
        };
        let refused = asked.unwrap_err().to_string();
        assert!(refused.contains("the grant was over"), "{slow}: {refused}");
        let over = until(&client, |status| phase(status) == Some(PhaseName::Ended)).await;
        assert_eq!(over.next, Some(Slot::A), "{slow}");
        assert_eq!(over.attempt.unwrap().code.as_deref(), Some("GrantOver"), "{slow}");
        assert_eq!(world.machine.reboots.load(Ordering::SeqCst), 0, "{slow}");
        guard.kill().await;
    }
}

/// Drives the attempt as agent and coordinator would, whatever state it is found in, to its end.
async fn drive(world: &World, gate: &Arc<CutGate>) -> AttemptState {
    let client = client(world);
    let mut guard = Running::start(world, gate.clone());
    let mut rebooted = world.machine.reboots.load(Ordering::SeqCst);
    for _ in 0..5_000 {
        if gate.fired() || guard.task.is_finished() {
            // The process is dead; the service manager starts it anew, in the same boot.
            guard.kill().await;
            guard = Running::start(world, Arc::new(OpenGate));
            return finish(world, guard, rebooted).await;
        }
        if world.machine.reboots.load(Ordering::SeqCst) > rebooted {
            rebooted = world.machine.reboots.load(Ordering::SeqCst);
            guard.kill().await;
            world.boot();
            guard = Running::start(world, gate.clone());
        }
        if let Ok(status) = client.ask(&Request::Status).await
            && let Some(state) = push(world, &client, &status).await
        {
            guard.kill().await;
            return state;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("no end before the cut");
}

async fn finish(world: &World, mut guard: Running, mut rebooted: u64) -> AttemptState {
    let client = client(world);
    for _ in 0..5_000 {
        if world.machine.reboots.load(Ordering::SeqCst) > rebooted {
            rebooted = world.machine.reboots.load(Ordering::SeqCst);
            guard.kill().await;
            world.boot();
            guard = Running::start(world, Arc::new(OpenGate));
        }
        if let Ok(status) = client.ask(&Request::Status).await
            && let Some(state) = push(world, &client, &status).await
        {
            guard.kill().await;
            return state;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("no end after the cut: {:#?}", client.ask(&Request::Status).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_write_the_attempt_still_comes_to_its_end() {
    for side in [CutSide::Before, CutSide::After] {
        for at in 0.. {
            let world = World::new(Loader::GptPrio);
            let gate = Arc::new(CutGate::new(at, side));
            let state = drive(&world, &gate).await;
            let bits = world.control().state().unwrap();
            match state {
                AttemptState::Committed => assert!(bits.b.successful, "write {at} {side:?}"),
                AttemptState::NotTried => {
                    assert!(
                        !bits.bootable_b && bits.a.successful,
                        "write {at} {side:?}: {bits:?}"
                    );
                }
                other => panic!("write {at} {side:?}: {other:?}"),
            }
            if !gate.fired() {
                assert!(at > 20, "the sweep saw {at} writes only");
                assert_eq!(state, AttemptState::Committed);
                break;
            }
        }
    }
}
