//! One attempt of the cluster, as agent and coordinator carry it to a guard.

use std::sync::atomic::Ordering;
use std::time::Duration;

use drydock_machine::{
    ArmRequest, AttemptState, GuardStatus, Origin, PhaseName, Request, Slot, Verdict, Word,
};
use drydock_updater::disk::SlotName;
use drydock_updater::guard::GuardClient;

use crate::node_world::{World, digest};

/// Its name.
pub const ATTEMPT: &str = "a1-100-0";

/// A client of its guard.
pub fn client(world: &World) -> GuardClient {
    GuardClient::new(&world.config.settings.guard_socket(), Duration::from_secs(5))
}

/// The grant is carried to the guard.
pub fn arm() -> Request {
    Request::Arm(ArmRequest {
        attempt: ATTEMPT.to_owned(),
        digest: digest(SlotName::B).to_string(),
        origin: Origin::Cluster,
        target: Slot::B,
        remaining: Some(Duration::from_secs(600)),
        counted_at: None,
        confirm_wait: Duration::from_secs(600),
        floor: Some("2.0".to_owned()),
    })
}

/// The cluster's confirm for this boot.
pub fn confirm(world: &World) -> Request {
    Request::Verdict(Verdict {
        attempt: ATTEMPT.to_owned(),
        boot_id: format!("boot-{}", world.machine.boot.load(Ordering::SeqCst)),
        digest: digest(SlotName::B).to_string(),
        word: Word::Confirm,
    })
}

/// The next thing that agent and coordinator do; the end's state when there is one.
pub async fn push(world: &World, client: &GuardClient, status: &GuardStatus) -> Option<AttemptState> {
    let reboot = Request::Reboot {
        attempt: ATTEMPT.to_owned(),
    };
    let request = match &status.attempt {
        None => arm(),
        Some(attempt) => match attempt.phase {
            PhaseName::Ended => return Some(attempt.state),
            PhaseName::Arming => arm(),
            PhaseName::Armed | PhaseName::Used => reboot,
            PhaseName::Confirming => confirm(world),
            PhaseName::Checking
            | PhaseName::Committing
            | PhaseName::GoingBack
            | PhaseName::Disarming
            | PhaseName::Stuck => return None,
        },
    };
    // A guard that dies over it, or refuses for want of room, is asked again.
    let _answer = client.ask(&request).await;
    None
}
