//! Nodes that are not in dock: what they should run, whether they may stage it, their soak, and what
//! persons asked of them. Takes no place.

use drydock_api::{Ask, AttemptClass, AttemptRecord, NodeUpgrade, NodeUpgradeStatus, Wish, agent_state};
use jiff::Timestamp;

use crate::{
    action::{Action, ObjectRef, SpecChange},
    attempt::{agent_error, answered, reported, unknown_agent, write_spec},
    node::NodeView,
    phase::Phase,
    reason::{Note, Reason},
    records,
    scene::{PolicyScene, Scene},
    target,
    windows::add,
};

/// What is said and done about a node that is not in dock.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Idle {
    pub action: Option<Action>,
    pub phase: Phase,
    /// Why it cannot be taken; empty: it is ready, if policy, window and budget let it.
    pub notes: Vec<Note>,
    pub wake_at: Option<Timestamp>,
    /// The release it is ready to take.
    pub ready: Option<String>,
    /// It is to take a release, and nothing but time keeps it from that.
    pub pending: bool,
}

impl Idle {
    fn not(phase: Phase, note: impl Into<Note>) -> Self {
        Self {
            action: None,
            phase,
            notes: vec![note.into()],
            wake_at: None,
            ready: None,
            pending: false,
        }
    }

    fn but_soon(mut self) -> Self {
        self.pending = true;
        self
    }
}

/// Judges a node that is not in dock.
pub(crate) fn judge(scene: &Scene<'_>, node: &NodeView, upgrade: &NodeUpgrade) -> Idle {
    let status = upgrade.status.clone().unwrap_or_default();
    let selected = scene
        .selected_by
        .get(node.name.as_str())
        .map_or(&[][..], Vec::as_slice);
    let soak = soak(scene, node, upgrade, &status);
    if let Some(soak) = &soak
        && soak.action.is_some()
    {
        return soak.clone();
    }
    if !reported(upgrade) {
        return Idle::not(Phase::Idle, Reason::NoReport);
    }
    if let Some(note) = unknown_agent(&status) {
        return Idle::not(Phase::Idle, note);
    }
    let mut idle = match selected {
        [] => {
            let mut idle = Idle::not(Phase::Idle, Reason::NotSelected);
            idle.action = set_wish(scene, upgrade, None, false);
            idle
        }
        [one] => match scene.policies.get(one) {
            Some(policy) => wanted(scene, policy, node, upgrade, &status),
            None => Idle::not(Phase::Idle, Reason::NotSelected),
        },
        many => {
            let mut idle = Idle::not(Phase::Idle, Note::new(Reason::TwoPolicies, many.join(", ")));
            idle.action = set_wish(scene, upgrade, upgrade.spec.wish.clone(), false);
            idle
        }
    };
    if let Some(soak) = soak {
        let action = idle.action.take();
        idle = soak;
        idle.action = action;
    }
    idle
}

/// The wish as the policy means it, and whether the node could be taken for it.
fn wanted(
    scene: &Scene<'_>,
    policy: &PolicyScene<'_>,
    node: &NodeView,
    upgrade: &NodeUpgrade,
    status: &NodeUpgradeStatus,
) -> Idle {
    let spec = &policy.object.spec;
    let goal = match &policy.goal {
        Ok(goal) => goal,
        Err(note) => {
            let mut idle = Idle::not(phase_of(status), note.clone());
            let halted = upgrade
                .spec
                .wish
                .as_ref()
                .is_some_and(|wish| scene.world.halts.contains_key(&wish.digest));
            if halted {
                idle.action = set_wish(scene, upgrade, upgrade.spec.wish.clone(), false);
            }
            return idle;
        }
    };
    let hop = match target::next_hop(scene.world, spec, goal, status) {
        Ok(hop) => hop,
        Err(note) => {
            let mut idle = Idle::not(phase_of(status), note);
            idle.action = set_wish(scene, upgrade, upgrade.spec.wish.clone(), false);
            return idle;
        }
    };
    let Some(wish) = wish(scene, policy, &hop) else {
        return Idle::not(Phase::Idle, Reason::RepositoryNotRead);
    };
    let there = status.running.as_deref() == Some(hop.as_str());
    let mut idle = ready(scene, node, upgrade, status, &hop);
    let may_stage = !there
        && status.running_good == Some(true)
        && upgrade.spec.soak.as_ref().is_none_or(|soak| soak.passed)
        && !scene.world.halts.contains_key(&hop)
        && !records::failed_here(upgrade, &hop)
        && policy.accepted.yes()
        && (!spec.paused || upgrade.spec.stage);
    if !upgrade.spec.stage
        && idle
            .notes
            .first()
            .is_some_and(|note| note.reason == Reason::Staging)
        && let Some(note) = policy_waits(policy)
    {
        // Nothing is being staged: the policy keeps it from that.
        idle.notes = vec![note];
        idle.pending = false;
    }
    idle.action = set_wish(scene, upgrade, Some(wish), may_stage);
    if idle.action.is_some() {
        // What it says of its staging was about another order.
        idle.ready = None;
    }
    idle
}

