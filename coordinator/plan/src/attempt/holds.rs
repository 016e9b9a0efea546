//! What must still hold for an attempt to go on, and how long a node pauses when it did not. Writes
//! nothing.

use std::time::Duration;

use drydock_api::{AttemptClass, Hold, NodeUpgrade, NodeUpgradeSpec, NodeUpgradeStatus};
use jiff::Timestamp;

use crate::{
    node::NodeView,
    reason::{Note, Reason},
    records,
    scene::{PolicyScene, Scene},
    target,
    windows::{add, fits, open_until},
};

/// The policy still stands, selects the node alone, and lets things start.
pub(crate) fn policy_holds<'s, 'a>(
    scene: &'s Scene<'a>,
    node: &NodeView,
    policy: &str,
) -> Result<&'s PolicyScene<'a>, Note> {
    let Some(found) = scene.policies.get(policy) else {
        return Err(Note::new(Reason::PolicyGone, policy));
    };
    match scene
        .selected_by
        .get(node.name.as_str())
        .map_or(&[][..], Vec::as_slice)
    {
        [one] if *one == policy => {}
        [] | [_] => return Err(Note::new(Reason::NotSelected, policy)),
        many => return Err(Note::new(Reason::TwoPolicies, many.join(", "))),
    }
    if !found.accepted.yes() {
        return Err(Note::new(Reason::NotAccepted, found.accepted.wrong.join("; ")));
    }
    if found.object.spec.paused {
        return Err(Reason::Paused.into());
    }
    Ok(found)
}

/// The release is still what this node is to take next, and nothing bars it (S6).
pub(super) fn release_holds(
    scene: &Scene<'_>,
    policy: &PolicyScene<'_>,
    upgrade: &NodeUpgrade,
    digest: &str,
) -> Result<(), Note> {
    if scene.world.halts.contains_key(digest) {
        return Err(Note::new(Reason::Halted, digest));
    }
    if records::failed_here(upgrade, digest) {
        return Err(Note::new(Reason::FailedHere, digest));
    }
    let goal = policy.goal.as_ref().map_err(Clone::clone)?;
    let status = upgrade.status.clone().unwrap_or_default();
    let hop = target::next_hop(scene.world, &policy.object.spec, goal, &status)?;
    if hop == digest {
        Ok(())
    } else {
        Err(Note::new(Reason::WishChanged, hop))
    }
}

/// Reasons that may pass by themselves, so that an attempt waits for that instead of ending.
pub(super) fn may_pass(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::RepositoryNotRead | Reason::MetadataExpired | Reason::ServerVersionUnknown
    )
}

/// S8: a window is open, no freeze covers the time, and what is left fits. `since_cordon` None: all of it
/// must fit. `drained`: a policy may let it finish after the window (never in a freeze). Ok: until when it may
/// go on; None: for ever.
pub(crate) fn window_holds(
    scene: &Scene<'_>,
    policy: &PolicyScene<'_>,
    digest: &str,
    status: &NodeUpgradeStatus,
    since_cordon: Option<Duration>,
    drained: bool,
) -> Result<Option<Timestamp>, Note> {
    let now = scene.world.now;
    let Some(calendar) = policy.calendar() else {
        return Err(Reason::NotAccepted.into());
    };
    let spec = &policy.object.spec;
    let kind = target::kind(scene.world, &spec.repository, digest, status);
    let open = calendar.open(kind);
    let begun = drained || (since_cordon.is_some() && open_until(&open, now).is_some());
    let finishing = spec.finish_after_window && begun;
    // Who may finish after the window may not finish in a freeze.
    let open = if finishing { calendar.thawed(kind) } else { open };
    let need = since_cordon.map_or(policy.estimate.need(), |since| policy.estimate.left(since));
    let Some(end) = open_until(&open, now) else {
        if finishing || calendar.in_window(now) {
            return Err(Reason::Frozen.into());
        }
        let next = crate::windows::next_start(&open, now, policy.estimate.need());
        let text = next.map_or("none comes".to_owned(), |at| format!("next at {at}"));
        return Err(Note::new(Reason::WindowClosed, text));
    };
    if fits(&open, now, need) {
        return Ok((end < Timestamp::MAX).then_some(end));
    }
    let closes = if calendar.frozen(kind, end) {
        "a freeze begins"
    } else {
        "it closes"
    };
    Err(Note::new(
        Reason::WindowTooShort,
        format!(
            "{closes} at {end}, {} are needed{}",
            crate::accept::text(need),
            if policy.estimate.history {
                " by what attempts took before"
            } else {
                ""
            }
        ),
    ))
}

/// The pause after an attempt, by how it ended.
pub(super) fn hold(
    scene: &Scene<'_>,
    spec: &NodeUpgradeSpec,
    why: Reason,
    class: AttemptClass,
    now: Timestamp,
    status: &NodeUpgradeStatus,
) -> Option<Hold> {
    let timings = &scene.world.timings;
    let times = spec.hold.as_ref().map_or(0, |hold| hold.times);
    let held = |until: Timestamp, times: i32, seen: Option<String>| {
        Some(Hold {
            reason: why.name().to_owned(),
            until,
            times,
            seen,
        })
    };
    match class {
        AttemptClass::Committed | AttemptClass::Failed => return None,
        AttemptClass::Unconfirmed | AttemptClass::Excused | AttemptClass::Released => {
            return held(add(now, timings.pause_base), 0, None);
        }
        AttemptClass::NotTried => {}
    }
    match why {
        Reason::AgentSilent => {
            let seen = status
                .observed_generation
                .map(|generation| generation.to_string());
            held(add(now, timings.silent_hold), times, seen)
        }
        // Not the node's doing: the end of the queue, and no pause.
        Reason::WindowClosed
        | Reason::WindowTooShort
        | Reason::Frozen
        | Reason::Paused
        | Reason::NotAccepted
        | Reason::PolicyGone
        | Reason::NotSelected
        | Reason::TwoPolicies
        | Reason::WishChanged
        | Reason::Halted
        | Reason::Withdrawn => held(now, times, None),
        _ => {
            let factor = 1u32 << times.clamp(0, 16);
            let pause = timings.pause_base.saturating_mul(factor).min(timings.pause_cap);
            held(add(now, pause), times.saturating_add(1), None)
        }
    }
}