/// What keeps a policy from starting anything, staging too.
fn policy_waits(policy: &PolicyScene<'_>) -> Option<Note> {
    if !policy.accepted.yes() {
        return Some(Note::new(Reason::NotAccepted, policy.accepted.wrong.join("; ")));
    }
    policy.object.spec.paused.then(|| Reason::Paused.into())
}

/// Whether the node itself is ready for this release, whatever policy and budget say.
fn ready(
    scene: &Scene<'_>,
    node: &NodeView,
    upgrade: &NodeUpgrade,
    status: &NodeUpgradeStatus,
    hop: &str,
) -> Idle {
    let phase = phase_of(status);
    if status.running.as_deref() == Some(hop) {
        return Idle::not(Phase::Idle, Reason::UpToDate);
    }
    if node.deleting {
        return Idle::not(phase, Reason::NodeDeleting);
    }
    if scene.world.halts.contains_key(hop) {
        return Idle::not(phase, Note::new(Reason::Halted, hop));
    }
    if records::failed_here(upgrade, hop) {
        return Idle::not(phase, Note::new(Reason::FailedHere, hop));
    }
    if status.running_good != Some(true) {
        return Idle::not(phase, Reason::RunningNotGood);
    }
    if let Some(hold) = &upgrade.spec.hold {
        let silent = hold.reason == Reason::AgentSilent.name();
        if hold.until > scene.world.now && !(silent && answered(upgrade)) {
            let reason = if silent { Reason::AgentSilent } else { Reason::Held };
            let note = Note::new(reason, format!("{}, until {}", hold.reason, hold.until));
            let mut idle = Idle::not(phase, note);
            idle.wake_at = Some(hold.until);
            idle.pending = !silent;
            return idle;
        }
    }
    match status.agent_state.as_deref() {
        Some(agent_state::FAILED) => return Idle::not(phase, agent_error(status)),
        Some(agent_state::STAGED) if status.staged.as_deref() == Some(hop) => {}
        _ => {
            let percent = status
                .progress
                .as_ref()
                .filter(|progress| progress.total_bytes > 0)
                .map(|progress| {
                    format!(
                        "{} %",
                        progress.done_bytes.saturating_mul(100) / progress.total_bytes
                    )
                })
                .unwrap_or_default();
            return Idle::not(phase, Note::new(Reason::Staging, percent)).but_soon();
        }
    }
    if node.boot_id.is_empty() || status.boot_id.as_deref() != Some(node.boot_id.as_str()) {
        let text = "the agent's boot ID is not the Node's";
        return Idle::not(phase, Note::new(Reason::AgentDisagrees, text)).but_soon();
    }
    Idle {
        action: None,
        phase,
        notes: Vec::new(),
        wake_at: None,
        ready: Some(hop.to_owned()),
        pending: true,
    }
}

fn phase_of(status: &NodeUpgradeStatus) -> Phase {
    match status.agent_state.as_deref() {
        Some(agent_state::STAGING) => Phase::Staging,
        Some(agent_state::STAGED) => Phase::Staged,
        Some(agent_state::ARMING) => Phase::Arming,
        Some(agent_state::REBOOTING) => Phase::Rebooting,
        Some(agent_state::CHECKING) => Phase::Checking,
        Some(agent_state::CONFIRMING) => Phase::Confirming,
        Some(agent_state::GOING_BACK) => Phase::GoingBack,
        _ => Phase::Idle,
    }
}

fn wish(scene: &Scene<'_>, policy: &PolicyScene<'_>, digest: &str) -> Option<Wish> {
    let spec = &policy.object.spec;
    let repository = scene.world.repositories.get(&spec.repository)?;
    let release = repository.releases.get(digest)?;
    Some(Wish {
        repository: spec.repository.clone(),
        url: repository.url.clone(),
        digest: digest.to_owned(),
        version: release.version.to_string(),
        allow_downgrade: spec.allow_downgrade,
    })
}

/// Writes wish and stage where they differ. Staging starts on fresh information only (S13); it may end on
/// any.
fn set_wish(scene: &Scene<'_>, upgrade: &NodeUpgrade, wish: Option<Wish>, stage: bool) -> Option<Action> {
    let spec = &upgrade.spec;
    if spec.wish == wish && spec.stage == stage {
        return None;
    }
    let stops_only = spec.wish == wish && !stage;
    if !scene.fresh() && !stops_only {
        return None;
    }
    write_spec(upgrade, SpecChange::Wish, |spec| {
        spec.wish = wish;
        spec.stage = stage;
    })
}

/// PROTOCOL 14: NotReady during the soak is a failure of the digest; over it is passed.
fn soak(
    scene: &Scene<'_>,
    node: &NodeView,
    upgrade: &NodeUpgrade,
    status: &NodeUpgradeStatus,
) -> Option<Idle> {
    let soak = upgrade.spec.soak.as_ref().filter(|soak| !soak.passed)?;
    let now = scene.world.now;
    let over = add(soak.since, soak.duration.duration());
    let mut idle = Idle::not(
        Phase::Soaking,
        Note::new(Reason::Soaking, format!("until {over}")),
    )
    .but_soon();
    idle.wake_at = Some(over);
    let runs_it = status.running.as_deref() == Some(soak.digest.as_str());
    if reported(upgrade) && status.running.is_some() && !runs_it && unknown_agent(status).is_none() {
        idle.notes = vec![Note::new(Reason::RolledBack, soak.digest.as_str())];
        idle.action = write_spec(upgrade, SpecChange::Soak, |spec| spec.soak = None);
        return Some(idle);
    }
    // Before its time is over a condition that changed since then says that the node was not Ready.
    let changed = node
        .ready_since
        .is_none_or(|since| since > soak.since && since < over);
    let failed = if node.is_ready() {
        changed && node.ready_since.is_some()
    } else {
        now < over || changed
    };
    if failed {
        if !scene.fresh() || records::others_down(scene.world, node, soak.since, now) {
            // Nobody is seen, which is not this node's doing.
            return Some(idle);
        }
        let record = AttemptRecord {
            digest: soak.digest.clone(),
            attempt: soak.attempt.clone(),
            class: AttemptClass::Failed,
            code: Some(Reason::NotReadyInSoak.name().to_owned()),
            at: now,
        };
        idle.notes = vec![Reason::NotReadyInSoak.into()];
        idle.action = write_spec(upgrade, SpecChange::Soak, |spec| {
            records::push(spec, record);
            spec.soak = None;
        });
        return Some(idle);
    }
    if now >= over && scene.fresh() {
        idle.action = write_spec(upgrade, SpecChange::Soak, |spec| {
            if let Some(soak) = &mut spec.soak {
                soak.passed = true;
            }
        });
    }
    Some(idle)
}

/// What a person asked: copied to the spec where that is its effect, taken off when it had its effect or
/// can have none.
pub(crate) fn asked(
    scene: &Scene<'_>,
    node: &NodeView,
    upgrade: Option<&NodeUpgrade>,
) -> Option<Result<Action, Note>> {
    let ask = match node.ask.as_ref()? {
        Ok(ask) => ask,
        Err(text) => return Some(Err(Note::new(Reason::AskUnreadable, text))),
    };
    let clear = || {
        Some(Ok(Action::ClearAsk {
            node: ObjectRef::of_node(node),
            ask: ask.to_string(),
        }))
    };
    match ask {
        Ask::Forgive { digest } => {
            let Some(upgrade) = upgrade else {
                let coming = scene.selected_by.contains_key(node.name.as_str());
                return if coming { None } else { clear() };
            };
            let attempts = records::to_forgive(upgrade, digest);
            if attempts.is_empty() {
                return clear();
            }
            write_spec(upgrade, SpecChange::Forgive, |spec| {
                records::forgive(upgrade, spec, attempts);
            })
            .map(Ok)
        }
        Ask::Cancel { attempt } | Ask::Release { attempt } => {
            let placed = scene
                .policies
                .values()
                .filter_map(|policy| policy.entry(&node.name))
                .any(|entry| entry.attempt == *attempt);
            let over = upgrade.is_none_or(|upgrade| records::ended(upgrade, attempt));
            let cancel = matches!(ask, Ask::Cancel { .. });
            let dock = upgrade.and_then(|upgrade| upgrade.spec.dock.as_ref());
            match dock.filter(|dock| dock.attempt == *attempt) {
                None if placed && !over => None,
                None if node.mark_of(attempt).is_some() && !over => None,
                None => clear(),
                Some(dock) => match dock.step {
                    drydock_api::DockStep::Leaving => clear(),
                    drydock_api::DockStep::TakingBack if cancel => clear(),
                    drydock_api::DockStep::TakingBack
                        if dock.why.as_deref() == Some(Reason::Released.name()) =>
                    {
                        clear()
                    }
                    // After the reboot there is nothing to cancel any more.
                    drydock_api::DockStep::Granted if cancel && node.boot_id != dock.boot_id => clear(),
                    _ => None,
                },
            }
        }
    }
}
